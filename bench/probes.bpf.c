// The kernel half of `probes`, a stock libbpf tool: one program (or two) per mode. The same object runs in the kernel and
// under `bpftime load`.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "probes.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, COUNT_SLOTS);
  __type(key, __u32);
  __type(value, __u64);
} counts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} shared_count SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 2 * HASH_KEYS);
  __type(key, __u32);
  __type(value, __u64);
} last_argument SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} seen SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, RING_BYTES);
} ring SEC(".maps");

static __always_inline void count(__u32 slot) {
  __u64 *value = bpf_map_lookup_elem(&counts, &slot);
  if (value) *value += 1;
}

static __always_inline void keep(__u64 what) {
  __u32 zero = 0;
  __u64 *value = bpf_map_lookup_elem(&seen, &zero);
  if (value) *value = what;
}

SEC("uprobe")
int empty_entry(struct pt_regs *ctx) { return 0; }

SEC("uretprobe")
int empty_return(struct pt_regs *ctx) { return 0; }

SEC("uprobe")
int argument_percpu(struct pt_regs *ctx) {
  count(PT_REGS_PARM1(ctx) & (COUNT_SLOTS - 1));
  return 0;
}

SEC("uprobe")
int array_atomic(struct pt_regs *ctx) {
  __u32 zero = 0;
  __u64 *value = bpf_map_lookup_elem(&shared_count, &zero);
  if (value) __sync_fetch_and_add(value, 1);
  return 0;
}

SEC("uprobe")
int hash_update(struct pt_regs *ctx) {
  __u64 argument = PT_REGS_PARM1(ctx);
  __u32 key = argument & (HASH_KEYS - 1);
  bpf_map_update_elem(&last_argument, &key, &argument, BPF_ANY);
  return 0;
}

// OPERATIONS look-ups or updates of keys the map has.
SEC("uprobe")
int hash_lookups(struct pt_regs *ctx) {
  __u64 sum = 0;
#pragma unroll
  for (__u32 i = 0; i < OPERATIONS; ++i) {
    __u32 key = (PT_REGS_PARM1(ctx) & (HASH_KEYS / 2)) | ((PT_REGS_PARM1(ctx) + i * 7) & (HASH_KEYS / 2 - 1));
    __u64 *value = bpf_map_lookup_elem(&last_argument, &key);
    if (value) sum += *value;
  }
  keep(sum);
  return 0;
}

SEC("uprobe")
int hash_updates(struct pt_regs *ctx) {
  __u64 argument = PT_REGS_PARM1(ctx);
#pragma unroll
  for (__u32 i = 0; i < OPERATIONS; ++i) {
    __u32 key = (argument & (HASH_KEYS / 2)) | ((argument + i * 7) & (HASH_KEYS / 2 - 1));
    bpf_map_update_elem(&last_argument, &key, &argument, BPF_ANY);
  }
  return 0;
}

SEC("uretprobe")
int count_return(struct pt_regs *ctx) {
  count(PT_REGS_RC(ctx) & (COUNT_SLOTS - 1));
  return 0;
}

SEC("uprobe")
int pair_entry(struct pt_regs *ctx) {
  count(0);
  return 0;
}

SEC("uretprobe")
int pair_return(struct pt_regs *ctx) {
  count(1);
  return 0;
}

SEC("uprobe")
int ktime(struct pt_regs *ctx) {
  keep(bpf_ktime_get_ns());
  count(0);
  return 0;
}

SEC("uprobe")
int probe_read(struct pt_regs *ctx) {
  __u64 value = 0;
  if (bpf_probe_read_user(&value, sizeof(value), (void *)PT_REGS_PARM2(ctx)) != 0) return 0;
  keep(value);
  count(0);
  return 0;
}

// OPERATIONS reads, each of other bytes.
SEC("uprobe")
int probe_reads(struct pt_regs *ctx) {
  __u64 sum = 0;
#pragma unroll
  for (__u32 i = 0; i < OPERATIONS; ++i) {
    __u64 value = 0;
    if (bpf_probe_read_user(&value, sizeof(value), (void *)(PT_REGS_PARM2(ctx) + i)) != 0) return 0;
    sum += value;
  }
  keep(sum);
  count(0);
  return 0;
}

static __always_inline int submit(__u64 value, __u64 flags) {
  __u64 *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
  if (!record) return 0;
  *record = value;
  bpf_ringbuf_submit(record, flags);
  return 0;
}

SEC("uprobe")
int ringbuf(struct pt_regs *ctx) { return submit(PT_REGS_PARM1(ctx), BPF_RB_NO_WAKEUP); }

SEC("uprobe")
int ringbuf_woken(struct pt_regs *ctx) { return submit(PT_REGS_PARM1(ctx), 0); }

static __always_inline int write_to(void *address) {
  __u64 value = 0x6e65657466696621;
  bpf_probe_write_user(address, &value, sizeof(value));
  count(0);
  return 0;
}

SEC("uprobe")
int write_user(struct pt_regs *ctx) { return write_to((void *)PT_REGS_PARM2(ctx)); }

// The same under a policy, where a program gets the function's arguments and nothing else.
SEC("uprobe")
int write_granted(__u64 *arguments) { return write_to((void *)arguments[1]); }

// OPERATIONS writes, each to other bytes.
static __always_inline int writes_from(__u64 address) {
  __u64 value = 0x6e65657466696621;
  if (address == 0) return 0;
#pragma unroll
  for (__u32 i = 0; i < OPERATIONS; ++i) bpf_probe_write_user((void *)(address + i), &value, sizeof(value));
  count(0);
  return 0;
}

SEC("uprobe")
int writes_user(struct pt_regs *ctx) { return writes_from(PT_REGS_PARM2(ctx)); }

SEC("uprobe")
int writes_granted(__u64 *arguments) { return writes_from(arguments[1]); }

SEC("tracepoint/syscalls/sys_enter_sched_get_priority_max")
int call_entry(void *ctx) {
  count(0);
  return 0;
}

SEC("tracepoint/syscalls/sys_exit_sched_get_priority_max")
int call_exit(void *ctx) {
  count(1);
  return 0;
}

// A stock libbpf tool's kernel half: what the end-to-end tests attach to real programs. Knows nothing of bpftime.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "uprobe_stat.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile __u32 wanted_tgid = 0;  // .rodata: constants a loader sets
__u64 bss_calls = 0;                   // .bss: MMAPABLE, read through the skeleton

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, __u64);
} calls_by_tgid SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16384);
  __type(key, __u64);
  __type(value, __u64);
} started_ns SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} calls_by_cpu SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, HISTOGRAM_SLOTS);
  __type(key, __u32);
  __type(value, __u64);
} histogram SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(__u32));
} perf SEC(".maps");

static __always_inline void add_one(void *map, __u32 key) {
  __u64 one = 1;
  __u64 *value = bpf_map_lookup_elem(map, &key);
  if (value) {
    __sync_fetch_and_add(value, 1);
    return;
  }
  if (bpf_map_update_elem(map, &key, &one, BPF_NOEXIST) == 0) return;
  value = bpf_map_lookup_elem(map, &key);
  if (value) __sync_fetch_and_add(value, 1);
}

SEC("uprobe")
int on_count(struct pt_regs *ctx) {
  __u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0;
  if (wanted_tgid && tgid != wanted_tgid) return 0;
  add_one(&calls_by_tgid, tgid);
  __sync_fetch_and_add(&bss_calls, 1);
  __u64 *here = bpf_map_lookup_elem(&calls_by_cpu, &zero);
  if (here) *here += 1;
  return 0;
}

SEC("uprobe")
int on_enter(struct pt_regs *ctx) {
  __u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
  bpf_map_update_elem(&started_ns, &id, &now, BPF_ANY);
  return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx) {
  __u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
  __u64 *start = bpf_map_lookup_elem(&started_ns, &id);
  __u32 slot = 0;
  add_one(&calls_by_tgid, id >> 32);
  if (!start) return 0;
  __u64 delta = now - *start;
  bpf_map_delete_elem(&started_ns, &id);
  for (int i = 0; i < HISTOGRAM_SLOTS - 1; ++i) {
    if (delta < 2) break;
    delta >>= 1;
    ++slot;
  }
  __u64 *count = bpf_map_lookup_elem(&histogram, &slot);
  if (count) __sync_fetch_and_add(count, 1);
  return 0;
}

static __always_inline void fill(struct event *event, struct pt_regs *ctx) {
  __u64 id = bpf_get_current_pid_tgid();
  event->tgid = id >> 32;
  event->tid = (__u32)id;
  event->uid = (__u32)bpf_get_current_uid_gid();
  event->cookie = bpf_get_attach_cookie(ctx);
  event->ip = bpf_get_func_ip(ctx);
  event->argument = PT_REGS_PARM1(ctx);
  bpf_get_current_comm(event->comm, sizeof(event->comm));
  event->text_length = bpf_probe_read_user_str(event->text, sizeof(event->text), (void *)PT_REGS_PARM1(ctx));
}

SEC("uprobe")
int on_ring(struct pt_regs *ctx) {
  struct event *event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
  if (!event) return 0;
  fill(event, ctx);
  bpf_ringbuf_submit(event, 0);
  return 0;
}

SEC("uprobe")
int on_perf(struct pt_regs *ctx) {
  struct event event = {};
  fill(&event, ctx);
  bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &event, sizeof(event));
  return 0;
}

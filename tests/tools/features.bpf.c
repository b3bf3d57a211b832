// A stock libbpf tool's kernel half that leans on what compilers and libbpf do beyond plain programs: constants in
// .rodata that decide branches, calls between programs' functions, atomics that return values, a helper no kernel has.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "features.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile int use_unknown_helper = 0;
const volatile __u64 step = 0;

__u64 plain = 0;      // += step, atomically
__u64 fetched = 0;    // atomic fetch-add; `fetch_sum` adds up what it returned
__u64 fetch_sum = 0;
__u64 swapped = 0;    // compare-and-swap loop
__u64 lost_swaps = 0;
__u64 exchanged = 0;
__u64 bits = 0;
__u64 from_data = 0;
__u64 in_data = 1000;  // .data, not .bss

// What libbpf's CO-RE makes of a relocation that cannot be resolved: a call no verifier accepts where it can be reached.
static long (*unknown_helper)(void) = (void *)195896080;

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 64 * 1024);
} first SEC(".maps"), second SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} by_kind SEC(".maps");

static __noinline __u64 twice(__u64 value) { return value * 2; }

static __noinline int count_kind(__u32 kind, __u64 by) {
  __u64 *value = bpf_map_lookup_elem(&by_kind, &kind);
  if (!value) {
    __u64 zero = 0;
    bpf_map_update_elem(&by_kind, &kind, &zero, BPF_NOEXIST);
    value = bpf_map_lookup_elem(&by_kind, &kind);
    if (!value) return -1;
  }
  __sync_fetch_and_add(value, by);
  return 0;
}

SEC("uprobe")
int on_counters(struct pt_regs *ctx) {
  if (use_unknown_helper) unknown_helper();
  __sync_fetch_and_add(&plain, step);
  const __u64 before = __sync_fetch_and_add(&fetched, 1);
  __sync_fetch_and_add(&fetch_sum, before);
  __u64 old = swapped;
  int done = 0;
  for (int i = 0; i < 64; ++i) {
    const __u64 seen = __sync_val_compare_and_swap(&swapped, old, old + 1);
    if (seen == old) {
      done = 1;
      break;
    }
    old = seen;
  }
  if (!done) __sync_fetch_and_add(&lost_swaps, 1);
  __sync_lock_test_and_set(&exchanged, 77);
  __sync_fetch_and_or(&bits, 1ULL << (before & 7));
  from_data = in_data;
  count_kind(1, 1);
  count_kind(2, twice(step));
  return 0;
}

SEC("uprobe")
int on_rings(struct pt_regs *ctx) {
  const __u64 number = __sync_fetch_and_add(&fetched, 1);
  struct note note = {.number = number};
  if (number & 1) {
    bpf_ringbuf_output(&second, &note, sizeof note, 0);
  } else {
    struct note *place = bpf_ringbuf_reserve(&first, sizeof *place, 0);
    if (!place) return 0;
    *place = note;
    bpf_ringbuf_submit(place, 0);
  }
  return 0;
}

SEC("uprobe")
int on_trace(struct pt_regs *ctx) {
  char text[16] = {};
  bpf_probe_read_user_str(text, sizeof text, (void *)PT_REGS_PARM1(ctx));
  bpf_printk("tgid %d says %s", (int)(bpf_get_current_pid_tgid() >> 32), text);
  return 0;
}

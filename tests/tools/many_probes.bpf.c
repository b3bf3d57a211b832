// Counts by cookie.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "many_probes.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, MANY_MAX);
  __type(key, __u32);
  __type(value, __u64);
} counts SEC(".maps");

SEC("uprobe")
int count(struct pt_regs* ctx) {
  __u32 key = bpf_get_attach_cookie(ctx);
  __u64* value = bpf_map_lookup_elem(&counts, &key);
  if (value) __sync_fetch_and_add(value, 1);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";

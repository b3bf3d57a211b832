// Answers 403 to every request below /admin, and counts them; runs in the class "firewall" of host.policy.yaml.
#include "host.ext.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} counts SEC(".maps");

static void count(__u32 which) {
  __u64 *value = bpf_map_lookup_elem(&counts, &which);
  if (value) __sync_fetch_and_add(value, 1);
}

host__processBegin(firewall) {
  static const char kPrefix[] = "/admin";
  const unsigned long len = r->uri.len;
  const char *uri = r->uri.data;

  count(0);
  if (len < sizeof(kPrefix) - 1) return 0;
#pragma unroll
  for (unsigned int i = 0; i < sizeof(kPrefix) - 1; ++i) {
    if (uri[i] != kPrefix[i]) return 0;
  }
  count(1);
  bpf_override_return((struct pt_regs *)ctx, 403);
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// Extensions of extend_host, each using one thing that a class may grant. Compiled once, with the header of one build of the host.
#include "extend_host.ext.h"

#define RETURN(value) bpf_override_return((struct pt_regs *)ctx, (value))

int seen;  // of all of them

host__processBegin(read_member) {
  RETURN(1000 + (r->number & 255));
  return 0;
}

host__processBegin(write_member) {
  r->priority = 9;
  return 0;
}

host__processBegin(read_buffer) {
  const char *text = r->uri.data;
  const unsigned long length = r->uri.len;
  if (length < 1) return 0;
  RETURN(1000 + (text[0] & 255));
  return 0;
}

host__processBegin(read_past_buffer) {
  const char *text = r->uri.data;
  const unsigned long length = r->uri.len;
  if (length < 1) return 0;
  RETURN(1000 + (text[1] & 255));
  return 0;
}

host__processBegin(call_function) {
  RETURN(1000 + (host__scale(r->number, 10) & 255));
  return 0;
}

host__processBegin(call_too_wide) {
  RETURN(1000 + (host__scale(r->number, 30) & 255));
  return 0;
}

host__processBegin(read_state) {
  RETURN(1000 + (host__host_total & 255));
  return 0;
}

host__processBegin(write_state) {
  host__host_total = 77;
  return 0;
}

host__processBegin(return_value) {
  RETURN(403);
  return 0;
}

host__processBegin(loop) {
  for (int i = 0; i < 1000; ++i) __sync_fetch_and_add(&seen, 1);
  return 0;
}

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 8192);
  __type(key, __u32);
  __type(value, __u64);
} large SEC(".maps");

host__processBegin(use_map) {
  __u32 key = 1;
  __u64 *value = bpf_map_lookup_elem(&large, &key);
  if (value) ++*value;
  return 0;
}

// In a function of its own, which a broken promise ends as well.
static __attribute__((noinline)) int the_time(void) { return host__nginxTime(); }

host__processBegin(use_promise) {
  RETURN(1000 + (the_time() & 255));
  return 0;
}

// A pointer of the host that nobody keeps a copy of: loaded twice, or not tested at all.
host__processBegin(pointer_twice) {
  RETURN(r->module && r->module->weight > 3 ? 1000 + (r->module->weight & 255) : 1001);
  return 0;
}

host__processBegin(pointer_untested) {
  RETURN(1000 + (r->module->weight & 255));
  return 0;
}

host__processBegin(print_number) {
  bpf_printk("number %d", r->number);
  return 0;
}

// The same map.
host__processBegin(use_map_too) {
  __u32 key = 1;
  __u64 *value = bpf_map_lookup_elem(&large, &key);
  if (value) ++*value;
  return 0;
}

// Names the kernel has, too.
host__processBegin(kernel_names) {
  char to[8] = {}, from[8] = {'x', 'y'};
  const struct host__module *module = r->module;
  if (!module) return 0;
  host__memcpy(to, from, 2);
  RETURN(1000 + ((module->weight + r->inner.depth + (to[1] == 'y' ? 100 : 0)) & 255));
  return 0;
}

struct host__gone {
  int count;
} __attribute__((preserve_access_index));

host__processBegin(missing_type) {
  seen = ((struct host__gone *)r)->count;
  return 0;
}

host__processBegin(add_one) {
  host__host_total = host__host_total + 1;
  return 0;
}
host__processBegin(twice) {
  host__host_total = host__host_total * 2;
  return 0;
}

char LICENSE[] SEC("license") = "GPL";

// What `bpftime verify` is tested on: programs that are accepted, refused and not judged.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct conf {
  int enabled;
  char name[60];
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 8);
  __type(key, int);
  __type(value, struct conf);
} conf SEC(".maps");

// Set when a tool runs.
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __type(key, int);
  __type(value, int);
} sized_later SEC(".maps");

const volatile int limit = 3;
int counter;

SEC("uprobe")
int accepted(void *ctx) {
  int key = 0;
  struct conf *c = bpf_map_lookup_elem(&conf, &key);
  if (!c) return 0;
  for (int i = 0; i < limit; i++) counter += c->name[i & 31];
  bpf_map_update_elem(&sized_later, &key, &key, BPF_ANY);
  return 0;
}

SEC("uprobe")
int refused(void *ctx) {
  int key = 0;
  struct conf *c = bpf_map_lookup_elem(&conf, &key);
  return c->enabled;
}

SEC("?uprobe")
int on_demand(void *ctx) { return *(volatile char *)1; }

SEC("tc")
int elsewhere(struct __sk_buff *skb) { return 0; }

char LICENSE[] SEC("license") = "GPL";

// A stock libbpf tool's kernel half that keeps its counts in maps inside maps.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "nested_maps.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 events = 0, absent = 0, missed = 0;

struct counters {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_INNER_MAP);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} small SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_INNER_MAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} large SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, SLOTS);
  __type(key, __u32);
  __array(values, struct counters);
} in_array SEC(".maps") = {.values = {(void *)&small, (void *)&large}};

struct table {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 32);
  __type(key, __u64);
  __type(value, __u64);
} first_table SEC(".maps"), second_table SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
  __uint(max_entries, SLOTS);
  __uint(key_size, 12);
  __array(values, struct table);
} in_hash SEC(".maps");

// Counts the event in each map of the array, at an index only the larger one has.
static __always_inline void count_in_array(__u32 slot, __u32 index) {
  void *inner = bpf_map_lookup_elem(&in_array, &slot);
  if (!inner) {
    __sync_fetch_and_add(&absent, 1);
    return;
  }
  __u64 *value = bpf_map_lookup_elem(inner, &index);
  if (!value) {
    __sync_fetch_and_add(&missed, 1);
    return;
  }
  __sync_fetch_and_add(value, 1);
}

struct name {
  char text[12];
};

SEC("uprobe")
int on_talk(struct pt_regs *ctx) {
  const __u64 number = __sync_fetch_and_add(&events, 1);
  for (__u32 slot = 0; slot < SLOTS + 1; ++slot) {
    count_in_array(slot, 1);
    count_in_array(slot, 40);
  }
  struct name name = {.text = "chosen"};
  void *table = bpf_map_lookup_elem(&in_hash, &name);
  if (!table) {
    __sync_fetch_and_add(&absent, 1);
    return 0;
  }
  const __u64 key = number % 10;
  __u64 one = 1, *seen = bpf_map_lookup_elem(table, &key);
  if (seen)
    __sync_fetch_and_add(seen, 1);
  else
    bpf_map_update_elem(table, &key, &one, BPF_ANY);
  if (key == 9) {
    const __u64 gone = 3;
    bpf_map_delete_elem(table, &gone);
  }
  return 0;
}

// Counts calls of malloc per process. An ordinary BPF program: nothing in it knows where it will run.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u32);    // pid
  __type(value, __u64);  // calls
} libc_malloc_calls_total SEC(".maps");

SEC("uprobe")
int do_count(void *ctx) {
  __u32 pid = bpf_get_current_pid_tgid() >> 32;
  __u64 one = 1;

  bpf_printk("malloc called from pid %d\n", pid);
  __u64 *calls = bpf_map_lookup_elem(&libc_malloc_calls_total, &pid);
  if (!calls) {
    // Two threads may be first at once: one inserts, the other finds the entry and adds.
    if (bpf_map_update_elem(&libc_malloc_calls_total, &pid, &one, BPF_NOEXIST) == 0) return 0;
    calls = bpf_map_lookup_elem(&libc_malloc_calls_total, &pid);
    if (!calls) return 0;
  }
  __sync_fetch_and_add(calls, 1);
  return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

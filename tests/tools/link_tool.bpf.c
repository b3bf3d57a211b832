// Writes down who called and with which cookie, in order. See link_tool.c.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "link_tool.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, LOG_ENTRIES);
  __type(key, __u32);
  __type(value, struct log_entry);
} call_log SEC(".maps");

static __always_inline int note(void *ctx, __u32 is_return) {
  __u32 zero = 0, slot;
  struct log_entry *head = bpf_map_lookup_elem(&call_log, &zero), *entry;
  if (!head) return 0;
  slot = head->cookie + 1;
  entry = bpf_map_lookup_elem(&call_log, &slot);
  if (!entry) return 0;
  entry->cookie = bpf_get_attach_cookie(ctx);
  entry->tgid = bpf_get_current_pid_tgid() >> 32;
  entry->is_return = is_return;
  head->cookie = slot;
  return 0;
}

SEC("uprobe")
int on_call(struct pt_regs *ctx) { return note(ctx, 0); }

// Reads what the result points to, should it be a pointer: one that leads nowhere is nobody's fault.
SEC("uretprobe")
int on_return(struct pt_regs *ctx) {
  char first;
  bpf_probe_read_user(&first, sizeof(first), (void *)PT_REGS_RC(ctx));
  return note(ctx, 1);
}

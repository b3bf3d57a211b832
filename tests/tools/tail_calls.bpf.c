// A stock libbpf tool's kernel half whose programs go on in other programs.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "tail_calls.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 events = 0, rounds = 0, ended = 0, firsts = 0, lates = 0, lasts = 0, fell_through = 0, outside = 0, texts = 0;

int again(struct pt_regs *ctx);
int first(struct pt_regs *ctx);
int last(struct pt_regs *ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, SLOTS);
  __uint(key_size, 4);
  __array(values, int(void *));
} programs SEC(".maps") = {
    .values = {[AGAIN] = (void *)&again, [FIRST] = (void *)&first, [LAST] = (void *)&last}};

// As often as Linux lets it.
SEC("uprobe")
int again(struct pt_regs *ctx) {
  rounds++;
  bpf_tail_call(ctx, &programs, AGAIN);
  ended++;
  return 0;
}

// A chain with a gap, until LATE is filled.
SEC("uprobe")
int first(struct pt_regs *ctx) {
  firsts++;
  bpf_tail_call(ctx, &programs, SLOTS + 3);
  outside++;
  bpf_tail_call(ctx, &programs, LATE);
  fell_through++;
  bpf_tail_call(ctx, &programs, LAST);
  return 0;
}

SEC("uprobe")
int late(struct pt_regs *ctx) {
  lates++;
  bpf_tail_call(ctx, &programs, LAST);
  return 0;
}

// Still sees what was probed.
SEC("uprobe")
int last(struct pt_regs *ctx) {
  char text[4] = {};
  lasts++;
  if (bpf_probe_read_user_str(text, sizeof text, (void *)PT_REGS_PARM1(ctx)) > 0) texts += text[0];
  return 0;
}

SEC("uprobe")
int on_talk(struct pt_regs *ctx) {
  __u32 slot = events++ & 1 ? FIRST : AGAIN;
  bpf_tail_call(ctx, &programs, slot);
  events += 1000000;  // never
  return 0;
}

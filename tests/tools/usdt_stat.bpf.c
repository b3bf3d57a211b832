// A stock libbpf tool's kernel half: tells of every USDT probe with its arguments. Knows nothing of bpftime.
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

typedef _Bool bool;  // usdt.bpf.h expects vmlinux.h
#include <bpf/usdt.bpf.h>

#include "usdt_stat.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 22);
} ring SEC(".maps");

SEC("usdt")
int on_usdt(struct pt_regs *ctx) {
  struct usdt_event *event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
  if (!event) return 0;
  event->cookie = bpf_usdt_cookie(ctx);
  event->count = bpf_usdt_arg_cnt(ctx);
#pragma unroll
  for (int i = 0; i < ARGUMENTS_MAX; ++i) {
    long value = 0;
    event->results[i] = bpf_usdt_arg(ctx, i, &value);
    event->arguments[i] = event->results[i] ? 0 : value;
  }
  bpf_ringbuf_submit(event, 0);
  return 0;
}

// What the three extensions share: the arguments of the request that ngx_http_handler is called with.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "nginx_layout.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 seen SEC(".bss.seen") = 0;  // requests looked at; a map of its own

#define TEXT_MAX 128u

struct arguments {
  __u64 length;  // of text, at most TEXT_MAX
  char text[TEXT_MAX];
};

struct ngx_text {
  __u64 length;
  __u64 data;
};

static __always_inline int read_arguments(struct pt_regs *ctx, struct arguments *to) {
  struct ngx_text text;
  if (bpf_probe_read_user(&text, sizeof(text), (const char *)PT_REGS_PARM1(ctx) + NGX_REQUEST_ARGS)) return -1;
  to->length = text.length > TEXT_MAX ? TEXT_MAX : text.length;
  if (bpf_probe_read_user(to->text, to->length, (const void *)text.data)) return -1;
  __sync_fetch_and_add(&seen, 1);
  return 0;
}

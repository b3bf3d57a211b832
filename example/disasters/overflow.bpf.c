// The buffer overflow: the arguments say which of their bytes a part takes, FIRST-LAST with three digits each; eight of these are its
// boundary, and a range shorter than that wraps round. -DFIXED: the length is looked at before it is used.
#include "request.bpf.h"

char part[64];

static __always_inline __u64 three_digits(const char *text) {
  return (__u64)(text[0] & 15) * 100 + (__u64)(text[1] & 15) * 10 + (text[2] & 15);
}

SEC("uprobe")
int extension(struct pt_regs *ctx) {
  struct arguments arguments;
  struct ngx_text text;
  if (read_arguments(ctx, &arguments) || arguments.length < 7) return 0;
  if (bpf_probe_read_user(&text, sizeof(text), (const char *)PT_REGS_PARM1(ctx) + NGX_REQUEST_ARGS)) return 0;
  __u64 first = three_digits(arguments.text), last = three_digits(arguments.text + 4);
  __u64 length = last - first - 8;
#ifdef FIXED
  if (length > sizeof(part)) return 0;
#endif
  bpf_probe_read_user(part, length, (const char *)text.data + first);
  return 0;
}

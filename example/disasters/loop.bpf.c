// The endless loop: pattern code that does not advance at a '*'. -DFIXED: it does.
#include "request.bpf.h"

__u64 plain = 0;

SEC("uprobe")
int extension(struct pt_regs *ctx) {
  struct arguments arguments;
  if (read_arguments(ctx, &arguments)) return 0;
  __u64 i = 0, count = 0;
  while (i < arguments.length) {
    if (((volatile char *)arguments.text)[i] == '*') {
#ifdef FIXED
      ++i;
#endif
      continue;
    }
    ++count;
    ++i;
  }
  plain = count;
  return 0;
}

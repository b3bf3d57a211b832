// The stack overflow: a number of digits whose least value has no positive. -DFIXED: the bound holds for every number.
#include "request.bpf.h"

__u64 written = 0;

static __always_inline int number(const struct arguments *arguments) {
  int value = 0, negative = 0;
  for (__u64 i = 0; i < 11 && i < arguments->length; ++i) {
    char c = ((volatile const char *)arguments->text)[i];
    if (c == '-') negative = 1;
    if (c >= '0' && c <= '9') value = (int)((unsigned)value * 10 + (c - '0'));
  }
  return negative ? (int)-(unsigned)value : value;
}

SEC("uprobe")
int extension(struct pt_regs *ctx) {
  struct arguments arguments;
  volatile char buffer[8];
  unsigned value = 0xbadcafe;
  if (read_arguments(ctx, &arguments)) return 0;
  int n = number(&arguments);
  if (n < 0) n = (int)-(unsigned)n;
#ifdef FIXED
  if (n < 0) n = 0;
#endif
  if (n > 8) n = 8;
  for (int i = (int)((unsigned)n - 1); i >= 0; i = (int)((unsigned)i - 1)) {
    buffer[i] = "0123456789abcdef"[value & 15];
    value >>= 4;
  }
  written = n;
  return 0;
}

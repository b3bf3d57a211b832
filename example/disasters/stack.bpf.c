// The stack overflow: a number of digits whose least value has no positive. -DFIXED: the bound holds for every number.
#include "nginx.ext.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 written = 0;

static __always_inline int number(const unsigned char *text, __u64 length) {
  int value = 0, negative = 0;
  for (__u64 i = 0; i < 11 && i < length; ++i) {
    unsigned char c = text[i];
    if (c == '-') negative = 1;
    if (c >= '0' && c <= '9') value = (int)((unsigned)value * 10 + (c - '0'));
  }
  return negative ? (int)-(unsigned)value : value;
}

host__handleRequest(stack) {
  volatile char buffer[8];
  unsigned value = 0xbadcafe;
  int n = number(r->args.data, r->args.len);
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

// The buffer overflow: the arguments say which of their bytes a part takes, FIRST-LAST with three digits each; eight of these are its
// boundary, and a range shorter than that wraps round. -DFIXED: the length is looked at before it is used.
#include "nginx.ext.h"

#define TEXT_MAX 128

char LICENSE[] SEC("license") = "Dual MIT/GPL";

char part[64];

static __always_inline __u64 three_digits(const unsigned char *text) {
  return (__u64)(text[0] & 15) * 100 + (__u64)(text[1] & 15) * 10 + (text[2] & 15);
}

host__handleRequest(overflow) {
  const unsigned char *text = r->args.data;
  const __u64 all = r->args.len;
  if (all < 7) return 0;
  __u64 first = three_digits(text), last = three_digits(text + 4);
  __u64 length = last - first - 8;
#ifdef FIXED
  if (length > sizeof(part)) return 0;
#endif
  for (__u64 i = 0; i < length && i < TEXT_MAX; ++i) {
    __u64 from = first + i;
    barrier_var(from);  // what is compared is what is used
    if (from >= all) break;
    part[i] = text[from];
  }
  return 0;
}

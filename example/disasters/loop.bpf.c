// The endless loop: pattern code that does not advance at a '*'. -DFIXED: it does.
#include "nginx.ext.h"

#define TEXT_MAX 128

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 plain = 0;

host__handleRequest(loop) {
  const unsigned char *text = r->args.data;
  const __u64 length = r->args.len;
  __u64 i = 0, count = 0;
  while (i < length && i < TEXT_MAX) {
    if (text[i] == '*') {
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

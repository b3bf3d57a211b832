// The other two classes of firewall.policy.yaml: one program that only observes, one that sets a field of the response's header.
// With -DWRONG it would set another one as well, and is refused.
#include "nginx.ext.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// Every page is as old as this release of the site. Can be edited while it serves.
long last_modified = 1000000000;  // seconds since 1970: Sun, 09 Sep 2001 01:46:40 GMT
__u64 requests = 0, bytes = 0;    // by clients, of path and arguments

host__handleRequest(count_bytes) {
  if (HOST_BITS(r, internal)) return 0;
  __sync_fetch_and_add(&requests, 1);
  __sync_fetch_and_add(&bytes, r->uri.len + r->args.len);
  return 0;
}

host__sendHeader(set_last_modified) {
  r->headers_out.last_modified_time = last_modified;
#ifdef WRONG
  r->headers_out.status = 200;
#endif
  return 0;
}

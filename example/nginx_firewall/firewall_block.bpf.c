// The firewall that blocks, as far as its policy lets it (firewall.policy.yaml, class "firewall"): a request that a rule fits is
// finalized with 403 and nginx's own handler does not run. Reads the request's members in place, through the header that
// `bpftime eim header` makes of nginx.eim.c.
#include "nginx.ext.h"

#include "firewall.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "firewall_maps.bpf.h"

#define KEEP_ALIVE 2   // NGX_HTTP_CONNECTION_KEEP_ALIVE
#define HTTP_10 1000u  // NGX_HTTP_VERSION_10

// What the handler that will not run does first: whether the connection is kept, and who waits for the rest of a body.
static __always_inline void decide_connection(struct host__ngx_http_request_s *r) {
  __u32 asked = HOST_BITS(r, headers_in.connection_type);
  HOST_SET_BITS(r, keepalive, asked == KEEP_ALIVE || (asked == 0 && r->http_version > HTTP_10));
  HOST_SET_BITS(r, lingering_close, r->headers_in.content_length_n > 0 || HOST_BITS(r, headers_in.chunked));
}

host__handleRequest(block_request) {
  __u32 zero = 0;
  // An internal redirect comes here a second time; it was judged when it came from the client.
  if (HOST_BITS(r, internal)) return 0;
  __u32 *slot = bpf_map_lookup_elem(&active, &zero);
  if (!slot) return 0;
  __u32 which = *slot & (FW_TABLES - 1);
  const struct fw_table *table = bpf_map_lookup_elem(&tables, &which);
  if (!table) return 0;

  const fw_u8 *path = r->uri.data, *args = r->args.data;
  const fw_u64 path_length = r->uri.len, args_length = r->args.len;
  __u32 verdict = path ? fw_match_path(table, path, path_length) : FW_PASS;
  if (verdict == FW_PASS && args) verdict = fw_match_args(table, args, args_length);

  __u64 *count = bpf_map_lookup_elem(&hits, &verdict);
  if (count) __sync_fetch_and_add(count, 1);
  if (verdict == FW_PASS) return 0;
  decide_connection(r);
  host__ngx_http_finalize_request(r, 403);
  bpf_override_return((struct pt_regs *)ctx, 0);
  return 0;
}

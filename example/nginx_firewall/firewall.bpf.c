// The firewall as an observer: at the entry of ngx_http_handler, looks at the request's path and arguments and counts the
// rule that fits. It changes nothing and can change nothing. An ordinary BPF program: the kernel's uprobes run it as well.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "firewall.h"
#include "nginx_layout.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "firewall_maps.bpf.h"

// Requests whose memory could not be read. Stays 0; a layout that is not this nginx's would show here or in wrong verdicts.
__u64 unreadable = 0;

struct text {
  __u64 length;
  __u64 data;
};

// Copied in pieces to the stack: a shared scratch area could be another worker's before we are done with it.
#define PIECE 128u

static __always_inline int match(const struct fw_table *table, __u64 state, const struct text *text, __u32 max,
                                 __u32 *verdict) {
  fw_u8 piece[PIECE];
  if (text->length > max) {
    *verdict = FW_TOO_LONG;
    return 0;
  }
  for (__u64 begin = 0; begin < max && begin < text->length; begin += PIECE) {
    __u64 here = text->length - begin;
    if (here > PIECE) here = PIECE;
    if (bpf_probe_read_user(piece, here, (const void *)(text->data + begin))) return -1;
    for (__u64 i = 0; i < here; ++i) state = fw_step(table, state, piece[i]);
  }
  *verdict = fw_verdict(table, state);
  return 0;
}

SEC("uprobe")
int observe_request(struct pt_regs *ctx) {
  const char *request = (const char *)PT_REGS_PARM1(ctx);
  // Two ngx_str_t that stand one behind the other: read at once.
  struct {
    struct text path, args;
  } texts;
  _Static_assert(NGX_REQUEST_ARGS == NGX_REQUEST_URI + sizeof(struct text), "path and arguments are not neighbours");
  _Static_assert(NGX_STR_LEN == 0 && NGX_STR_DATA == sizeof(__u64), "another ngx_str_t");
  __u8 internal;
  __u32 zero = 0, verdict = FW_PASS;

  if (bpf_probe_read_user(&internal, sizeof(internal), request + NGX_REQUEST_INTERNAL) ||
      bpf_probe_read_user(&texts, sizeof(texts), request + NGX_REQUEST_URI))
    goto fault;
  // An internal redirect comes here a second time; it was judged when it came from the client.
  if (internal & NGX_REQUEST_INTERNAL_MASK) return 0;

  __u32 *slot = bpf_map_lookup_elem(&active, &zero);
  if (!slot) return 0;
  __u32 which = *slot & (FW_TABLES - 1);
  const struct fw_table *table = bpf_map_lookup_elem(&tables, &which);
  if (!table) return 0;

  if (match(table, table->start_path, &texts.path, FW_PATH_MAX, &verdict)) goto fault;
  if (verdict == FW_PASS && match(table, table->start_args, &texts.args, FW_ARGS_MAX, &verdict)) goto fault;

  __u64 *count = bpf_map_lookup_elem(&hits, &verdict);
  if (count) __sync_fetch_and_add(count, 1);
  return 0;

fault:
  __sync_fetch_and_add(&unreadable, 1);
  return 0;
}

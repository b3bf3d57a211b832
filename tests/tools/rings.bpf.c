// A stock libbpf tool's kernel half: rings inside a map of maps, written in every way there is, and a ring the tool writes.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

#include "rings.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 events = 0, absent = 0, full = 0, refused = 0, available = 0, sizes = 0, produced = 0, consumed = 0;
__u64 drained = 0, amounts = 0, unread = 0, last_order = 0, disorder = 0;

struct ring {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} small SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4 * 4096);
} large SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, RINGS + 1);
  __type(key, __u32);
  __array(values, struct ring);
} rings SEC(".maps") = {.values = {(void *)&small, (void *)&large}};

struct {
  __uint(type, BPF_MAP_TYPE_USER_RINGBUF);
  __uint(max_entries, 4096);
} orders SEC(".maps");

static __always_inline void fill(struct record *record, __u32 how, __u64 number) {
  record->mark = MARK;
  record->how = how;
  record->number = number;
}

SEC("uprobe")
int on_talk(struct pt_regs *ctx) {
  const __u64 number = events++;
  __u32 slot = number % (RINGS + 1);
  void *ring = bpf_map_lookup_elem(&rings, &slot);
  if (!ring) {
    absent++;
    return 0;
  }
  struct record *place = bpf_ringbuf_reserve(ring, sizeof *place, 0);
  if (place) {
    fill(place, 0, number);
    if (number & 1)
      bpf_ringbuf_discard(place, 0);
    else
      bpf_ringbuf_submit(place, BPF_RB_NO_WAKEUP);
  } else {
    full++;
  }
  struct record record;
  fill(&record, 1, number);
  if (bpf_ringbuf_output(ring, &record, sizeof record, 0)) full++;
  if (bpf_ringbuf_output(ring, &record, sizeof record, 1 << 5)) refused++;
  struct bpf_dynptr dynamic;
  fill(&record, 2, number);
  if (bpf_ringbuf_reserve_dynptr(ring, sizeof record, 0, &dynamic)) full++;
  bpf_dynptr_write(&dynamic, 0, &record, sizeof record, 0);
  if (number % 5 == 0)
    bpf_ringbuf_discard_dynptr(&dynamic, 0);
  else
    bpf_ringbuf_submit_dynptr(&dynamic, 0);
  available += bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
  sizes += bpf_ringbuf_query(ring, BPF_RB_RING_SIZE);
  consumed += bpf_ringbuf_query(ring, BPF_RB_CONS_POS);
  produced += bpf_ringbuf_query(ring, BPF_RB_PROD_POS);
  return 0;
}

static long take(struct bpf_dynptr *dynamic, void *context) {
  struct order order;
  if (bpf_dynptr_read(&order, sizeof order, dynamic, 0, 0)) {
    unread++;
    return 0;
  }
  amounts += order.amount;
  if (order.number <= last_order) disorder++;
  last_order = order.number;
  return 0;
}

SEC("uprobe")
int on_order(struct pt_regs *ctx) {
  const long samples = bpf_user_ringbuf_drain(&orders, take, 0, 0);
  if (samples > 0) drained += samples;
  return 0;
}

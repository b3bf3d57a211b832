// A stock libbpf tool around rings.bpf.c. Runs unchanged on the kernel and under `bpftime load`.
//   rings FILE FUNCTION
// Each SIGUSR1 is the next step. Each takes what the programs wrote; the first then writes orders, the second does so until there
// is no room, says so and waits for the programs to make some. SIGTERM prints what was counted and ends.
#include "rings.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>

#include "rings.skel.h"
#include "steps.h"

static unsigned long long records[RINGS][3], broken, sum, ordered;

static int on_record(void* context, void* data, size_t size) {
  const struct record* record = data;
  if (size < sizeof *record || record->mark != MARK || record->how > 2) {
    ++broken;
    return 0;
  }
  ++records[(long)context][record->how];
  sum = sum * 31 + record->number;
  return 0;
}

static int put(struct user_ring_buffer* orders, struct order* order) {
  if (!order) return -errno;
  order->number = ++ordered;
  order->amount = ordered * 3;
  if (ordered % 7 == 0)
    user_ring_buffer__discard(orders, order);
  else
    user_ring_buffer__submit(orders, order);
  return 0;
}

// Small ones among them: too short for what the program reads.
static void write_orders(struct user_ring_buffer* orders, int count) {
  for (int i = 0; i < count; ++i) put(orders, user_ring_buffer__reserve(orders, sizeof(struct order)));
  void* small = user_ring_buffer__reserve(orders, 3);
  if (small) user_ring_buffer__submit(orders, small);
  printf("too large: %d\n", user_ring_buffer__reserve(orders, 4096) ? 0 : -errno);
}

static void wait_for_room(struct user_ring_buffer* orders) {
  int error = 0;
  while (!error) error = put(orders, user_ring_buffer__reserve(orders, sizeof(struct order)));
  printf("full: %d\n", error);
  printf("not at once: %d\n",
         put(orders, user_ring_buffer__reserve_blocking(orders, sizeof(struct order), 1)));
  fflush(stdout);
  printf("goes on: %d\n",
         put(orders, user_ring_buffer__reserve_blocking(orders, sizeof(struct order), 60000)));
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  sigset_t before;
  take_steps(&before);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct rings_bpf* skel = rings_bpf__open_and_load();
  if (!skel) {
    fprintf(stderr, "rings: cannot load: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[2]);
  struct bpf_program* programs[] = {skel->progs.on_talk, skel->progs.on_order};
  struct bpf_link* links[2];
  for (int i = 0; i < 2; ++i) {
    links[i] = bpf_program__attach_uprobe_opts(programs[i], -1, argv[1], 0, &options);
    if (!links[i]) {
      fprintf(stderr, "rings: cannot attach: %s\n", strerror(errno));
      return 1;
    }
  }
  struct ring_buffer* rings = ring_buffer__new(bpf_map__fd(skel->maps.small), on_record, (void*)0, NULL);
  struct user_ring_buffer* orders = user_ring_buffer__new(bpf_map__fd(skel->maps.orders), NULL);
  if (!rings || ring_buffer__add(rings, bpf_map__fd(skel->maps.large), on_record, (void*)1) || !orders) {
    fprintf(stderr, "rings: no ring: %s\n", strerror(errno));
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  for (int step = 0; !stopping;) {
    sigsuspend(&before);
    if (!asked) continue;
    asked = 0;
    ring_buffer__consume(rings);
    ++step;
    if (step == 1) write_orders(orders, 30);
    if (step == 2) wait_for_room(orders);
    printf("step %d\n", step);
    fflush(stdout);
  }
  ring_buffer__consume(rings);
  const struct rings_bpf__bss* bss = skel->bss;
  printf(
      "{\"events\": %llu, \"absent\": %llu, \"full\": %llu, \"refused\": %llu, \"available\": %llu, "
      "\"sizes\": %llu, \"consumed\": %llu, \"produced\": %llu, \"drained\": %llu, \"amounts\": %llu, "
      "\"unread\": %llu, \"last_order\": %llu, \"disorder\": %llu, \"broken\": %llu, \"sum\": %llu, ",
      bss->events, bss->absent, bss->full, bss->refused, bss->available, bss->sizes, bss->consumed,
      bss->produced, bss->drained, bss->amounts, bss->unread, bss->last_order, bss->disorder, broken, sum);
  for (int i = 0; i < RINGS; ++i)
    printf("\"ring %d\": [%llu, %llu, %llu]%s", i, records[i][0], records[i][1], records[i][2],
           i + 1 < RINGS ? ", " : "}\n");
  fflush(stdout);
  for (int i = 0; i < 2; ++i) bpf_link__destroy(links[i]);
  user_ring_buffer__free(orders);
  ring_buffer__free(rings);
  rings_bpf__destroy(skel);
  return 0;
}

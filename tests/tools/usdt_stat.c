// A stock libbpf tool: prints every firing of one USDT probe until SIGTERM, with its arguments.
//   usdt_stat FILE PROVIDER NAME [PID [COOKIE]]
#include "usdt_stat.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "usdt_stat.skel.h"

static volatile sig_atomic_t stopping;
static unsigned long long events;

static void on_signal(int signal) {
  (void)signal;
  stopping = 1;
}

static int on_event(void* context, void* data, size_t size) {
  const struct usdt_event* event = data;
  (void)context, (void)size;
  ++events;
  printf("usdt cookie=%llu count=%d", event->cookie, event->count);
  for (int i = 0; i < ARGUMENTS_MAX; ++i)
    if (event->results[i] == 0)
      printf(" %ld", event->arguments[i]);
    else
      printf(" (%d)", event->results[i]);
  printf("\n");
  fflush(stdout);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  LIBBPF_OPTS(bpf_usdt_opts, options, .usdt_cookie = argc > 5 ? strtoull(argv[5], NULL, 0) : 0);
  signal(SIGTERM, on_signal);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct usdt_stat_bpf* skel = usdt_stat_bpf__open_and_load();
  if (!skel) return fprintf(stderr, "usdt_stat: cannot load: %s\n", strerror(errno)), 1;
  struct bpf_link* link = bpf_program__attach_usdt(skel->progs.on_usdt, argc > 4 ? atoi(argv[4]) : -1,
                                                   argv[1], argv[2], argv[3], &options);
  if (!link) return fprintf(stderr, "usdt_stat: cannot attach: %s\n", strerror(errno)), 1;
  struct ring_buffer* ring = ring_buffer__new(bpf_map__fd(skel->maps.ring), on_event, NULL, NULL);
  if (!ring) return fprintf(stderr, "usdt_stat: no ring: %s\n", strerror(errno)), 1;
  printf("ready\n");
  fflush(stdout);
  while (!stopping) ring_buffer__poll(ring, -1);
  ring_buffer__consume(ring);
  printf("{\"events\": %llu}\n", events);
  fflush(stdout);
  ring_buffer__free(ring);
  bpf_link__destroy(link);
  usdt_stat_bpf__destroy(skel);
  return 0;
}

// One program at many places, attached and let go one link after the other; counts hits per place.
//   many_probes FILE PID < OFFSETS    PID -1: any process. Prints "attached N in T us", then "ready".
// SIGUSR1: prints how often each place was hit at least and at most. SIGUSR2: lets every link go, prints "let go N in T us",
// attaches all again, prints "attached …". SIGTERM: lets go and ends.
#include "many_probes.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "many_probes.skel.h"

static unsigned long offsets[MANY_MAX];
static struct bpf_link* links[MANY_MAX];
static unsigned count;

static double now_us(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int attach_all(struct many_probes_bpf* tool, const char* file, int pid) {
  const double start = now_us();
  for (unsigned i = 0; i < count; i++) {
    LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = i);
    links[i] = bpf_program__attach_uprobe_opts(tool->progs.count, pid, file, offsets[i], &options);
    if (links[i] == NULL) return perror("attach"), 1;
  }
  printf("attached %u in %.0f us\n", count, now_us() - start);
  return 0;
}

static void let_go(void) {
  const double start = now_us();
  for (unsigned i = 0; i < count; i++) bpf_link__destroy(links[i]);
  printf("let go %u in %.0f us\n", count, now_us() - start);
}

static void print_hits(struct many_probes_bpf* tool) {
  unsigned long least = -1ul, most = 0;
  for (unsigned i = 0; i < count; i++) {
    unsigned long value = 0;
    bpf_map_lookup_elem(bpf_map__fd(tool->maps.counts), &i, &value);
    if (value < least) least = value;
    if (value > most) most = value;
  }
  printf("hits: %lu to %lu\n", least, most);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  while (count < MANY_MAX && scanf("%lx", &offsets[count]) == 1) count++;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  setvbuf(stdout, NULL, _IOLBF, 0);
  struct many_probes_bpf* tool = many_probes_bpf__open_and_load();
  if (tool == NULL) return perror("load"), 1;
  const int pid = atoi(argv[2]);
  if (attach_all(tool, argv[1], pid)) return 1;
  puts("ready");
  for (int received = 0; sigwait(&signals, &received) == 0 && received != SIGTERM;) {
    if (received == SIGUSR1) print_hits(tool);
    if (received == SIGUSR2) {
      let_go();
      if (attach_all(tool, argv[1], pid)) return 1;
    }
  }
  let_go();
  many_probes_bpf__destroy(tool);
  return 0;
}

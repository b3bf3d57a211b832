// A stock libbpf tool: counts, times or reports the calls of one function until SIGTERM or SIGINT, then prints JSON.
// Runs unchanged on the kernel and under `bpftime load`; the end-to-end tests compare what both print.
//   uprobe_stat count|latency|ring|perf FILE FUNCTION [PID [COOKIE]]
#include "uprobe_stat.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "uprobe_stat.skel.h"

static volatile sig_atomic_t stopping;
static unsigned long long events;

static void on_signal(int signal) {
  (void)signal;
  stopping = 1;
}

static void print_event(const struct event* event) {
  ++events;
  printf("event tgid=%u tid=%u uid=%u cookie=%llu argument=%llu comm=%s length=%d text=%s\n", event->tgid,
         event->tid, event->uid, event->cookie, event->argument, event->comm, event->text_length,
         event->text_length > 0 ? event->text : "");
  fflush(stdout);
}

static int on_ring_event(void* context, void* data, size_t size) {
  (void)context;
  if (size >= sizeof(struct event)) print_event(data);
  return 0;
}

static void on_perf_event(void* context, int cpu, void* data, unsigned int size) {
  (void)context;
  (void)cpu;
  if (size >= sizeof(struct event)) print_event(data);
}

static void on_perf_lost(void* context, int cpu, unsigned long long count) {
  (void)context;
  printf("lost cpu=%d count=%llu\n", cpu, count);
}

static unsigned long long print_calls(struct uprobe_stat_bpf* skel) {
  int fd = bpf_map__fd(skel->maps.calls_by_tgid);
  unsigned int key, *previous = NULL;
  unsigned long long value, total = 0;
  const char* comma = "";
  printf("\"by_tgid\": {");
  while (bpf_map_get_next_key(fd, previous, &key) == 0) {
    if (bpf_map_lookup_elem(fd, &key, &value) == 0) {
      printf("%s\"%u\": %llu", comma, key, value);
      comma = ", ";
      total += value;
    }
    previous = &key;
  }
  printf("}, \"calls\": %llu", total);
  return total;
}

static void print_per_cpu(struct uprobe_stat_bpf* skel) {
  int cpus = libbpf_num_possible_cpus();
  unsigned long long *values = calloc(cpus, sizeof(*values)), total = 0;
  unsigned int zero = 0;
  if (values && bpf_map_lookup_elem(bpf_map__fd(skel->maps.calls_by_cpu), &zero, values) == 0)
    for (int i = 0; i < cpus; ++i) total += values[i];
  printf(", \"per_cpu\": %llu, \"bss\": %llu", total, (unsigned long long)skel->bss->bss_calls);
  free(values);
}

static void print_histogram(struct uprobe_stat_bpf* skel) {
  unsigned long long value, total = 0;
  printf(", \"histogram\": [");
  for (unsigned int slot = 0; slot < HISTOGRAM_SLOTS; ++slot) {
    if (bpf_map_lookup_elem(bpf_map__fd(skel->maps.histogram), &slot, &value) != 0) value = 0;
    printf("%s%llu", slot ? ", " : "", value);
    total += value;
  }
  printf("], \"timed\": %llu", total);
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: uprobe_stat count|latency|ring|perf FILE FUNCTION [PID [COOKIE]]\n");
    return 2;
  }
  const char* mode = argv[1];
  int pid = argc > 4 ? atoi(argv[4]) : -1;
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[3]);
  options.bpf_cookie = argc > 5 ? strtoull(argv[5], NULL, 0) : 0;
  signal(SIGTERM, on_signal);
  signal(SIGINT, on_signal);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);

  struct uprobe_stat_bpf* skel = uprobe_stat_bpf__open_and_load();
  if (!skel) {
    fprintf(stderr, "uprobe_stat: cannot load: %s\n", strerror(errno));
    return 1;
  }
  struct bpf_program* first = strcmp(mode, "count") == 0     ? skel->progs.on_count
                              : strcmp(mode, "latency") == 0 ? skel->progs.on_enter
                              : strcmp(mode, "ring") == 0    ? skel->progs.on_ring
                                                             : skel->progs.on_perf;
  struct bpf_link* links[2] = {bpf_program__attach_uprobe_opts(first, pid, argv[2], 0, &options), NULL};
  if (links[0] && strcmp(mode, "latency") == 0) {
    options.retprobe = true;
    links[1] = bpf_program__attach_uprobe_opts(skel->progs.on_return, pid, argv[2], 0, &options);
  }
  if (!links[0] || (strcmp(mode, "latency") == 0 && !links[1])) {
    fprintf(stderr, "uprobe_stat: cannot attach to %s:%s: %s\n", argv[2], argv[3], strerror(errno));
    return 1;
  }
  struct ring_buffer* ring = NULL;
  struct perf_buffer* perf = NULL;
  if (strcmp(mode, "ring") == 0)
    ring = ring_buffer__new(bpf_map__fd(skel->maps.ring), on_ring_event, NULL, NULL);
  if (strcmp(mode, "perf") == 0)
    perf = perf_buffer__new(bpf_map__fd(skel->maps.perf), 64, on_perf_event, on_perf_lost, NULL, NULL);
  if ((strcmp(mode, "ring") == 0 && !ring) || (strcmp(mode, "perf") == 0 && !perf)) {
    fprintf(stderr, "uprobe_stat: no buffer: %s\n", strerror(errno));
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  while (!stopping) {
    if (ring)
      ring_buffer__poll(ring, -1);
    else if (perf)
      perf_buffer__poll(perf, -1);
    else
      pause();
  }
  if (ring) ring_buffer__consume(ring);
  if (perf) perf_buffer__consume(perf);
  printf("{");
  print_calls(skel);
  print_per_cpu(skel);
  print_histogram(skel);
  printf(", \"events\": %llu}\n", events);
  ring_buffer__free(ring);
  perf_buffer__free(perf);
  bpf_link__destroy(links[1]);
  bpf_link__destroy(links[0]);
  uprobe_stat_bpf__destroy(skel);
  return 0;
}

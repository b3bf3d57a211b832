// A stock libbpf tool around features.bpf.c. Runs unchanged on the kernel and under `bpftime load`.
//   features counters|rings|consume|trace|daemon FILE FUNCTION
// SIGUSR1 prints what is counted so far (consume: consumes first); SIGTERM prints it as the last line and ends.
// daemon: counters in a child that outlives its parent.
#include "features.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "features.skel.h"

static volatile sig_atomic_t stopping, asked;
static unsigned long long notes[2], disorder, last[2];

static void on_signal(int signal) {
  if (signal == SIGUSR1)
    asked = 1;
  else
    stopping = 1;
}

static int on_note(void* context, void* data, size_t size) {
  const int ring = (int)(long)context;
  const struct note* note = data;
  if (size != sizeof *note || (notes[ring] && note->number <= last[ring]) ||
      (note->number & 1) != (unsigned)ring)
    ++disorder;
  last[ring] = note->number;
  ++notes[ring];
  return 0;
}

static unsigned long long kind(struct features_bpf* skel, unsigned int key) {
  unsigned long long value = 0;
  bpf_map_lookup_elem(bpf_map__fd(skel->maps.by_kind), &key, &value);
  return value;
}

static void print_state(struct features_bpf* skel) {
  printf(
      "{\"who\": %d, \"plain\": %llu, \"fetched\": %llu, \"fetch_sum\": %llu, \"swapped\": %llu, "
      "\"lost_swaps\": %llu, "
      "\"exchanged\": %llu, \"bits\": %llu, \"from_data\": %llu, \"kind1\": %llu, \"kind2\": %llu, "
      "\"first\": %llu, "
      "\"second\": %llu, \"disorder\": %llu}\n",
      (int)getpid(), (unsigned long long)skel->bss->plain, (unsigned long long)skel->bss->fetched,
      (unsigned long long)skel->bss->fetch_sum, (unsigned long long)skel->bss->swapped,
      (unsigned long long)skel->bss->lost_swaps, (unsigned long long)skel->bss->exchanged,
      (unsigned long long)skel->bss->bits, (unsigned long long)skel->bss->from_data, kind(skel, 1),
      kind(skel, 2), notes[0], notes[1], disorder);
  fflush(stdout);
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const char* mode = argv[1];
  sigset_t mask, before;
  struct sigaction action = {.sa_handler = on_signal};  // no SA_RESTART: waits end
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct features_bpf* skel = features_bpf__open();
  if (!skel) return 1;
  skel->rodata->step = 3;
  skel->data->in_data = 1234;
  if (features_bpf__load(skel)) {
    fprintf(stderr, "features: cannot load: %s\n", strerror(errno));
    return 1;
  }
  const int rings = strcmp(mode, "rings") == 0, consume = strcmp(mode, "consume") == 0;
  struct bpf_program* program = rings || consume             ? skel->progs.on_rings
                                : strcmp(mode, "trace") == 0 ? skel->progs.on_trace
                                                             : skel->progs.on_counters;
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[3]);
  struct bpf_link* link = bpf_program__attach_uprobe_opts(program, -1, argv[2], 0, &options);
  if (!link) {
    fprintf(stderr, "features: cannot attach: %s\n", strerror(errno));
    return 1;
  }
  struct ring_buffer* ring = NULL;
  if (rings || consume) {
    ring = ring_buffer__new(bpf_map__fd(skel->maps.first), on_note, (void*)0, NULL);
    if (!ring || ring_buffer__add(ring, bpf_map__fd(skel->maps.second), on_note, (void*)1)) {
      fprintf(stderr, "features: no ring: %s\n", strerror(errno));
      return 1;
    }
  }
  if (strcmp(mode, "daemon") == 0) {
    const pid_t child = fork();
    if (child != 0) _exit(child < 0);
  }
  printf("ready\n");
  fflush(stdout);
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGUSR1);
  if (!rings) sigprocmask(SIG_BLOCK, &mask, &before);  // rings: the wait itself must end by a signal
  while (!stopping) {
    if (rings)
      ring_buffer__poll(ring, -1);
    else if (!asked)
      sigsuspend(&before);
    if (asked) {
      asked = 0;
      if (consume) ring_buffer__consume(ring);
      print_state(skel);
    }
  }
  if (ring) ring_buffer__consume(ring);
  print_state(skel);
  ring_buffer__free(ring);
  bpf_link__destroy(link);
  features_bpf__destroy(skel);
  return 0;
}

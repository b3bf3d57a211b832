// The user side: a stock libbpf tool. Loads the program, attaches it to libc's malloc of every process, prints the counts
// each second and once more when it is told to stop.
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "malloc.skel.h"

static volatile sig_atomic_t stopping;

static void on_signal(int signal_number) {
  (void)signal_number;
  stopping = 1;
}

static void print_counts(int map_fd) {
  char clock[16];
  time_t now = time(NULL);
  strftime(clock, sizeof(clock), "%H:%M:%S", localtime(&now));
  printf("%s\n", clock);

  uint32_t pid, next;
  uint64_t calls;
  for (void *previous = NULL; bpf_map_get_next_key(map_fd, previous, &next) == 0; previous = &pid) {
    pid = next;
    if (bpf_map_lookup_elem(map_fd, &pid, &calls) == 0)
      printf("\tpid=%" PRIu32 "\tmalloc calls: %" PRIu64 "\n", pid, calls);
  }
}

// The file that holds malloc: the libc this tool itself runs with, as every other dynamic program here does.
static const char *libc_path(void) {
  Dl_info info;
  void *function = dlsym(RTLD_DEFAULT, "malloc");
  return function && dladdr(function, &info) ? info.dli_fname : "libc.so.6";
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);

  struct malloc_bpf *skeleton = malloc_bpf__open_and_load();
  if (!skeleton) {
    fprintf(stderr, "malloc: cannot load the program: %s\n", strerror(errno));
    return 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = "malloc");
  struct bpf_link *link = bpf_program__attach_uprobe_opts(skeleton->progs.do_count, -1, libc_path(), 0, &options);
  if (!link) {
    fprintf(stderr, "malloc: cannot attach to malloc in %s: %s\n", libc_path(), strerror(errno));
    malloc_bpf__destroy(skeleton);
    return 1;
  }

  int map_fd = bpf_map__fd(skeleton->maps.libc_malloc_calls_total);
  while (!stopping) {
    sleep(1);
    print_counts(map_fd);
  }
  bpf_link__destroy(link);
  malloc_bpf__destroy(skeleton);
  return 0;
}

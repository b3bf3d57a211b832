// A stock libbpf tool: attaches the programs of one mode to one function of one process, prints "ready" with
// the microseconds that took, and on SIGTERM what it counted, as one line of JSON.
//   probes MODE PID FILE FUNCTION [again]
// Modes with tracepoints look at neither FILE nor FUNCTION. FUNCTION rotated_0: that and the others of its kind. `again`: detaches and attaches once more, and tells the time of that.
#include "probes.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "probes.skel.h"

static const struct mode {
  const char *name, *entry, *on_return;
} modes[] = {
    {"empty_entry", "empty_entry", NULL},
    {"argument_percpu", "argument_percpu", NULL},
    {"array_atomic", "array_atomic", NULL},
    {"hash_update", "hash_update", NULL},
    {"empty_return", NULL, "empty_return"},
    {"entry_return", "pair_entry", "pair_return"},
    {"ktime", "ktime", NULL},
    {"probe_read", "probe_read", NULL},
    {"probe_reads", "probe_reads", NULL},
    {"ringbuf", "ringbuf", NULL},
    {"ringbuf_woken", "ringbuf_woken", NULL},
    {"count_return", NULL, "count_return"},
    {"hash_lookups", "hash_lookups", NULL},
    {"hash_updates", "hash_updates", NULL},
    {"write_user", "write_user", NULL},
    {"write_granted", "write_granted", NULL},
    {"writes_user", "writes_user", NULL},
    {"writes_granted", "writes_granted", NULL},
    {"call_entry", "call_entry", NULL},
    {"call_both", "call_entry", "call_exit"},
};

#define POLL_MS 100   // a signal may come just before the wait: then it is noticed that much later
#define LOOK_US 1000  // at a ring whose producers wake nobody

static volatile sig_atomic_t stopping;
static unsigned long long records;

static void on_signal(int signal) {
  (void)signal;
  stopping = 1;
}

static int on_record(void* context, void* data, size_t size) {
  (void)context;
  (void)data;
  records += size == sizeof(unsigned long long);
  return 0;
}

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static unsigned long long counted(struct probes_bpf* skel) {
  const int cpus = libbpf_num_possible_cpus();
  unsigned long long *values = calloc(cpus, sizeof(*values)), total = 0, value = 0;
  for (unsigned int slot = 0; values && slot < COUNT_SLOTS; ++slot)
    if (bpf_map_lookup_elem(bpf_map__fd(skel->maps.counts), &slot, values) == 0)
      for (int cpu = 0; cpu < cpus; ++cpu) total += values[cpu];
  free(values);
  unsigned int zero = 0;
  if (bpf_map_lookup_elem(bpf_map__fd(skel->maps.shared_count), &zero, &value) == 0) total += value;
  return total + records;
}

static unsigned int keys(struct probes_bpf* skel) {
  unsigned int key, previous, count = 0;
  for (void* from = NULL; bpf_map_get_next_key(bpf_map__fd(skel->maps.last_argument), from, &key) == 0;
       ++count) {
    previous = key;
    from = &previous;
  }
  return count;
}

// To `function` of the file; the last link, or NULL.
static struct bpf_link* attach_to(struct bpf_object* object, const char* program, int on_return, char** argv,
                                  const char* function) {
  struct bpf_program* found = bpf_object__find_program_by_name(object, program);
  if (bpf_program__type(found) == BPF_PROG_TYPE_TRACEPOINT) return bpf_program__attach(found);
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = function, .retprobe = on_return);
  return bpf_program__attach_uprobe_opts(found, atoi(argv[2]), argv[3], 0, &options);
}

static struct bpf_link* attach(struct bpf_object* object, const char* program, int on_return, char** argv) {
  struct bpf_link* link = attach_to(object, program, on_return, argv, argv[4]);
  if (strcmp(argv[4], "rotated_0") != 0) return link;
  for (int i = 1; link && i < ROTATED; ++i) {
    char function[32];
    snprintf(function, sizeof(function), i < 8 ? "rotated_%o" : "rotated_%02o", i);
    link = attach_to(object, program, on_return, argv, function);  // until this process ends
  }
  return link;
}

static void fill(struct probes_bpf* skel) {
  for (unsigned int key = 0; key < HASH_KEYS; ++key) {
    unsigned long long value = key;
    bpf_map_update_elem(bpf_map__fd(skel->maps.last_argument), &key, &value, BPF_ANY);
  }
}

static int is(const char* wanted, const char* name) { return wanted && strcmp(wanted, name) == 0; }

int main(int argc, char** argv) {
  const struct mode* mode = NULL;
  for (size_t i = 0; (argc == 5 || argc == 6) && i < sizeof(modes) / sizeof(*modes); ++i)
    if (strcmp(modes[i].name, argv[1]) == 0) mode = &modes[i];
  if (!mode) {
    fprintf(stderr, "usage: probes MODE PID FILE FUNCTION [again]\n");
    return 2;
  }
  signal(SIGTERM, on_signal);
  signal(SIGINT, on_signal);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  struct probes_bpf* skel = probes_bpf__open();
  if (!skel) return 1;
  struct bpf_program* program;
  bpf_object__for_each_program(program, skel->obj) {
    const char* name = bpf_program__name(program);
    bpf_program__set_autoload(program, is(mode->entry, name) || is(mode->on_return, name));
  }
  if (probes_bpf__load(skel) != 0) {
    fprintf(stderr, "probes: cannot load: %s\n", strerror(errno));
    return 1;
  }
  fill(skel);
  double start = now_us();
  struct bpf_link* entry = mode->entry ? attach(skel->obj, mode->entry, 0, argv) : NULL;
  struct bpf_link* on_return = mode->on_return ? attach(skel->obj, mode->on_return, 1, argv) : NULL;
  if ((mode->entry && !entry) || (mode->on_return && !on_return)) {
    fprintf(stderr, "probes: cannot attach to %s:%s: %s\n", argv[3], argv[4], strerror(errno));
    return 1;
  }
  if (argc == 6 && entry) {
    bpf_link__destroy(entry);
    start = now_us();
    if (!(entry = attach(skel->obj, mode->entry, 0, argv))) return 1;
  }
  printf("ready %.0f\n", now_us() - start);
  fflush(stdout);
  struct ring_buffer* ring = ring_buffer__new(bpf_map__fd(skel->maps.ring), on_record, NULL, NULL);
  while (!stopping) {
    if (is("ringbuf", mode->name)) {
      usleep(LOOK_US);
      ring_buffer__consume(ring);
    } else {
      ring_buffer__poll(ring, POLL_MS);
    }
  }
  bpf_link__destroy(entry);
  bpf_link__destroy(on_return);
  ring_buffer__consume(ring);
  printf("{\"events\": %llu, \"keys\": %u}\n", counted(skel), keys(skel));
  ring_buffer__free(ring);
  probes_bpf__destroy(skel);
  return 0;
}

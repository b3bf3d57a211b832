// Map operations as loaders make them: bpf(2) through libbpf, on maps of this process. Knows nothing of bpftime: run as it is
// the kernel answers, under `bpftime load` its interposer. Prints "OPERATION NANOSECONDS" lines, the time of one operation:
// CPU time of the thread, or an element's share of a batch.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KEYS 1024
#define PASSES 8

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1e9 + now.tv_nsec;
}

static char values[KEYS * 64 * 8];  // of 64 CPUs at most in batches
static unsigned int keys[KEYS];

static const struct type {
  const char* name;
  enum bpf_map_type type;
  unsigned int key_size, flags;
} types[] = {
    {"array", BPF_MAP_TYPE_ARRAY, 4, 0},
    {"percpu_array", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 0},
    {"hash", BPF_MAP_TYPE_HASH, 4, 0},
    {"percpu_hash", BPF_MAP_TYPE_PERCPU_HASH, 4, 0},
    {"lru_hash", BPF_MAP_TYPE_LRU_HASH, 4, 0},
    {"lru_percpu_hash", BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 0},
    {"lpm_trie", BPF_MAP_TYPE_LPM_TRIE, 8, BPF_F_NO_PREALLOC},
    {"queue", BPF_MAP_TYPE_QUEUE, 0, 0},
    {"stack", BPF_MAP_TYPE_STACK, 0, 0},
    {"bloom_filter", BPF_MAP_TYPE_BLOOM_FILTER, 0, 0},
};

struct key {
  unsigned int word[2];
};
// An LPM key of full length; others use its first word.
static struct key key_of(const struct type* type, unsigned int i) {
  if (type->type == BPF_MAP_TYPE_LPM_TRIE) return (struct key){{32, i * 0x9e3779b1u}};
  return (struct key){{i, 0}};
}

enum operation { UPDATE, LOOKUP, NEXT_KEY, DELETE, TAKE };

static long failed;

static void once(const struct type* type, int map, enum operation operation, unsigned int i) {
  struct key key = key_of(type, i), next;
  void* at = type->key_size ? &key : NULL;
  int error = 0;
  switch (operation) {
    case UPDATE:
      error = bpf_map_update_elem(map, at, values, BPF_ANY);
      break;
    case LOOKUP:
      error = bpf_map_lookup_elem(map, at, values);
      break;
    case NEXT_KEY:
      bpf_map_get_next_key(map, at, &next);
      break;  // of the last key: no other
    case DELETE:
      error = bpf_map_delete_elem(map, at);
      break;
    case TAKE:
      error = bpf_map_lookup_and_delete_elem(map, at, values);
      break;
  }
  failed += error != 0;
}

// A line each time; `refill`: the operation takes elements away.
static void measure(const struct type* type, int map, const char* name, enum operation operation,
                    int refill) {
  double total = 0;
  for (int pass = 0; pass <= PASSES; ++pass) {  // the first one warms up
    if (refill)
      for (unsigned int i = 0; i < KEYS; ++i) once(type, map, UPDATE, i);
    const double start = now_ns();
    for (unsigned int i = 0; i < KEYS; ++i) once(type, map, operation, i);
    if (pass > 0) total += now_ns() - start;
    if (operation == UPDATE && !type->key_size && type->type != BPF_MAP_TYPE_BLOOM_FILTER)
      for (unsigned int i = 0; i < KEYS; ++i) once(type, map, TAKE, i);
  }
  printf("%s: %s\t%.1f\n", type->name, name, total / PASSES / KEYS);
}

static void batches(const struct type* type, int map) {
  LIBBPF_OPTS(bpf_map_batch_opts, options);
  double update = 0, lookup = 0;
  for (int pass = 0; pass <= PASSES; ++pass) {
    unsigned int count = KEYS;
    for (unsigned int i = 0; i < KEYS; ++i) keys[i] = i;
    double start = now_ns();
    failed += bpf_map_update_batch(map, keys, values, &count, &options) != 0;
    if (pass > 0) update += now_ns() - start;
    unsigned int next;
    start = now_ns();
    for (void* from = NULL;; from = &next) {
      count = KEYS / 4;
      if (bpf_map_lookup_batch(map, from, &next, keys, values, &count, &options) != 0) break;
    }
    if (pass > 0) lookup += now_ns() - start;
  }
  printf("%s: update, batches of 1,024\t%.1f\n", type->name, update / PASSES / KEYS);
  printf("%s: look-up, batches of 256\t%.1f\n", type->name, lookup / PASSES / KEYS);
}

int main(void) {
  if (libbpf_num_possible_cpus() > 64) return 0;
  for (size_t t = 0; t < sizeof(types) / sizeof(*types); ++t) {
    const struct type* type = &types[t];
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = type->flags);
    const int map = bpf_map_create(type->type, "calls", type->key_size, 8, 2 * KEYS, &options);
    if (map < 0) {
      fprintf(stderr, "map_calls: cannot create %s\n", type->name);
      return 1;
    }
    measure(type, map, type->key_size ? "update" : "push", UPDATE, 0);
    if (type->type == BPF_MAP_TYPE_QUEUE || type->type == BPF_MAP_TYPE_STACK) {
      measure(type, map, "pop", TAKE, 1);
      for (unsigned int i = 0; i < KEYS; ++i) once(type, map, UPDATE, i);
    }
    measure(type, map, type->key_size ? "look-up" : "peek", LOOKUP, 0);
    const int array = type->type == BPF_MAP_TYPE_ARRAY || type->type == BPF_MAP_TYPE_PERCPU_ARRAY;
    if (type->key_size) measure(type, map, "next key", NEXT_KEY, 0);
    if (type->key_size && !array) measure(type, map, "delete", DELETE, 1);
    if (type->type == BPF_MAP_TYPE_HASH || type->type == BPF_MAP_TYPE_LRU_HASH)
      measure(type, map, "look-up and delete", TAKE, 1);
    if (type->type == BPF_MAP_TYPE_HASH || type->type == BPF_MAP_TYPE_ARRAY) batches(type, map);
  }
  if (failed) fprintf(stderr, "map_calls: %ld operations failed\n", failed);
  return failed != 0;
}

// A small map of each type, with a geometry that Linux takes: what tools that ask about maps type by type make.
#pragma once

#include <linux/bpf.h>

struct kind {
  const char* name;
  unsigned type, key, value, entries, flags;
};
static const struct kind kinds[] = {
    {"hash", BPF_MAP_TYPE_HASH, 4, 8, 16, 0},
    {"array", BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0},
    {"prog array", BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0},
    {"perf event array", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0},
    {"percpu hash", BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 16, 0},
    {"percpu array", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4, 0},
    {"stack trace", BPF_MAP_TYPE_STACK_TRACE, 4, 80, 16, 0},
    {"cgroup array", BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 4, 0},
    {"lru hash", BPF_MAP_TYPE_LRU_HASH, 4, 8, 16, 0},
    {"lru percpu hash", BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 8, 16, 0},
    {"lpm trie", BPF_MAP_TYPE_LPM_TRIE, 8, 8, 16, BPF_F_NO_PREALLOC},
    {"queue", BPF_MAP_TYPE_QUEUE, 0, 8, 16, 0},
    {"stack", BPF_MAP_TYPE_STACK, 0, 8, 16, 0},
    {"ringbuf", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0},
    {"bloom filter", BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 16, 0},
    {"user ringbuf", BPF_MAP_TYPE_USER_RINGBUF, 0, 0, 4096, 0},
    {"array of maps", BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 4, 0},
    {"hash of maps", BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, 4, 0},
};

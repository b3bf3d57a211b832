// The engine workloads: each is written once and compiled by clang three ways, to BPF and twice to x86-64.
#pragma once

#include <stdint.h>

#define ENGINE_MEMORY_SIZE 8192

// What a workload gets: memory it may write, and how much of its work to do.
struct engine_input {
  uint8_t* memory;
  uint64_t size;
};

// WORKLOAD(name, size, what): size is the engine_input's.
#define ENGINE_WORKLOADS(WORKLOAD)                                              \
  WORKLOAD(log2_words, 512, "log2 of 512 words")                                \
  WORKLOAD(prime, 4001, "primes below 4,001 by trial division")                 \
  WORKLOAD(copy_bytes, 2048, "memcpy, a byte at a time")                        \
  WORKLOAD(compare_strings, 2048, "strcmp of two equal strings")                \
  WORKLOAD(switch_256, 1024, "switch with 256 cases, 1,024 times")              \
  WORKLOAD(checksum, 2048, "Internet checksum of 2 KiB")                        \
  WORKLOAD(binary_search, 256, "256 binary searches among 1,024")               \
  WORKLOAD(fibonacci, 2000, "fibonacci, iterated")                              \
  WORKLOAD(parse_packets, 64, "Ethernet, IP, TCP or UDP headers of 64 packets") \
  WORKLOAD(dense_branches, 2048, "a state machine over 2,048 bytes")            \
  WORKLOAD(helper_calls, 1000, "1,000 look-ups in an array map")                \
  WORKLOAD(local_calls, 1000, "1,000 calls of local functions")

// What programs call, as inline functions: the one switch over map types on the program's side. With a
// constant spec the compiler folds it to the type's own code (an array lookup becomes a compare and an
// address). Freestanding; include this, not map.h, in code that becomes LLVM bitcode. Semantics: map.h, same
// names there. A new map type: one file, and one case in each switch here and in map.cc where it does more
// than refuse.
#pragma once

#include "maps/array.h"
#include "maps/bloom_filter.h"
#include "maps/hash.h"
#include "maps/lpm_trie.h"
#include "maps/lru_hash.h"
#include "maps/map_of_maps.h"
#include "maps/percpu_array.h"
#include "maps/percpu_hash.h"
#include "maps/perf_event_array.h"
#include "maps/queue_stack.h"
#include "maps/ringbuf.h"
#include "maps/unchanged.h"

namespace bpftime::maps::program_side {

BPFTIME_MAPS_FOLD void* lookup_percpu(MapView map, const void* key, uint32_t cpu) {
  switch (map.spec->type) {
    case kTypeHash:
      return hash_lookup(map, key);
    case kTypeArray:
      return array_lookup(map, key);
    case kTypePercpuArray:
      return percpu_array_lookup(map, key, cpu);
    case kTypeArrayOfMaps:
      return array_of_maps_lookup(map, key);
    case kTypeHashOfMaps:
      return hash_of_maps_lookup(map, key);
    case kTypePercpuHash:
      return percpu_hash_lookup(map, key, cpu);
    case kTypeLruHash:
    case kTypeLruPercpuHash:
      return lru_hash_lookup(map, key, cpu);
    case kTypeLpmTrie:
      return lpm_trie_lookup(map, key);
    default:
      return nullptr;
  }
}
// Whether what a program gets or gives depends on the CPU it runs on.
BPFTIME_MAPS_FOLD bool is_percpu(uint32_t type) { return type == kTypePercpuArray || is_percpu_hash(type); }
BPFTIME_MAPS_FOLD void* lookup(MapView map, const void* key) {
  return program_side::lookup_percpu(map, key, 0);
}

BPFTIME_MAPS_FOLD int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                 uint32_t cpu, uint32_t owner) {
  switch (map.spec->type) {
    case kTypeHash:
      return hash_update(map, key, value, flags, owner);
    case kTypeArray:
      return array_update(map, key, value, flags);
    case kTypePercpuArray:
      return percpu_array_update(map, key, value, flags, cpu);
    case kTypePercpuHash:
      return hash_update(map, key, value, flags, owner, cpu);
    case kTypeLruHash:
    case kTypeLruPercpuHash:
      return lru_hash_update(map, key, value, flags, owner, cpu);
    case kTypeLpmTrie:
      return lpm_trie_update(map, key, value, flags, owner);
    default:
      return -kErrOpNotSupported;
  }
}

BPFTIME_MAPS_FOLD int64_t remove(MapView map, const void* key, uint32_t owner) {
  switch (map.spec->type) {
    case kTypeHash:
    case kTypePercpuHash:
    case kTypeLruHash:
    case kTypeLruPercpuHash:
      return hash_remove(map, key, nullptr, owner);
    case kTypeLpmTrie:
      return lpm_trie_remove(map, key, owner);
    case kTypeArray:
    case kTypePercpuArray:
      return -kErrInvalid;  // array_map_delete_elem
    default:
      return -kErrOpNotSupported;
  }
}

// The value of an existing key changed without taking an element, if that is possible; false: nothing has happened, update
// knows. Small enough to be inlined into programs, which then seldom call anything.
BPFTIME_MAPS_FOLD bool update_in_place(MapView map, const void* key, const void* value, uint64_t flags,
                                       uint32_t cpu) {
  switch (map.spec->type) {
    case kTypeHash:
      return hash_update_in_place(map, key, value, flags);
    case kTypePercpuHash:
    case kTypeLruPercpuHash:
      return percpu_hash_update_in_place(map, key, value, flags, cpu);
    default:
      return false;
  }
}

// The value of an existing key changed if it still is what was seen (unchanged.h): 0 or kChanged.
BPFTIME_MAPS_FOLD int64_t update_unchanged(MapView map, const void* key, uint64_t* place, uint64_t seen,
                                           const void* value, uint32_t cpu) {
  const uint32_t type = map.spec->type;
  if (type == kTypeArray || type == kTypePercpuArray) return array_update_unchanged(place, seen, value);
  return hash_update_unchanged(map, key, place, seen, value, cpu);
}

BPFTIME_MAPS_FOLD int64_t push(MapView map, const void* value, uint64_t flags, uint32_t owner) {
  switch (map.spec->type) {
    case kTypeQueue:
    case kTypeStack:
      return queue_push(map, value, flags, owner);
    case kTypeBloomFilter:
      return bloom_push(map, value, flags);
    default:
      return -kErrOpNotSupported;
  }
}

BPFTIME_MAPS_FOLD int64_t pop(MapView map, void* value) {
  switch (map.spec->type) {
    case kTypeQueue:
    case kTypeStack:
      return queue_read_out(map, value, /*take=*/true);
    default:
      return -kErrOpNotSupported;
  }
}

// A bloom filter reads `value` instead of writing it.
BPFTIME_MAPS_FOLD int64_t peek(MapView map, void* value) {
  switch (map.spec->type) {
    case kTypeQueue:
    case kTypeStack:
      return queue_read_out(map, value, /*take=*/false);
    case kTypeBloomFilter:
      return bloom_peek(map, value);
    default:
      return -kErrOpNotSupported;
  }
}

BPFTIME_MAPS_FOLD Ring ring_of(MapView map) {
  return map.spec->type == kTypePerfEventArray ? perf_ring(map) : ring_at(map.base, map.spec->max_entries);
}
BPFTIME_MAPS_FOLD void* ring_reserve(MapView map, uint64_t size, uint64_t flags, uint32_t owner) {
  return ring_reserve_at(ring_of(map), size, flags, owner);
}
BPFTIME_MAPS_FOLD bool ring_commit(MapView map, void* record, uint64_t flags, bool discard) {
  return ring_commit_at(ring_of(map), record, flags, discard);
}
// The usual case of each, small enough to be inlined into programs, and what to call otherwise (ring.h).
BPFTIME_MAPS_FOLD void* ring_reserve_at_once(MapView map, uint64_t size, uint64_t flags, uint32_t owner) {
  return maps::ring_reserve_at_once(ring_of(map), size, flags, owner);
}
BPFTIME_MAPS_FOLD bool ring_commit_at_once(MapView map, void* record, bool discard, RingCommit* commit) {
  return maps::ring_commit_at_once(ring_of(map), record, discard, commit);
}
BPFTIME_MAPS_FOLD bool ring_commit_rest(MapView map, uint64_t flags, RingCommit commit) {
  return maps::ring_commit_rest(ring_of(map), flags, commit);
}
BPFTIME_MAPS_FOLD int64_t ring_output(MapView map, const void* data, uint64_t size, uint64_t flags,
                                      uint32_t owner, bool* wake) {
  *wake = false;
  if ((flags & ~(kRingNoWakeup | kRingForceWakeup)) != 0) return -kErrInvalid;
  void* record = program_side::ring_reserve(map, size, 0, owner);
  if (record == nullptr) return -kErrAgain;
  copy_bytes(record, data, size);
  *wake = program_side::ring_commit(map, record, flags, false);
  return 0;
}
BPFTIME_MAPS_FOLD uint64_t ring_query(MapView map, uint64_t flags) {
  return ring_query_at(ring_of(map), flags);
}
BPFTIME_MAPS_FOLD uint32_t* ring_wake_word(MapView map) { return &ring_of(map).producer->wake_word; }
BPFTIME_MAPS_FOLD int64_t perf_output(MapView map, uint64_t flags, const void* data, uint64_t size,
                                      uint32_t cpu, uint32_t owner, bool* wake) {
  return perf_event_output(map, flags, data, size, cpu, owner, wake);
}

}  // namespace bpftime::maps::program_side

// What programs call, as inline functions, made from the table of types (types.h): with a constant spec the compiler folds
// each to the type's own code (an array lookup becomes a compare and an address). Freestanding; include this, not map.h, in
// code that becomes LLVM bitcode. Semantics: map.h, same names there.
#pragma once

#include "maps/types.h"

namespace bpftime::maps::program_side {

// On lambdas, which must fold as the functions they are in.
#define BPFTIME_FOLD_LAMBDA __attribute__((always_inline))

BPFTIME_MAPS_FOLD void* lookup_percpu(MapView map, const void* key, uint32_t cpu) {
  return with_type(map.spec->type,
                   [&](auto type) BPFTIME_FOLD_LAMBDA { return decltype(type)::lookup(map, key, cpu); });
}
BPFTIME_MAPS_FOLD void* lookup(MapView map, const void* key) {
  return program_side::lookup_percpu(map, key, 0);
}
// Whether what a program gets or gives depends on the CPU it runs on.
BPFTIME_MAPS_FOLD bool is_percpu(uint32_t type) {
  return with_type(type, [](auto kind) BPFTIME_FOLD_LAMBDA { return decltype(kind)::kPerCpu; });
}
// Whether programs shall have the operation inlined; if not, they call it.
BPFTIME_MAPS_FOLD bool inlines_lookup(uint32_t type) {
  return with_type(type, [](auto kind) BPFTIME_FOLD_LAMBDA { return decltype(kind)::kInlineLookup; });
}
BPFTIME_MAPS_FOLD bool inlines_update(uint32_t type) {
  return with_type(type, [](auto kind) BPFTIME_FOLD_LAMBDA { return decltype(kind)::kInlineUpdate; });
}

BPFTIME_MAPS_FOLD int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                 uint32_t cpu, uint32_t owner) {
  return with_type(map.spec->type, [&](auto type) BPFTIME_FOLD_LAMBDA {
    return decltype(type)::update(map, key, value, flags, cpu, owner);
  });
}

BPFTIME_MAPS_FOLD int64_t remove(MapView map, const void* key, uint32_t owner) {
  return with_type(map.spec->type,
                   [&](auto type) BPFTIME_FOLD_LAMBDA { return decltype(type)::remove(map, key, owner); });
}

// The value of an existing key changed without taking an element, if that is possible; false: nothing has happened, update
// knows. Small enough to be inlined into programs, which then seldom call anything.
BPFTIME_MAPS_FOLD bool update_in_place(MapView map, const void* key, const void* value, uint64_t flags,
                                       uint32_t cpu) {
  return with_type(map.spec->type, [&](auto type) BPFTIME_FOLD_LAMBDA {
    return decltype(type)::update_in_place(map, key, value, flags, cpu);
  });
}

// The value of an existing key changed if it still is what was seen (unchanged.h): 0 or kChanged.
BPFTIME_MAPS_FOLD int64_t update_unchanged(MapView map, const void* key, uint64_t* place, uint64_t seen,
                                           const void* value, uint32_t cpu) {
  return with_type(map.spec->type, [&](auto type) BPFTIME_FOLD_LAMBDA {
    return decltype(type)::update_unchanged(map, key, place, seen, value, cpu);
  });
}

BPFTIME_MAPS_FOLD int64_t push(MapView map, const void* value, uint64_t flags, uint32_t owner) {
  return with_type(map.spec->type, [&](auto type) BPFTIME_FOLD_LAMBDA {
    return decltype(type)::push(map, value, flags, owner);
  });
}
BPFTIME_MAPS_FOLD int64_t pop(MapView map, void* value) {
  return with_type(map.spec->type,
                   [&](auto type) BPFTIME_FOLD_LAMBDA { return decltype(type)::pop(map, value); });
}
// A bloom filter reads `value` instead of writing it.
BPFTIME_MAPS_FOLD int64_t peek(MapView map, void* value) {
  return with_type(map.spec->type,
                   [&](auto type) BPFTIME_FOLD_LAMBDA { return decltype(type)::peek(map, value); });
}

// The next element for bpf_for_each_map_elem; false: there is none. The verifier refuses types that have none.
BPFTIME_MAPS_FOLD bool each_next(MapView map, MapCursor* cursor) {
  return with_type(map.spec->type,
                   [&](auto type) BPFTIME_FOLD_LAMBDA { return decltype(type)::each_next(map, cursor); });
}
#undef BPFTIME_FOLD_LAMBDA

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
BPFTIME_MAPS_FOLD bool ring_commit_at_once(MapView map, void* record, uint64_t flags, bool discard,
                                           RingCommit* commit) {
  return maps::ring_commit_at_once(ring_of(map), record, flags, discard, commit);
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

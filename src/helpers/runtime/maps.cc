// Maps and rings: the map core (src/maps) with this process's CPU and owner filled in.
#include "helpers/runtime/map_access.h"

namespace bpftime::runtime {

BPFTIME_HELPER_FUNCTION(map_lookup_elem) {
  const maps::MapView map = view(r1);
  if (map.spec->type == maps::kTypeLpmTrie)
    return reinterpret_cast<uint64_t>(bpftime_map_lookup(pointer<const MapRef>(r1), pointer(r2)));
  return reinterpret_cast<uint64_t>(core::lookup_percpu(map, pointer(r2), cpu_for(map)));
}

BPFTIME_HELPER_FUNCTION(map_update_elem) {
  const maps::MapView map = view(r1);
  if (map.spec->type == maps::kTypeHash) {
    if (maps::hash_update_in_place(map, pointer(r2), pointer(r3), r4)) return 0;
    return bpftime_hash_update(pointer<const MapRef>(r1), pointer(r2), pointer(r3), r4);
  }
  if (map.spec->type == maps::kTypeArray || map.spec->type == maps::kTypePercpuArray)
    return core::update(map, pointer(r2), pointer(r3), r4, cpu_for(map), /*owner=*/0);
  if (core::update_in_place(map, pointer(r2), pointer(r3), r4, cpu_for(map))) return 0;
  return bpftime_map_update(pointer<const MapRef>(r1), pointer(r2), pointer(r3), r4);
}

BPFTIME_HELPER_FUNCTION(map_delete_elem) {
  const maps::MapView map = view(r1);
  if (map.spec->type == maps::kTypeHash) return bpftime_hash_remove(pointer<const MapRef>(r1), pointer(r2));
  if (map.spec->type == maps::kTypeArray || map.spec->type == maps::kTypePercpuArray)
    return core::remove(map, pointer(r2), /*owner=*/0);
  return bpftime_map_remove(pointer<const MapRef>(r1), pointer(r2));
}

// As Linux: no element for a CPU that cannot exist.
BPFTIME_HELPER_FUNCTION(map_lookup_percpu_elem) {
  const maps::MapView map = view(r1);
  if (static_cast<uint32_t>(r3) >= map.spec->cpu_count) return 0;
  return reinterpret_cast<uint64_t>(core::lookup_percpu(map, pointer(r2), static_cast<uint32_t>(r3)));
}

BPFTIME_HELPER_FUNCTION(ringbuf_reserve) {
  return reinterpret_cast<uint64_t>(core::ring_reserve(view(r1), r2, r3, current_tgid()));
}

namespace {

inline void commit(uint64_t record, uint64_t flags, bool discard) {
  const MapRef* ring = bpftime_ring_of(pointer(record));
  if (ring == nullptr) return;  // never in a verified program
  const maps::MapView map = view(ring);
  if (__builtin_expect(core::ring_commit(map, pointer(record), flags, discard), 0))
    bpftime_wake(core::ring_wake_word(map));
}

}  // namespace

BPFTIME_HELPER_FUNCTION(ringbuf_submit) {
  commit(r1, r2, false);
  return 0;
}

BPFTIME_HELPER_FUNCTION(ringbuf_discard) {
  commit(r1, r2, true);
  return 0;
}

BPFTIME_HELPER_FUNCTION(ringbuf_query) { return core::ring_query(view(r1), r2); }

}  // namespace bpftime::runtime

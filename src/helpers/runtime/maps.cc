// Maps and rings: the map core (src/maps) with this process's CPU and owner filled in.
#include "helpers/runtime/map_access.h"

namespace bpftime::runtime {

namespace {

// A map whose type is known; 0: it is not. Behind this the body of the type remains of those for all.
template <uint32_t kType>
inline maps::MapView view_of_type(uint64_t map) {
  const maps::MapView out = view(map);
  if (kType != 0 && out.spec->type != kType) __builtin_unreachable();
  return out;
}

template <uint32_t kType>
inline uint64_t map_lookup_elem(uint64_t r1, uint64_t r2, uint64_t, uint64_t) {
  const maps::MapView map = view_of_type<kType>(r1);
  if (!core::inlines_lookup(map.spec->type))
    return reinterpret_cast<uint64_t>(bpftime_map_lookup(pointer<const MapRef>(r1), pointer(r2)));
  return reinterpret_cast<uint64_t>(core::lookup_percpu(map, pointer(r2), cpu_for(map)));
}

template <uint32_t kType>
inline uint64_t map_update_elem(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4) {
  const maps::MapView map = view_of_type<kType>(r1);
  if (map.spec->type == maps::kTypeHash) {
    if (maps::hash_update_in_place(map, pointer(r2), pointer(r3), r4)) return 0;
    return bpftime_hash_update(pointer<const MapRef>(r1), pointer(r2), pointer(r3), r4);
  }
  if (core::inlines_update(map.spec->type))
    return core::update(map, pointer(r2), pointer(r3), r4, cpu_for(map), /*owner=*/0);
  if (core::update_in_place(map, pointer(r2), pointer(r3), r4, cpu_for(map))) return 0;
  return bpftime_map_update(pointer<const MapRef>(r1), pointer(r2), pointer(r3), r4);
}

// As Linux: no element for a CPU that cannot exist.
template <uint32_t kType>
inline uint64_t map_lookup_percpu_elem(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t) {
  const maps::MapView map = view_of_type<kType>(r1);
  if (static_cast<uint32_t>(r3) >= map.spec->cpu_count) return 0;
  return reinterpret_cast<uint64_t>(core::lookup_percpu(map, pointer(r2), static_cast<uint32_t>(r3)));
}

}  // namespace

BPFTIME_HELPER_FUNCTION(map_lookup_elem) { return map_lookup_elem<0>(r1, r2, r3, r4); }
BPFTIME_HELPER_FUNCTION(map_update_elem) { return map_update_elem<0>(r1, r2, r3, r4); }
BPFTIME_HELPER_FUNCTION(map_lookup_percpu_elem) { return map_lookup_percpu_elem<0>(r1, r2, r3, r4); }

// A program whose call always gets the same map calls that of its type: what the other types need is neither read nor
// optimised with it, which is most of the time its compilation would take.
#define BPFTIME_OF_TYPE(number, name, Type)                          \
  BPFTIME_HELPER_FUNCTION(map_lookup_elem_of_type_##number) {        \
    return map_lookup_elem<number>(r1, r2, r3, r4);                  \
  }                                                                  \
  BPFTIME_HELPER_FUNCTION(map_update_elem_of_type_##number) {        \
    return map_update_elem<number>(r1, r2, r3, r4);                  \
  }                                                                  \
  BPFTIME_HELPER_FUNCTION(map_lookup_percpu_elem_of_type_##number) { \
    return map_lookup_percpu_elem<number>(r1, r2, r3, r4);           \
  }
BPFTIME_MAP_TYPES(BPFTIME_OF_TYPE)
#undef BPFTIME_OF_TYPE

namespace {

// bpf_map_update_elem(map, key, value, BPF_ANY) for who has looked the key up before: r4 is what it got, r5 the value it found
// there. maps::kChanged: it is to look again.
template <uint32_t kType>
inline uint64_t map_update_unchanged(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {
  const maps::MapView map = view_of_type<kType>(r1);
  if (__builtin_expect(r4 != 0, 1))
    return core::update_unchanged(map, pointer(r2), pointer<uint64_t>(r4), r5, pointer(r3), cpu_for(map));
  // There is no such index, which the update says, or there was no such key.
  if (core::inlines_update(map.spec->type))
    return core::update(map, pointer(r2), pointer(r3), maps::kUpdateAny, cpu_for(map), /*owner=*/0);
  const auto update = kType == maps::kTypeHash ? bpftime_hash_update : bpftime_map_update;
  const int64_t result = update(pointer<const MapRef>(r1), pointer(r2), pointer(r3), maps::kUpdateNoExist);
  return result == -maps::kErrExists ? maps::kChanged : result;
}

}  // namespace

// Called for maps::updates_unchanged only.
#define BPFTIME_OF_TYPE(number, name, Type)                                                                \
  extern "C" uint64_t bpftime_map_update_unchanged_of_type_##number(                                       \
      uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, const bpftime::wire::Invocation*) { \
    return map_update_unchanged<number>(r1, r2, r3, r4, r5);                                               \
  }
BPFTIME_MAP_TYPES(BPFTIME_OF_TYPE)
#undef BPFTIME_OF_TYPE

BPFTIME_HELPER_FUNCTION(map_delete_elem) {
  const maps::MapView map = view(r1);
  if (map.spec->type == maps::kTypeHash) return bpftime_hash_remove(pointer<const MapRef>(r1), pointer(r2));
  if (map.spec->type == maps::kTypeArray || map.spec->type == maps::kTypePercpuArray)
    return core::remove(map, pointer(r2), /*owner=*/0);
  return bpftime_map_remove(pointer<const MapRef>(r1), pointer(r2));
}

namespace {

inline void* reserve(uint64_t ring, uint64_t size, uint64_t flags) {
  const uint32_t owner = known_tgid();
  void* record = nullptr;
  if (__builtin_expect(owner != 0, 1)) record = core::ring_reserve_at_once(view(ring), size, flags, owner);
  if (__builtin_expect(record != nullptr, 1)) return record;
  return bpftime_ring_reserve(pointer<const MapRef>(ring), size, flags);
}

inline void commit(uint64_t record, uint64_t flags, bool discard) {
  const MapRef* ring = bpftime_ring_of(pointer(record));
  if (ring == nullptr) return;  // never in a verified program
  maps::RingCommit commit;
  if (__builtin_expect(core::ring_commit_at_once(view(ring), pointer(record), flags, discard, &commit), 1))
    return;
  bpftime_ring_commit_rest(ring, flags, commit.start, commit.end, commit.ticket);
}

}  // namespace

BPFTIME_HELPER_FUNCTION(ringbuf_reserve) { return reinterpret_cast<uint64_t>(reserve(r1, r2, r3)); }

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

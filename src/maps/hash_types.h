// The four types that are one hash (hash.h): BPF_MAP_TYPE_HASH, PERCPU_HASH, LRU_HASH and LRU_PERCPU_HASH.
#pragma once

#include "maps/hash.h"
#include "maps/lru_hash.h"
#include "maps/percpu_hash.h"
#include "maps/unchanged.h"

namespace bpftime::maps {

// bpf_for_each_map_elem goes by element number: each element that is there all the while is visited once, whatever happens
// to others, the one just visited included.
BPFTIME_MAPS_FOLD bool hash_each_next(MapView map, MapCursor* cursor) {
  const HashGeometry g = hash_geometry(*map.spec);
  const uint32_t used = pool_used(map, g);
  while (cursor->position < used) {
    const auto number = static_cast<uint32_t>(++cursor->position);
    Element* element = element_at(map, g, number);
    if (control_owner(load_acquire(&element->control)) != kLinked ||
        link_marked(load_acquire(&element->next)))
      continue;
    cursor->key = element_key(g, element);
    cursor->value = hash_value_at(map, g, number, cursor->cpu);
    return true;
  }
  return false;
}

struct HashType : MapType {
  static constexpr bool kEveryOtherHelper = true, kInSleepable = true, kForEach = true, kMayBeInner = true;
  static constexpr bool kSpinLocks = true, kTimers = true, kBuckets = true, kUpdatesUnchanged = true;
  static constexpr uint32_t kBatches = kBatchAll;
  static constexpr MapExample kExample = {4, 8, 50, 0};
  static constexpr const char* kRemark =
      "always preallocated: BPF_F_NO_PREALLOC is accepted and changes nothing";

  static int64_t check(const MapSpec& spec) { return hash_check(spec); }
  static uint64_t size(const MapSpec& spec) { return hash_geometry(spec).size; }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t) {
    return hash_lookup(map, key);
  }
  BPFTIME_MAPS_FOLD static int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                          uint32_t, uint32_t owner) {
    return hash_update(map, key, value, flags, owner);
  }
  BPFTIME_MAPS_FOLD static bool update_in_place(MapView map, const void* key, const void* value,
                                                uint64_t flags, uint32_t) {
    return hash_update_in_place(map, key, value, flags);
  }
  BPFTIME_MAPS_FOLD static int64_t update_unchanged(MapView map, const void* key, uint64_t* place,
                                                    uint64_t seen, const void* value, uint32_t cpu) {
    return hash_update_unchanged(map, key, place, seen, value, cpu);
  }
  BPFTIME_MAPS_FOLD static int64_t remove(MapView map, const void* key, uint32_t owner) {
    return hash_remove(map, key, nullptr, owner);
  }
  BPFTIME_MAPS_FOLD static bool each_next(MapView map, MapCursor* cursor) {
    return hash_each_next(map, cursor);
  }
  static int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags,
                             uint32_t owner) {
    return hash_update(map, key, value, flags, owner);
  }
  static int64_t user_delete(MapView map, const void* key, uint32_t owner) {
    return hash_remove(map, key, nullptr, owner);
  }
  static int64_t user_lookup_and_delete(MapView map, const void* key, void* value, uint32_t owner) {
    return hash_remove(map, key, value, owner);
  }
  // hash_types_user.h
  static int64_t user_lookup(MapView map, const void* key, void* value);
  static int64_t user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder*);
  static void repair(MapView map, uint32_t owner);
};

struct PercpuHashType : HashType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_map_lookup_percpu_elem};
  static constexpr bool kSpinLocks = false, kTimers = false, kPerCpu = true;
  static constexpr MapExample kExample = {4, 20, 50, 0};
  static constexpr const char* kRemark = "";
  static constexpr const char* kDiffers =
      "always preallocated; as percpu_array where a thread moves to another CPU, or waits for one, while its "
      "program runs";

  static int64_t check(const MapSpec& spec) { return percpu_hash_check(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t cpu) {
    return percpu_hash_lookup(map, key, cpu);
  }
  BPFTIME_MAPS_FOLD static int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                          uint32_t cpu, uint32_t owner) {
    return hash_update(map, key, value, flags, owner, cpu);
  }
  BPFTIME_MAPS_FOLD static bool update_in_place(MapView map, const void* key, const void* value,
                                                uint64_t flags, uint32_t cpu) {
    return percpu_hash_update_in_place(map, key, value, flags, cpu);
  }
  static int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags,
                             uint32_t owner) {
    return hash_update(map, key, value, flags, owner, kAllCpus);
  }
};

struct LruHashType : HashType {
  static constexpr bool kSpinLocks = false;
  static constexpr const char* kRemark = "";
  static constexpr const char* kDiffers =
      "evicts by a clock: exactly max_entries elements are kept, one read since the last sweep survives; "
      "Linux keeps per-CPU "
      "lists and may evict earlier. BPF_F_NO_COMMON_LRU is accepted and changes nothing but the rounding of "
      "max_entries";

  static int64_t check(const MapSpec& spec) { return lru_hash_check(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t cpu) {
    return lru_hash_lookup(map, key, cpu);
  }
  BPFTIME_MAPS_FOLD static int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                          uint32_t cpu, uint32_t owner) {
    return lru_hash_update(map, key, value, flags, owner, cpu);
  }
  // Not in place: an element must be marked as used.
  BPFTIME_MAPS_FOLD static bool update_in_place(MapView, const void*, const void*, uint64_t, uint32_t) {
    return false;
  }
  static int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags,
                             uint32_t owner) {
    return lru_hash_update(map, key, value, flags, owner, kAllCpus);
  }
};

struct LruPercpuHashType : LruHashType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_map_lookup_percpu_elem};
  static constexpr bool kTimers = false, kPerCpu = true;
  static constexpr MapExample kExample = {8, 8, 50, 0};
  static constexpr const char* kDiffers = "as lru_hash and percpu_hash";
  BPFTIME_MAPS_FOLD static bool update_in_place(MapView map, const void* key, const void* value,
                                                uint64_t flags, uint32_t cpu) {
    return percpu_hash_update_in_place(map, key, value, flags, cpu);
  }
};

}  // namespace bpftime::maps

// BPF_MAP_TYPE_ARRAY: max_entries values from file offset 0, each rounded up to 8 bytes, so that clients can
// mmap them. Nothing else lies in the map: any byte a peer writes is a value.
#pragma once

#include "maps/map_type.h"

namespace bpftime::maps {

// What ARRAY, PERCPU_ARRAY and PERF_EVENT_ARRAY refuse alike (kernel: array_map_alloc_check).
inline int64_t array_like_check(const MapSpec& spec) {
  constexpr uint32_t kAllowed =
      kFlagNumaNode | kFlagMmapable | kFlagsAccess | kFlagPreserveElements | kFlagInnerMap;
  constexpr uint32_t kBothProgram = kFlagReadOnlyProgram | kFlagWriteOnlyProgram;
  if (spec.max_entries == 0 || spec.key_size != 4 || spec.value_size == 0) return -kErrInvalid;
  if ((spec.flags & ~kAllowed) != 0 || (spec.flags & kBothProgram) == kBothProgram) return -kErrInvalid;
  if (spec.type != kTypeArray && (spec.flags & (kFlagMmapable | kFlagInnerMap)) != 0) return -kErrInvalid;
  if (spec.type != kTypePerfEventArray && (spec.flags & kFlagPreserveElements) != 0) return -kErrInvalid;
  if (spec.type == kTypePercpuArray && (spec.flags & kFlagNumaNode) != 0) return -kErrInvalid;
  if (spec.value_size > 0x7fffffff) return -kErrTooBig;
  return 0;
}

// Flags of updates and the index, in the kernel's order of refusal (array_map_update_elem). A spin lock in
// the value is not supported here, so BPF_F_LOCK is refused as for any map without one.
BPFTIME_MAPS_FOLD int64_t array_update_check(const MapSpec& spec, uint32_t index, uint64_t flags) {
  if ((flags & ~kUpdateLock) > kUpdateExist) return -kErrInvalid;
  if (index >= spec.max_entries) return -kErrTooBig;
  if ((flags & kUpdateNoExist) != 0) return -kErrExists;
  return (flags & kUpdateLock) != 0 ? -kErrInvalid : 0;
}

BPFTIME_MAPS_FOLD uint32_t array_index(const void* key) {
  uint32_t index;
  __builtin_memcpy(&index, key, 4);
  return index;
}

BPFTIME_MAPS_FOLD uint64_t array_stride(const MapSpec& spec) { return align_up(spec.value_size, 8); }

inline uint64_t array_size(const MapSpec& spec) { return array_stride(spec) * spec.max_entries; }

BPFTIME_MAPS_FOLD void* array_lookup(MapView map, const void* key) {
  uint32_t index = array_index(key);
  if (index >= map.spec->max_entries) return nullptr;
  return map.base + index * array_stride(*map.spec);
}

BPFTIME_MAPS_FOLD int64_t array_update(MapView map, const void* key, const void* value, uint64_t flags) {
  uint32_t index = array_index(key);
  int64_t error = array_update_check(*map.spec, index, flags);
  if (error != 0) return error;
  copy_bytes(map.base + index * array_stride(*map.spec), value, map.spec->value_size);
  return 0;
}

inline int64_t array_user_lookup(MapView map, const void* key, void* value) {
  const void* slot = array_lookup(map, key);
  if (slot == nullptr) return -kErrNoEntry;
  copy_bytes(value, slot, map.spec->value_size);
  return 0;
}

// The next index for bpf_for_each_map_elem; the value is the caller's to find.
BPFTIME_MAPS_FOLD bool array_each_next(MapView map, MapCursor* cursor) {
  if (cursor->position >= map.spec->max_entries) return false;
  cursor->index = static_cast<uint32_t>(cursor->position++);
  cursor->key = &cursor->index;
  return true;
}

// Keys are 0 … max_entries-1 in order; an absent or unknown key starts over (kernel: array_map_get_next_key).
inline int64_t array_next_key(const MapSpec& spec, const void* key_or_null, void* next_key) {
  uint32_t index = key_or_null != nullptr ? array_index(key_or_null) : 0xffffffff;
  uint32_t next = index >= spec.max_entries ? 0 : index + 1;
  if (next == spec.max_entries) return -kErrNoEntry;
  __builtin_memcpy(next_key, &next, 4);
  return 0;
}

// What indexes 0 … max_entries-1 have in common, whatever lies behind them.
struct IndexedType : MapType {
  static int64_t user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder*) {
    return array_next_key(*map.spec, key_or_null, next_key);
  }
};

// What arrays of values have in common, one value to an index or one for each CPU.
struct ValuesType : IndexedType {
  static constexpr bool kEveryOtherHelper = true, kInSleepable = true, kForEach = true, kMayBeInner = true;
  static constexpr bool kInlineUpdate = true, kUpdatesUnchanged = true;
  static constexpr MapBtf kBtf = MapBtf::kOwnRules;
  static constexpr uint32_t kBatches = kBatchLookup | kBatchUpdate;
  static constexpr MapExample kExample = {4, 20, 50, 0};

  BPFTIME_MAPS_FOLD static int64_t update_unchanged(MapView, const void*, uint64_t* place, uint64_t seen,
                                                    const void* value, uint32_t) {
    return compare_exchange(place, seen, read_word(value)) ? 0 : kChanged;
  }
  BPFTIME_MAPS_FOLD static int64_t remove(MapView, const void*, uint32_t) {
    return -kErrInvalid;  // array_map_delete_elem
  }
  static int64_t user_delete(MapView map, const void* key, uint32_t owner) { return remove(map, key, owner); }
};

struct ArrayType : ValuesType {
  static constexpr bool kSpinLocks = true, kTimers = true;
  static constexpr const char* kRemark = "values at file offset 0; BPF_F_MMAPABLE, read-only flags, freeze";

  static int64_t check(const MapSpec& spec) { return array_like_check(spec); }
  static uint64_t size(const MapSpec& spec) { return array_size(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t) {
    return array_lookup(map, key);
  }
  BPFTIME_MAPS_FOLD static int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                          uint32_t, uint32_t) {
    return array_update(map, key, value, flags);
  }
  BPFTIME_MAPS_FOLD static bool each_next(MapView map, MapCursor* cursor) {
    if (!array_each_next(map, cursor)) return false;
    cursor->value = array_lookup(map, &cursor->index);
    return true;
  }
  static int64_t user_lookup(MapView map, const void* key, void* value) {
    return array_user_lookup(map, key, value);
  }
  static int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags, uint32_t) {
    return array_update(map, key, value, flags);
  }
};

}  // namespace bpftime::maps

// BPF_MAP_TYPE_ARRAY_OF_MAPS and HASH_OF_MAPS: values are maps. Only the daemon writes their memory, and targets map it
// read-only; clients never see it. A value is the address of a MapReference in the daemon's table of references, which is
// read-only in targets, too: what a look-up returns is as trusted as a map named in the program.
//
// Rules for whoever edits this file:
//  1. A value is one word, changed by one store: a program sees the one map or the other.
//  2. A reference never changes once a program may have found it, and its place is never used again.
#pragma once

#include "maps/hash_types.h"
#include "maps/prog_array.h"

namespace bpftime::maps {

// A map as compiled code sees it.
struct MapReference {
  uint8_t* base;
  MapSpec spec;
};
static_assert(sizeof(MapReference) == 32);
inline constexpr uint32_t kReferencesMax = 1u << 18;  // maps that were ever in a map of maps

// The hash of a HASH_OF_MAPS: as a client describes it, but with addresses for values.
BPFTIME_MAPS_FOLD MapSpec hash_of_maps_spec(const MapSpec& spec) {
  return {kTypeHash, spec.key_size, 8, spec.max_entries, 0, spec.cpu_count};
}

inline int64_t hash_of_maps_check(const MapSpec& spec) {
  if (spec.value_size != 4) return -kErrInvalid;  // fd_htab_map_alloc_check
  return hash_check(spec);
}
inline uint64_t array_of_maps_size(const MapSpec& spec) { return uint64_t{spec.max_entries} * 8; }
inline uint64_t hash_of_maps_size(const MapSpec& spec) { return hash_geometry(hash_of_maps_spec(spec)).size; }

// The inner map, a const MapReference*; nullptr: none there.
BPFTIME_MAPS_FOLD void* array_of_maps_lookup(MapView map, const void* key) {
  const uint32_t index = array_index(key);
  if (index >= map.spec->max_entries) return nullptr;
  return reinterpret_cast<void*>(load_acquire(reinterpret_cast<const uint64_t*>(map.base) + index));
}
BPFTIME_MAPS_FOLD void* hash_of_maps_lookup(MapView map, const void* key) {
  const MapSpec spec = hash_of_maps_spec(*map.spec);
  const auto* value = static_cast<const uint64_t*>(hash_lookup({map.base, &spec}, key));
  return value == nullptr ? nullptr : reinterpret_cast<void*>(load_acquire(value));
}

// Who holds what a worker left half done (for `repair`, by the worker after it).
inline constexpr uint32_t kDaemonOwner = 1;

// The daemon's: sets or, with `reference` 0, empties a slot whose key was checked. False: no room (never with as many
// entries as the spec allows).
inline bool map_of_maps_set(MapView map, const void* key, uint64_t reference) {
  if (map.spec->type == kTypeArrayOfMaps) {
    store_release(reinterpret_cast<uint64_t*>(map.base) + array_index(key), reference);
    return true;
  }
  const MapSpec spec = hash_of_maps_spec(*map.spec);
  if (reference == 0) return hash_remove({map.base, &spec}, key, nullptr, kDaemonOwner) == 0;
  return hash_update({map.base, &spec}, key, &reference, kUpdateAny, kDaemonOwner) == 0;
}

// Whether a map may stand where `like` was the template (map_meta_equal): an array's size is part of its code, unless it
// was made with BPF_F_INNER_MAP.
inline bool same_inner_map(const MapSpec& like, const MapSpec& map) {
  if (like.type != map.type || like.key_size != map.key_size || like.value_size != map.value_size ||
      like.flags != map.flags)
    return false;
  return like.type != kTypeArray || (like.flags & kFlagInnerMap) != 0 || like.max_entries == map.max_entries;
}

// What both maps of maps have in common, hashes of maps their way through the keys, too: it is the daemon's.
struct MapOfMapsType : DescriptorArrayType {
  static constexpr HelperSet kOtherHelpers = {BPF_FUNC_map_lookup_elem};
  static constexpr bool kInSleepable = true;
  static constexpr const char* kDiffers =
      "an update answers EAGAIN or EBUSY while a target that uses the map cannot be stopped";
};

struct ArrayOfMapsType : MapOfMapsType {
  static constexpr uint32_t kBatches = kBatchLookup | kBatchUpdate;
  static uint64_t size(const MapSpec& spec) { return array_of_maps_size(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t) {
    return array_of_maps_lookup(map, key);
  }
};

struct HashOfMapsType : MapOfMapsType {
  static constexpr uint32_t kBatches = kBatchAll;
  static int64_t check(const MapSpec& spec) { return hash_of_maps_check(spec); }
  static uint64_t size(const MapSpec& spec) { return hash_of_maps_size(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t) {
    return hash_of_maps_lookup(map, key);
  }
  static void repair(MapView map, uint32_t owner) {
    const MapSpec spec = hash_of_maps_spec(*map.spec);
    HashType::repair({map.base, &spec}, owner);
  }
};

}  // namespace bpftime::maps

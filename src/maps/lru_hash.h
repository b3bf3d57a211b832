// BPF_MAP_TYPE_LRU_HASH and LRU_PERCPU_HASH: the hash (hash.h) that, when full, forgets an element nobody has read lately.
//
// Rules for whoever edits this file:
//  1. Which element goes is decided as a clock does: a hand moves over the elements, one that was read since its last visit
//     (`used`) gets a second chance, the first that was not goes. No lists are kept, so there is nothing to lock or repair:
//     the hand and the marks are hints, an eviction is the hash's own deletion, and whoever dies in it is hash_repair's.
//  2. A sweep looks at kSweepMax elements at most. When all of them were read lately, the first seen goes: the bound counts
//     more than the order. Neighbouring elements are often of one age, so the hand strides over the map.
//  3. Exactly max_entries elements are kept. (Linux spreads them over per-CPU lists and may forget earlier.)
#pragma once

#include "maps/hash.h"
#include "maps/percpu_hash.h"

namespace bpftime::maps {

inline constexpr uint32_t kSweepMax = 128;  // elements looked at to find one to evict
inline constexpr uint64_t kHandStride = 2654435761;
inline constexpr uint32_t kEvictTriesMax = 64;  // others took the room made, or the victim

inline int64_t lru_hash_check(const MapSpec& spec) {
  MapSpec plain = spec;
  plain.flags &= ~(kFlagNoPrealloc | kFlagNoCommonLru);
  // htab_map_alloc_check refuses in this order.
  constexpr uint32_t kBothProgram = kFlagReadOnlyProgram | kFlagWriteOnlyProgram;
  constexpr uint32_t kAllowed =
      kFlagNoPrealloc | kFlagNoCommonLru | kFlagNumaNode | kFlagsAccess | kFlagZeroSeed;
  if ((spec.flags & ~kAllowed) != 0 || (spec.flags & kBothProgram) == kBothProgram) return -kErrInvalid;
  if ((spec.flags & kFlagNoPrealloc) != 0) return -kErrNotSupported;
  if ((spec.flags & kFlagNoCommonLru) != 0 && (spec.flags & kFlagNumaNode) != 0) return -kErrInvalid;
  return spec.type == kTypeLruPercpuHash ? percpu_hash_check(plain) : hash_check(plain);
}

BPFTIME_MAPS_FOLD uint64_t* lru_hand(MapView map) { return reinterpret_cast<uint64_t*>(map.base + 24); }

// What programs call marks the element; bpf(2) does not (htab_lru_map_lookup_elem_sys).
BPFTIME_MAPS_FOLD void* lru_hash_lookup(MapView map, const void* key, uint32_t cpu) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  if (number == 0) return nullptr;
  element_mark_used(element_at(map, g, number));
  return hash_value_at(map, g, number, cpu);
}

// The next element under the hand, 1 … elements. The stride is a prime larger than any number of elements: each is visited
// once a revolution.
BPFTIME_MAPS_FOLD uint32_t lru_advance(MapView map, const HashGeometry& g) {
  uint64_t turn = __atomic_fetch_add(lru_hand(map), uint64_t{1}, __ATOMIC_RELAXED);
  return static_cast<uint32_t>(turn % g.elements * kHandStride % g.elements) + 1;
}

// Deletes one element. False: a walk took more steps than any list is long, -EBUSY; that others were faster is no failure.
inline bool lru_evict(MapView map, const HashGeometry& g, uint32_t owner) {
  uint32_t victim = 0, first = 0;
  for (uint32_t looked_at = 0; looked_at < kSweepMax && victim == 0; looked_at++) {
    uint32_t number = lru_advance(map, g);
    Element* element = element_at(map, g, number);
    if (control_owner(load_acquire(&element->control)) != kLinked ||
        link_marked(load_acquire(&element->next)))
      continue;
    if (first == 0) first = number;
    if (load_relaxed(&element->used) == 0) {
      victim = number;
    } else {
      store_relaxed(&element->used, 0u);
    }
  }
  if (victim == 0) victim = first;
  if (victim == 0) return true;
  Element* element = element_at(map, g, victim);
  uint32_t hash = load_acquire(&element->hash);
  uint32_t budget = step_budget(g);
  HashSpot spot;
  if (!hash_find(map, g, nullptr, hash, victim, &budget, &spot)) return false;
  if (spot.found) hash_remove_at(map, g, spot, element_key(g, element), hash, nullptr, owner, &budget);
  return budget > 0;
}

// As hash_update, but a full map makes room; -ENOMEM when it cannot, as htab_lru_map_update_elem.
inline int64_t lru_hash_update(MapView map, const void* key, const void* value, uint64_t flags,
                               uint32_t owner, uint32_t cpu) {
  HashGeometry g = hash_geometry(*map.spec);
  // Writing to what is there is a use.
  uint32_t existing = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  if (existing != 0) element_mark_used(element_at(map, g, existing));
  for (uint32_t attempt = 0; attempt < kEvictTriesMax; attempt++) {
    int64_t result = hash_update(map, key, value, flags, owner, cpu);
    if (result != -kErrTooBig) return result;
    if (!lru_evict(map, g, owner)) return -kErrBusy;
  }
  return -kErrNoMemory;
}

}  // namespace bpftime::maps

// What bpf(2) calls do to a hash map, and its repair. Host only: daemon and loader, never
// compiled into programs.
#pragma once

#include "maps/hash.h"

namespace bpftime::maps {

// Copies the value of the element that find() gives (its number, 0: none).
template <typename Find>
inline int64_t hash_copy_found(MapView map, const HashGeometry& g, void* value, Find find) {
  for (uint32_t attempt = 0; attempt < kUserCopyTriesMax; attempt++) {
    uint32_t number = find();
    if (number == 0) return -kErrNoEntry;
    // The generation is that of the element reachable under this key if a second lookup, after reading it,
    // still finds it. An allocation changes it before the first byte of a new value: unchanged after the
    // copy, the copy is whole.
    Element* element = element_at(map, g, number);
    uint32_t generation = control_generation(load_acquire(&element->control));
    if (find() != number) continue;
    hash_get_value(map, g, number, value);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (control_generation(load_acquire(&element->control)) == generation) return 0;
  }
  return -kErrBusy;
}

inline int64_t hash_user_lookup(MapView map, const void* key, void* value) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t hash = hash_key(key, g.key_size);
  return hash_copy_found(map, g, value, [&] { return hash_lookup_number(map, g, key, hash); });
}

// First unmarked element at or behind `word` in its bucket; 0 at the end. Tolerates concurrent change: the
// key copied out is one that was in the map, which is all BPF_MAP_GET_NEXT_KEY promises.
inline uint32_t hash_first_from(MapView map, const HashGeometry& g, uint64_t word, uint32_t* budget) {
  for (; *budget > 0; --*budget) {
    uint32_t index = link_index(word);
    if (!is_element(g, index)) return 0;
    uint64_t next = load_acquire(&element_at(map, g, index)->next);
    if (!link_marked(next)) return index;
    word = next;
  }
  return 0;
}

// The element behind `number` (0: the first), whose key has `hash`; 0 at the end. Order: buckets, then (hash, key).
inline uint32_t hash_next_number(MapView map, const HashGeometry& g, uint32_t number, uint32_t hash) {
  uint32_t budget = step_budget(g), bucket = 0, found = 0;
  if (number != 0) {
    found = hash_first_from(map, g, load_acquire(&element_at(map, g, number)->next), &budget);
    bucket = (hash & (g.buckets - 1)) + 1;
  }
  for (; found == 0 && bucket < g.buckets; bucket++) {
    found = hash_first_from(map, g, load_acquire(hash_bucket(map, bucket).head), &budget);
  }
  return found;
}

// An absent or unknown key starts over, as in Linux.
inline int64_t hash_next_key(MapView map, const void* key_or_null, void* next_key) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t hash = key_or_null != nullptr ? hash_key(key_or_null, g.key_size) : 0;
  uint32_t number = key_or_null != nullptr ? hash_lookup_number(map, g, key_or_null, hash) : 0;
  uint32_t found = hash_next_number(map, g, number, hash);
  if (found == 0) return -kErrNoEntry;
  copy_out(next_key, element_key(g, element_at(map, g, found)), g.key_size);
  return 0;
}

// ---- repair ----

// One element, if `owner` died holding it or somebody died after marking it.
inline void hash_repair_element(MapView map, const HashGeometry& g, uint32_t number, uint32_t owner) {
  Element* element = element_at(map, g, number);
  uint64_t control = load_acquire(&element->control);
  uint32_t holder = control_owner(control);
  if (holder == kFree) {
    pool_repair_hint(map, g, number);
    return;
  }
  bool deleted = link_marked(load_acquire(&element->next));
  if (holder == kLinked ? !deleted : holder != owner) return;
  uint32_t hash = static_cast<uint32_t>(load_acquire(&element->hash));
  uint32_t budget = step_budget(g);
  HashSpot spot;
  store_relaxed(hash_doubt_word(map), uint64_t{1});
  if (!hash_find(map, g, nullptr, hash, number, &budget, &spot)) return;
  if (spot.found) {  // in the list, unmarked: the dead had linked it
    compare_exchange(&element->control, control, make_control(control_generation(control), kLinked));
  } else {
    pool_free(map, g, number, control_generation(control));
  }
}

// Whether an operation is under way somewhere that has changed the list but not yet the count, or the reverse.
// `allocations` receives a fingerprint of all elements' generations: equal before and after, nothing was recycled between.
inline bool hash_in_flight(MapView map, const HashGeometry& g, uint64_t* allocations = nullptr) {
  uint64_t fingerprint = 0;
  return !pool_each_used(map, g, [&](uint32_t number) {
    Element* element = element_at(map, g, number);
    uint64_t control = load_acquire(&element->control);
    uint32_t holder = control_owner(control);
    fingerprint += (uint64_t{control_generation(control)} << 32 | number) * 0x9e3779b97f4a7c15u;
    if (allocations != nullptr) *allocations = fingerprint;
    return holder == kFree || (holder == kLinked && !link_marked(load_acquire(&element->next)));
  });
}

// Elements of one bucket, counted at one moment; false when the list kept changing.
inline bool hash_count_bucket(MapView map, const HashGeometry& g, uint32_t bucket, uint32_t* budget,
                              uint32_t* count) {
  HashBucket list = hash_bucket(map, bucket);
  uint64_t first = load_acquire(list.head), word = first;
  *count = 0;
  for (; *budget > 0; --*budget) {
    uint32_t index = link_index(word);
    if (!is_element(g, index)) return true;
    word = load_acquire(&element_at(map, g, index)->next);
    if (!link_marked(word)) ++*count;
  }
  return false;
}

// What a correction adds to the count word's tag, where adding or removing an element adds one: who compares tag and count with
// earlier ones (lpm_trie_user.h) must not take it for a number of these.
inline constexpr uint64_t kReconciledLeap = (1u << 24) | 1;

// Sets the count to what the lists hold, if for one whole pass nobody was under way: count word unchanged, no element in
// flight before and after, none recycled between (replacing a value leaves the count alone, yet may lead a walk astray). Under unbroken traffic it gives up: the next repair tries again.
inline bool hash_reconcile(MapView map, const HashGeometry& g) {
  for (uint32_t attempt = 0; attempt < kReconcileTriesMax; attempt++) {
    uint64_t word = load_acquire(hash_count_word(map));
    uint64_t before = 0, after = 0;
    if (hash_in_flight(map, g, &before)) continue;
    uint32_t total = 0, budget = step_budget(g);
    bool whole = true;
    for (uint32_t bucket = 0; whole && bucket < g.buckets; bucket++) {
      uint32_t count;
      whole = hash_count_bucket(map, g, bucket, &budget, &count);
      total += count;
    }
    if (!whole || hash_in_flight(map, g, &after) || before != after) continue;
    if (total == static_cast<uint32_t>(word) && load_acquire(hash_count_word(map)) == word) return true;
    if (compare_exchange(hash_count_word(map), word, ((word >> 32) + kReconciledLeap) << 32 | total))
      return true;
  }
  return false;
}

inline void hash_repair(MapView map, uint32_t owner) {
  HashGeometry g = hash_geometry(*map.spec);
  // An owner id that means a state must not be taken for a process.
  if (owner == kFree || owner == kLinked) owner = kLinked - 1;
  pool_each_used(map, g, [&](uint32_t number) {
    hash_repair_element(map, g, number, owner);
    return true;
  });
  // Bits that say "full" of a word that is not were cleared by pool_hint_free for each free element: the
  // hints are right.
  if (load_relaxed(hash_doubt_word(map)) != 0 && hash_reconcile(map, g))
    store_relaxed(hash_doubt_word(map), uint64_t{0});
}

}  // namespace bpftime::maps

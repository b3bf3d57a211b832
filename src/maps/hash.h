// BPF_MAP_TYPE_HASH: per bucket a linked list sorted by (hash, key), changed by CAS on link words;
// nobody ever waits.
//
// Rules for whoever edits this file (the algorithm is Michael's list with tags, element links being indexes):
//  1. A link word is {mark:1, tag:31, index:32}. Every change of a word raises its tag, through all lives of
//     its element: a CAS that expects an old word fails. The mark in an element's own `next` says that the
//     element is deleted.
//  2. The index is an element number, or kEnd | bucket: a walker carried into another bucket notices and
//     restarts. In a bucket's head 0 means the end too, so that zeroed memory is an empty map.
//  3. A walker has an anchor: the last unmarked link it passed, and the word it read there. What it then
//  reads of the
//     elements behind (marked ones included) counts only if the anchor still holds that word afterwards.
//  4. Deleting: CAS the mark in (decides who deleted), take the element (then the count is ours to lower;
//     if the repairer was faster, it is his), lower the count, unlink, make sure by a walk that it is
//     unreachable, free. Replacing: one CAS on old.next marks old and links new, so readers find the one
//     or the other.
//  5. Inserting: allocate, fill, raise the count (never above max_entries), link, say kLinked. A process
//     may die after any step: everybody goes on, and hash_repair finds what the dead left by owner, mark
//     and reachability. While somebody owes the count a change, an element shows it: held by a process, or
//     linked and marked.
//  6. All loops draw from one budget of steps that depends only on the geometry: a hostile peer's
//     cycle costs -EBUSY.
#pragma once

#include "maps/hash_values.h"

namespace bpftime::maps {

inline constexpr uint64_t kKmallocMax = 4u << 20,
                          kKernelElementSize = 48;       // KMALLOC_MAX_SIZE, sizeof(struct htab_elem)
inline constexpr uint32_t kStepsBeyondElements = 65536;  // budget of one operation: 4 × elements + this
inline constexpr uint32_t kCountTriesMax = 4096;
inline constexpr uint32_t kInPlaceTriesMax = 64;
inline constexpr uint32_t kUserCopyTriesMax = 64;
inline constexpr uint32_t kReconcileTriesMax = 16;

inline int64_t hash_check(const MapSpec& spec) {
  constexpr uint32_t kAllowed = kFlagNoPrealloc | kFlagNumaNode | kFlagsAccess | kFlagZeroSeed;
  constexpr uint32_t kBothProgram = kFlagReadOnlyProgram | kFlagWriteOnlyProgram;
  if ((spec.flags & ~kAllowed) != 0 || (spec.flags & kBothProgram) == kBothProgram) return -kErrInvalid;
  if (spec.max_entries == 0 || spec.key_size == 0 || spec.value_size == 0) return -kErrInvalid;
  if (uint64_t{spec.key_size} + spec.value_size >= kKmallocMax - kKernelElementSize) return -kErrTooBig;
  // The kernel refuses bucket arrays whose byte count exceeds 32 bits (16 bytes per bucket).
  if (spec.max_entries > (1u << 27)) return -kErrTooBig;
  return 0;
}

// ---- link words ----
inline constexpr uint64_t kMark = uint64_t{1} << 63;
inline constexpr uint32_t kEnd = 1u << 31;
BPFTIME_MAPS_FOLD uint32_t link_index(uint64_t word) { return static_cast<uint32_t>(word); }
BPFTIME_MAPS_FOLD bool link_marked(uint64_t word) { return (word & kMark) != 0; }
// The word that follows `word` at the same place: next tag, new index.
BPFTIME_MAPS_FOLD uint64_t link_after(uint64_t word, uint32_t index, bool mark) {
  uint64_t tag = ((word >> 32) + 1) & 0x7fffffff;
  return (mark ? kMark : 0) | tag << 32 | index;
}

struct HashBucket {
  uint64_t* head;
  uint32_t end;  // how this bucket's list ends
};
BPFTIME_MAPS_FOLD HashBucket hash_bucket(MapView map, uint32_t bucket) {
  return {reinterpret_cast<uint64_t*>(map.base + kHashBucketsOffset) + bucket, kEnd | bucket};
}
BPFTIME_MAPS_FOLD bool is_end(const HashBucket& bucket, const uint64_t* link, uint32_t index) {
  return index == bucket.end || (index == 0 && link == bucket.head);
}
BPFTIME_MAPS_FOLD bool is_element(const HashGeometry& g, uint32_t index) { return index - 1 < g.elements; }
BPFTIME_MAPS_FOLD uint32_t step_budget(const HashGeometry& g) {
  return g.elements * 4 + kStepsBeyondElements;
}

// ---- lookup: no stores ----
// Number of the element with this key, 0 when there is none (or the budget ran out).
BPFTIME_MAPS_FOLD uint32_t hash_lookup_number(MapView map, const HashGeometry& g, const void* key,
                                              uint32_t hash, uint32_t steps_max = 0xffffffff) {
  HashBucket bucket = hash_bucket(map, hash & (g.buckets - 1));
  uint64_t* anchor = bucket.head;
  uint64_t anchor_word = load_acquire(anchor);
  uint64_t word = anchor_word;
  uint32_t budget = step_budget(g) < steps_max ? step_budget(g) : steps_max;
  for (; budget > 0; budget--) {
    uint32_t index = link_index(word);
    bool restart = false;
    if (!is_element(g, index)) {
      if (is_end(bucket, anchor, index) && load_acquire(anchor) == anchor_word) return 0;
      restart = true;
    } else {
      Element* element = element_at(map, g, index);
      uint64_t next = load_acquire(&element->next);
      uint64_t element_hash = load_acquire(&element->hash);
      int order = element_hash != hash ? (element_hash < hash ? -1 : 1)
                                       : compare_key(element_key(g, element), key, g.key_size);
      __atomic_thread_fence(__ATOMIC_ACQUIRE);
      if (load_acquire(anchor) != anchor_word) {
        restart = true;
      } else if (!link_marked(next)) {
        if (order == 0) return index;
        if (order > 0) return 0;
        anchor = &element->next;
        anchor_word = next;
      }
      word = next;
    }
    if (restart) {
      anchor = bucket.head;
      word = anchor_word = load_acquire(anchor);
    }
  }
  return 0;
}

BPFTIME_MAPS_FOLD void* hash_lookup(MapView map, const void* key) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  return number == 0 ? nullptr : element_value(element_at(map, g, number));
}

// ---- the writers' walk: unlinks marked elements on its way ----
struct HashSpot {
  uint64_t* link;  // unmarked link before the place of the key
  uint64_t word;   // what it held
  uint32_t index;  // element with the key (found), or what follows
  uint64_t next;   // found: its next word, unmarked
  bool found;
};

// `target` 0: stops at the first element >= key. Else ignores the key and stops at element `target` (repair).
// False when the operation's budget ran out.
inline bool hash_find(MapView map, const HashGeometry& g, const void* key, uint32_t hash, uint32_t target,
                      uint32_t* budget, HashSpot* spot) {
  HashBucket bucket = hash_bucket(map, hash & (g.buckets - 1));
  uint64_t* anchor = bucket.head;
  uint64_t word = load_acquire(anchor);
  while (*budget > 0) {
    --*budget;
    uint32_t index = link_index(word);
    bool restart = false;
    if (!is_element(g, index)) {
      if (is_end(bucket, anchor, index) && !link_marked(word)) {
        *spot = {anchor, word, bucket.end, 0, false};
        return true;
      }
      restart = true;
    } else {
      Element* element = element_at(map, g, index);
      uint64_t next = load_acquire(&element->next);
      uint64_t element_hash = load_acquire(&element->hash);
      int order = -1;
      if (target == 0) {
        order = element_hash != hash ? (element_hash < hash ? -1 : 1)
                                     : compare_key(element_key(g, element), key, g.key_size);
      } else if (index == target) {
        order = 0;
      }
      __atomic_thread_fence(__ATOMIC_ACQUIRE);
      if (load_acquire(anchor) != word) {
        restart = true;
      } else if (link_marked(next)) {
        uint64_t without = link_after(word, link_index(next), false);
        restart = !compare_exchange(anchor, word, without);
        word = without;
      } else if (order >= 0) {
        *spot = {anchor, word, index, next, order == 0};
        return true;
      } else {
        anchor = &element->next;
        word = next;
      }
    }
    if (restart) {
      anchor = bucket.head;
      word = load_acquire(anchor);
    }
  }
  return false;
}

// ---- the count of live elements: {sequence:32 high, count:32 low}; the sequence tells the repairer of
// any change ----
BPFTIME_MAPS_FOLD uint64_t* hash_count_word(MapView map) { return reinterpret_cast<uint64_t*>(map.base); }
// Nonzero: a repair met an element of the dead, so the count may be off until it has been reconciled.
BPFTIME_MAPS_FOLD uint64_t* hash_doubt_word(MapView map) { return reinterpret_cast<uint64_t*>(map.base) + 1; }
inline bool hash_count_raise(MapView map, uint32_t limit, bool* busy) {
  for (uint32_t attempt = 0; attempt < kCountTriesMax; attempt++) {
    uint64_t word = load_acquire(hash_count_word(map));
    if (static_cast<uint32_t>(word) >= limit) return false;
    if (compare_exchange(hash_count_word(map), word, word + (uint64_t{1} << 32) + 1)) return true;
  }
  *busy = true;
  return false;
}
inline void hash_count_lower(MapView map) {
  for (uint32_t attempt = 0; attempt < kCountTriesMax; attempt++) {
    uint64_t word = load_acquire(hash_count_word(map));
    if (static_cast<uint32_t>(word) == 0) return;  // hostile or mid-repair: never wraps
    if (compare_exchange(hash_count_word(map), word, word + (uint64_t{1} << 32) - 1)) return;
  }
}

// After the mark: unlink, make sure, free. When the budget runs out the element is left to the repairer.
inline void hash_retire(MapView map, const HashGeometry& g, const HashSpot& spot, uint32_t generation,
                        const void* key, uint32_t hash, uint32_t successor, uint32_t* budget) {
  bool unlinked = compare_exchange(spot.link, spot.word, link_after(spot.word, successor, false));
  HashSpot ignored;
  if (!unlinked && !hash_find(map, g, key, hash, 0, budget, &ignored)) return;
  pool_free(map, g, spot.index, generation);
}

// An element filled with key and value, held by `owner`; 0 when there is none left.
inline uint32_t hash_fill(MapView map, const HashGeometry& g, const void* key, const void* value,
                          uint32_t hash, uint32_t owner, uint32_t cpu) {
  uint32_t number = pool_allocate(map, g, owner);
  if (number == 0) return 0;
  Element* element = element_at(map, g, number);
  store_release(&element->hash, hash);
  store_relaxed(&element->used, 0u);
  copy_in_padded(element_key(g, element), key, g.key_stored);
  hash_first_value(map, g, number, value, cpu);
  return number;
}

// One attempt of an update at `spot`. Returns 1: the list changed meanwhile, walk again.
inline int64_t hash_replace(MapView map, const HashGeometry& g, const HashSpot& spot, uint32_t number,
                            const void* key, uint32_t hash, uint32_t* budget) {
  Element* old = element_at(map, g, spot.index);
  Element* element = element_at(map, g, number);
  uint32_t generation = control_generation(load_acquire(&old->control));
  store_release(&element->next, link_after(load_relaxed(&element->next), link_index(spot.next), false));
  if (!compare_exchange(&old->next, spot.next, link_after(spot.next, number, true))) return 1;
  hash_retire(map, g, spot, generation, key, hash, number, budget);
  return 0;
}

BPFTIME_MAPS_FOLD void hash_say_linked(MapView map, const HashGeometry& g, uint32_t number, uint64_t filled) {
  // Fails when a remover or the repairer already moved the element on; then there is nothing to say.
  compare_exchange(&element_at(map, g, number)->control, filled,
                   make_control(control_generation(filled), kLinked));
}

BPFTIME_MAPS_FOLD bool replaces_in_place(uint32_t type) { return type == kTypeHash || type == kTypeLruHash; }

// Gives an existing key its new value of one word, in its element. False: not possible this way (no such key, a larger value,
// somebody is changing the element); nothing has happened, hash_update knows. The order of reads is what makes it right:
// control, then key, then the CAS of control and value. With the owner kLinked and one generation throughout, the key is the
// element's, and it was in the map at some moment of this call, even if it has been marked since: then we came just before.
BPFTIME_MAPS_FOLD bool hash_update_in_place(MapView map, const void* key, const void* value, uint64_t flags) {
  if (map.spec->value_size > 8 || !replaces_in_place(map.spec->type) ||
      (flags != kUpdateAny && flags != kUpdateExist))
    return false;
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  if (number == 0) return false;
  Element* element = element_at(map, g, number);
  WordPair* pair = reinterpret_cast<WordPair*>(&element->control);
  WordPair expected = {load_acquire(&element->control), load_relaxed(element_value(element))};
  if (control_owner(expected.low) != kLinked || compare_key(element_key(g, element), key, g.key_size) != 0)
    return false;
  uint64_t control = expected.low;
  uint64_t word = 0;
  copy_in_padded(&word, value, g.value_size);
  for (uint32_t attempt = 0; attempt < kInPlaceTriesMax; attempt++) {  // programs write values under us
    if (compare_exchange_pair(pair, expected, {control, word})) return true;
    if (expected.low != control) return false;
  }
  return false;
}

// `cpu`: per-CPU types only (hash_values.h).
inline int64_t hash_update(MapView map, const void* key, const void* value, uint64_t flags, uint32_t owner,
                           uint32_t cpu = 0) {
  if (flags > kUpdateExist) return -kErrInvalid;
  if (hash_update_in_place(map, key, value, flags)) return 0;
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t hash = hash_key(key, g.key_size);
  uint32_t number = 0;
  uint64_t filled = 0;
  bool counted = false;
  int64_t result = -kErrBusy;
  uint32_t budget = step_budget(g);
  while (budget > 0) {
    HashSpot spot;
    if (!hash_find(map, g, key, hash, 0, &budget, &spot)) break;
    if (spot.found && flags == kUpdateNoExist) {
      result = -kErrExists;
      break;
    }
    if (!spot.found && flags == kUpdateExist) {
      result = -kErrNoEntry;
      break;
    }
    if (spot.found && g.cpus != 0) {  // one CPU's value changes, the others' must stay
      hash_put_value(map, g, spot.index, value, cpu);
      result = 0;
      break;  // an element filled for a key that others have inserted meanwhile goes back
    }
    if (number == 0) {
      // At capacity a new key is refused before anything is written.
      if (!spot.found && static_cast<uint32_t>(load_acquire(hash_count_word(map))) >= map.spec->max_entries) {
        result = -kErrTooBig;
        break;
      }
      number = hash_fill(map, g, key, value, hash, owner, cpu);
      if (number == 0) break;
      filled = load_acquire(&element_at(map, g, number)->control);
      // Filling a large value takes long: the spot is likely to hold still, and the CAS below finds
      // out if not.
    }
    if (spot.found) {
      if (hash_replace(map, g, spot, number, key, hash, &budget) != 0) continue;
    } else {
      bool busy = false;
      if (!counted && !(counted = hash_count_raise(map, map.spec->max_entries, &busy))) {
        result = busy ? -kErrBusy : -kErrTooBig;
        break;
      }
      Element* element = element_at(map, g, number);
      store_release(&element->next, link_after(load_relaxed(&element->next), spot.index, false));
      if (!compare_exchange(spot.link, spot.word, link_after(spot.word, number, false))) continue;
      counted = false;  // the count is the list's now
    }
    if (counted) hash_count_lower(map);
    hash_say_linked(map, g, number, filled);
    return 0;
  }
  if (number != 0) {
    if (counted) hash_count_lower(map);
    pool_free(map, g, number, control_generation(filled));
  }
  return result;
}

// After the mark: the element becomes ours. False when the repairer has taken it, and with it the duty
// to the count.
inline bool hash_take_deleted(Element* element, uint32_t generation, uint32_t owner) {
  for (uint32_t attempt = 0; attempt < 4; attempt++) {  // its inserter may say "linked" once meanwhile
    uint64_t control = load_acquire(&element->control);
    if (control_generation(control) != generation || control_owner(control) == kFree) return false;
    if (compare_exchange(&element->control, control, make_control(generation, owner))) return true;
  }
  return false;
}

// One attempt to delete the element found at `spot`. `value` may be null; else it receives what was deleted. False: the
// list changed meanwhile, walk again.
inline bool hash_remove_at(MapView map, const HashGeometry& g, const HashSpot& spot, const void* key,
                           uint32_t hash, void* value, uint32_t owner, uint32_t* budget) {
  Element* element = element_at(map, g, spot.index);
  uint32_t generation = control_generation(load_acquire(&element->control));
  // Copied before the mark: as long as it is not marked the element cannot be recycled under the copy.
  if (value != nullptr) hash_get_value(map, g, spot.index, value);
  if (!compare_exchange(&element->next, spot.next, link_after(spot.next, link_index(spot.next), true)))
    return false;
  if (!hash_take_deleted(element, generation, owner)) return true;
  // Again: an update in place may have come between; from now on none can.
  if (value != nullptr) hash_get_value(map, g, spot.index, value);
  hash_count_lower(map);
  hash_retire(map, g, spot, generation, key, hash, link_index(spot.next), budget);
  return true;
}

inline int64_t hash_remove(MapView map, const void* key, void* value, uint32_t owner) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t hash = hash_key(key, g.key_size);
  uint32_t budget = step_budget(g);
  while (budget > 0) {
    HashSpot spot;
    if (!hash_find(map, g, key, hash, 0, &budget, &spot)) return -kErrBusy;
    if (!spot.found) return -kErrNoEntry;
    if (hash_remove_at(map, g, spot, key, hash, value, owner, &budget)) return 0;
  }
  return -kErrBusy;
}

}  // namespace bpftime::maps

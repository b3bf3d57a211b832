// The preallocated elements of a hash map, and who holds each.
//
// Rules for whoever edits this file:
//  1. An element's `control` word {generation:32, owner:32} is the only authority on who holds it. Owner is
//     kFree, kLinked (reachable, or marked and about to be freed), or the id of the process that is filling
//     or linking it. All changes of owner are CAS on the whole word; the generation rises with every
//     allocation, so a process that slept through an element's death can never change its next life.
//  2. The bitmaps are hints, idempotent to set and clear: level 0 has a bit per element (1: taken), level n+1
//  a bit per
//     full word of level n. A stale hint costs a failed CAS on `control`, nothing else. So nothing is lost
//     when a process dies between two steps: the repairer makes the hints agree with the control words again.
//  3. Zeroed memory is an empty pool: pages of elements never used are never touched.
//  4. `control` and the value's first word are one aligned pair: one CAS replaces a value of one word and proves the
//     element to be the same as when its key was read (hash_update_in_place).
#pragma once

#include "maps/array.h"

namespace bpftime::maps {

// Taken at once beyond max_entries: replacing a value needs a second element, as the kernel's extra elements.
inline constexpr uint32_t kSpareElements = 64;
inline constexpr uint32_t kPoolLevels = 5;          // 64^5 elements
inline constexpr uint32_t kAllocateTriesMax = 256;  // stale hints met before giving up with -EBUSY
inline constexpr uint32_t kFree = 0, kLinked = 0xffffffff;

struct Element {
  uint64_t next;     // link word, see hash.h
  uint32_t hash;     // of the key
  uint32_t used;     // LRU maps: nonzero when read since the eviction's hand last passed (lru_hash.h)
  uint64_t control;  // {generation:32 high, owner:32 low}
  // value words (per-CPU types: elsewhere, hash_values.h), key words
};
static_assert(sizeof(Element) % 16 == 8 && offsetof(Element, control) == 16);
inline constexpr uint32_t kElementHeaderSize = sizeof(Element);

// Offsets within the map, all computed from the trusted spec.
struct HashGeometry {
  uint32_t buckets;  // power of two
  uint32_t elements;
  uint32_t key_size, value_size;
  uint32_t key_stored;  // bytes kept behind the value: the key, and what a type keeps with it (lpm_trie.h)
  uint32_t key_offset;  // from the element
  uint64_t stride;
  uint64_t levels_offset;
  uint64_t elements_offset;
  // Per-CPU types: each CPU's values lie together, behind the elements. Else cpus is 0.
  uint32_t cpus;
  uint64_t percpu_offset, cpu_stride;
  uint64_t size;
};
inline constexpr uint64_t kCacheLine = 64;
inline constexpr uint64_t kHashBucketsOffset = 64;  // before it: the count, doubt and high-water words

constexpr uint32_t level_words(uint32_t bits) { return bits / 64 + (bits % 64 != 0); }

BPFTIME_MAPS_FOLD uint32_t power_of_two_fold(uint32_t value) {
  return value <= 1 ? 1 : uint32_t{1} << (32 - __builtin_clz(value - 1));
}

// The hash types whose elements have one value per CPU.
BPFTIME_MAPS_FOLD bool is_percpu_hash(uint32_t type) {
  return type == kTypePercpuHash || type == kTypeLruPercpuHash;
}

BPFTIME_MAPS_FOLD HashGeometry hash_geometry(const MapSpec& spec) {
  HashGeometry g;
  // At most half full: a look-up's time is what it mispredicts, and that is the length of the list.
  g.buckets = power_of_two_fold(spec.max_entries) * 2;
  g.elements = spec.max_entries + kSpareElements;
  g.key_size = spec.key_size;
  g.key_stored = spec.key_size;
  // The address as it was given, behind its padded, masked form.
  if (spec.type == kTypeLpmTrie)
    g.key_stored = static_cast<uint32_t>(align_up(spec.key_size, 8)) + spec.key_size - 4;
  g.value_size = spec.value_size;
  g.cpus = is_percpu_hash(spec.type) ? spec.cpu_count : 0;
  g.key_offset = kElementHeaderSize + (g.cpus != 0 ? 0 : static_cast<uint32_t>(align_up(spec.value_size, 8)));
  g.stride = align_up(g.key_offset + align_up(g.key_stored, 8), 16);
  // Small ones get a cache line each: neighbours in use by two threads would slow each other down.
  if (g.stride < kCacheLine) g.stride = kCacheLine;
  g.levels_offset = kHashBucketsOffset + uint64_t{g.buckets} * 8;
  uint64_t words = 0;
  uint32_t bits = g.elements;
  for (uint32_t level = 0; level < kPoolLevels; level++) {
    bits = level_words(bits);
    words += bits;
  }
  g.elements_offset = align_up(g.levels_offset + words * 8, 64);
  g.percpu_offset = align_up(g.elements_offset + g.stride * g.elements, 128);
  g.cpu_stride = g.cpus == 0 ? 0 : align_up(align_up(spec.value_size, 8) * g.elements, 128);
  g.size = g.percpu_offset + g.cpu_stride * g.cpus;
  return g;
}

// Elements are numbered 1 … elements; any other number read from shared memory is clamped to one of them.
BPFTIME_MAPS_FOLD Element* element_at(MapView map, const HashGeometry& g, uint32_t number) {
  uint32_t index = number - 1;
  if (index >= g.elements) index = 0;
  return reinterpret_cast<Element*>(map.base + g.elements_offset + index * g.stride);
}
BPFTIME_MAPS_FOLD uint64_t* element_key(const HashGeometry& g, Element* element) {
  return reinterpret_cast<uint64_t*>(reinterpret_cast<uint8_t*>(element) + g.key_offset);
}
BPFTIME_MAPS_FOLD uint64_t* element_value(Element* element) {
  return reinterpret_cast<uint64_t*>(element + 1);
}

BPFTIME_MAPS_FOLD void element_mark_used(Element* element) {
  if (load_relaxed(&element->used) == 0) store_relaxed(&element->used, 1u);
}

BPFTIME_MAPS_FOLD uint64_t make_control(uint32_t generation, uint32_t owner) {
  return uint64_t{generation} << 32 | owner;
}
BPFTIME_MAPS_FOLD uint32_t control_owner(uint64_t control) { return static_cast<uint32_t>(control); }
BPFTIME_MAPS_FOLD uint32_t control_generation(uint64_t control) {
  return static_cast<uint32_t>(control >> 32);
}

// One level of the hint bitmaps: `bits` meaningful bits, then ones.
struct PoolLevel {
  uint64_t* words;
  uint32_t bits;
};
BPFTIME_MAPS_FOLD PoolLevel pool_level(MapView map, const HashGeometry& g, uint32_t level) {
  uint64_t* words = reinterpret_cast<uint64_t*>(map.base + g.levels_offset);
  uint32_t bits = g.elements;
  for (uint32_t i = 0; i < level; i++) {
    bits = level_words(bits);
    words += bits;
  }
  return {words, bits};
}
BPFTIME_MAPS_FOLD uint64_t pool_word(PoolLevel level, uint32_t word) {
  uint64_t value = load_acquire(&level.words[word]);
  uint32_t first = word * 64;
  if (level.bits - first < 64) value |= ~uint64_t{0} << (level.bits - first);
  return value;
}

// A word of `level` was seen full: say so one level up, and take it back if a bit was cleared meanwhile.
inline void pool_mark_full(MapView map, const HashGeometry& g, uint32_t level, uint32_t word) {
  while (level + 1 < kPoolLevels) {
    PoolLevel here = pool_level(map, g, level), above = pool_level(map, g, level + 1);
    uint64_t bit = uint64_t{1} << (word % 64);
    __atomic_fetch_or(&above.words[word / 64], bit, __ATOMIC_SEQ_CST);
    if (pool_word(here, word) != ~uint64_t{0}) {
      __atomic_fetch_and(&above.words[word / 64], ~bit, __ATOMIC_SEQ_CST);
      return;
    }
    word /= 64;
    level++;
    if (pool_word(above, word) != ~uint64_t{0}) return;
  }
}

// Says that `number` may be free. Idempotent; any process may say so at any time.
inline void pool_hint_free(MapView map, const HashGeometry& g, uint32_t number) {
  uint32_t index = number - 1;
  for (uint32_t level = 0; level < kPoolLevels; level++) {
    PoolLevel here = pool_level(map, g, level);
    uint64_t bit = uint64_t{1} << (index % 64);
    if ((load_acquire(&here.words[index / 64]) & bit) != 0) {
      __atomic_fetch_and(&here.words[index / 64], ~bit, __ATOMIC_SEQ_CST);
    }
    index /= 64;
  }
}

// No element above this number has ever been taken (elements are taken lowest first): what a repairer must look at. The hint
// bits are no guide for that: whoever frees may clear a bit late, when the element is in use again.
inline uint64_t* pool_high_water(MapView map) { return reinterpret_cast<uint64_t*>(map.base + 16); }
inline void pool_raise_high_water(MapView map, uint32_t number) {
  uint64_t known = load_acquire(pool_high_water(map));
  while (known < number && !compare_exchange(pool_high_water(map), known, uint64_t{number})) {
    known = load_acquire(pool_high_water(map));
  }
}

// The last element to look at. What sizes something must be read once: the word changes between two looks.
BPFTIME_MAPS_FOLD uint32_t pool_used(MapView map, const HashGeometry& g) {
  const uint64_t used = load_acquire(pool_high_water(map));
  return used < g.elements ? static_cast<uint32_t>(used) : g.elements;
}

// Takes a free element for `owner`; returns its number, 0 when none was found.
inline uint32_t pool_allocate(MapView map, const HashGeometry& g, uint32_t owner) {
  for (uint32_t attempt = 0; attempt < kAllocateTriesMax; attempt++) {
    uint32_t word = 0;
    uint32_t level = kPoolLevels;
    while (level-- > 0) {
      PoolLevel here = pool_level(map, g, level);
      if (here.bits <= 1 && level > 0) continue;  // a level of one bit says nothing
      uint64_t value = pool_word(here, word);
      if (value == ~uint64_t{0}) break;
      uint32_t bit = static_cast<uint32_t>(__builtin_ctzll(~value));
      if (level > 0) {
        word = word * 64 + bit;
        continue;
      }
      uint64_t taken = uint64_t{1} << bit;
      uint64_t before = __atomic_fetch_or(&here.words[word], taken, __ATOMIC_SEQ_CST);
      if (pool_word(here, word) == ~uint64_t{0}) pool_mark_full(map, g, 0, word);
      if ((before & taken) != 0) break;
      uint32_t number = word * 64 + bit + 1;
      Element* element = element_at(map, g, number);
      uint64_t control = load_acquire(&element->control);
      if (control_owner(control) != kFree) break;
      pool_raise_high_water(map, number);
      if (!compare_exchange(&element->control, control, make_control(control_generation(control) + 1, owner)))
        break;
      // A repairer may have taken the bit back before the element was ours; what is in use must be found
      // by its bit.
      if ((load_acquire(&here.words[word]) & taken) == 0)
        __atomic_fetch_or(&here.words[word], taken, __ATOMIC_SEQ_CST);
      return number;
    }
    // A hint above a full word was stale: correct it and start again. At the top there is nothing to correct.
    if (level < kPoolLevels - 1 && level != 0xffffffff) pool_mark_full(map, g, level, word);
  }
  return 0;
}

// A free element's bit may have been left set by who died: says free again. The living may have allocated it meanwhile:
// then the bit must stay (pool_allocate looks from its side).
inline void pool_repair_hint(MapView map, const HashGeometry& g, uint32_t number) {
  pool_hint_free(map, g, number);
  if (control_owner(load_acquire(&element_at(map, g, number)->control)) == kFree) return;
  uint64_t* word = pool_level(map, g, 0).words + (number - 1) / 64;
  __atomic_fetch_or(word, uint64_t{1} << ((number - 1) % 64), __ATOMIC_SEQ_CST);
}

// Calls visit(number) for all elements that have ever been used; ends when it returns false. Others are not
// touched: reading them would make their pages resident.
template <typename Visit>
inline bool pool_each_used(MapView map, const HashGeometry& g, Visit visit) {
  const uint32_t used = pool_used(map, g);
  for (uint32_t number = 1; number <= used; number++) {
    if (!visit(number)) return false;
  }
  return true;
}

// Frees an element of the given generation, whoever holds it; a no-op when someone else did.
BPFTIME_MAPS_FOLD void pool_free(MapView map, const HashGeometry& g, uint32_t number, uint32_t generation) {
  Element* element = element_at(map, g, number);
  for (uint32_t attempt = 0; attempt < 4; attempt++) {  // the owner may say "linked" once meanwhile
    uint64_t control = load_acquire(&element->control);
    if (control_generation(control) != generation || control_owner(control) == kFree) return;
    if (!compare_exchange(&element->control, control, make_control(generation, kFree))) continue;
    pool_hint_free(map, g, number);
    return;
  }
}

}  // namespace bpftime::maps

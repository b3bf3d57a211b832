// What bpf(2) calls do to an LPM trie. Host only.
#pragma once

#include <cstring>
#include <vector>

#include "maps/hash_user.h"
#include "maps/lpm_trie.h"

namespace bpftime::maps {

// Up to so many elements keys come in Linux's order, which needs a look at each; beyond that in the hash's.
inline constexpr uint64_t kLpmOrderedMax = 16384;

inline int64_t lpm_trie_user_lookup(MapView map, const void* key, void* value) {
  HashGeometry g = hash_geometry(*map.spec);
  return hash_copy_found(map, g, value, [&] { return lpm_lookup_number(map, g, key); });
}

// Linux's order is that of the trie, children first: of two prefixes of which one contains the other the longer, else the one
// with the smaller bit where they differ. <0, 0, >0; keys are {length, masked address}.
inline int lpm_compare(const uint8_t* a, const uint8_t* b) {
  uint32_t a_length, b_length;
  memcpy(&a_length, a, 4);
  memcpy(&b_length, b, 4);
  const uint32_t common = a_length < b_length ? a_length : b_length;
  for (uint32_t bit = 0; bit < common; bit += 8) {
    uint8_t difference = a[kLpmPrefixBytes + bit / 8] ^ b[kLpmPrefixBytes + bit / 8];
    if (common - bit < 8) difference &= static_cast<uint8_t>(0xff00 >> (common - bit));
    if (difference != 0)
      return (a[kLpmPrefixBytes + bit / 8] & (1 << (31 - __builtin_clz(difference)))) != 0 ? 1 : -1;
  }
  return a_length == b_length ? 0 : a_length > b_length ? -1 : 1;
}

// The stored key of a linked element, whole; false when it is none, or keeps changing.
inline bool lpm_read_key(MapView map, const HashGeometry& g, uint32_t number, uint8_t* key) {
  Element* element = element_at(map, g, number);
  const uint64_t control = load_acquire(&element->control);
  if (control_owner(control) == kFree || link_marked(load_acquire(&element->next))) return false;
  copy_out(key, element_key(g, element), g.key_stored);
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  if (control_generation(load_acquire(&element->control)) != control_generation(control)) return false;
  uint32_t length;
  memcpy(&length, key, 4);
  if (length > lpm_bits(*map.spec)) return false;  // hostile
  return control_owner(control) == kLinked ||
         hash_lookup_number(map, g, key, hash_key(key, g.key_size)) == number;
}

inline int64_t lpm_trie_next_key(MapView map, const void* key_or_null, void* next_key) {
  HashGeometry g = hash_geometry(*map.spec);
  std::vector<uint8_t> found(g.key_stored + 8), candidate(g.key_stored + 8);
  LpmKey from;
  const uint32_t bits = lpm_bits(*map.spec);
  bool start = key_or_null == nullptr || !lpm_take_key(*map.spec, key_or_null, &from);
  uint32_t number = start ? 0 : hash_lookup_number(map, g, from.bytes, hash_key(from.bytes, g.key_size));
  start |= number == 0;
  uint32_t next = 0;
  if (load_acquire(pool_high_water(map)) > kLpmOrderedMax) {
    next = hash_next_number(map, g, number, start ? 0 : hash_key(from.bytes, g.key_size));
    if (next == 0 || !lpm_read_key(map, g, next, found.data())) return -kErrNoEntry;
  } else {
    pool_each_used(map, g, [&](uint32_t other) {
      if (!lpm_read_key(map, g, other, candidate.data())) return true;
      if (!start && lpm_compare(candidate.data(), from.bytes) <= 0) return true;
      if (next != 0 && lpm_compare(candidate.data(), found.data()) >= 0) return true;
      next = other;
      found.swap(candidate);
      return true;
    });
    if (next == 0) return -kErrNoEntry;
  }
  memcpy(next_key, found.data(), kLpmPrefixBytes);
  memcpy(static_cast<uint8_t*>(next_key) + kLpmPrefixBytes, found.data() + align_up(g.key_size, 8), bits / 8);
  return 0;
}

inline int64_t LpmTrieType::user_lookup(MapView map, const void* key, void* value) {
  return lpm_trie_user_lookup(map, key, value);
}
inline int64_t LpmTrieType::user_next_key(MapView map, const void* key_or_null, void* next_key) {
  return lpm_trie_next_key(map, key_or_null, next_key);
}
inline void LpmTrieType::repair(MapView map, uint32_t owner) { hash_repair(map, owner); }

}  // namespace bpftime::maps

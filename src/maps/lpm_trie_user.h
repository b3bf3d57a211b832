// What bpf(2) calls do to an LPM trie. Host only.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "maps/hash_user.h"
#include "maps/key_order.h"
#include "maps/lpm_trie.h"

namespace bpftime::maps {

// Up to so many elements keys come in Linux's order, which needs a look at each; beyond that in the hash's.
inline constexpr uint64_t kLpmOrderedMax = 16384;
inline constexpr uint32_t kLpmScansMax = 3;

inline int64_t lpm_trie_user_lookup(MapView map, const void* key, void* value) {
  HashGeometry g = hash_geometry(*map.spec);
  return hash_copy_found(map, g, value, [&] { return lpm_lookup_number(map, g, key); });
}

// Linux's order is that of the trie, children first: of two prefixes of which one contains the other the longer, else the one
// with the smaller bit where they differ. <0, 0, >0; keys are {length, masked address}, padded to 8 bytes.
inline int lpm_compare(const uint8_t* a, const uint8_t* b) {
  uint32_t a_length, b_length;
  memcpy(&a_length, a, 4);
  memcpy(&b_length, b, 4);
  const uint32_t common = a_length < b_length ? a_length : b_length;
  for (uint32_t bit = 0; bit < common; bit += 32) {
    uint32_t a_word, b_word;
    memcpy(&a_word, a + kLpmPrefixBytes + bit / 8, 4);
    memcpy(&b_word, b + kLpmPrefixBytes + bit / 8, 4);
    uint32_t difference = __builtin_bswap32(a_word ^ b_word);
    if (common - bit < 32) difference &= ~uint32_t{0} << (32 - (common - bit));
    if (difference != 0)
      return (__builtin_bswap32(a_word) & (1u << (31 - __builtin_clz(difference)))) != 0 ? 1 : -1;
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
         hash_lookup_number(map, g, key, hash_key(key, g.key_size), kLpmProbeSteps) == number;
}

// As BPF_MAP_GET_NEXT_KEY gives a stored key: its address as it was given.
inline void lpm_give_key(const MapSpec& spec, const uint8_t* stored, void* next_key) {
  memcpy(next_key, stored, kLpmPrefixBytes);
  memcpy(static_cast<uint8_t*>(next_key) + kLpmPrefixBytes, stored + align_up(spec.key_size, 8),
         spec.key_size - kLpmPrefixBytes);
}

// The keys in order, as long as none is added: the count word's tag rises by one with each that comes or goes, the count only
// with the former. So the two together tell how many came since, and deleted ones are found missing when their turn comes.
struct LpmOrder {
  MapView map;
  const HashGeometry& g;
  KeyOrder& order;
  const size_t stride = align_up(g.key_size, 8);

  const uint8_t* at(size_t index) const { return order.keys_.data() + index * stride; }

  // Whether next() may be asked. Reading and sorting all keys is not worth it for one question about a trie that changes between
  // any two: the first only takes note.
  bool ready() {
    const uint64_t word = load_acquire(hash_count_word(map));
    const uint32_t changes =
        static_cast<uint32_t>(word >> 32) - static_cast<uint32_t>(order.count_word_ >> 32);
    const uint32_t more = static_cast<uint32_t>(word) - static_cast<uint32_t>(order.count_word_);
    if (order.known_ && changes <= order.count_ && more + changes == 0) return true;
    order.known_ = false;
    const bool again = order.asked_ == word;
    order.asked_ = word;
    return again && load_acquire(pool_high_water(map)) <= kLpmOrderedMax && take(word);
  }

  // False when anybody was adding or replacing a key meanwhile: then some may be missing.
  bool take(uint64_t word) {
    uint64_t before = 0, after = 0;
    if (hash_in_flight(map, g, &before)) return false;
    std::vector<uint8_t> keys, key(g.key_stored + 8);
    pool_each_used(map, g, [&](uint32_t number) {
      if (lpm_read_key(map, g, number, key.data())) keys.insert(keys.end(), &key[0], &key[stride]);
      return true;
    });
    if (hash_in_flight(map, g, &after) || before != after || load_acquire(hash_count_word(map)) != word)
      return false;
    std::vector<uint32_t> indexes(keys.size() / stride);
    for (uint32_t i = 0; i < indexes.size(); i++) indexes[i] = i;
    std::sort(indexes.begin(), indexes.end(),
              [&](uint32_t a, uint32_t b) { return lpm_compare(&keys[a * stride], &keys[b * stride]) < 0; });
    order.keys_.clear();
    order.keys_.reserve(keys.size());
    for (const uint32_t i : indexes)
      order.keys_.insert(order.keys_.end(), &keys[i * stride], &keys[i * stride] + stride);
    order.count_ = indexes.size();
    order.gone_ = order.last_ = 0;
    order.count_word_ = word;
    order.known_ = true;
    return true;
  }

  // The first behind `key`, which is one of them as a rule.
  size_t behind(const uint8_t* key) const {
    if (order.last_ < order.count_ && lpm_compare(at(order.last_), key) == 0) return order.last_ + 1;
    size_t low = 0, high = order.count_;
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      if (lpm_compare(at(middle), key) > 0)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }

  // What is stored under `key` now: 0, -ENOENT, or -EBUSY when it keeps changing.
  int64_t read(const uint8_t* key, uint8_t* stored) const {
    for (uint32_t attempt = 0; attempt < kUserCopyTriesMax; attempt++) {
      const uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size), kLpmProbeSteps);
      if (number == 0) return -kErrNoEntry;
      if (lpm_read_key(map, g, number, stored) && memcmp(stored, key, g.key_size) == 0) return 0;
    }
    return -kErrBusy;
  }

  // `from` is {length, masked address}; null: the first key is asked for.
  int64_t next(const uint8_t* from, void* next_key) {
    LpmKey stored;
    for (size_t i = from == nullptr ? order.gone_ : behind(from); i < order.count_; i++) {
      const int64_t result = read(at(i), stored.bytes);
      if (result == -kErrNoEntry) {
        order.gone_ += i == order.gone_;
        continue;
      }
      if (result != 0) return result;
      order.last_ = i;
      lpm_give_key(*map.spec, stored.bytes, next_key);
      return 0;
    }
    return -kErrNoEntry;
  }
};

// The smallest key behind `from` (null: of all) into `found`, as stored; false: there is none. Looks at every element. Who
// replaces a key meanwhile may move it from where the pass still comes to where it has been: then once more, and what any of the
// passes met counts.
inline bool lpm_scan(MapView map, const HashGeometry& g, const uint8_t* from, uint8_t* found) {
  std::vector<uint8_t> key(g.key_stored + 8);
  bool any = false;
  for (uint32_t attempt = 0; attempt < kLpmScansMax; attempt++) {
    uint64_t before = 0, after = 0;
    const bool busy = hash_in_flight(map, g, &before);
    pool_each_used(map, g, [&](uint32_t number) {
      if (!lpm_read_key(map, g, number, key.data())) return true;
      if (from != nullptr && lpm_compare(key.data(), from) <= 0) return true;
      if (any && lpm_compare(key.data(), found) >= 0) return true;
      any = true;
      memcpy(found, key.data(), g.key_stored);
      return true;
    });
    if (!busy && !hash_in_flight(map, g, &after) && before == after) break;
  }
  return any;
}

inline int64_t lpm_trie_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder* order) {
  HashGeometry g = hash_geometry(*map.spec);
  LpmKey from, next;
  bool start = key_or_null == nullptr || !lpm_take_key(*map.spec, key_or_null, &from);
  uint32_t number = start ? 0 : hash_lookup_number(map, g, from.bytes, hash_key(from.bytes, g.key_size));
  start |= number == 0;
  if (order != nullptr)
    if (LpmOrder keys{map, g, *order}; keys.ready()) return keys.next(start ? nullptr : from.bytes, next_key);
  if (load_acquire(pool_high_water(map)) <= kLpmOrderedMax) {
    if (!lpm_scan(map, g, start ? nullptr : from.bytes, next.bytes)) return -kErrNoEntry;
    lpm_give_key(*map.spec, next.bytes, next_key);
    return 0;
  }
  for (uint32_t attempt = 0; attempt < kUserCopyTriesMax; attempt++) {
    const uint32_t behind = hash_next_number(map, g, number, start ? 0 : hash_key(from.bytes, g.key_size));
    if (behind == 0) return -kErrNoEntry;
    if (!lpm_read_key(map, g, behind, next.bytes)) continue;
    lpm_give_key(*map.spec, next.bytes, next_key);
    return 0;
  }
  return -kErrBusy;
}

inline int64_t LpmTrieType::user_lookup(MapView map, const void* key, void* value) {
  return lpm_trie_user_lookup(map, key, value);
}
inline int64_t LpmTrieType::user_next_key(MapView map, const void* key_or_null, void* next_key,
                                          KeyOrder* order) {
  return lpm_trie_next_key(map, key_or_null, next_key, order);
}
inline void LpmTrieType::repair(MapView map, uint32_t owner) { hash_repair(map, owner); }

}  // namespace bpftime::maps

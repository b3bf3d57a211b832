// BPF_MAP_TYPE_LPM_TRIE: the value of the longest stored prefix of a key. Despite the name it is the hash (hash.h), keyed by
// {length, prefix}: a look-up asks for each length in use, longest first. So there is one lock-free, kill-safe structure and
// not two, and every index, loop and repair is the hash's.
//
//   the hash's memory, then a bit per prefix length: whether a key of that length was ever stored
//
// Bits are set before the first key of a length is linked and never cleared: a death leaves at worst one set for
// nothing, which costs a probe. An element keeps, behind its masked key, the address as it was given:
// BPF_MAP_GET_NEXT_KEY returns that.
#pragma once

#include "maps/hash.h"

namespace bpftime::maps {

inline constexpr uint32_t kLpmDataMax = 256;  // bytes of address
inline constexpr uint32_t kLpmPrefixBytes = 4;
// Of one length's probe, whose list has one or two elements: a hostile peer's cycle, met for each of many lengths, must not cost
// as much as the hash allows for one.
inline constexpr uint32_t kLpmProbeSteps = 4096;
inline constexpr uint32_t kKernelNodeSize = 24;  // sizeof(struct lpm_trie_node)

BPFTIME_MAPS_FOLD uint32_t lpm_bits(const MapSpec& spec) { return (spec.key_size - kLpmPrefixBytes) * 8; }

inline int64_t lpm_trie_check(const MapSpec& spec) {
  constexpr uint32_t kAllowed = kFlagNoPrealloc | kFlagNumaNode | kFlagsAccess;
  constexpr uint32_t kBothProgram = kFlagReadOnlyProgram | kFlagWriteOnlyProgram;
  constexpr uint32_t kValueMax = (4u << 20) - kLpmDataMax - kKernelNodeSize;
  if (spec.max_entries == 0 || (spec.flags & kFlagNoPrealloc) == 0) return -kErrInvalid;
  if ((spec.flags & ~kAllowed) != 0 || (spec.flags & kBothProgram) == kBothProgram) return -kErrInvalid;
  if (spec.key_size <= kLpmPrefixBytes || spec.key_size > kLpmPrefixBytes + kLpmDataMax) return -kErrInvalid;
  return spec.value_size == 0 || spec.value_size > kValueMax ? -kErrInvalid : 0;
}

BPFTIME_MAPS_FOLD uint64_t* lpm_lengths(MapView map) {
  return reinterpret_cast<uint64_t*>(map.base + align_up(hash_geometry(*map.spec).size, 64));
}
inline uint64_t lpm_trie_size(const MapSpec& spec) {
  if (spec.max_entries > (1u << 27)) return 0;
  return align_up(hash_geometry(spec).size, 64) + (lpm_bits(spec) / 64 + 1) * 8;
}

// A key as the hash stores it: {length, address masked to it}, padding, the address as given.
struct LpmKey {
  alignas(8) uint8_t bytes[2 * (kLpmPrefixBytes + kLpmDataMax) + 8];
  uint32_t length;

  // Shortens to `bits`.
  BPFTIME_MAPS_FOLD void cut(uint32_t bits) {
    uint8_t* data = bytes + kLpmPrefixBytes;
    uint32_t end = (length + 7) / 8, at = bits / 8;
    if (bits % 8 != 0) data[at++] &= static_cast<uint8_t>(0xff00 >> (bits % 8));
    for (; at < end; at++) data[at] = 0;
    length = bits;
    __builtin_memcpy(bytes, &length, 4);
  }
};
// False: a length that no key of this map has.
BPFTIME_MAPS_FOLD bool lpm_take_key(const MapSpec& spec, const void* key, LpmKey* out) {
  uint32_t length;
  __builtin_memcpy(&length, key, 4);
  if (length > lpm_bits(spec)) return false;
  const uint32_t data = spec.key_size - kLpmPrefixBytes;
  const uint8_t* given = static_cast<const uint8_t*>(key) + kLpmPrefixBytes;
  write_word(out->bytes + align_up(spec.key_size, 8) - 8, 0);  // the hash's keys are padded with zeroes
  copy_bytes(out->bytes + kLpmPrefixBytes, given, data);
  copy_bytes(out->bytes + align_up(spec.key_size, 8), given, data);
  out->length = data * 8;
  out->cut(length);
  return true;
}

// The longest length below `limit` of which keys may be stored, plus one; 0: none.
BPFTIME_MAPS_FOLD uint32_t lpm_length_below(MapView map, uint32_t limit) {
  const uint64_t* words = lpm_lengths(map);
  if (limit == 0) return 0;
  uint32_t word = (limit - 1) / 64;
  uint64_t bits = load_acquire(&words[word]) & (~uint64_t{0} >> (63 - (limit - 1) % 64));
  for (;;) {
    if (bits != 0) return word * 64 + 64 - static_cast<uint32_t>(__builtin_clzll(bits));
    if (word-- == 0) return 0;
    bits = load_acquire(&words[word]);
  }
}

inline uint32_t lpm_lookup_number(MapView map, const HashGeometry& g, const void* key) {
  LpmKey probe;
  if (!lpm_take_key(*map.spec, key, &probe)) return 0;
  for (uint32_t limit = lpm_length_below(map, probe.length + 1); limit > 0;
       limit = lpm_length_below(map, limit - 1)) {
    probe.cut(limit - 1);
    uint32_t number =
        hash_lookup_number(map, g, probe.bytes, hash_key(probe.bytes, g.key_size), kLpmProbeSteps);
    if (number != 0) return number;
  }
  return 0;
}

inline void* lpm_trie_lookup(MapView map, const void* key) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = lpm_lookup_number(map, g, key);
  return number == 0 ? nullptr : element_value(element_at(map, g, number));
}

inline int64_t lpm_trie_update(MapView map, const void* key, const void* value, uint64_t flags,
                               uint32_t owner) {
  LpmKey stored;
  if (flags > kUpdateExist || !lpm_take_key(*map.spec, key, &stored)) return -kErrInvalid;
  uint64_t* word = &lpm_lengths(map)[stored.length / 64];
  const uint64_t bit = uint64_t{1} << (stored.length % 64);
  if ((load_acquire(word) & bit) == 0 && flags != kUpdateExist)
    __atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST);
  int64_t result = hash_update(map, stored.bytes, value, flags, owner);
  return result == -kErrTooBig ? -kErrNoSpace : result;
}

inline int64_t lpm_trie_remove(MapView map, const void* key, uint32_t owner) {
  LpmKey stored;
  if (!lpm_take_key(*map.spec, key, &stored)) return -kErrInvalid;
  return hash_remove(map, stored.bytes, nullptr, owner);
}

struct LpmTrieType : MapType {
  static constexpr bool kEveryOtherHelper = true, kMayBeInner = true, kInlineLookup = false;
  static constexpr MapBtf kBtf = MapBtf::kOwnRules;
  static constexpr uint32_t kBatches = kBatchLookup | kBatchUpdate | kBatchDelete;
  static constexpr MapExample kExample = {8, 20, 50, kFlagNoPrealloc};
  static constexpr const char* kDiffers =
      "memory is reserved for all entries, so 134 million at most; keys come in Linux's order up to 16384 "
      "elements, beyond "
      "that in a hash's";

  static int64_t check(const MapSpec& spec) { return lpm_trie_check(spec); }
  static uint64_t size(const MapSpec& spec) { return lpm_trie_size(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t) {
    return lpm_trie_lookup(map, key);
  }
  BPFTIME_MAPS_FOLD static int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                          uint32_t, uint32_t owner) {
    return lpm_trie_update(map, key, value, flags, owner);
  }
  BPFTIME_MAPS_FOLD static int64_t remove(MapView map, const void* key, uint32_t owner) {
    return lpm_trie_remove(map, key, owner);
  }
  static int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags,
                             uint32_t owner) {
    return lpm_trie_update(map, key, value, flags, owner);
  }
  static int64_t user_delete(MapView map, const void* key, uint32_t owner) {
    return lpm_trie_remove(map, key, owner);
  }
  // lpm_trie_user.h
  static int64_t user_lookup(MapView map, const void* key, void* value);
  static int64_t user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder* order);
  static void repair(MapView map, uint32_t owner);
};

}  // namespace bpftime::maps

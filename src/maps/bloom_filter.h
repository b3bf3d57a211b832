// BPF_MAP_TYPE_BLOOM_FILTER: a set that never forgets; "is it in?" may wrongly be answered yes. The map is one array of
// bits, changed by atomic or: nothing can be half done, any content is a filter.
#pragma once

#include "maps/array.h"

namespace bpftime::maps {

inline constexpr uint32_t kBloomHashesDefault = 5, kBloomHashesMax = 15;

// How many bits each value sets: `map_extra` of BPF_MAP_CREATE, which travels in the spec's cpu_count (a bloom filter has
// no per-CPU values).
BPFTIME_MAPS_FOLD uint32_t bloom_hashes(const MapSpec& spec) {
  return spec.cpu_count == 0 || spec.cpu_count > kBloomHashesMax ? kBloomHashesDefault : spec.cpu_count;
}

inline int64_t bloom_filter_check(const MapSpec& spec) {
  constexpr uint32_t kAllowed = kFlagNumaNode | kFlagsAccess | kFlagZeroSeed;
  constexpr uint32_t kBothProgram = kFlagReadOnlyProgram | kFlagWriteOnlyProgram;
  if (spec.value_size > (4u << 20)) return -kErrTooBig;  // KMALLOC_MAX_SIZE, before all else
  if (spec.key_size != 0 || spec.value_size == 0 || spec.max_entries == 0) return -kErrInvalid;
  if ((spec.flags & ~kAllowed) != 0 || (spec.flags & kBothProgram) == kBothProgram) return -kErrInvalid;
  return 0;
}

// As many as Linux takes: entries × hashes / ln 2, rounded up to a power of two.
BPFTIME_MAPS_FOLD uint64_t bloom_bits(const MapSpec& spec) {
  uint64_t bits = uint64_t{spec.max_entries} * bloom_hashes(spec) / 5 * 7;
  if (bits > (uint64_t{1} << 31)) return uint64_t{1} << 32;
  return bits <= 64 ? 64 : uint64_t{1} << (64 - __builtin_clzll(bits - 1));
}
inline uint64_t bloom_size(const MapSpec& spec) { return bloom_bits(spec) / 8; }

// Positions of a value: two hashes h, s; the i-th is h + i × s.
struct BloomWalk {
  uint64_t position, step, mask;
};
BPFTIME_MAPS_FOLD BloomWalk bloom_walk(const MapSpec& spec, const void* value) {
  uint64_t hash = uint64_t{hash_key(value, spec.value_size)} * 0x9e3779b97f4a7c15u;
  return {hash >> 32, (mix(hash, 0xe7037ed1a0b428db) & 0xffffffff) | 1, bloom_bits(spec) - 1};
}

BPFTIME_MAPS_FOLD int64_t bloom_push(MapView map, const void* value, uint64_t flags) {
  if (flags != kUpdateAny) return -kErrInvalid;
  BloomWalk walk = bloom_walk(*map.spec, value);
  uint64_t* words = reinterpret_cast<uint64_t*>(map.base);
  for (uint32_t i = 0; i < bloom_hashes(*map.spec); i++, walk.position += walk.step) {
    uint64_t* word = &words[(walk.position & walk.mask) / 64];
    uint64_t bit = uint64_t{1} << (walk.position % 64);
    if ((load_relaxed(word) & bit) == 0) __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
  }
  return 0;
}

BPFTIME_MAPS_FOLD int64_t bloom_peek(MapView map, const void* value) {
  BloomWalk walk = bloom_walk(*map.spec, value);
  const uint64_t* words = reinterpret_cast<const uint64_t*>(map.base);
  for (uint32_t i = 0; i < bloom_hashes(*map.spec); i++, walk.position += walk.step) {
    if ((load_relaxed(&words[(walk.position & walk.mask) / 64]) >> (walk.position % 64) & 1) == 0)
      return -kErrNoEntry;
  }
  return 0;
}

struct BloomFilterType : MapType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_map_push_elem, BPF_FUNC_map_peek_elem};
  static constexpr bool kMayBeInner = true;
  static constexpr MapBtf kBtf = MapBtf::kOwnRules;
  static constexpr MapExample kExample = {0, 8, 50, 0};
  static constexpr const char* kRemark = "other values than in Linux are taken for members by mistake";

  static int64_t check(const MapSpec& spec) { return bloom_filter_check(spec); }
  static uint64_t size(const MapSpec& spec) { return bloom_size(spec); }
  BPFTIME_MAPS_FOLD static int64_t push(MapView map, const void* value, uint64_t flags, uint32_t) {
    return bloom_push(map, value, flags);
  }
  BPFTIME_MAPS_FOLD static int64_t peek(MapView map, void* value) { return bloom_peek(map, value); }
  // bpf(2) has no keys for it: a look-up asks for the value it is given.
  static int64_t user_lookup(MapView map, const void*, void* value) { return bloom_peek(map, value); }
  static int64_t user_update(MapView map, const void*, const void* value, uint64_t flags, uint32_t) {
    return bloom_push(map, value, flags);
  }
  static int64_t user_next_key(MapView, const void*, void*, KeyOrder*) { return -kErrOpNotSupported; }
};

}  // namespace bpftime::maps

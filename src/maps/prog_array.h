// BPF_MAP_TYPE_PROG_ARRAY: the compiled code of programs, for tail calls. Only the daemon writes it: targets and clients
// map it read-only, so what stands in a slot is as trusted as the code that jumps to it.
#pragma once

#include "maps/array.h"

namespace bpftime::maps {

// One slot, changed by one store of `code`: a tail call reads nothing else. Code stays mapped, executable and unchanged
// wherever the array is mapped, also after the slot was emptied.
struct ProgArraySlot {
  uint64_t code;     // entry of the program, an address equal in all targets; 0: empty
  uint32_t prog_id;  // for bpf(2)'s look-up; 0: empty
  uint32_t reserved;
};
static_assert(sizeof(ProgArraySlot) == 16);

// What PROG_ARRAY, CGROUP_ARRAY and ARRAY_OF_MAPS refuse alike (fd_array_map_alloc_check): values are descriptors, and
// programs cannot be kept from them.
inline int64_t fd_array_check(const MapSpec& spec) {
  if (spec.value_size != 4 || (spec.flags & (kFlagReadOnlyProgram | kFlagWriteOnlyProgram)) != 0)
    return -kErrInvalid;
  return array_like_check(spec);
}

inline uint64_t prog_array_size(const MapSpec& spec) {
  return uint64_t{spec.max_entries} * sizeof(ProgArraySlot);
}

// The slot, or nullptr when `index` lies outside.
BPFTIME_MAPS_FOLD ProgArraySlot* prog_array_slot(MapView map, uint32_t index) {
  if (index >= map.spec->max_entries) return nullptr;
  return reinterpret_cast<ProgArraySlot*>(map.base) + index;
}

// As bpf(2)'s look-up: the program's id.
inline int64_t prog_array_user_lookup(MapView map, const void* key, void* value) {
  const ProgArraySlot* slot = prog_array_slot(map, array_index(key));
  const uint32_t id = slot != nullptr ? load_relaxed(&slot->prog_id) : 0;
  if (id == 0) return -kErrNoEntry;
  __builtin_memcpy(value, &id, 4);
  return 0;
}

// What arrays of descriptors have in common.
struct DescriptorArrayType : IndexedType {
  static constexpr bool kDescriptors = true;
  static constexpr MapBtf kBtf = MapBtf::kNone;
  static constexpr MapExample kExample = {4, 4, 50, 0};
  static int64_t check(const MapSpec& spec) { return fd_array_check(spec); }
};

struct ProgArrayType : DescriptorArrayType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_tail_call};
  static constexpr MapBtf kBtf = MapBtf::kNeedsKey;
  static constexpr const char* kDiffers =
      "programs of extension classes are not taken; an update answers EAGAIN or EBUSY while a target that "
      "uses the array "
      "cannot be stopped";
  static uint64_t size(const MapSpec& spec) { return prog_array_size(spec); }
};

}  // namespace bpftime::maps

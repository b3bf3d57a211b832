// BPF_MAP_TYPE_CGROUP_ARRAY: control groups by their paths in the hierarchy, which is what a process can learn of its own
// without asking the daemon (/proc/thread-self/cgroup). Only the daemon writes it; targets map it read-only.
#pragma once

#include "maps/prog_array.h"

namespace bpftime::maps {

inline constexpr uint32_t kCgroupPathMax = 1008;  // longer ones are refused

// Written while `length` is 0, then said by it: a reader that finds a length finds the whole path, or, when the slot is
// set anew under his eyes, one that is neither; he takes the wrong turn once.
struct CgroupSlot {
  uint32_t length;  // of `path`; 0: empty slot
  uint32_t reserved;
  uint64_t id;                // of the group, by which a process's own ancestors are compared
  char path[kCgroupPathMax];  // "/" or "/user.slice/session.scope", no NUL
};
static_assert(sizeof(CgroupSlot) == 1024);

inline uint64_t cgroup_array_size(const MapSpec& spec) {
  return uint64_t{spec.max_entries} * sizeof(CgroupSlot);
}

// nullptr: no such slot.
BPFTIME_MAPS_FOLD const CgroupSlot* cgroup_array_slot(MapView map, uint32_t index) {
  if (index >= map.spec->max_entries) return nullptr;
  return reinterpret_cast<const CgroupSlot*>(map.base) + index;
}

// Whether the group at `path` (of a process) is the slot's or lies below it (task_under_cgroup_hierarchy).
inline bool cgroup_is_under(const CgroupSlot& slot, const char* path, uint32_t length) {
  const uint32_t wanted = load_acquire(&slot.length) < kCgroupPathMax ? slot.length : 0;
  if (wanted == 0 || wanted > length) return false;
  for (uint32_t i = 0; i < wanted; i++)
    if (slot.path[i] != path[i]) return false;
  return wanted == 1 || wanted == length || path[wanted] == '/';  // "/" is above all
}

struct CgroupArrayType : DescriptorArrayType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_current_task_under_cgroup, BPF_FUNC_skb_under_cgroup};
  static constexpr bool kMayBeInner = true;
  static constexpr const char* kDiffers =
      "groups of version 2, kept by their ids, not held: a group that is removed after the update may be "
      "made anew under "
      "another id";
  static uint64_t size(const MapSpec& spec) { return cgroup_array_size(spec); }
};

}  // namespace bpftime::maps

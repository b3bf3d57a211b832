// What a map type is to the rest of the system: a struct that derives from MapType and says where it differs. types.h lists
// them; every switch over types is made from that list (with_type), so that nothing is called through a pointer and, with a
// constant type, nothing is switched.
//
// MapType itself is the type that can do nothing: what a type does not define answers as Linux does for types without it.
// Freestanding, as all of the core (map.h, rule 1).
#pragma once

#include <linux/bpf.h>

#include "maps/memory.h"
#include "wire/object.h"

namespace bpftime::maps {

using wire::MapSpec;

class KeyOrder;  // key_order.h

// A mapped map. `base` points at the first byte of its memfd; `spec` is trusted.
struct MapView {
  uint8_t* base;
  const MapSpec* spec;
};

// Where bpf_for_each_map_elem is: starts zeroed, `cpu` set. What it points to is the map's own memory, but for the key
// of an array.
struct MapCursor {
  uint64_t position;  // of the next element
  void* key;
  void* value;
  uint32_t index;  // an array's key
  uint32_t cpu;    // whose values of a per-CPU type
};

// Helpers by their BPF_FUNC_ numbers, zeroes behind.
struct HelperSet {
  uint32_t ids[6];
  constexpr bool has(uint32_t id) const {
    for (uint32_t each : ids)
      if (each != 0 && each == id) return true;
    return false;
  }
};

// The *_BATCH commands that Linux has for a type, as bits.
inline constexpr uint32_t kBatchLookup = 1, kBatchUpdate = 2, kBatchDelete = 4, kBatchLookupAndDelete = 8,
                          kBatchAll = 15;

// What BTF of keys and values the type takes (map_check_btf of Linux's map_ops).
enum class MapBtf : uint8_t {
  kNeedsKey,  // both types
  kOwnRules,  // those of kernel/map_btf.cc; a key's type may be missing
  kNone       // ENOTSUPP
};

// A geometry that Linux accepts: what the tests of all types make maps of.
struct MapExample {
  uint32_t key_size, value_size, max_entries, flags;
};

inline constexpr int64_t kChanged = 1;  // of update_unchanged, besides 0 and errors

struct MapType {
  // ---- what others must know of the type ----
  // Helpers that take maps of this type and of no type that does not name them here.
  static constexpr HelperSet kOwnHelpers = {};
  // Whether every other helper with a map takes it, too; if not, those of kOtherHelpers do.
  static constexpr bool kEveryOtherHelper = false;
  static constexpr HelperSet kOtherHelpers = {};
  static constexpr bool kInSleepable = false;  // sleepable programs may use it
  static constexpr bool kForEach = false;      // bpf_for_each_map_elem lists it: each_next
  static constexpr bool kMayBeInner = false;   // may stand in a map of maps
  static constexpr bool kPerCpu = false;       // one value per possible CPU
  static constexpr bool kDescriptors = false;  // values are descriptors: bpf(2) is answered by the daemon
  static constexpr bool kSpinLocks = false;    // values may have a bpf_spin_lock
  static constexpr bool kTimers = false;       // values may have a bpf_timer
  static constexpr MapBtf kBtf = MapBtf::kNeedsKey;
  static constexpr uint32_t kBatches = 0;
  static constexpr bool kUpdatesUnchanged =
      false;  // values of 8 bytes can be updated unless changed: update_unchanged
  static constexpr bool kBuckets = false;  // batches go by the buckets of hash.h
  // Large operations are called by programs rather than inlined into each.
  static constexpr bool kInlineLookup = true, kInlineUpdate = false;
  // How it differs from Linux, in words for a user (docs/support-matrix.md); a remark, where it does not.
  static constexpr const char* kDiffers = "";
  static constexpr const char* kRemark = "";

  // ---- what programs call; map.h says what each does. BPFTIME_MAPS_FOLD when it shall be inlined into programs ----
  BPFTIME_MAPS_FOLD static void* lookup(MapView, const void* /*key*/, uint32_t /*cpu*/) { return nullptr; }
  BPFTIME_MAPS_FOLD static int64_t update(MapView, const void* /*key*/, const void* /*value*/,
                                          uint64_t /*flags*/, uint32_t /*cpu*/, uint32_t /*owner*/) {
    return -kErrOpNotSupported;
  }
  // The value of an existing key changed without taking an element; false: nothing has happened, `update` knows.
  BPFTIME_MAPS_FOLD static bool update_in_place(MapView, const void* /*key*/, const void* /*value*/,
                                                uint64_t /*flags*/, uint32_t /*cpu*/) {
    return false;
  }
  // The value of an existing key, which a look-up found at `place`, changed if it still is `seen` (unchanged.h); else kChanged.
  BPFTIME_MAPS_FOLD static int64_t update_unchanged(MapView, const void* /*key*/, uint64_t* /*place*/,
                                                    uint64_t /*seen*/, const void* /*value*/,
                                                    uint32_t /*cpu*/) {
    return kChanged;
  }
  BPFTIME_MAPS_FOLD static int64_t remove(MapView, const void* /*key*/, uint32_t /*owner*/) {
    return -kErrOpNotSupported;
  }
  BPFTIME_MAPS_FOLD static int64_t push(MapView, const void* /*value*/, uint64_t /*flags*/,
                                        uint32_t /*owner*/) {
    return -kErrOpNotSupported;
  }
  BPFTIME_MAPS_FOLD static int64_t pop(MapView, void* /*value*/) { return -kErrOpNotSupported; }
  BPFTIME_MAPS_FOLD static int64_t peek(MapView, void* /*value*/) { return -kErrOpNotSupported; }
  BPFTIME_MAPS_FOLD static bool each_next(MapView, MapCursor*) { return false; }

  // ---- what bpf(2) calls; host only. A type has all it does not inherit in its own file or in <type>_user.h ----
  static int64_t check(const MapSpec&) { return -kErrInvalid; }  // as BPF_MAP_CREATE
  static uint64_t size(const MapSpec&) { return 0; }             // bytes; 0: it would overflow
  static int64_t user_lookup(MapView, const void* /*key*/, void* /*value*/) { return -kErrNotSupported; }
  static int64_t user_update(MapView, const void* /*key*/, const void* /*value*/, uint64_t /*flags*/,
                             uint32_t /*owner*/) {
    return -kErrNotSupported;
  }
  static int64_t user_delete(MapView, const void* /*key*/, uint32_t /*owner*/) { return -kErrOpNotSupported; }
  static int64_t user_lookup_and_delete(MapView, const void* /*key*/, void* /*value*/, uint32_t /*owner*/) {
    return -kErrNotSupported;
  }
  // `order`: what the caller remembers from call to call (key_order.h), or null.
  static int64_t user_next_key(MapView, const void* /*key_or_null*/, void* /*next_key*/,
                               KeyOrder* /*order*/) {
    return -kErrNotSupported;
  }
  static void repair(MapView, uint32_t /*owner*/) {}
};

}  // namespace bpftime::maps

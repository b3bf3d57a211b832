// Every object a loader holds a descriptor of is a memfd whose last page is an ObjectTrailer.
// What lies before the trailer belongs to the kind: a map's values start at offset 0, as clients that mmap expect.
#pragma once

#include "wire/abi.h"

namespace bpftime::wire {

enum class ObjectKind : uint32_t {
  kNone = 0,
  kMap = 1,
  kProgram = 2,
  kLink = 3,
  kBtf = 4,
  kPerfEvent = 5,
  kStats = 6
};

inline constexpr uint32_t kNameMax = 16;  // BPF_OBJ_NAME_LEN, with NUL

// Geometry of a map, as given to BPF_MAP_CREATE. Plain data: copied out of shared memory before it is checked.
struct MapSpec {
  uint32_t type;        // enum bpf_map_type
  uint32_t key_size;    // bytes
  uint32_t value_size;  // bytes, not rounded
  uint32_t max_entries;
  uint32_t flags;      // BPF_F_*
  uint32_t cpu_count;  // possible CPUs; bloom filters: their map_extra
};
static_assert(sizeof(MapSpec) == 24);

// Parts of a map's values that bpf(2) neither shows nor changes: locks, timers.
struct ValueFields {
  struct Hidden {
    uint32_t offset, size;
  };
  uint32_t lock;   // offset of the bpf_spin_lock, plus one; 0: there is none
  uint32_t count;  // of `hidden`, the lock included
  Hidden hidden[8];
};
inline constexpr uint32_t kHiddenFieldsMax = 8;
static_assert(sizeof(ValueFields) == 72);

struct ObjectTrailer {
  SharedHeader header;  // size: of the whole memfd
  ObjectKind kind;
  uint32_t id;  // BPF object id, unique per daemon and kind
  char name[kNameMax];
  MapSpec map;         // kMap; kLink: its `type` is the enum bpf_link_type
  uint32_t frozen;     // kMap: 1 after BPF_MAP_FREEZE
  uint32_t enabled;    // kPerfEvent: 1 while to enable it changes nothing; may be 0 although it does not
  uint64_t address;    // kMap: where it lies in every target
  ValueFields fields;  // kMap
};
static_assert(sizeof(ObjectTrailer) == 152);
inline constexpr uint64_t kTrailerSize = 4096;

}  // namespace bpftime::wire

// BPF_MAP_TYPE_RINGBUF: a ring (ring.h) that libbpf's own consumer maps.
#pragma once

#include "maps/ring.h"

namespace bpftime::maps {

inline int64_t ringbuf_check(const MapSpec& spec) {
  if ((spec.flags & ~kFlagNumaNode) != 0) return -kErrInvalid;
  if (spec.key_size != 0 || spec.value_size != 0) return -kErrInvalid;
  if (spec.max_entries == 0 || (spec.max_entries & (spec.max_entries - 1)) != 0 ||
      spec.max_entries % kPage != 0) {
    return -kErrInvalid;
  }
  return 0;
}

}  // namespace bpftime::maps

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

struct RingbufType : MapType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_ringbuf_output,        BPF_FUNC_ringbuf_reserve,
                                            BPF_FUNC_ringbuf_query,         BPF_FUNC_ringbuf_reserve_dynptr,
                                            BPF_FUNC_ringbuf_submit_dynptr, BPF_FUNC_ringbuf_discard_dynptr};
  static constexpr bool kInSleepable = true, kMayBeInner = true;
  static constexpr MapExample kExample = {0, 0, 4096, 0};
  static constexpr const char* kRemark = "epoll and poll wake without polling";

  static int64_t check(const MapSpec& spec) { return ringbuf_check(spec); }
  static uint64_t size(const MapSpec& spec) { return ring_memory(spec.max_entries); }
  static int64_t user_delete(MapView, const void*, uint32_t) { return -kErrNotSupported; }
  static void repair(MapView map, uint32_t owner) {
    ring_repair_at(ring_at(map.base, map.spec->max_entries), owner);
  }
};

}  // namespace bpftime::maps

// BPF_MAP_TYPE_PERF_EVENT_ARRAY: which slots have an event (the daemon maintains that), and a staging ring
// that takes the records of all slots. The daemon moves them from there into the clients' perf rings.
//
//   +0      a ring (ring.h) of perf_ring_size() bytes, records: PerfRecordHeader, data
//   then    PerfSlot[max_entries]
#pragma once

#include "maps/array.h"
#include "maps/ring.h"

namespace bpftime::maps {

inline constexpr uint64_t kPerfIndexMask = 0xffffffff;  // BPF_F_INDEX_MASK; all ones: BPF_F_CURRENT_CPU
// A burst must find room until the daemon has been scheduled: twice the ring most clients map per CPU (64 pages).
inline constexpr uint32_t kStagingPerCpu = 512 << 10;  // bytes
inline constexpr uint32_t kStagingMax = 16 << 20;

struct PerfSlot {
  uint32_t present;
  uint32_t lost;  // records that found the ring full, or the slot empty
};

inline int64_t perf_event_array_check(const MapSpec& spec) {
  // fd_array_map_alloc_check: values are descriptors, programs cannot be kept from them.
  if (spec.value_size != 4 || (spec.flags & (kFlagReadOnlyProgram | kFlagWriteOnlyProgram)) != 0)
    return -kErrInvalid;
  return array_like_check(spec);
}

BPFTIME_MAPS_FOLD uint32_t perf_ring_size(const MapSpec& spec) {
  uint32_t cpus = spec.max_entries < spec.cpu_count ? spec.max_entries : spec.cpu_count;
  if (cpus >= kStagingMax / kStagingPerCpu) return kStagingMax;
  return kStagingPerCpu * (cpus <= 1 ? 1 : uint32_t{1} << (32 - __builtin_clz(cpus - 1)));
}
inline uint64_t perf_event_array_size(const MapSpec& spec) {
  return ring_memory(perf_ring_size(spec)) + uint64_t{spec.max_entries} * sizeof(PerfSlot);
}
BPFTIME_MAPS_FOLD Ring perf_ring(MapView map) { return ring_at(map.base, perf_ring_size(*map.spec)); }
BPFTIME_MAPS_FOLD PerfSlot* perf_slot(MapView map, uint32_t slot) {
  return reinterpret_cast<PerfSlot*>(map.base + ring_memory(perf_ring_size(*map.spec))) + slot;
}

BPFTIME_MAPS_FOLD int64_t perf_event_output(MapView map, uint64_t flags, const void* data, uint64_t size,
                                            uint32_t cpu, uint32_t owner, bool* wake) {
  *wake = false;
  if ((flags & ~kPerfIndexMask) != 0) return -kErrInvalid;
  uint32_t slot = static_cast<uint32_t>(flags);
  if (slot == kPerfIndexMask) slot = cpu;
  if (slot >= map.spec->max_entries) return -kErrTooBig;
  if (load_acquire(&perf_slot(map, slot)->present) == 0) {
    __atomic_fetch_add(&perf_slot(map, slot)->lost, 1u, __ATOMIC_RELAXED);
    return -kErrNoEntry;
  }
  Ring ring = perf_ring(map);
  // `size` is bounded before the sum, which could wrap.
  void* record = size > ring.size ? nullptr : ring_reserve_at(ring, 8 + size, 0, owner);
  if (record == nullptr) {
    __atomic_fetch_add(&perf_slot(map, slot)->lost, 1u, __ATOMIC_RELAXED);
    return -kErrNoSpace;
  }
  write_word(record, size << 32 | slot);  // PerfRecordHeader
  copy_bytes(static_cast<uint8_t*>(record) + 8, data, size);
  *wake = ring_commit_at(ring, record, 0, false);
  return 0;
}

// Returns the records that found the slot empty: Linux tells no reader of those, so they are not to be counted as lost.
inline uint64_t perf_event_set_slot(MapView map, uint32_t slot, bool present) {
  if (slot >= map.spec->max_entries) return 0;
  PerfSlot* at = perf_slot(map, slot);
  const bool before = __atomic_exchange_n(&at->present, uint32_t{present}, __ATOMIC_ACQ_REL) != 0;
  return present && !before ? __atomic_exchange_n(&at->lost, 0u, __ATOMIC_RELAXED) : 0;
}
inline uint64_t perf_event_take_lost(MapView map, uint32_t slot) {
  if (slot >= map.spec->max_entries) return 0;
  return __atomic_exchange_n(&perf_slot(map, slot)->lost, 0u, __ATOMIC_RELAXED);
}

// bpf(2) on a slot. That the value is a descriptor of an event is the caller's to check (-EBADF,
// -EINVAL) after these.
inline int64_t perf_event_user_update(MapView map, const void* key, uint64_t flags) {
  if (flags != kUpdateAny) return -kErrInvalid;
  if (array_index(key) >= map.spec->max_entries) return -kErrTooBig;
  perf_event_set_slot(map, array_index(key), true);
  return 0;
}
inline int64_t perf_event_user_delete(MapView map, const void* key) {
  if (array_index(key) >= map.spec->max_entries) return -kErrTooBig;
  return __atomic_exchange_n(&perf_slot(map, array_index(key))->present, 0u, __ATOMIC_ACQ_REL) != 0
             ? 0
             : -kErrNoEntry;
}

struct PerfEventArrayType : IndexedType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_perf_event_output, BPF_FUNC_perf_event_read,
                                            BPF_FUNC_perf_event_read_value, BPF_FUNC_skb_output,
                                            BPF_FUNC_xdp_output};
  static constexpr bool kMayBeInner = true, kDescriptors = true;
  static constexpr MapBtf kBtf = MapBtf::kNone;
  static constexpr MapExample kExample = {4, 4, 50, 0};
  static constexpr const char* kDiffers =
      "records are staged in the map (512 KiB per CPU, 16 MiB at most) and copied by the daemon into the "
      "events' rings; what "
      "finds no room there is reported as lost, as by a full ring; slots take output events only. Of samples "
      "the fields up to "
      "PERF_SAMPLE_RAW are there; an event that asks for others (READ, branches, registers, stacks) is "
      "refused with EOPNOTSUPP";

  static int64_t check(const MapSpec& spec) { return perf_event_array_check(spec); }
  static uint64_t size(const MapSpec& spec) { return perf_event_array_size(spec); }
  static int64_t user_update(MapView map, const void* key, const void*, uint64_t flags, uint32_t) {
    return perf_event_user_update(map, key, flags);
  }
  static int64_t user_delete(MapView map, const void* key, uint32_t) {
    return perf_event_user_delete(map, key);
  }
  static void repair(MapView map, uint32_t owner) { ring_repair_at(perf_ring(map), owner); }
};

}  // namespace bpftime::maps

// What only hardware or a kernel counts. There is none of it in a process: the answers are those of a kernel whose event
// is not there.
#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {
namespace {

constexpr uint64_t kIndexMask = 0xffffffff;  // BPF_F_INDEX_MASK, BPF_F_CURRENT_CPU
constexpr uint32_t kCounterValueSize = 24;   // struct bpf_perf_event_value

inline int64_t read_counter(uint64_t map, uint64_t flags) {
  if ((flags & ~kIndexMask) != 0) return -kEinval;
  const uint64_t index = (flags & kIndexMask) == kIndexMask ? current_cpu() : flags & kIndexMask;
  return index >= pointer<const MapRef>(map)->spec.max_entries ? -kE2big : -kEnoent;
}

}  // namespace

// r1 map, r2 flags.
BPFTIME_HELPER_FUNCTION(perf_event_read) { return static_cast<uint64_t>(read_counter(r1, r2)); }

// r1 map, r2 flags, r3 buffer, r4 its size.
BPFTIME_HELPER_FUNCTION(perf_event_read_value) {
  const uint32_t size = static_cast<uint32_t>(r4);
  const int64_t error = size != kCounterValueSize ? -kEinval : read_counter(r1, r2);
  bpftime_memset(pointer(r3), 0, size);
  return static_cast<uint64_t>(error);
}

// r1 context, r2 buffer, r3 its size.
BPFTIME_HELPER_FUNCTION(perf_prog_read_value) {
  bpftime_memset(pointer(r2), 0, static_cast<uint32_t>(r3));
  return static_cast<uint64_t>(-kEinval);
}

// r1 context, r2 buffer, r3 its size, r4 flags.
BPFTIME_HELPER_FUNCTION(read_branch_records) {
  constexpr uint64_t kGetSize = 1;  // BPF_F_GET_BRANCH_RECORDS_SIZE
  return static_cast<uint64_t>((r4 & ~kGetSize) != 0 ? -kEinval : -kEnoent);
}

// r1 buffer, r2 its size, r3 flags.
BPFTIME_HELPER_FUNCTION(get_branch_snapshot) { return static_cast<uint64_t>(r3 != 0 ? -kEinval : -kEnoent); }

}  // namespace bpftime::runtime

// bpf_trace_printk, bpf_trace_vprintk: text (format.h) in a record of the trace ring.
// The text is made twice: once to count it (a ring record's size must be known when it is reserved, and a
// kilobyte of the host's stack is too much to ask), once into the record. Memory that %s reads may change in
// between; the second run is cut at, and padded to, what the first counted.
#include "helpers/runtime/clock.h"
#include "helpers/runtime/format.h"
#include "helpers/trace_record.h"
#include "maps/program_side.h"

namespace bpftime::runtime {
namespace {

using helpers::kTraceTextMax;
using helpers::kTraceTextOffset;
using helpers::TraceRecord;

int64_t trace(const Format& format, const Arguments& arguments) {
  if (bpftime_trace_ring.base == nullptr || format.at == nullptr) return -kEinval;
  Sink counted{nullptr, 0, kTraceTextMax};
  const int64_t length = format_text(counted, format, arguments);
  if (length < 0) return length;
  const uint32_t stored = length < kTraceTextMax ? static_cast<uint32_t>(length) : kTraceTextMax - 1;

  const maps::MapView ring{bpftime_trace_ring.base, &bpftime_trace_ring.spec};
  const uint32_t tgid = current_tgid();
  void* memory = maps::program_side::ring_reserve(ring, kTraceTextOffset + stored, 0, tgid);
  if (memory == nullptr) return length;  // full: dropped, as the kernel's own buffer overwrites
  auto* record = static_cast<TraceRecord*>(memory);
  record->time_ns = bpftime_slow_clock(kClockMonotonic);
  record->lineage = context()->lineage;
  record->tgid = tgid;
  record->tid = current_tid();
  record->cpu = current_cpu();
  current_comm(record->comm);
  record->text_length = static_cast<uint16_t>(stored);
  Sink sink{static_cast<char*>(memory) + kTraceTextOffset, stored, kTraceTextMax};
  format_text(sink, format, arguments);
  while (sink.length < stored) sink.put(' ');
  if (maps::program_side::ring_commit(ring, memory, 0, false))
    bpftime_wake(maps::program_side::ring_wake_word(ring));
  return length;
}

}  // namespace

// r1 format, r2 its size, r3 … r5 values.
BPFTIME_HELPER_FUNCTION(trace_printk) {
  const uint64_t values[] = {r3, r4, r5};
  return static_cast<uint64_t>(
      trace(find_end(pointer<const char>(r1), static_cast<uint32_t>(r2)), Arguments{values, 3}));
}

// r1 format, r2 its size, r3 values, r4 their bytes.
BPFTIME_HELPER_FUNCTION(trace_vprintk) {
  Arguments arguments{};
  if (!take_arguments(r3, static_cast<uint32_t>(r4), arguments)) return static_cast<uint64_t>(-kEinval);
  return static_cast<uint64_t>(
      trace(find_end(pointer<const char>(r1), static_cast<uint32_t>(r2)), arguments));
}

}  // namespace bpftime::runtime

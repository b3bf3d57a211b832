// The ring a client reads with perf_event_mmap_page's protocol (linux/perf_event.h). Only the daemon writes it.
#pragma once

#include "base/bytes.h"
#include "kernel/object.h"

namespace bpftime::kernel {

// Sizes the event's memfd to `size` bytes ((1 + 2^n) pages) plus trailer and fills the header page. EINVAL for other sizes,
// EBUSY when already mapped with another size.
Result<void> map_perf_ring(PerfEvent& event, uint64_t size);

// Appends one PERF_RECORD_SAMPLE with raw `data`. When the ring is full the record is counted and a PERF_RECORD_LOST
// precedes the next one that fits, as in Linux. Client-written positions are hostile: masked.
void write_perf_sample(PerfEvent& event, Bytes data);
// Counts records lost before they reached us.
inline void add_perf_lost(PerfEvent& event, uint64_t count) { event.lost += count; }

}  // namespace bpftime::kernel

// What bpf_trace_printk puts into the trace ring (a RINGBUF map of the daemon), one record
// per line. Freestanding.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::helpers {

inline constexpr uint32_t kTraceTextMax =
    1024;  // BPF_TRACE_PRINTK_SIZE, with the NUL the kernel ends it with

// Followed by `text_length` bytes of text without NUL, as the program formatted it (its newline, if any,
// included). The reader treats it as hostile: a target may write anything, so check text_length against
// the record's size.
struct TraceRecord {
  uint64_t time_ns;  // CLOCK_MONOTONIC
  uint32_t lineage;  // TargetContext::lineage
  uint32_t tgid;
  uint32_t tid;
  uint32_t cpu;
  char comm[16];  // NUL-padded
  uint16_t text_length;
};
inline constexpr uint32_t kTraceTextOffset = offsetof(TraceRecord, text_length) + sizeof(uint16_t);
static_assert(kTraceTextOffset == 42);

}  // namespace bpftime::helpers

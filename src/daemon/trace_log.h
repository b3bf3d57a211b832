// Lines programs printed, kept until somebody reads them: trace_pipe's buffer.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "kernel/object.h"

namespace bpftime::daemon {

inline constexpr size_t kTraceBytesMax = 4u << 20;  // oldest lines go first

struct TraceEntry {
  uint64_t number;  // 1, 2, … since the daemon started
  uint32_t lineage;
  std::string text;  // one line in trace_pipe's format, with its newline
};

class TraceLog {
 public:
  // Moves what the ring holds into the log. Records are the targets' to forge: a malformed one is dropped.
  void drain(kernel::Map& ring);
  // One line, with its newline.
  void append(uint32_t lineage, std::string text);
  // The file `trace`: what is in the log behind line `after`, with the kernel's heading.
  std::string snapshot(uint64_t after) const;
  const std::deque<TraceEntry>& entries() const { return entries_; }
  uint64_t last_number() const { return last_number_; }

 private:
  std::deque<TraceEntry> entries_;
  size_t bytes_ = 0;
  uint64_t last_number_ = 0;
};

}  // namespace bpftime::daemon

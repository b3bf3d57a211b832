// What programs send with bpf_perf_event_output, as `bpftool map event_pipe` shows it.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace bpftime::cli {

struct PipeOptions {
  bool json = false;
  int cpu = -1, index = -1;  // only these; both or none
};

// Puts an event of each CPU into the array and prints what comes, until SIGINT, SIGTERM or the reader of the output has
// gone. Slots are emptied as the events are closed.
Result<void> pipe_events(const Fd& array, uint32_t slots, const PipeOptions& options);

}  // namespace bpftime::cli

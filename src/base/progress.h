// What a daemon is at just now, for those who wait for its answer: one page in its runtime directory, which it writes and they
// read. Who reads must be ready to find nothing, or nonsense.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bpftime {

struct Progress {
  std::string what;            // "process 4711: placing probes"
  uint32_t done = 0, all = 0;  // all 0: not counted
};

// From here on set_progress() of this process is seen by others. Failure is silent: nobody's work depends on it.
void publish_progress_in(const std::string& directory);
// `what` empty: at nothing. Cheap; no effect before publish_progress_in. Of one thread.
void set_progress(std::string_view what, uint32_t done = 0, uint32_t all = 0);

// What the daemon of that directory is at; nothing when it is at nothing that takes time.
std::optional<Progress> read_progress(const std::string& directory);

}  // namespace bpftime

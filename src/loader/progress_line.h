// A line at the terminal that says what the daemon is at, for whoever waits for it longer than a second. It stands behind the
// cursor, on whatever line that is, and is gone when the wait is over: what a tool prints stays as it printed it.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "wire/client.h"

namespace bpftime::loader {

class ProgressLine {
 public:
  // `directory`: the daemon's runtime directory; empty: no line is ever shown. Nor is one where stderr is no terminal.
  explicit ProgressLine(std::string directory);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;

  bool possible() const { return !directory_.empty(); }
  // Shows what the daemon is at now. False: at nothing, and nothing is shown.
  bool update();
  void clear();

 private:
  std::string directory_;
  bool shown_ = false;
};

inline constexpr int kBeforeProgressMs = 1000, kBetweenProgressMs = 200;

// Client::call, with such a line.
Result<wire::Message> call_with_progress(wire::Client& client, wire::MessageType type, Bytes body,
                                         std::span<const int> fds, wire::Deadline deadline,
                                         const std::string& directory);

}  // namespace bpftime::loader

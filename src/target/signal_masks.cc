#include "target/stopped_state.h"

namespace bpftime::target {

Result<void> StoppedProcess::unblock_signals(uint64_t signals) {
  Result<void> result;
  state_->tracer.run([&] {
    // A borrowed thread runs with a mask of its own: first back to itself.
    state_->close_socket();
    state_->borrowed.reset();
    for (const HeldThread& thread : state_->threads) {
      uint64_t mask = 0;
      if (!get_signal_mask(thread.tid, mask) || (mask & signals) == 0) continue;
      if (!set_signal_mask(thread.tid, mask & ~signals))
        result = Error{ESRCH, "thread " + std::to_string(thread.tid) + ": its signal mask cannot be changed"};
    }
  });
  return result;
}

}  // namespace bpftime::target

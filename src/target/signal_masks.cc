#include <sys/syscall.h>

#include "target/memory.h"
#include "target/proc_files.h"
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

Result<uint64_t> StoppedProcess::signal_handler(int signal) {
  Result<uint64_t> result = uint64_t{0};
  state_->tracer.run([&] {
    auto thread = state_->borrow();
    auto scratch = thread ? (*thread)->scratch() : Result<uint64_t>(thread.error());
    if (!scratch) {
      result = scratch.error();
      return;
    }
    constexpr uint64_t kMaskBytes = 8;
    const uint64_t arguments[] = {static_cast<uint64_t>(signal), 0, *scratch, kMaskBytes};
    auto asked = state_->checked_call("sigaction", SYS_rt_sigaction, arguments);
    uint64_t handler = 0;  // the first field of what the kernel stores
    if (!asked) {
      result = asked.error();
    } else if (!read_memory(state_->memory, *scratch, &handler, sizeof handler)) {
      result = process_error(state_->pid, EFAULT, "its stack is not readable");
    } else {
      result = handler;
    }
  });
  return result;
}

Result<uint64_t> StoppedProcess::signal_mask(pid_t tid) {
  Result<uint64_t> result = uint64_t{0};
  state_->tracer.run([&] {
    state_->close_socket();
    state_->borrowed.reset();
    uint64_t mask = 0;
    if (get_signal_mask(tid, mask)) {
      result = mask;
    } else {
      result = Error{ESRCH, "thread " + std::to_string(tid) + ": its signal mask cannot be read"};
    }
  });
  return result;
}

Result<void> StoppedProcess::set_signal_mask(pid_t tid, uint64_t mask) {
  Result<void> result;
  state_->tracer.run([&] {
    state_->close_socket();
    state_->borrowed.reset();
    if (!target::set_signal_mask(tid, mask))
      result = Error{ESRCH, "thread " + std::to_string(tid) + ": its signal mask cannot be changed"};
  });
  return result;
}

}  // namespace bpftime::target

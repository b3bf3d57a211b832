// What StoppedProcess holds; shared with load_library, which lets the other threads run. All of it on the tracer thread.
#pragma once

#include "target/borrowed_thread.h"
#include "target/stopped.h"
#include "target/tracer_thread.h"

namespace bpftime::target {

struct HeldThread {
  pid_t tid;
  user_regs_struct registers;
  bool in_group_stop;  // by SIGSTOP and its like: it stays stopped after us
};

struct StoppedProcess::State {
  TracerThread tracer;  // its end detaches what is still attached
  pid_t pid = 0;
  Fd pidfd;
  Fd memory;            // /proc/PID/mem
  bool nobody = false;  // from_outside(): no thread is held, none will be
  bool alone = false;   // stop_one(): the other threads run
  std::vector<HeldThread> threads;
  std::unique_ptr<BorrowedThread> borrowed;
  // Of stop_one(), read before the thread was stopped.
  std::vector<MappedRegion> regions;
  CallCode code;
  // The socket pair of map(): our end, and the target's as a number in it.
  Fd our_socket;
  int64_t target_socket = -1;
  // Its soft RLIMIT_NOFILE while raised, to be put back.
  bool limit_raised = false;
  uint64_t limit_before[2] = {0, 0};

  ~State() {
    if (!nobody) tracer.run([this] { release(); });
  }

  // On the tracer thread:
  Result<void> stop_all(Deadline deadline, bool& try_again);
  Result<void> stop_any(Deadline deadline);
  Result<bool> take(pid_t tid, const StopEvent& event);
  void release();
  Result<BorrowedThread*> borrow();
  Result<int64_t> system_call(long number, std::span<const uint64_t> arguments);
  Result<void> ensure_socket();
  Result<void> raise_descriptor_limit();
  Result<int64_t> send_descriptor(int fd);
  // Undoes what map() left in the target for its next use: socket, descriptor limit.
  void close_socket();
  const HeldThread* find(pid_t tid) const;
  // A system call whose negative result is an error "process N: WHAT: why".
  Result<int64_t> checked_call(const std::string& what, long number, std::span<const uint64_t> arguments);
};

}  // namespace bpftime::target

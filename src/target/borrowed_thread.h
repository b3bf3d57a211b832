// A thread of a stopped process made to execute system calls and functions for us, then put back exactly as it was.
//
// Life: lent() in PTRACE_EVENT_STOP → any number of system_call() and call(), between which it rests in a system-call-exit stop →
// give_back() into PTRACE_EVENT_STOP with its own registers, signal mask, floating point state and stack bytes.
// Order matters everywhere because we may be killed between any two requests (see signal_frame.h): going out, registers
// first, then the signal mask; coming back, the mask first: on the frame a wrong mask heals, off it it would stay.
#pragma once

#include <memory>
#include <span>

#include "target/memory.h"
#include "target/signal_frame.h"
#include "target/tracee.h"

namespace bpftime::target {

// What the process's other threads do meanwhile.
enum class Others { kHeld, kRun };

class BorrowedThread {
 public:
  // `registers`: those of the thread in its PTRACE_EVENT_STOP. `memory` must outlive the result.
  // Errors: EPERM under a seccomp filter that may not be suspended; EFAULT when nothing in the process can make system calls.
  static Result<std::unique_ptr<BorrowedThread>> lent(pid_t pid, pid_t tid, const user_regs_struct& registers,
                                                      const Fd& memory,
                                                      const std::vector<MappedRegion>& regions, Others others,
                                                      const CallCode* known = nullptr);
  ~BorrowedThread() { give_back(); }

  pid_t tid() const { return tid_; }
  // Whether its own stack had room for a signal frame: only then our death at any moment is harmless to it. While others run that is
  // not asked of a coroutine's stack (a goroutine's), below which there may be what the others work with.
  bool framed() const { return !frame_.bytes.empty(); }

  Result<int64_t> system_call(long number, std::span<const uint64_t> arguments);
  // kScratchBytes of its memory, for arguments by address. Error when there is none to be had.
  Result<uint64_t> scratch();

  // Calls long f(long × up to 6). `stack_top`: 0 for its own stack, else the top of memory to use instead. Its signals wait.
  // `near`: where the first mapping of a file that the function leaves to the kernel is to lie, if that is free; 0: anywhere.
  // After ETIMEDOUT the call still runs: give_back() breaks it off, abandon() lets it finish. EFAULT: the function faulted.
  Result<int64_t> call(uint64_t function, std::span<const uint64_t> arguments, uint64_t stack_top,
                       Deadline deadline, uint64_t near = 0);
  // Lets a call that has timed out finish on its own: the thread is detached and returns to its own work by its signal frame.
  // Its code and stack must stay mapped. The object is dead afterwards.
  void abandon();

  void give_back();

 private:
  BorrowedThread(pid_t pid, pid_t tid, const user_regs_struct& registers, const Fd& memory)
      : pid_(pid), tid_(tid), original_(registers), memory_(memory) {}
  Result<void> suspend_seccomp();
  void place_frame(const std::vector<MappedRegion>& regions, Others others);
  Result<void> ensure_return_stub();
  Error died() const;
  Result<void> send_off(const user_regs_struct& registers, uint64_t mask);
  StopEvent next_syscall_stop(Deadline deadline, bool faults_count);

  pid_t pid_, tid_;
  user_regs_struct original_;
  const Fd& memory_;
  uint64_t original_mask_ = 0, current_mask_ = 0;
  std::vector<uint8_t> extended_state_;
  Gadgets gadgets_;
  SignalFrame frame_{};               // empty bytes: there was no room for it
  std::vector<uint8_t> bytes_below_;  // what lay where the frame is
  uint64_t scratch_page_ = 0;         // anonymous page when there is no frame
  uint64_t stub_ = 0;                 // page of code that functions return to
  bool away_ = false;                 // not in its own PTRACE_EVENT_STOP
  bool called_ = false;               // vector registers may have changed
  bool running_ = false;              // a call has timed out and goes on
  bool gone_ = false;
  bool seccomp_suspended_ = false;
};

}  // namespace bpftime::target

// One thread under ptrace: the few requests we need, and waiting for its stops with a deadline.
//
// Rules for whoever edits this:
//  1. Only the tracer thread may call these (see tracer_thread.h).
//  2. Every seized thread carries PTRACE_O_TRACESYSGOOD: should we die while it is in a system-call stop, the kernel "continues"
//     it with the stop's own code as signal, and only with this option that is not SIGTRAP but an invalid number it ignores.
//  3. Registers may be restored to an interrupted system call only in PTRACE_EVENT_STOP: that stop lies inside the kernel's
//     signal path, which then restarts the call. In a system-call stop nothing would restart it and -ERESTARTSYS would be seen.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/result.h"

namespace bpftime::target {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

struct StopEvent {
  enum class Kind {
    kTrap,     // PTRACE_EVENT_STOP: our interrupt, or a group stop
    kSyscall,  // system-call entry or exit
    kSignal,   // about to deliver `signal`
    kExec,     // the process replaced its program
    kGone,     // exited or replaced by an exec elsewhere
    kTimeout,  // nothing before the deadline
  };
  Kind kind;
  int signal = 0;
};

// The kernel's internal codes by which an interrupted system call asks to be restarted; only a tracer sees them.
constexpr int64_t kRestartSys = -512, kRestartNoIntr = -513, kRestartNoHandler = -514, kRestartBlock = -516;

inline bool is_restart_code(int64_t result) {
  return result == kRestartSys || result == kRestartNoIntr || result == kRestartNoHandler ||
         result == kRestartBlock;
}

// PTRACE_SEIZE. False: the thread is gone or going (zombie). Errors: EBUSY, EPERM with the reason.
Result<bool> seize_thread(pid_t pid, pid_t tid);
// Asks for a PTRACE_EVENT_STOP; false when the thread is gone.
bool interrupt_thread(pid_t tid);
// Waits for the next stop or the end of `tid`. `parent_is_us`: the end of the leader is left for our own wait to find.
StopEvent wait_for_stop(pid_t pid, pid_t tid, Deadline deadline);
// PTRACE_CONT or PTRACE_SYSCALL with a signal (0: none); false when the thread is gone.
bool resume_thread(pid_t tid, bool to_syscall, int signal);
// Interrupts and waits until the thread is in PTRACE_EVENT_STOP. Signals that are delivered on the way are delivered: their
// handlers have been entered, but not run, when the stop is reached.
StopEvent bring_to_trap(pid_t pid, pid_t tid, Deadline deadline);
// Of a thread in PTRACE_EVENT_STOP: has the kernel enter the handlers of faults it met just before (a trap, a bad access), and
// brings it back to that stop. A fault's signal belongs to the instruction it was met at: were the thread made to execute
// something else, it would be taken for a fault of that. Like bring_to_trap() otherwise.
StopEvent enter_fault_handlers(pid_t pid, pid_t tid, Deadline deadline);
void detach_thread(pid_t tid);

bool get_registers(pid_t tid, user_regs_struct& registers);
bool set_registers(pid_t tid, const user_regs_struct& registers);
// The XSAVE image in its standard format; empty when the kernel has none.
std::vector<uint8_t> get_extended_state(pid_t tid);
bool set_extended_state(pid_t tid, const std::vector<uint8_t>& state);
bool get_signal_mask(pid_t tid, uint64_t& mask);
bool set_signal_mask(pid_t tid, uint64_t mask);

// If `tid`, stopped in a system call, would see an EINTR that only our stop has caused, makes the kernel restart the call
// instead (it still fails with EINTR if a handler runs first). Returns true when registers were changed.
// Most calls need nothing: they restart by themselves after a stop. Those that do not are listed in signal(7).
bool undo_spurious_eintr(user_regs_struct& registers);

// An rseq critical section must be aborted when its thread is made to execute something else: the kernel, seeing a program
// counter outside it, would only forget it. Sets rip to the section's abort handler, as the kernel would.
void abort_restartable_sequence(pid_t tid, int memory_fd, user_regs_struct& registers);

}  // namespace bpftime::target

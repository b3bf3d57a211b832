// A process held still: every thread in ptrace-stop. All changes to a target go through here.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"
#include "target/process.h"

namespace bpftime::target {

// Where in a process its code has the instructions that remote system calls need: found once, checked at each use.
// Addresses; 0: not found, or not looked for yet.
struct CallCode {
  uint64_t system_call = 0;         // syscall
  uint64_t system_call_return = 0;  // syscall; ret
  uint64_t signal_return = 0;       // mov $15, %eax (or %rax); syscall: what a signal handler returns to
  // Whether one of them lies in [start, end).
  bool touches(uint64_t start, uint64_t end) const;
};

// Holds all threads from stop() to destruction, then lets them run as they were: registers, signal masks, pending
// signals and group stops unchanged, interrupted system calls restarted. If we die meanwhile, the kernel resumes them, a
// borrowed thread too: its remote system call returns through a signal frame into its own work (target/signal_frame.h).
// An instance owns a thread that makes the ptrace calls, so it may be used from any one thread at a time. The daemon must
// not wait for "any child" (waitpid(-1)) anywhere meanwhile: that would take our stops.
class StoppedProcess {
 public:
  // Errors name the process and the reason: EPERM (not ours, ptrace forbidden), EBUSY (being debugged by PID), ESRCH,
  // EAGAIN (a thread cannot be stopped, e.g. it waits in vfork for a child that shares its memory; for up to 5 s we let
  // the process run and try again), ENOTSUP (32-bit). The program may have been replaced by exec before the stop: what the
  // caller read of it earlier must be read again.
  static Result<StoppedProcess> stop(const Process& process);
  // One thread alone, while the others run on: for remote system calls, and for changes that are right at any moment.
  // threads() names only this one. The main thread unless it cannot be stopped at once. Errors as of stop(), and EAGAIN: it is no
  // longer `program`, from Process::program().
  static Result<StoppedProcess> stop_one(const Process& process, const ProgramMark& program, CallCode& code);
  // No thread at all: memory is read and written, cores are synchronized, everything else is refused. The process must have
  // been through allow_outside_barriers(). Errors as of stop().
  static Result<StoppedProcess> from_outside(const Process& process);
  // Registers the process, with a thread of it, for synchronize_cores() without one; once per process, its forks inherit it.
  // The kernel takes a grace period of its own for it (milliseconds). False: this kernel or processor has no such barrier.
  Result<bool> allow_outside_barriers();
  // Makes every thread of the process execute a serialising instruction before it runs on in user space, so that none still
  // works with instruction bytes of before (membarrier). Error ENOSYS-like: the kernel has none of it.
  Result<void> synchronize_cores();
  // Whether it is the program that was there when `mark` was made.
  bool still_runs(const ProgramMark& mark) const;
  StoppedProcess(StoppedProcess&&) noexcept;
  StoppedProcess& operator=(StoppedProcess&&) noexcept;
  ~StoppedProcess();

  struct Thread {
    pid_t tid;
    uint64_t pc, stack_pointer, thread_pointer;  // rip, rsp, fs base
  };
  std::vector<Thread> threads() const;
  // All general registers of all held threads, as they were when they stopped.
  std::vector<user_regs_struct> registers() const;
  // `pc` is where the thread is as threads() says. Of a thread in an interrupted system call that is just after the `syscall`
  // instruction, and the kernel will go back those two bytes to restart it.
  Result<void> set_pc(pid_t tid, uint64_t pc);
  // The same of any general register. The kernel takes a restarted call's arguments from them.
  Result<void> change_registers(pid_t tid, const std::function<void(user_regs_struct&)>& change);

  // Takes `signals` (bit n-1 for signal n) out of every thread's mask.
  Result<void> unblock_signals(uint64_t signals);

  // One thread's mask (bit n-1 for signal n), read and replaced.
  Result<uint64_t> signal_mask(pid_t tid);
  Result<void> set_signal_mask(pid_t tid, uint64_t mask);

  // The address of a signal's handler as the kernel has it; 0 and 1 are SIG_DFL and SIG_IGN.
  Result<uint64_t> signal_handler(int signal);

  // One system call made by a borrowed thread; the kernel's result (-errno is a value, not an Error). Under a seccomp
  // filter only where PTRACE_O_SUSPEND_SECCOMP is permitted, else Error EPERM with that reason.
  Result<int64_t> system_call(long number, std::span<const uint64_t> arguments);

  // Memory through /proc/PID/mem: also read-only and executable pages (copy on write, private to this process).
  Result<std::vector<uint8_t>> read(uint64_t address, uint64_t size) const;
  Result<void> write(uint64_t address, Bytes bytes);

  // Maps [offset, offset+size) of our descriptor at exactly `address` (EEXIST when taken, unless `flags` has MAP_FIXED: then what is there is replaced in one step), or
  // anonymous memory when fd < 0. The target opens no file: the descriptor travels by SCM_RIGHTS over a socket pair that
  // exists only while it is stopped, so chroot, credentials and descriptor limits of the target matter little.
  Result<void> map(uint64_t address, uint64_t size, int protection, int flags, int fd, uint64_t offset);
  Result<void> unmap(uint64_t address, uint64_t size);
  // Several in one go, all or nothing: on an error those already made are unmapped again.
  struct MapRequest {
    uint64_t address, size;
    int protection, flags, fd;
    uint64_t offset;
  };
  Result<void> map_all(std::span<const MapRequest> requests);

  // Calls a function of signature long(long, long, long) on a borrowed thread's stack (below its red zone, aligned), other
  // threads stopped: for agent code, which takes no locks.
  Result<int64_t> call(uint64_t function, std::span<const uint64_t> arguments);

  struct State;  // internal to src/target

 private:
  friend class LibraryLoader;
  explicit StoppedProcess(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Loads a shared library into a running process by calling its dlopen: on a thread found at a safe point (no frame in the
// dynamic loader or the allocator), the other threads running, with a deadline. Returns the load address.
// `library` (an absolute path of ours) is passed by path when it names the same file in the target, else by descriptor.
// Other threads run meanwhile, since they may hold locks that dlopen needs; signals of the borrowed thread wait.
// Errors: EAGAIN no thread was at a safe point in time (naming why); EOPNOTSUPP no glibc in it; ENOEXEC dlopen refused
// (with its words); ETIMEDOUT dlopen did not return within 10 s: it is left to finish by itself.
struct LoadWishes {
  uint64_t near =
      0;  // an address it is to be mapped at if that is free; else it lies where the kernel puts it
  std::chrono::milliseconds patience{8000};  // for a thread at a safe point
};
Result<uint64_t> load_library(const Process& process, const std::string& library,
                              const LoadWishes& wishes = {});

// A free stretch of `size` bytes within ±2 GiB (less a margin) of all of [low, high), page aligned.
Result<uint64_t> find_gap_near(const std::vector<MappedRegion>& regions, uint64_t low, uint64_t high,
                               uint64_t size);

// Whether [start, start + size) is free and in nobody's way: the heap and stacks may grow.
bool is_gap(const std::vector<MappedRegion>& regions, uint64_t start, uint64_t size);

}  // namespace bpftime::target

#include "target/borrowed_thread.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/memfd.h"
#include "target/proc_files.h"

namespace bpftime::target {
namespace {

constexpr long kSuspendSeccomp = 1 << 21;  // PTRACE_O_SUSPEND_SECCOMP; not in glibc's <sys/ptrace.h>
constexpr auto kSystemCallTimeout = std::chrono::seconds(10);
constexpr auto kStopTimeout = std::chrono::seconds(5);
constexpr uint64_t kDirectionFlag = 0x400, kTrapFlag = 0x100;

constexpr uint64_t bit(int signal) { return uint64_t{1} << (signal - 1); }
constexpr uint64_t kAllSignals = ~uint64_t{0};
// Signals a faulting instruction raises: were they blocked, the kernel would reset their handlers.
constexpr uint64_t kFaults =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGTRAP) | bit(SIGSYS);

// What a called function returns to: keeps the result and asks for rt_sigreturn, at whose entry we catch it. There we skip the
// system call; should we die just then, the jump asks again.
constexpr uint8_t kReturnStub[] = {
    0x48, 0x89, 0xc3,              // mov %rax, %rbx
    0xb8, 0x0f, 0x00, 0x00, 0x00,  // mov $15, %eax
    0x0f, 0x05,                    // syscall
    0xeb, 0xf7,                    // jmp to the second mov
};
constexpr uint64_t kAfterStubSystemCall = 10;

void set_arguments(user_regs_struct& r, std::span<const uint64_t> arguments, bool system_call) {
  unsigned long long* slots[] = {&r.rdi, &r.rsi, &r.rdx, system_call ? &r.r10 : &r.rcx, &r.r8, &r.r9};
  for (size_t i = 0; i < 6; ++i) *slots[i] = i < arguments.size() ? arguments[i] : 0;
}

// The main thread's, or a mapping with the thread's own control block at its end, as C libraries make them.
bool on_the_threads_stack(const std::vector<MappedRegion>& regions, const user_regs_struct& r) {
  return std::any_of(regions.begin(), regions.end(), [&r](const MappedRegion& region) {
    return r.rsp >= region.start && r.rsp < region.end &&
           (region.path == "[stack]" || (r.fs_base > r.rsp && r.fs_base < region.end));
  });
}

// At a system-call stop: at its entry, for the kernel has stored -ENOSYS as its result until it has another.
bool begins_file_mapping_anywhere(const user_regs_struct& r) {
  return r.orig_rax == SYS_mmap && static_cast<int64_t>(r.rax) == -ENOSYS && r.rdi == 0 &&
         static_cast<int32_t>(r.r8) >= 0 && (r.r10 & (MAP_FIXED | MAP_ANONYMOUS)) == 0;
}

}  // namespace

Result<std::unique_ptr<BorrowedThread>> BorrowedThread::lent(pid_t pid, pid_t tid,
                                                             const user_regs_struct& registers,
                                                             const Fd& memory,
                                                             const std::vector<MappedRegion>& regions,
                                                             Others others, const CallCode* known) {
  std::unique_ptr<BorrowedThread> thread(new BorrowedThread(pid, tid, registers, memory));
  if (!get_signal_mask(tid, thread->original_mask_)) return thread->died();
  thread->current_mask_ = thread->original_mask_;
  thread->gadgets_ = known != nullptr && known->system_call != 0 ? *known : find_gadgets(memory, regions);
  if (thread->gadgets_.system_call == 0) {
    return process_error(pid, EFAULT, "no system call instruction in its code; it cannot be entered");
  }
  if (auto suspended = thread->suspend_seccomp(); !suspended) return suspended.error();
  thread->extended_state_ = get_extended_state(tid);
  abort_restartable_sequence(tid, memory.get(), thread->original_);
  thread->place_frame(regions, others);
  return thread;
}

Result<void> BorrowedThread::suspend_seccomp() {
  if (thread_seccomp_mode(pid_, tid_) == 0) return {};
  const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | kSuspendSeccomp;
  if (::ptrace(PTRACE_SETOPTIONS, tid_, nullptr, options) != 0) {
    // What our own container allows us it allows our neighbour.
    if (!thread_filtered_unlike_us(pid_, tid_)) return {};
    return process_error(
        pid_, EPERM,
        "it is under a seccomp filter of its own, which only CAP_SYS_ADMIN may suspend (and a kernel with "
        "CONFIG_CHECKPOINT_RESTORE); try as root");
  }
  seccomp_suspended_ = true;
  return {};
}

void BorrowedThread::place_frame(const std::vector<MappedRegion>& regions, Others others) {
  if (gadgets_.system_call_return == 0 || gadgets_.signal_return == 0) return;
  if (others == Others::kRun && !on_the_threads_stack(regions, original_)) return;
  const uint64_t top = original_.rsp - kRedZoneBytes;
  SignalFrame frame =
      build_signal_frame(top, gadgets_.signal_return, original_, original_mask_, extended_state_);
  if (!is_private_writable(regions, frame.start, original_.rsp)) return;
  // Nothing below the red zone belongs to anyone by the ABI, but a coroutine's stack may end right there: keep and put back.
  bytes_below_.resize(frame.bytes.size());
  if (!read_memory(memory_, frame.start, bytes_below_.data(), bytes_below_.size())) return;
  if (!write_memory(memory_, frame.start, frame.bytes.data(), frame.bytes.size())) return;
  frame_ = std::move(frame);
}

Error BorrowedThread::died() const { return process_error(pid_, ESRCH, "it exited while it was stopped"); }

Result<void> BorrowedThread::send_off(const user_regs_struct& registers, uint64_t mask) {
  if (gone_ || !set_registers(tid_, registers)) return died();
  away_ = true;
  if (mask != current_mask_ && !set_signal_mask(tid_, mask)) return died();
  current_mask_ = mask;
  return {};
}

// Resumes until the next system-call entry or exit. Only SIGSTOP and SIGKILL get through the mask (and faults, if asked for).
StopEvent BorrowedThread::next_syscall_stop(Deadline deadline, bool faults_count) {
  int signal = 0;
  for (;;) {
    if (!resume_thread(tid_, true, signal)) return {StopEvent::Kind::kGone};
    const StopEvent event = wait_for_stop(pid_, tid_, deadline);
    if (event.kind == StopEvent::Kind::kSignal && faults_count && (kFaults & bit(event.signal)) != 0)
      return event;
    if (event.kind != StopEvent::Kind::kTrap && event.kind != StopEvent::Kind::kSignal) return event;
    signal = event.kind == StopEvent::Kind::kSignal ? event.signal : 0;
  }
}

Result<int64_t> BorrowedThread::system_call(long number, std::span<const uint64_t> arguments) {
  if (arguments.size() > 6) return process_error(pid_, EINVAL, "a system call has at most six arguments");
  user_regs_struct registers = original_;
  registers.rax = static_cast<uint64_t>(number);
  registers.orig_rax = ~uint64_t{0};  // not in a system call: nothing for the kernel to restart
  registers.eflags &= ~kTrapFlag;
  set_arguments(registers, arguments, true);
  registers.rip = framed() ? gadgets_.system_call_return : gadgets_.system_call;
  if (framed()) registers.rsp = frame_.stack_pointer;
  if (auto sent = send_off(registers, kAllSignals); !sent) return sent.error();
  const Deadline deadline = Clock::now() + kSystemCallTimeout;
  for (const char* stage : {"entry", "exit"}) {
    const StopEvent event = next_syscall_stop(deadline, false);
    if (event.kind == StopEvent::Kind::kSyscall) continue;
    if (event.kind == StopEvent::Kind::kTimeout) {
      return process_error(pid_, ETIMEDOUT, std::string("a remote system call did not reach its ") + stage);
    }
    gone_ = true;
    return died();
  }
  user_regs_struct after;
  if (!get_registers(tid_, after)) return died();
  const auto result = static_cast<int64_t>(after.rax);
  return is_restart_code(result) ? -EINTR : result;
}

Result<uint64_t> BorrowedThread::scratch() {
  if (framed()) return frame_.scratch();
  if (scratch_page_ == 0) {
    const uint64_t arguments[] = {
        0, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~uint64_t{0}, 0};
    auto page = system_call(SYS_mmap, arguments);
    if (!page) return page.error();
    if (*page < 0)
      return process_error(pid_, static_cast<int>(-*page), "no memory for system call arguments");
    scratch_page_ = static_cast<uint64_t>(*page);
  }
  return scratch_page_;
}

Result<void> BorrowedThread::ensure_return_stub() {
  if (stub_ != 0) return {};
  const uint64_t arguments[] = {
      0, kPageSize, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, ~uint64_t{0}, 0};
  auto page = system_call(SYS_mmap, arguments);
  if (!page) return page.error();
  if (*page < 0) {
    return process_error(
        pid_, static_cast<int>(-*page),
        std::string("no executable memory for a remote call: ") + std::strerror(static_cast<int>(-*page)));
  }
  stub_ = static_cast<uint64_t>(*page);
  if (!write_memory(memory_, stub_, kReturnStub, sizeof(kReturnStub))) {
    return process_error(pid_, EFAULT,
                         "code for a remote call cannot be written; is /proc/PID/mem restricted?");
  }
  return {};
}

Result<int64_t> BorrowedThread::call(uint64_t function, std::span<const uint64_t> arguments,
                                     uint64_t stack_top, Deadline deadline, uint64_t near) {
  if (arguments.size() > 6) return process_error(pid_, EINVAL, "a remote call has at most six arguments");
  if (stack_top == 0 && !framed())
    return process_error(pid_, EFAULT, "no room on the borrowed thread's stack");
  if (auto stub = ensure_return_stub(); !stub) return stub.error();
  const uint64_t top = stack_top != 0 ? stack_top : original_.rsp - kRedZoneBytes;
  const SignalFrame frame = build_signal_frame(top, stub_, original_, original_mask_, extended_state_);
  // On its own stack this overwrites the frame of system calls: same place, other return address. Put back below.
  if (!write_memory(memory_, frame.start, frame.bytes.data(), frame.bytes.size())) {
    return process_error(pid_, EFAULT, "the stack for a remote call cannot be written");
  }
  user_regs_struct registers = original_;
  registers.rip = function;
  registers.rsp = frame.stack_pointer;
  registers.rax = 0;  // no vector arguments, should the function be variadic
  registers.orig_rax = ~uint64_t{0};
  registers.eflags &= ~(kDirectionFlag | kTrapFlag);
  set_arguments(registers, arguments, false);
  called_ = true;
  if (auto sent = send_off(registers, kAllSignals & ~kFaults); !sent) return sent.error();

  user_regs_struct now;
  for (;;) {
    const StopEvent event = next_syscall_stop(deadline, true);
    if (event.kind == StopEvent::Kind::kTimeout) {
      running_ = true;
      return process_error(pid_, ETIMEDOUT, "a remote call did not return in time");
    }
    if (event.kind == StopEvent::Kind::kSignal) {
      return process_error(pid_, EFAULT,
                           std::string("a remote call ended in signal ") + ::strsignal(event.signal));
    }
    if (event.kind != StopEvent::Kind::kSyscall || !get_registers(tid_, now)) {
      gone_ = true;
      return died();
    }
    if (now.rip == stub_ + kAfterStubSystemCall) break;
    if (near != 0 && begins_file_mapping_anywhere(now)) {
      now.rdi = near;  // a hint only
      if (!set_registers(tid_, now)) return died();
      near = 0;
    }
  }
  // At the entry of rt_sigreturn: skip it and stand at its exit, as after any system call.
  const auto result = static_cast<int64_t>(now.rbx);
  now.orig_rax = ~uint64_t{0};
  if (!set_registers(tid_, now) ||
      next_syscall_stop(Clock::now() + kStopTimeout, false).kind != StopEvent::Kind::kSyscall) {
    gone_ = true;
    return died();
  }
  if (framed() && stack_top == 0)
    write_memory(memory_, frame_.start, frame_.bytes.data(), frame_.bytes.size());
  return result;
}

void BorrowedThread::abandon() {
  interrupt_thread(tid_);
  const StopEvent event = bring_to_trap(pid_, tid_, Clock::now() + kStopTimeout);
  if (event.kind == StopEvent::Kind::kTrap) detach_thread(tid_);
  gone_ = true;
}

void BorrowedThread::give_back() {
  if (gone_) return;
  if (running_) {
    interrupt_thread(tid_);
    if (bring_to_trap(pid_, tid_, Clock::now() + kStopTimeout).kind != StopEvent::Kind::kTrap) return;
    running_ = false;
  }
  for (const uint64_t page : {stub_, scratch_page_}) {
    const uint64_t arguments[] = {page, kPageSize};
    if (page != 0) (void)system_call(SYS_munmap, arguments);
  }
  stub_ = scratch_page_ = 0;
  if (away_ && !gone_) {
    // From a system-call stop (or a fault's) into PTRACE_EVENT_STOP, still on the frame.
    set_signal_mask(tid_, kAllSignals);
    interrupt_thread(tid_);
    resume_thread(tid_, false, 0);
    const StopEvent event = bring_to_trap(pid_, tid_, Clock::now() + kStopTimeout);
    if (event.kind == StopEvent::Kind::kTrap) {
      set_signal_mask(tid_, original_mask_);
      if (called_ && !extended_state_.empty()) set_extended_state(tid_, extended_state_);
      set_registers(tid_, original_);
    }
  }
  if (!bytes_below_.empty()) write_memory(memory_, frame_.start, bytes_below_.data(), bytes_below_.size());
  if (seccomp_suspended_)
    ::ptrace(PTRACE_SETOPTIONS, tid_, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC);
  gone_ = true;  // nothing more to give back
}

}  // namespace bpftime::target

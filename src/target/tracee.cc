#include "target/tracee.h"

#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "target/proc_files.h"

namespace bpftime::target {
namespace {

constexpr int kEventStop =
    128;  // PTRACE_EVENT_STOP; glibc's header has it only as an enumerator of some versions
constexpr int kSyscallStop = SIGTRAP | 0x80;  // with PTRACE_O_TRACESYSGOOD
constexpr size_t kExtendedStateBytesMax = 64u << 10;
constexpr unsigned kGetRseqConfiguration = 0x420f;

struct RseqConfiguration {
  uint64_t abi_pointer;
  uint32_t abi_size, signature, flags, pad;
};

bool yama_forbids() {
  auto text = read_proc_file("/proc/sys/kernel/yama/ptrace_scope");
  return text.ok() && !text->empty() && text->front() != '0';
}

Error seize_refused(pid_t pid, int code) {
  if (auto text = read_proc_file(proc_path(pid, "/status"))) {
    const auto status = parse_status(*text);
    if (status && status->tracer != 0) {
      // TracerPid names the tracing thread.
      auto tracer_text = read_proc_file(proc_path(static_cast<pid_t>(status->tracer), "/status"));
      const auto tracer = tracer_text.ok() ? parse_status(*tracer_text) : std::nullopt;
      const uint32_t tracer_pid = tracer ? tracer->tgid : status->tracer;
      return process_error(
          pid, EBUSY,
          "it is being debugged by process " + std::to_string(tracer_pid) + "; try again without it");
    }
  }
  if (code != EPERM && code != EACCES)
    return process_error(pid, code, std::string("ptrace: ") + std::strerror(code));
  std::string why =
      "ptrace is not permitted: it belongs to someone else, is setuid, or forbids it; try as its user or as "
      "root";
  if (yama_forbids()) why += "; Yama restricts ptrace here, see /proc/sys/kernel/yama/ptrace_scope";
  return process_error(pid, EPERM, why);
}

// Polls first without sleeping: a remote system call takes microseconds.
void pause_between_polls(int round) {
  if (round < 50) {
    ::sched_yield();
    return;
  }
  const int microseconds = std::min(1000, 20 * (round - 49));
  ::usleep(microseconds);
}

bool is_our_child(pid_t pid) {
  auto text = read_proc_file(proc_path(pid, "/status"));
  if (!text) return false;
  const auto status = parse_status(*text);
  return status && static_cast<pid_t>(status->parent) == ::getpid();
}

// Takes the end of `tid` off the queue, except for the leader of our own child: that exit status is for its real waiter.
void consume_end(pid_t pid, pid_t tid) {
  if (tid == pid && is_our_child(pid)) return;
  ::waitpid(tid, nullptr, WNOHANG | __WALL);
}

}  // namespace

Result<bool> seize_thread(pid_t pid, pid_t tid) {
  if (::ptrace(PTRACE_SEIZE, tid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC) == 0) return true;
  const int code = errno;
  if (code == ESRCH) return false;
  const auto state = thread_state(pid, tid);
  if (!state || *state == 'Z' || *state == 'X') return false;
  return seize_refused(pid, code);
}

bool interrupt_thread(pid_t tid) { return ::ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) == 0; }

StopEvent wait_for_stop(pid_t pid, pid_t tid, Deadline deadline) {
  for (int round = 0;; ++round) {
    siginfo_t info{};
    // WNOWAIT: look before taking, so that an exit can be left alone.
    const int result = ::waitid(P_PID, tid, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL);
    if (result != 0 && errno == ECHILD) return {StopEvent::Kind::kGone};
    if (result == 0 && info.si_pid == tid) {
      if (info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED) {
        consume_end(pid, tid);
        return {StopEvent::Kind::kGone};
      }
      int status = 0;
      if (::waitpid(tid, &status, WNOHANG | __WALL) != tid || !WIFSTOPPED(status)) continue;
      const int event = status >> 16;
      if (event == kEventStop) return {StopEvent::Kind::kTrap, WSTOPSIG(status)};
      if (event == PTRACE_EVENT_EXEC) return {StopEvent::Kind::kExec};
      if (WSTOPSIG(status) == kSyscallStop) return {StopEvent::Kind::kSyscall};
      return {StopEvent::Kind::kSignal, WSTOPSIG(status)};
    }
    // A leader that exits before its threads is a zombie nobody is told about until the last one ends.
    if (round % 16 == 15) {
      const auto state = thread_state(pid, tid);
      if (!state || *state == 'Z' || *state == 'X') return {StopEvent::Kind::kGone};
    }
    if (Clock::now() >= deadline) return {StopEvent::Kind::kTimeout};
    pause_between_polls(round);
  }
}

bool resume_thread(pid_t tid, bool to_syscall, int signal) {
  return ::ptrace(to_syscall ? PTRACE_SYSCALL : PTRACE_CONT, tid, nullptr, static_cast<long>(signal)) == 0;
}

StopEvent bring_to_trap(pid_t pid, pid_t tid, Deadline deadline) {
  for (;;) {
    const StopEvent event = wait_for_stop(pid, tid, deadline);
    if (event.kind != StopEvent::Kind::kSignal && event.kind != StopEvent::Kind::kSyscall) return event;
    // Any stop cancels a pending interrupt: ask again before going on.
    const int signal = event.kind == StopEvent::Kind::kSignal ? event.signal : 0;
    if (!interrupt_thread(tid) || !resume_thread(tid, false, signal)) return {StopEvent::Kind::kGone};
  }
}

namespace {
// Whether a signal waits for the thread that the kernel sent it for what it executed.
bool has_pending_fault(pid_t tid) {
  struct {  // struct ptrace_peeksiginfo_args; glibc and the kernel's headers do not go together
    uint64_t offset = 0;
    uint32_t flags = 0;  // the thread's own signals
    int32_t count = 8;   // faults are few, and few others are sent to a thread
  } asked;
  constexpr auto kPeekSignals = static_cast<__ptrace_request>(0x4209);  // PTRACE_PEEKSIGINFO
  siginfo_t waiting[8];
  const long count = ::ptrace(kPeekSignals, tid, &asked, waiting);
  return std::any_of(waiting, waiting + std::clamp(count, 0L, 8L), [](const siginfo_t& each) {
    const int number = each.si_signo;
    const bool fault = number == SIGTRAP || number == SIGILL || number == SIGSEGV || number == SIGBUS ||
                       number == SIGFPE || number == SIGSYS;
    return fault && each.si_code > 0;
  });
}
}  // namespace

StopEvent enter_fault_handlers(pid_t pid, pid_t tid, Deadline deadline) {
  constexpr int kFaultsMax = 8;  // one handler's own faults can only wait once it runs
  StopEvent event{StopEvent::Kind::kTrap, SIGTRAP};
  for (int i = 0; i < kFaultsMax && has_pending_fault(tid); ++i) {
    // No interrupt yet: the kernel would stop for that before it looks at signals.
    if (!resume_thread(tid, false, 0)) return {StopEvent::Kind::kGone};
    event = wait_for_stop(pid, tid, deadline);
    if (event.kind == StopEvent::Kind::kSignal || event.kind == StopEvent::Kind::kSyscall) {
      const int signal = event.kind == StopEvent::Kind::kSignal ? event.signal : 0;
      if (!interrupt_thread(tid) || !resume_thread(tid, false, signal)) return {StopEvent::Kind::kGone};
      event = bring_to_trap(pid, tid, deadline);
    }
    if (event.kind != StopEvent::Kind::kTrap) return event;
  }
  return event;
}

void detach_thread(pid_t tid) { ::ptrace(PTRACE_DETACH, tid, nullptr, nullptr); }

bool get_registers(pid_t tid, user_regs_struct& registers) {
  iovec vector{&registers, sizeof(registers)};
  return ::ptrace(PTRACE_GETREGSET, tid, reinterpret_cast<void*>(NT_PRSTATUS), &vector) == 0 &&
         vector.iov_len == sizeof(registers);  // shorter: a 32-bit process
}

bool set_registers(pid_t tid, const user_regs_struct& registers) {
  iovec vector{const_cast<user_regs_struct*>(&registers), sizeof(registers)};
  return ::ptrace(PTRACE_SETREGSET, tid, reinterpret_cast<void*>(NT_PRSTATUS), &vector) == 0;
}

std::vector<uint8_t> get_extended_state(pid_t tid) {
  std::vector<uint8_t> state(kExtendedStateBytesMax);
  iovec vector{state.data(), state.size()};
  if (::ptrace(PTRACE_GETREGSET, tid, reinterpret_cast<void*>(NT_X86_XSTATE), &vector) != 0) return {};
  state.resize(vector.iov_len);
  return state;
}

bool set_extended_state(pid_t tid, const std::vector<uint8_t>& state) {
  iovec vector{const_cast<uint8_t*>(state.data()), state.size()};
  return ::ptrace(PTRACE_SETREGSET, tid, reinterpret_cast<void*>(NT_X86_XSTATE), &vector) == 0;
}

bool get_signal_mask(pid_t tid, uint64_t& mask) {
  return ::ptrace(PTRACE_GETSIGMASK, tid, reinterpret_cast<void*>(sizeof(mask)), &mask) == 0;
}

bool set_signal_mask(pid_t tid, uint64_t mask) {
  return ::ptrace(PTRACE_SETSIGMASK, tid, reinterpret_cast<void*>(sizeof(mask)), &mask) == 0;
}

bool undo_spurious_eintr(user_regs_struct& registers) {
  if (static_cast<int64_t>(registers.rax) != -EINTR) return false;
  switch (static_cast<int64_t>(registers.orig_rax)) {
    // Calls that return EINTR for any interruption although nothing was done yet, so that doing them again is right.
    // A relative timeout starts anew; that is the price, and smaller than an error the program may not expect.
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_rt_sigtimedwait:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
    case SYS_io_uring_enter:
    case SYS_recvfrom:  // with SO_RCVTIMEO
    case SYS_recvmsg:
    case SYS_accept:
    case SYS_accept4:
      // -ERESTARTNOHAND: the kernel restarts the call unless a handler runs, then it is EINTR after all.
      registers.rax = static_cast<uint64_t>(kRestartNoHandler);
      return true;
    default:
      return false;
  }
}

void abort_restartable_sequence(pid_t tid, int memory_fd, user_regs_struct& registers) {
  RseqConfiguration configuration{};
  if (::ptrace(static_cast<__ptrace_request>(kGetRseqConfiguration), tid,
               reinterpret_cast<void*>(sizeof(configuration)), &configuration) <= 0 ||
      configuration.abi_pointer == 0) {
    return;
  }
  // struct rseq: cpu_id_start, cpu_id, rseq_cs at 8. struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
  const auto read = [&](uint64_t address, void* into, size_t size) {
    return ::pread(memory_fd, into, size, static_cast<off_t>(address)) == static_cast<ssize_t>(size);
  };
  uint64_t section = 0;
  struct {
    uint32_t version, flags;
    uint64_t start, length, abort;
  } descriptor{};
  if (!read(configuration.abi_pointer + 8, &section, sizeof(section)) || section == 0) return;
  if (!read(section, &descriptor, sizeof(descriptor))) return;
  if (registers.rip - descriptor.start < descriptor.length) registers.rip = descriptor.abort;
}

}  // namespace bpftime::target

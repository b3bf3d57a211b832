#include "target/stopped.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/memfd.h"
#include "target/memory.h"
#include "target/proc_files.h"
#include "target/stopped_state.h"

namespace bpftime::target {
namespace {

constexpr auto kStopTimeout = std::chrono::seconds(5);
// How long the others wait for a thread in uninterruptible sleep before all are let go for a while.
constexpr auto kUninterruptiblePatience = std::chrono::milliseconds(100);
constexpr auto kCallTimeout = std::chrono::seconds(5);
constexpr uint64_t kMemoryBytesMax = 256u << 20;

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

// Waits until `tid` is in PTRACE_EVENT_STOP. `stuck`: it sleeps uninterruptibly and did not stop within our patience.
StopEvent wait_for_held(pid_t pid, pid_t tid, Deadline deadline, bool& stuck) {
  for (;;) {
    const Deadline step = std::min(deadline, Clock::now() + kUninterruptiblePatience);
    const StopEvent event = bring_to_trap(pid, tid, step);
    if (event.kind == StopEvent::Kind::kTrap && event.signal == SIGTRAP)
      return enter_fault_handlers(pid, tid, deadline);
    if (event.kind != StopEvent::Kind::kTimeout) return event;
    stuck = thread_state(pid, tid).value_or('X') == 'D';
    if (stuck || Clock::now() >= deadline) return event;
  }
}

}  // namespace

// --- stopping and releasing ---------------------------------------------------------------------------------------

// Notes a thread that has stopped; false: it has exited since.
Result<bool> StoppedProcess::State::take(pid_t tid, const StopEvent& event) {
  HeldThread held{tid, {}, event.signal != SIGTRAP};
  if (!get_registers(tid, held.registers)) {
    if (!thread_state(pid, tid)) return false;
    return process_error(pid, ENOTSUP, "it is a 32-bit process");
  }
  if (undo_spurious_eintr(held.registers)) set_registers(tid, held.registers);
  threads.push_back(held);
  return true;
}

// One attempt. Threads that are created meanwhile are found by looking again: a stopped thread creates none.
Result<void> StoppedProcess::State::stop_all(Deadline deadline, bool& try_again) {
  try_again = false;
  std::set<pid_t> known;
  for (;;) {
    auto tasks = numeric_entries(proc_path(pid, "/task"));
    if (!tasks) return process_error(pid, ESRCH, "it has exited");
    std::vector<pid_t> fresh;
    for (const pid_t tid : *tasks) {
      if (!known.insert(tid).second) continue;
      auto seized = seize_thread(pid, tid);
      if (!seized) return seized.error();
      if (*seized && interrupt_thread(tid)) fresh.push_back(tid);
    }
    if (fresh.empty()) break;
    for (const pid_t tid : fresh) {
      bool stuck = false;
      const StopEvent event = wait_for_held(pid, tid, deadline, stuck);
      if (event.kind == StopEvent::Kind::kGone) continue;
      if (event.kind == StopEvent::Kind::kExec) {
        try_again = true;
        return process_error(pid, EAGAIN, "it is replacing its program by exec; try again");
      }
      if (event.kind == StopEvent::Kind::kTimeout) {
        try_again = stuck;
        return process_error(
            pid, EAGAIN,
            "thread " + std::to_string(tid) +
                (stuck ? " is in an uninterruptible wait (disk, or vfork until its child executes a program)"
                       : " did not stop in time") +
                "; try again");
      }
      if (auto taken = take(tid, event); !taken) return taken.error();
    }
  }
  if (threads.empty()) return process_error(pid, ESRCH, "it has exited");
  memory = Fd(::open(proc_path(pid, "/mem").c_str(), O_RDWR | O_CLOEXEC));
  if (!memory) return Error::from_errno("process " + std::to_string(pid) + ": open its memory");
  return {};
}

void StoppedProcess::State::release() {
  close_socket();
  borrowed.reset();
  for (const HeldThread& thread : threads) detach_thread(thread.tid);
  threads.clear();
  memory.reset();
}

Result<StoppedProcess> StoppedProcess::stop(const Process& process) {
  if (process.pid() == ::getpid())
    return process_error(process.pid(), EINVAL, "a process cannot stop itself");
  const Deadline deadline = Clock::now() + kStopTimeout;
  for (;;) {
    auto state = std::make_unique<State>();
    state->pid = process.pid();
    if (process.pidfd() >= 0) state->pidfd = Fd(::fcntl(process.pidfd(), F_DUPFD_CLOEXEC, 0));
    bool try_again = false;
    Result<void> stopped;
    state->tracer.run([&] { stopped = state->stop_all(deadline, try_again); });
    // The pid was a name until now; the pidfd tells whether it named the same process throughout.
    if (stopped && !process.alive()) return process_error(process.pid(), ESRCH, "it has exited");
    if (stopped) return StoppedProcess(std::move(state));
    if (!try_again || Clock::now() >= deadline) return stopped.error();
    state.reset();  // lets every thread go, also those that never stopped
    ::usleep(10'000);
  }
}

// The first that stops, the main thread before the others.
Result<void> StoppedProcess::State::stop_any(Deadline deadline) {
  auto tasks = numeric_entries(proc_path(pid, "/task"));
  if (!tasks) return process_error(pid, ESRCH, "it has exited");
  std::stable_partition(tasks->begin(), tasks->end(), [this](pid_t tid) { return tid == pid; });
  Error why = process_error(pid, EAGAIN, "no thread of it could be stopped; try again");
  for (const pid_t tid : *tasks) {
    const auto thread = thread_state(pid, tid);
    if (!thread || *thread == 'D' || *thread == 'Z' || *thread == 'X') continue;
    auto seized = seize_thread(pid, tid);
    if (!seized) return seized.error();
    if (!*seized || !interrupt_thread(tid)) continue;
    bool stuck = false;
    const StopEvent event = wait_for_held(pid, tid, deadline, stuck);
    if (event.kind == StopEvent::Kind::kExec)
      return process_error(pid, EAGAIN, "it is replacing its program by exec; try again");
    // One that could not be stopped stays seized until the tracer thread ends, which detaches it.
    if (event.kind != StopEvent::Kind::kTrap) continue;
    auto taken = take(tid, event);
    if (!taken) return taken.error();
    if (*taken) return {};
  }
  return why;
}

bool StoppedProcess::still_runs(const ProgramMark& mark) const {
  decltype(mark.bytes) now;
  return read_memory(state_->memory, mark.address, now.data(), now.size()) && now == mark.bytes;
}

Result<StoppedProcess> StoppedProcess::stop_one(const Process& process, const ProgramMark& program,
                                                CallCode& code) {
  if (process.pid() == ::getpid())
    return process_error(process.pid(), EINVAL, "a process cannot stop itself");
  auto state = std::make_unique<State>();
  state->pid = process.pid();
  state->alone = true;
  if (process.pidfd() >= 0) state->pidfd = Fd(::fcntl(process.pidfd(), F_DUPFD_CLOEXEC, 0));
  // All that takes long comes before anything stands still.
  const auto open_memory = [&] {
    state->memory = Fd(::open(proc_path(state->pid, "/mem").c_str(), O_RDWR | O_CLOEXEC));
    return state->memory.valid();
  };
  if (!open_memory()) return Error::from_errno("process " + std::to_string(state->pid) + ": open its memory");
  auto regions = process.regions();
  if (!regions) return regions.error();
  state->regions = std::move(*regions);
  if (!still_there(state->memory, code)) code = find_gadgets(state->memory, state->regions);
  state->code = code;
  Result<void> stopped;
  state->tracer.run([&] { stopped = state->stop_any(Clock::now() + kStopTimeout); });
  if (!stopped) return stopped.error();
  if (!process.alive()) return process_error(process.pid(), ESRCH, "it has exited");
  // The memory opened above is that of the program before, should there be another now; so are the places in its code.
  if (!open_memory()) return Error::from_errno("process " + std::to_string(state->pid) + ": open its memory");
  StoppedProcess one(std::move(state));
  if (!one.still_runs(program))
    return process_error(process.pid(), EAGAIN, "it has replaced its program by exec; try again");
  return one;
}

Result<StoppedProcess> StoppedProcess::from_outside(const Process& process) {
  auto state = std::make_unique<State>();
  state->pid = process.pid();
  state->nobody = true;
  state->memory = Fd(::open(proc_path(state->pid, "/mem").c_str(), O_RDWR | O_CLOEXEC));
  if (!state->memory) return Error::from_errno("process " + std::to_string(state->pid) + ": open its memory");
  if (!process.alive()) return process_error(process.pid(), ESRCH, "it has exited");
  return StoppedProcess(std::move(state));
}

namespace {
// MEMBARRIER_CMD_…
constexpr int kGlobalExpedited = 1 << 1;
constexpr uint64_t kRegisterGlobalExpedited = 1 << 2, kSyncCore = 1 << 5, kRegisterSyncCore = 1 << 6;

// Whether an interrupt ends with iret, which serialises. Processors with FRED end it otherwise.
bool interrupts_serialize() {
  static const bool result = [] {
    auto text = read_proc_file("/proc/cpuinfo");
    return text.ok() && text->find(" fred ") == std::string::npos &&
           text->find(" fred\n") == std::string::npos;
  }();
  return result;
}
}  // namespace

// Of the two registrations the first has our own barrier interrupt every processor that runs a thread of the process: what
// it runs next, in user space, it fetches after the iret. The second has the kernel serialise a processor that comes back
// to the process from a kernel thread, without a change of address space in between; all others come through such a change,
// which serialises too.
Result<bool> StoppedProcess::allow_outside_barriers() {
  if (!interrupts_serialize()) return false;
  for (const uint64_t command : {kRegisterSyncCore, kRegisterGlobalExpedited}) {
    const uint64_t arguments[] = {command, 0, 0};
    auto done = system_call(SYS_membarrier, arguments);
    if (!done) return done.error();
    if (*done < 0) return false;
  }
  return true;
}

Result<void> StoppedProcess::synchronize_cores() {
  if (state_->nobody) {
    if (::syscall(SYS_membarrier, kGlobalExpedited, 0, 0) != 0) return Error::from_errno("membarrier");
    return {};
  }
  Result<void> result;
  state_->tracer.run([&] {
    const auto barrier = [&](uint64_t command) {
      const uint64_t arguments[] = {command, 0, 0};
      return state_->checked_call("membarrier", SYS_membarrier, arguments);
    };
    auto done = barrier(kSyncCore);
    if (!done && done.error().code == EPERM) {  // not registered yet: once per process
      if (auto registered = barrier(kRegisterSyncCore); !registered) {
        result = registered.error();
        return;
      }
      done = barrier(kSyncCore);
    }
    if (!done) result = done.error();
  });
  return result;
}

StoppedProcess::StoppedProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}
StoppedProcess::StoppedProcess(StoppedProcess&&) noexcept = default;
StoppedProcess& StoppedProcess::operator=(StoppedProcess&&) noexcept = default;
StoppedProcess::~StoppedProcess() = default;

// --- threads ------------------------------------------------------------------------------------------------------

const HeldThread* StoppedProcess::State::find(pid_t tid) const {
  const auto found =
      std::find_if(threads.begin(), threads.end(), [tid](const HeldThread& t) { return t.tid == tid; });
  return found == threads.end() ? nullptr : &*found;
}

std::vector<StoppedProcess::Thread> StoppedProcess::threads() const {
  std::vector<Thread> threads;
  for (const HeldThread& held : state_->threads) {
    threads.push_back({held.tid, held.registers.rip, held.registers.rsp, held.registers.fs_base});
  }
  return threads;
}

std::vector<user_regs_struct> StoppedProcess::registers() const {
  std::vector<user_regs_struct> out;
  for (const HeldThread& held : state_->threads) out.push_back(held.registers);
  return out;
}

Result<void> StoppedProcess::set_pc(pid_t tid, uint64_t pc) {
  return change_registers(tid, [pc](user_regs_struct& registers) { registers.rip = pc; });
}

Result<void> StoppedProcess::change_registers(pid_t tid,
                                              const std::function<void(user_regs_struct&)>& change) {
  Result<void> result;
  state_->tracer.run([&] {
    auto* held = const_cast<HeldThread*>(state_->find(tid));
    if (held == nullptr) {
      result = process_error(state_->pid, ESRCH, "no stopped thread " + std::to_string(tid));
      return;
    }
    // A borrowed thread is not where it seems to be: first back to itself.
    if (state_->borrowed && state_->borrowed->tid() == tid) {
      state_->close_socket();
      state_->borrowed.reset();
      get_registers(tid, held->registers);
    }
    user_regs_struct registers = held->registers;
    change(registers);
    if (!set_registers(tid, registers)) {
      result = process_error(state_->pid, ESRCH, "thread " + std::to_string(tid) + " has exited");
      return;
    }
    held->registers = registers;
  });
  return result;
}

// The main thread by preference; one without seccomp filter before one with; and one outside a system call with a remaining
// timeout before one inside, because only our death could cost that one its timeout.
Result<BorrowedThread*> StoppedProcess::State::borrow() {
  if (borrowed) return borrowed.get();
  if (regions.empty()) {
    auto text = read_proc_file(proc_path(pid, "/maps"));
    if (!text) return process_error(pid, ESRCH, "its mappings cannot be read");
    regions = parse_maps(*text);
  }
  std::vector<std::pair<int, const HeldThread*>> candidates;
  for (const HeldThread& thread : threads) {
    int cost = thread.tid == pid ? 0 : 1;
    if (static_cast<int64_t>(thread.registers.rax) == kRestartBlock) cost += 2;
    if (thread_seccomp_mode(pid, thread.tid) != 0) cost += 4;
    candidates.emplace_back(cost, &thread);
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  constexpr size_t kTriesMax = 8;
  std::unique_ptr<BorrowedThread> frameless;
  Error why = process_error(pid, ESRCH, "it has exited");
  for (size_t i = 0; i < candidates.size() && i < kTriesMax; ++i) {
    const HeldThread& thread = *candidates[i].second;
    auto lent = BorrowedThread::lent(pid, thread.tid, thread.registers, memory, regions,
                                     alone ? Others::kRun : Others::kHeld, &code);
    if (!lent) {
      if (i == 0) why = lent.error();
      continue;
    }
    if ((*lent)->framed()) {
      borrowed = std::move(*lent);
      return borrowed.get();
    }
    if (!frameless) frameless = std::move(*lent);
  }
  if (!frameless) return why;
  borrowed = std::move(frameless);
  return borrowed.get();
}

Result<int64_t> StoppedProcess::State::system_call(long number, std::span<const uint64_t> arguments) {
  auto thread = borrow();
  if (!thread) return thread.error();
  return (*thread)->system_call(number, arguments);
}

Result<int64_t> StoppedProcess::State::checked_call(const std::string& what, long number,
                                                    std::span<const uint64_t> arguments) {
  auto result = system_call(number, arguments);
  if (!result || *result >= 0 || *result < -4095) return result;
  const int code = static_cast<int>(-*result);
  return process_error(pid, code, what + ": " + std::strerror(code));
}

Result<int64_t> StoppedProcess::system_call(long number, std::span<const uint64_t> arguments) {
  Result<int64_t> result = int64_t{0};
  state_->tracer.run([&] { result = state_->system_call(number, arguments); });
  return result;
}

Result<int64_t> StoppedProcess::call(uint64_t function, std::span<const uint64_t> arguments) {
  Result<int64_t> result = int64_t{0};
  state_->tracer.run([&] {
    auto thread = state_->borrow();
    if (!thread) {
      result = thread.error();
      return;
    }
    result = (*thread)->call(function, arguments, 0, Clock::now() + kCallTimeout);
    if (!result) {  // faulted or still running: only putting the thread back makes it usable again
      const pid_t tid = (*thread)->tid();
      state_->borrowed.reset();
      state_->close_socket();
      if (auto* held = const_cast<HeldThread*>(state_->find(tid))) get_registers(tid, held->registers);
    }
  });
  return result;
}

// --- memory -------------------------------------------------------------------------------------------------------

Result<std::vector<uint8_t>> StoppedProcess::read(uint64_t address, uint64_t size) const {
  if (size > kMemoryBytesMax) return process_error(state_->pid, E2BIG, "read of more than 256 MiB");
  std::vector<uint8_t> bytes(size);
  if (!read_memory(state_->memory, address, bytes.data(), size)) {
    return process_error(state_->pid, EFAULT, "memory at " + hex(address) + " is not readable");
  }
  return bytes;
}

Result<void> StoppedProcess::write(uint64_t address, Bytes bytes) {
  if (!write_memory(state_->memory, address, bytes.data(), bytes.size())) {
    return process_error(state_->pid, EFAULT, "memory at " + hex(address) + " is not writable");
  }
  return {};
}

Result<void> StoppedProcess::map(uint64_t address, uint64_t size, int protection, int flags, int fd,
                                 uint64_t offset) {
  const MapRequest request{address, size, protection, flags, fd, offset};
  return map_all(std::span(&request, 1));
}

Result<void> StoppedProcess::map_all(std::span<const MapRequest> requests) {
  Result<void> result;
  state_->tracer.run([&] {
    size_t done = 0;
    for (const MapRequest& request : requests) {
      int64_t descriptor = -1;
      int flags = (request.flags & MAP_FIXED) ? request.flags : request.flags | MAP_FIXED_NOREPLACE;
      if (request.fd >= 0) {
        auto sent = state_->send_descriptor(request.fd);
        if (!sent) {
          result = sent.error();
          break;
        }
        descriptor = *sent;
      } else {
        flags |= MAP_ANONYMOUS;
      }
      const uint64_t arguments[] = {request.address,
                                    request.size,
                                    static_cast<uint64_t>(request.protection),
                                    static_cast<uint64_t>(flags),
                                    static_cast<uint64_t>(descriptor),
                                    request.offset};
      auto mapped = state_->checked_call("map " + hex(request.address), SYS_mmap, arguments);
      if (descriptor >= 0) {
        const uint64_t close_arguments[] = {static_cast<uint64_t>(descriptor)};
        (void)state_->system_call(SYS_close, close_arguments);
      }
      if (!mapped) {
        result = mapped.error();
        break;
      }
      ++done;
    }
    if (result) return;
    for (size_t i = 0; i < done; ++i) {
      if (requests[i].flags & MAP_FIXED) continue;  // there was something before: the address must stay valid
      const uint64_t arguments[] = {requests[i].address, requests[i].size};
      (void)state_->system_call(SYS_munmap, arguments);
    }
  });
  return result;
}

Result<void> StoppedProcess::unmap(uint64_t address, uint64_t size) {
  Result<int64_t> result = int64_t{0};
  const uint64_t arguments[] = {address, size};
  state_->tracer.run([&] { result = state_->checked_call("unmap " + hex(address), SYS_munmap, arguments); });
  if (!result) return result.error();
  return {};
}

}  // namespace bpftime::target

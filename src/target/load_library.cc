#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "symbols/symbols.h"
#include "symbols/unwind.h"
#include "target/proc_files.h"
#include "target/safe_point.h"
#include "target/stopped_state.h"

namespace bpftime::target {
namespace {

constexpr auto kLoadTimeout = std::chrono::seconds(10);
constexpr auto kErrorTextTimeout = std::chrono::seconds(2);
constexpr size_t kThreadsTriedMax = 16;
// Stack for dlopen and the library's constructors; its lowest page holds the path.
constexpr uint64_t kStackBytes = 512u << 10;
constexpr size_t kPathBytesMax = 4096;
constexpr size_t kErrorTextBytesMax = 512;

struct DlFunctions {
  uint64_t open = 0, error = 0;
  uint64_t errno_location = 0;
  // From a thread's errno to its pointer to what dlerror will say; 0: unknown.
  int64_t error_from_errno = 0;
};

// dlopen and dlerror of the target's libc (both in libc.so.6 since glibc 2.34).
Result<DlFunctions> find_dl_functions(const Process& process, const std::vector<MappedRegion>& regions) {
  for (const MappedRegion& region : regions) {
    const std::string name = region.path.substr(region.path.rfind('/') + 1);
    const bool libc =
        name.starts_with("libc.so.6") || name.starts_with("libc-2") || name.starts_with("libdl");
    if (!region.executable || !libc) continue;
    auto file = process.open_mapped_file(region);
    if (!file) return file.error();
    auto elf = symbols::ElfFile::from_fd(file->get(), region.path);
    if (!elf) return elf.error();
    const auto open = elf->find_symbol("dlopen"), error = elf->find_symbol("dlerror");
    const auto base = elf->address_of_offset(region.offset);
    const auto errno_location = elf->find_symbol("__errno_location");
    if (!open || !error || !errno_location || !base) continue;
    const auto error_number = elf->find_thread_local("errno");
    const auto error_text = elf->find_thread_local("__libc_dlerror_result");
    const auto at = [&](const symbols::Symbol& symbol) { return region.start + symbol.address - *base; };
    return DlFunctions{at(*open), at(*error), at(*errno_location),
                       error_number && error_text ? static_cast<int64_t>(*error_text - *error_number) : 0};
  }
  return process_error(
      process.pid(), EOPNOTSUPP,
      "no glibc with dlopen in it (static, musl, or older than 2.34); a library cannot be loaded");
}

// Whether `path` is the same file for the target as for us.
bool same_file_in_target(pid_t pid, const std::string& path) {
  struct stat ours, theirs;
  return ::stat(path.c_str(), &ours) == 0 && ::stat(proc_path(pid, "/root" + path).c_str(), &theirs) == 0 &&
         ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev;
}

}  // namespace

// What dlopen changes of the thread that calls it, and that its own code may be about to read.
class ThreadsErrors {
 public:
  // Keeps errno, and what the next dlerror() is to say: emptied, or dlopen would free the string the thread may hold.
  Result<void> keep(BorrowedThread& thread, const Fd& memory, const DlFunctions& functions,
                    uint64_t stack_top) {
    auto location = thread.call(functions.errno_location, {}, stack_top, Clock::now() + kLoadTimeout);
    if (!location) return location.error();
    const auto errno_at = static_cast<uint64_t>(*location);
    if (!read_memory(memory, errno_at, &errno_, sizeof(errno_))) return {};
    errno_at_ = errno_at;
    if (functions.error_from_errno == 0) return {};
    const uint64_t text_at = errno_at + static_cast<uint64_t>(functions.error_from_errno);
    const uint64_t nothing = 0;
    if (!read_memory(memory, text_at, &text_, sizeof(text_)) || text_ == 0) return {};
    if (write_memory(memory, text_at, &nothing, sizeof(nothing))) text_at_ = text_at;
    return {};
  }
  void put_back(const Fd& memory) const {
    if (errno_at_ != 0) write_memory(memory, errno_at_, &errno_, sizeof(errno_));
    if (text_at_ != 0) write_memory(memory, text_at_, &text_, sizeof(text_));
  }

 private:
  uint64_t errno_at_ = 0, text_at_ = 0, text_ = 0;
  int32_t errno_ = 0;
};

// One loading; a class because it is the friend of StoppedProcess.
class LibraryLoader {
 public:
  LibraryLoader(const Process& process, const ProgramMark& program, std::string path, DlFunctions functions,
                uint64_t near)
      : process_(process), program_(program), path_(std::move(path)), functions_(functions), near_(near) {}

  // False: no thread was at a safe point; why() tells.
  Result<bool> attempt(symbols::Unwinder& unwinder);
  const std::string& why() const { return why_; }
  uint64_t load_address() const { return load_address_; }

 private:
  const HeldThread* choose(StoppedProcess::State& state, symbols::Unwinder& unwinder);
  Result<void> load(StoppedProcess::State& state, const HeldThread& thread);
  Result<uint64_t> open_in_target(StoppedProcess::State& state, uint64_t arena);
  Result<uint64_t> call_dlopen(StoppedProcess::State& state, uint64_t arena, const std::string& path);

  const Process& process_;
  ProgramMark program_;  // whose functions these are
  std::string path_;
  DlFunctions functions_;
  uint64_t near_;
  std::string why_;
  uint64_t load_address_ = 0;
  bool abandoned_ = false;
};

const HeldThread* LibraryLoader::choose(StoppedProcess::State& state, symbols::Unwinder& unwinder) {
  // The main thread first (it is first in the list).
  const HeldThread* chosen = nullptr;
  const bool all_needed =
      std::any_of(state.threads.begin(), state.threads.end(), [](const auto& t) { return t.in_group_stop; });
  for (size_t i = 0; i < state.threads.size() && (all_needed || i < kThreadsTriedMax); ++i) {
    const HeldThread& thread = state.threads[i];
    const std::string why = why_not_safe(unwinder.backtrace(thread.tid), thread.registers);
    if (why.empty() && chosen == nullptr) chosen = &thread;
    if (why.empty() && !all_needed) return chosen;
    if (!why.empty()) {
      why_ = "thread " + std::to_string(thread.tid) + " " + why;
      // In a process stopped by SIGSTOP the others would keep their locks for as long as we wait.
      if (all_needed) return nullptr;
    }
  }
  return chosen;
}

Result<uint64_t> LibraryLoader::call_dlopen(StoppedProcess::State& state, uint64_t arena,
                                            const std::string& path) {
  if (path.size() + 1 > kPathBytesMax) return process_error(state.pid, ENAMETOOLONG, path);
  if (!write_memory(state.memory, arena, path.c_str(), path.size() + 1)) {
    return process_error(state.pid, EFAULT, "the path of the library cannot be written");
  }
  const uint64_t arguments[] = {arena, RTLD_NOW};
  auto handle = state.borrowed->call(functions_.open, arguments, arena + kStackBytes,
                                     Clock::now() + kLoadTimeout, near_);
  if (!handle) {
    if (handle.error().code == ETIMEDOUT) {
      state.borrowed->abandon();
      abandoned_ = true;
      return process_error(state.pid, ETIMEDOUT,
                           "load " + path + ": dlopen did not return within 10 s; it may still finish");
    }
    return handle.error();
  }
  if (*handle != 0) return static_cast<uint64_t>(*handle);
  std::string text = "unknown reason";
  auto message =
      state.borrowed->call(functions_.error, {}, arena + kStackBytes, Clock::now() + kErrorTextTimeout);
  if (message && *message != 0) {
    char buffer[kErrorTextBytesMax + 1] = {};
    // Byte by byte from the front: the string may end just before unmapped memory.
    for (size_t i = 0; i < kErrorTextBytesMax; ++i) {
      if (!read_memory(state.memory, static_cast<uint64_t>(*message) + i, buffer + i, 1) || buffer[i] == 0)
        break;
    }
    text = buffer;
  }
  return process_error(state.pid, ENOEXEC, "load " + path_ + ": " + text);
}

Result<uint64_t> LibraryLoader::open_in_target(StoppedProcess::State& state, uint64_t arena) {
  if (same_file_in_target(state.pid, path_)) {
    auto handle = call_dlopen(state, arena, path_);
    if (handle || handle.error().code != ENOEXEC) return handle;
  }
  Fd file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return Error::from_errno("load " + path_);
  auto descriptor = state.send_descriptor(file.get());
  if (!descriptor) return descriptor.error();
  auto handle = call_dlopen(state, arena, "/proc/self/fd/" + std::to_string(*descriptor));
  if (abandoned_) return handle;
  const uint64_t arguments[] = {static_cast<uint64_t>(*descriptor)};
  (void)state.system_call(SYS_close, arguments);
  return handle;
}

Result<void> LibraryLoader::load(StoppedProcess::State& state, const HeldThread& thread) {
  auto text = read_proc_file(proc_path(state.pid, "/maps"));
  if (!text) return text.error();
  auto lent = BorrowedThread::lent(state.pid, thread.tid, thread.registers, state.memory, parse_maps(*text),
                                   Others::kRun);
  if (!lent) return lent.error();
  state.borrowed = std::move(*lent);
  // A stack of our own: the thread's may be short.
  const uint64_t map_arguments[] = {
      0, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~uint64_t{0}, 0};
  auto arena = state.checked_call("map a stack for dlopen", SYS_mmap, map_arguments);
  if (!arena) return arena.error();
  // From here on only the borrowed thread is ours.
  std::erase_if(state.threads, [&](const HeldThread& other) {
    if (other.tid == state.borrowed->tid()) return false;
    detach_thread(other.tid);
    return true;
  });
  ThreadsErrors errors;
  auto kept =
      errors.keep(*state.borrowed, state.memory, functions_, static_cast<uint64_t>(*arena) + kStackBytes);
  if (!kept && kept.error().code == ETIMEDOUT) {
    state.borrowed->abandon();
    abandoned_ = true;
  }
  auto handle = kept ? open_in_target(state, static_cast<uint64_t>(*arena)) : Result<uint64_t>(kept.error());
  if (abandoned_) {
    state.threads.clear();
    state.target_socket = -1;
    return handle.error();
  }
  errors.put_back(state.memory);
  const uint64_t unmap_arguments[] = {static_cast<uint64_t>(*arena), kStackBytes};
  (void)state.system_call(SYS_munmap, unmap_arguments);
  if (!handle) return handle.error();
  // The handle is a struct link_map, whose first member is the load address (<link.h>).
  if (!read_memory(state.memory, *handle, &load_address_, sizeof(load_address_))) {
    return process_error(state.pid, EFAULT, "load " + path_ + ": dlopen gave a bad handle");
  }
  return {};
}

Result<bool> LibraryLoader::attempt(symbols::Unwinder& unwinder) {
  auto stopped = StoppedProcess::stop(process_);
  if (!stopped) return stopped.error();
  if (!stopped->still_runs(program_))
    return process_error(process_.pid(), EAGAIN, "it has replaced its program by exec; try again");
  StoppedProcess::State& state = *stopped->state_;
  Result<bool> result = false;
  state.tracer.run([&] {
    const HeldThread* thread = choose(state, unwinder);
    if (thread == nullptr) return;
    const HeldThread copy = *thread;
    auto loaded = load(state, copy);
    result = loaded ? Result<bool>(true) : Result<bool>(loaded.error());
  });
  return result;
}

Result<uint64_t> load_library(const Process& process, const std::string& library, const LoadWishes& wishes) {
  char resolved[PATH_MAX];
  if (::realpath(library.c_str(), resolved) == nullptr) return Error::from_errno("load " + library);
  // A program that does little but allocate is seldom elsewhere: look often.
  const Deadline deadline = Clock::now() + wishes.patience;
  const auto program = process.program();
  if (!program) return program.error();
  auto regions = process.regions();
  if (!regions) return regions.error();
  auto functions = find_dl_functions(process, *regions);
  if (!functions) return functions.error();
  LibraryLoader loader(process, *program, resolved, *functions, wishes.near);
  unsigned seed = static_cast<unsigned>(process.pid());
  for (;;) {
    // Prepared before the stop, to keep that short. A new one each time: mappings change.
    auto unwinder = symbols::Unwinder::attach(process.pid());
    if (!unwinder) return unwinder.error();
    auto done = loader.attempt(*unwinder);
    if (!done) return done.error();
    if (*done) return loader.load_address();
    if (Clock::now() >= deadline) {
      return process_error(process.pid(), EAGAIN,
                           "load " + library + ": no thread is where a library can be loaded: " +
                               loader.why() + "; try again");
    }
    ::usleep(200 + ::rand_r(&seed) % 2000);
  }
}

}  // namespace bpftime::target

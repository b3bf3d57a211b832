#include "target/safe_point.h"

#include <sys/syscall.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <string_view>

#include "target/tracee.h"

namespace bpftime::target {
namespace {

// In any module: an allocator may come from anywhere.
constexpr std::string_view kUnsafeAnywhere[] = {
    "malloc",         "free",          "calloc",    "realloc", "reallocarray", "memalign",
    "posix_memalign", "aligned_alloc", "valloc",    "pvalloc", "cfree",        "malloc_usable_size",
    "malloc_trim",    "mallinfo",      "mallinfo2", "mallopt", "malloc_stats", "malloc_info"};

// In libc.
// clang-format off
constexpr std::string_view kUnsafeInLibc[] = {
    "fork", "vfork", "Fork", "posix_spawn", "posix_spawnp", "daemon", "exit", "quick_exit", "on_exit",
    "pthread_create", "pthread_exit", "pthread_cancel", "pthread_detach", "pthread_key_create",
    "pthread_attr_setstack", "pthread_getattr_np", "pthread_setattr_default_np", "register_atfork",
    "unregister_atfork", "call_tls_dtors", "setuid", "setgid", "seteuid", "setegid", "setreuid", "setregid",
    "setgroups", "initgroups", "setresuid", "setresgid", "setlocale", "newlocale", "duplocale",
    "freelocale", "gettext", "dgettext", "dcgettext", "ngettext", "dngettext", "dcngettext", "textdomain",
    "bindtextdomain", "bind_textdomain_codeset"};
// clang-format on
constexpr std::string_view kUnsafePrefixesInLibc[] = {"dl", "int_", "cxa_", "run_", "nptl_", "tls_"};

// Where a thread waits that is not at work in an allocator: those of programs and of libraries have inner functions without
// names, often reached by tail calls, and leave them by other calls of libc only.
// clang-format off
constexpr std::string_view kWaitingInLibc[] = {
    "read", "readv", "recv", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4", "poll", "ppoll",
    "select", "pselect", "epoll_wait", "epoll_pwait", "epoll_pwait2", "wait", "wait3", "wait4", "waitpid",
    "waitid", "pause", "sigsuspend", "sigwait", "sigwaitinfo", "sigtimedwait", "sleep", "usleep",
    "nanosleep", "clock_nanosleep", "pthread_cond_wait", "pthread_cond_timedwait", "pthread_cond_clockwait",
    "sem_wait", "sem_timedwait", "sem_clockwait", "msgrcv", "semop", "semtimedop", "io_getevents"};
// clang-format on

// A function of libc has several names (fork, __fork, __libc_fork), of which a backtrace gives any: what they have in common.
std::string_view plain_name(std::string_view name) {
  for (const std::string_view prefix : {"_", "GI_", "_", "libc_"}) {
    while (name.starts_with(prefix)) name.remove_prefix(prefix.size());
  }
  return name;
}

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }
bool in_libc(const symbols::Frame& frame) {
  const auto name = base_name(frame.module);
  return name.starts_with("libc.so") || name.starts_with("libc-2");
}
bool in_loader(const symbols::Frame& frame) {
  const auto name = base_name(frame.module);
  return name.starts_with("ld-linux") || name.starts_with("ld-2");
}

// An allocator library's inner functions have no names once stripped, so all of it counts.
bool in_allocator(const symbols::Frame& frame) {
  const auto name = base_name(frame.module);
  for (const std::string_view allocator :
       {"libjemalloc", "libtcmalloc", "libmimalloc", "libhoard", "libsnmalloc"}) {
    if (name.starts_with(allocator)) return true;
  }
  return false;
}

bool is_unsafe_function(const symbols::Frame& frame) {
  const bool libc = in_libc(frame);
  const std::string_view function = libc ? plain_name(frame.function) : std::string_view(frame.function);
  const auto is_function = [&](std::string_view name) { return function == name; };
  if (std::any_of(std::begin(kUnsafeAnywhere), std::end(kUnsafeAnywhere), is_function)) return true;
  return libc && (std::any_of(std::begin(kUnsafeInLibc), std::end(kUnsafeInLibc), is_function) ||
                  std::any_of(std::begin(kUnsafePrefixesInLibc), std::end(kUnsafePrefixesInLibc),
                              [&](std::string_view prefix) { return function.starts_with(prefix); }));
}

// pthread_join waits in an internal function reached by a tail call, recognisable by its futex: the kernel's wake at a thread's
// end is not private to a process, while the allocator's and the loader's locks always are.
bool waits_for_a_thread(const user_regs_struct& registers) {
  constexpr uint64_t kFutexPrivate = 128;
  return registers.orig_rax == SYS_futex && is_restart_code(static_cast<int64_t>(registers.rax)) &&
         (registers.rsi & kFutexPrivate) == 0;
}

bool is_waiting_function(const symbols::Frame& frame) {
  const std::string_view function = plain_name(frame.function);
  return std::find(std::begin(kWaitingInLibc), std::end(kWaitingInLibc), function) !=
         std::end(kWaitingInLibc);
}

// `frames` begins where the thread runs, or where a signal handler interrupted it, and reaches to the outermost. The frames of
// libc at its top must lead back to a function with a name: inner functions of the allocator are nameless, and some
// (aligned_alloc's; free's, before 2.33) are reached by a tail call, so that no function with a name is on the stack.
std::string why_not_entered(std::span<const symbols::Frame> frames, bool for_a_thread) {
  const symbols::Frame* entry = nullptr;
  for (const symbols::Frame& frame : frames) {
    if (!in_libc(frame) || (frame.interrupted && entry != nullptr)) break;
    entry = &frame;
  }
  if (entry == &frames.back()) return "begins or ends";  // with libc's locks, and without its arena
  if (entry != nullptr && entry->function.empty() && !for_a_thread) return "is in an inner function of libc";
  const bool waits = for_a_thread || (entry != nullptr && is_waiting_function(*entry));
  const auto allocator = std::find_if(frames.begin(), frames.end(), [](const symbols::Frame& frame) {
    return frame.in_allocator && !in_libc(frame);
  });
  if (waits || allocator == frames.end()) return "";
  return "may be in the allocator that is in " + std::string(base_name(allocator->module));
}

}  // namespace

std::string why_not_safe(const symbols::Backtrace& backtrace, const user_regs_struct& registers) {
  const std::span<const symbols::Frame> frames(backtrace.frames);
  for (const symbols::Frame& frame : frames) {
    if (in_loader(frame)) return "is in the dynamic loader";
    if (in_allocator(frame)) return "is in the allocator " + std::string(base_name(frame.module));
    if (is_unsafe_function(frame)) return "is in " + frame.function;
  }
  if (!backtrace.complete)
    return "has a stack that cannot be followed to its end (" + backtrace.why_incomplete + ")";
  for (size_t i = 0; i < frames.size(); ++i) {
    if (i != 0 && !frames[i].interrupted) continue;
    const std::string why = why_not_entered(frames.subspan(i), i == 0 && waits_for_a_thread(registers));
    if (!why.empty()) return why;
  }
  return "";
}

}  // namespace bpftime::target

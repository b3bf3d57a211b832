#include "target/safe_point.h"

#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "target/tracee.h"

namespace bpftime::target {
namespace {

// In any module: an allocator may come from anywhere.
constexpr auto kUnsafeAnywhere = std::to_array<std::string_view>(
    {"malloc", "free", "calloc", "realloc", "reallocarray", "memalign", "posix_memalign", "aligned_alloc",
     "valloc", "pvalloc", "cfree", "malloc_usable_size", "malloc_trim", "mallinfo", "mallinfo2", "mallopt",
     "malloc_stats", "malloc_info"});

// In libc.
// In libc.
constexpr auto kUnsafeInLibc = std::to_array<std::string_view>({"fork",
                                                                "vfork",
                                                                "Fork",
                                                                "posix_spawn",
                                                                "posix_spawnp",
                                                                "daemon",
                                                                "exit",
                                                                "quick_exit",
                                                                "on_exit",
                                                                "pthread_create",
                                                                "pthread_exit",
                                                                "pthread_cancel",
                                                                "pthread_detach",
                                                                "pthread_key_create",
                                                                "pthread_attr_setstack",
                                                                "pthread_getattr_np",
                                                                "pthread_setattr_default_np",
                                                                "setuid",
                                                                "setgid",
                                                                "setgroups",
                                                                "setresuid",
                                                                "setresgid",
                                                                "setlocale",
                                                                "newlocale"});
constexpr auto kUnsafePrefixesInLibc =
    std::to_array<std::string_view>({"dl", "int_", "cxa_", "run_", "nptl_", "tls_"});

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
  if (std::any_of(kUnsafeAnywhere.begin(), kUnsafeAnywhere.end(), is_function)) return true;
  return libc && (std::any_of(kUnsafeInLibc.begin(), kUnsafeInLibc.end(), is_function) ||
                  std::any_of(kUnsafePrefixesInLibc.begin(), kUnsafePrefixesInLibc.end(),
                              [&](std::string_view prefix) { return function.starts_with(prefix); }));
}

// pthread_join waits in an internal function reached by a tail call, recognisable by its futex: the kernel's wake at a thread's
// end is not private to a process, while the allocator's and the loader's locks always are.
bool waits_for_a_thread(const user_regs_struct& registers) {
  constexpr uint64_t kFutexPrivate = 128;
  return registers.orig_rax == SYS_futex && is_restart_code(static_cast<int64_t>(registers.rax)) &&
         (registers.rsi & kFutexPrivate) == 0;
}

}  // namespace

std::string why_not_safe(const symbols::Backtrace& backtrace, const user_regs_struct& registers) {
  for (const symbols::Frame& frame : backtrace.frames) {
    if (in_loader(frame)) return "is in the dynamic loader";
    if (in_allocator(frame)) return "is in the allocator " + std::string(base_name(frame.module));
    if (is_unsafe_function(frame)) return "is in " + frame.function;
  }
  if (!backtrace.complete)
    return "has a stack that cannot be followed to its end (" + backtrace.why_incomplete + ")";
  // The frames of libc at the top of the stack must lead back to a function with a name: free() goes over into a nameless inner
  // function by a tail call and is not on the stack itself then.
  const symbols::Frame* entry = nullptr;
  for (const symbols::Frame& frame : backtrace.frames) {
    if (!in_libc(frame)) break;
    entry = &frame;
  }
  if (entry != nullptr && entry->function.empty() && !waits_for_a_thread(registers)) {
    return "is in an inner function of libc";
  }
  return "";
}

}  // namespace bpftime::target

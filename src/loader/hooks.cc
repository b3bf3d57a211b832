// The libc symbols the loader interposes. Each hook: not ours → the real function, as if we were not here.
// Rules: see real.h. Exported by loader.map; a test compares the two lists.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <exception>

#include "loader/calls.h"
#include "loader/connection.h"
#include "loader/objects.h"
#include "loader/readiness.h"
#include "loader/real.h"

// libc's headers declare these names with attributes and prototypes of their own, so the hooks have names of
// ours and get libc's through the assembler.

namespace bpftime::loader {
namespace {

// Runs `ours` as the loader's own code. nullopt also when it threw: no exception of ours passes through the
// host. (Only std::exception is caught: a cancelled thread's unwinding must go through.)
template <typename Function>
auto guarded(Function ours) -> decltype(ours()) {
  const Inside mark;
  try {
    return ours();
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

long finish(int64_t result) { return to_libc(static_cast<long>(result)); }

// Virtual files are told by path alone, so only absolute ones can be.
std::optional<int64_t> try_open(const char* path, int flags) {
  if (inside() || path == nullptr) return std::nullopt;
  return guarded([&] { return open_virtual_file(path, flags); });
}

// A vfork child (python's subprocess, posix_spawn actions) closes descriptors of its own table, but
// runs in its parent's memory: it must not take the parent's watches apart. It has another pid and ran
// no fork handler.
std::atomic<long> process_id{0};
bool owns_memory() { return raw_syscall(SYS_getpid) == process_id.load(std::memory_order_relaxed); }

void forget(int fd) {
  if (inside() || !any_object_seen() || !owns_memory()) return;
  (void)guarded([&]() -> std::optional<int> {
    readiness_forget_descriptor(fd);
    forget_descriptor(fd);
    return 0;
  });
}

void forget_everything() {
  if (inside() || !any_object_seen() || !owns_memory()) return;
  (void)guarded([&]() -> std::optional<int> {
    readiness_forget_all();
    forget_all_objects();
    return 0;
  });
}

bool hides(int fd) {
  return !inside() &&
         guarded([&]() -> std::optional<bool> { return is_connection_descriptor(fd); }).value_or(false);
}

std::optional<int64_t> try_mmap(size_t length, int protection, int flags, int fd, off_t offset) {
  if (fd < 0 || (flags & MAP_ANONYMOUS) != 0 || inside()) return std::nullopt;
  if ((flags & MAP_TYPE) == MAP_PRIVATE && !any_object_seen()) return std::nullopt;
  return guarded([&] { return before_mmap(length, protection, flags, fd, static_cast<uint64_t>(offset)); });
}

std::optional<int64_t> try_ioctl(int fd, unsigned long request, unsigned long argument) {
  constexpr unsigned long kPerfType = '$';
  if (((request >> 8) & 0xff) != kPerfType || inside()) return std::nullopt;
  return guarded([&] { return perf_ioctl_call(fd, request, argument); });
}

std::optional<int> try_epoll_ctl(int epfd, int operation, int fd, const struct epoll_event* event) {
  if (inside()) return std::nullopt;
  return guarded([&] { return epoll_ctl_call(epfd, operation, fd, event); });
}

struct timespec from_ms(int ms) {
  return {ms / 1000, (ms % 1000) * 1000000L};
}

std::optional<int> try_epoll_wait(int epfd, struct epoll_event* events, int capacity, int timeout_ms,
                                  const sigset_t* mask) {
  if (inside()) return std::nullopt;
  const struct timespec timeout = from_ms(timeout_ms);
  return guarded(
      [&] { return epoll_wait_call(epfd, events, capacity, timeout_ms < 0 ? nullptr : &timeout, mask); });
}

std::optional<int> try_poll(struct pollfd* fds, nfds_t count, const struct timespec* timeout,
                            const sigset_t* mask) {
  if (inside() || !any_object_seen()) return std::nullopt;
  return guarded([&] { return poll_call(fds, count, timeout, mask); });
}

// Locked memory is the kernel's; our maps do not count against it. A limit that cannot be raised must not
// stop a tool.
int forgive_memlock(int resource, int result) {
  if (result != 0 && resource == RLIMIT_MEMLOCK && errno == EPERM) return 0;
  return result;
}

// Costs nothing where it is 0 anyhow.
std::optional<int64_t> try_geteuid() {
  if (inside() || raw_syscall(SYS_geteuid) == 0) return std::nullopt;
  return guarded(
      []() -> std::optional<int64_t> { return pretends_root() ? std::optional<int64_t>(0) : std::nullopt; });
}

void before_fork() {
  const Inside mark;
  readiness_before_fork();
  objects_before_fork();
}
void after_fork_in_parent() {
  const Inside mark;
  objects_after_fork();
  readiness_after_fork();
}
void after_fork_in_child() {
  const Inside mark;
  objects_after_fork();
  readiness_after_fork();
  connection_after_fork_in_child();
  process_id = raw_syscall(SYS_getpid);
}

__attribute__((constructor)) void install() {
  process_id = raw_syscall(SYS_getpid);
  (void)::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

}  // namespace
}  // namespace bpftime::loader

using namespace bpftime::loader;  // NOLINT: hooks are at global scope

// Calls the real function, or the bare system call while the real one is being looked up.
#define REAL(name, type, fallback, ...)                                           \
  ([&]() {                                                                        \
    using Function = type;                                                        \
    static Function* cached;                                                      \
    Function* const found = real(#name, cached);                                  \
    using Answer = decltype(found(__VA_ARGS__));                                  \
    return found != nullptr ? found(__VA_ARGS__) : static_cast<Answer>(fallback); \
  }())

#define DECLARE(result, name, ...) \
  extern "C" __attribute__((visibility("default"))) result hook_##name(__VA_ARGS__) __asm__(#name)

// ---- syscall(2): libbpf's only door ----

DECLARE(long, syscall, long number, long a, long b, long c, long d, long e, long f);
long hook_syscall(long number, long a, long b, long c, long d, long e, long f) {
  std::optional<int64_t> answer;
  switch (inside() ? -1 : number) {
    case SYS_bpf:
      answer = guarded([&]() -> std::optional<int64_t> {
        return bpf_call(static_cast<uint32_t>(a), static_cast<uint64_t>(b), static_cast<uint32_t>(c));
      });
      if (!answer) answer = -ENOMEM;  // never the kernel's bpf(2): its objects are not ours
      break;
    case SYS_perf_event_open:
      answer = guarded([&] {
        return perf_event_open_call(static_cast<uint64_t>(a), static_cast<int32_t>(b),
                                    static_cast<int32_t>(c), static_cast<int32_t>(d),
                                    static_cast<uint64_t>(e));
      });
      break;
    case SYS_ioctl:
      answer = try_ioctl(static_cast<int>(a), static_cast<unsigned long>(b), static_cast<unsigned long>(c));
      break;
    case SYS_mmap:
      answer =
          try_mmap(static_cast<size_t>(b), static_cast<int>(c), static_cast<int>(d), static_cast<int>(e), f);
      break;
    case SYS_open:
      answer = try_open(reinterpret_cast<const char*>(a), static_cast<int>(b));
      break;
    case SYS_openat:
      answer = try_open(reinterpret_cast<const char*>(b), static_cast<int>(c));
      break;
    case SYS_close:
      if (hides(static_cast<int>(a))) return 0;
      forget(static_cast<int>(a));
      break;
    case SYS_dup2:
    case SYS_dup3:
      if (a != b) forget(static_cast<int>(b));
      break;
    case SYS_close_range:
      forget_everything();
      break;
    case SYS_epoll_create:
    case SYS_epoll_create1: {
      const long result = raw_syscall(number, a);
      if (result >= 0) forget(static_cast<int>(result));
      return to_libc(result);
    }
    case SYS_epoll_ctl:
      answer = try_epoll_ctl(static_cast<int>(a), static_cast<int>(b), static_cast<int>(c),
                             reinterpret_cast<const struct epoll_event*>(d));
      break;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
      answer = try_epoll_wait(static_cast<int>(a), reinterpret_cast<struct epoll_event*>(b),
                              static_cast<int>(c), static_cast<int>(d),
                              number == SYS_epoll_pwait ? reinterpret_cast<const sigset_t*>(e) : nullptr);
      break;
    case SYS_poll: {
      const struct timespec timeout = from_ms(static_cast<int>(c));
      answer = try_poll(reinterpret_cast<struct pollfd*>(a), static_cast<nfds_t>(b),
                        static_cast<int>(c) < 0 ? nullptr : &timeout, nullptr);
      break;
    }
    case SYS_ppoll:
      answer = try_poll(reinterpret_cast<struct pollfd*>(a), static_cast<nfds_t>(b),
                        reinterpret_cast<const struct timespec*>(c), reinterpret_cast<const sigset_t*>(d));
      break;
    case SYS_geteuid:
      answer = try_geteuid();
      break;
    case SYS_setrlimit:
    case SYS_prlimit64: {
      const long result = to_libc(raw_syscall(number, a, b, c, d, e, f));
      return forgive_memlock(static_cast<int>(number == SYS_setrlimit ? a : b), static_cast<int>(result));
    }
    default:
      break;
  }
  if (answer) return finish(*answer);
  return to_libc(raw_syscall(number, a, b, c, d, e, f));
}

// ---- descriptors and memory ----

DECLARE(int, ioctl, int fd, unsigned long request, unsigned long argument);
int hook_ioctl(int fd, unsigned long request, unsigned long argument) {
  if (const auto answer = try_ioctl(fd, request, argument)) return static_cast<int>(finish(*answer));
  return REAL(ioctl, int(int, unsigned long, unsigned long),
              to_libc(raw_syscall(SYS_ioctl, fd, static_cast<long>(request), static_cast<long>(argument))),
              fd, request, argument);
}

namespace {
void* mmap_or_ours(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  if (const auto answer = try_mmap(length, protection, flags, fd, offset)) {
    finish(*answer);
    return MAP_FAILED;
  }
  // The system call itself: mmap is no cancellation point, and the host's allocator may call this before
  // libc is ready.
  const long result = raw_syscall(SYS_mmap, reinterpret_cast<long>(address), static_cast<long>(length),
                                  protection, flags, fd, offset);
  return reinterpret_cast<void*>(to_libc(result));
}
}  // namespace

DECLARE(void*, mmap, void* address, size_t length, int protection, int flags, int fd, off_t offset);
void* hook_mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return mmap_or_ours(address, length, protection, flags, fd, offset);
}
DECLARE(void*, mmap64, void* address, size_t length, int protection, int flags, int fd, off_t offset);
void* hook_mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return mmap_or_ours(address, length, protection, flags, fd, offset);
}

DECLARE(int, close, int fd);
int hook_close(int fd) {
  if (hides(fd)) return 0;
  forget(fd);
  return REAL(close, int(int), to_libc(raw_syscall(SYS_close, fd)), fd);
}

DECLARE(int, dup2, int from, int to);
int hook_dup2(int from, int to) {
  if (from != to && fcntl(from, F_GETFD) >= 0) forget(to);
  return REAL(dup2, int(int, int), to_libc(raw_syscall(SYS_dup2, from, to)), from, to);
}

DECLARE(int, dup3, int from, int to, int flags);
int hook_dup3(int from, int to, int flags) {
  if (from != to && fcntl(from, F_GETFD) >= 0) forget(to);
  return REAL(dup3, int(int, int, int), to_libc(raw_syscall(SYS_dup3, from, to, flags)), from, to, flags);
}

DECLARE(int, close_range, unsigned first, unsigned last, int flags);
int hook_close_range(unsigned first, unsigned last, int flags) {
  forget_everything();
  return REAL(close_range, int(unsigned, unsigned, int),
              to_libc(raw_syscall(SYS_close_range, first, last, flags)), first, last, flags);
}

DECLARE(void, closefrom, int first);
void hook_closefrom(int first) {
  forget_everything();
  raw_syscall(SYS_close_range, first, ~0u, 0);
}

// ---- waiting ----

// A new set's number may be one whose set was closed behind our back.
DECLARE(int, epoll_create1, int flags);
int hook_epoll_create1(int flags) {
  const long result = raw_syscall(SYS_epoll_create1, flags);
  if (result >= 0) forget(static_cast<int>(result));
  return static_cast<int>(to_libc(result));
}

DECLARE(int, epoll_create, int size);
int hook_epoll_create(int size) {
  const long result = raw_syscall(SYS_epoll_create, size);
  if (result >= 0) forget(static_cast<int>(result));
  return static_cast<int>(to_libc(result));
}

DECLARE(int, epoll_ctl, int epfd, int operation, int fd, struct epoll_event* event);
int hook_epoll_ctl(int epfd, int operation, int fd, struct epoll_event* event) {
  if (const auto answer = try_epoll_ctl(epfd, operation, fd, event)) return static_cast<int>(finish(*answer));
  return static_cast<int>(
      to_libc(raw_syscall(SYS_epoll_ctl, epfd, operation, fd, reinterpret_cast<long>(event))));
}

DECLARE(int, epoll_wait, int epfd, struct epoll_event* events, int capacity, int timeout);
int hook_epoll_wait(int epfd, struct epoll_event* events, int capacity, int timeout) {
  if (const auto answer = try_epoll_wait(epfd, events, capacity, timeout, nullptr))
    return static_cast<int>(finish(*answer));
  return REAL(epoll_wait, int(int, struct epoll_event*, int, int),
              to_libc(raw_syscall(SYS_epoll_wait, epfd, reinterpret_cast<long>(events), capacity, timeout)),
              epfd, events, capacity, timeout);
}

DECLARE(int, epoll_pwait, int epfd, struct epoll_event* events, int capacity, int timeout,
        const sigset_t* mask);
int hook_epoll_pwait(int epfd, struct epoll_event* events, int capacity, int timeout, const sigset_t* mask) {
  if (const auto answer = try_epoll_wait(epfd, events, capacity, timeout, mask))
    return static_cast<int>(finish(*answer));
  return REAL(epoll_pwait, int(int, struct epoll_event*, int, int, const sigset_t*), -1, epfd, events,
              capacity, timeout, mask);
}

DECLARE(int, epoll_pwait2, int epfd, struct epoll_event* events, int capacity, const struct timespec* timeout,
        const sigset_t* mask);
int hook_epoll_pwait2(int epfd, struct epoll_event* events, int capacity, const struct timespec* timeout,
                      const sigset_t* mask) {
  if (!inside())
    if (const auto answer = guarded([&] { return epoll_wait_call(epfd, events, capacity, timeout, mask); }))
      return static_cast<int>(finish(*answer));
  return REAL(epoll_pwait2, int(int, struct epoll_event*, int, const struct timespec*, const sigset_t*),
              to_libc(raw_syscall(SYS_epoll_pwait2, epfd, reinterpret_cast<long>(events), capacity,
                                  reinterpret_cast<long>(timeout), reinterpret_cast<long>(mask), 8)),
              epfd, events, capacity, timeout, mask);
}

DECLARE(int, poll, struct pollfd* fds, nfds_t count, int timeout);
int hook_poll(struct pollfd* fds, nfds_t count, int timeout) {
  const struct timespec limit = from_ms(timeout);
  if (const auto answer = try_poll(fds, count, timeout < 0 ? nullptr : &limit, nullptr))
    return static_cast<int>(finish(*answer));
  return REAL(poll, int(struct pollfd*, nfds_t, int),
              to_libc(raw_syscall(SYS_poll, reinterpret_cast<long>(fds), static_cast<long>(count), timeout)),
              fds, count, timeout);
}

DECLARE(int, ppoll, struct pollfd* fds, nfds_t count, const struct timespec* timeout, const sigset_t* mask);
int hook_ppoll(struct pollfd* fds, nfds_t count, const struct timespec* timeout, const sigset_t* mask) {
  if (const auto answer = try_poll(fds, count, timeout, mask)) return static_cast<int>(finish(*answer));
  return REAL(ppoll, int(struct pollfd*, nfds_t, const struct timespec*, const sigset_t*), -1, fds, count,
              timeout, mask);
}

// The fortified names: the compiler knew the array's size.
DECLARE(int, __poll_chk, struct pollfd* fds, nfds_t count, int timeout, size_t size);
int hook___poll_chk(struct pollfd* fds, nfds_t count, int timeout, size_t size) {
  const struct timespec limit = from_ms(timeout);
  if (size / sizeof(*fds) >= count)
    if (const auto answer = try_poll(fds, count, timeout < 0 ? nullptr : &limit, nullptr))
      return static_cast<int>(finish(*answer));
  return REAL(__poll_chk, int(struct pollfd*, nfds_t, int, size_t), -1, fds, count, timeout, size);
}

DECLARE(int, __ppoll_chk, struct pollfd* fds, nfds_t count, const struct timespec* timeout,
        const sigset_t* mask, size_t size);
int hook___ppoll_chk(struct pollfd* fds, nfds_t count, const struct timespec* timeout, const sigset_t* mask,
                     size_t size) {
  if (size / sizeof(*fds) >= count)
    if (const auto answer = try_poll(fds, count, timeout, mask)) return static_cast<int>(finish(*answer));
  return REAL(__ppoll_chk, int(struct pollfd*, nfds_t, const struct timespec*, const sigset_t*, size_t), -1,
              fds, count, timeout, mask, size);
}

DECLARE(int, select, int count, fd_set* reads, fd_set* writes, fd_set* exceptions, struct timeval* timeout);
int hook_select(int count, fd_set* reads, fd_set* writes, fd_set* exceptions, struct timeval* timeout) {
  if (!inside() && any_object_seen()) {
    const struct timespec limit =
        timeout != nullptr ? timespec{timeout->tv_sec, timeout->tv_usec * 1000L} : timespec{};
    const auto answer = guarded([&] {
      return select_call(count, reads, writes, exceptions, timeout != nullptr ? &limit : nullptr, nullptr);
    });
    if (answer) return static_cast<int>(finish(*answer));
  }
  return REAL(select, int(int, fd_set*, fd_set*, fd_set*, struct timeval*), -1, count, reads, writes,
              exceptions, timeout);
}

DECLARE(int, pselect, int count, fd_set* reads, fd_set* writes, fd_set* exceptions,
        const struct timespec* timeout, const sigset_t* mask);
int hook_pselect(int count, fd_set* reads, fd_set* writes, fd_set* exceptions, const struct timespec* timeout,
                 const sigset_t* mask) {
  if (!inside() && any_object_seen()) {
    const auto answer = guarded([&] { return select_call(count, reads, writes, exceptions, timeout, mask); });
    if (answer) return static_cast<int>(finish(*answer));
  }
  return REAL(pselect, int(int, fd_set*, fd_set*, fd_set*, const struct timespec*, const sigset_t*), -1,
              count, reads, writes, exceptions, timeout, mask);
}

// ---- files ----

#define OPEN_HOOK(name)                                                                                     \
  DECLARE(int, name, const char* path, int flags, mode_t mode);                                             \
  int hook_##name(const char* path, int flags, mode_t mode) {                                               \
    if (const auto answer = try_open(path, flags)) return static_cast<int>(finish(*answer));                \
    return REAL(                                                                                            \
        name, int(const char*, int, ...),                                                                   \
        to_libc(raw_syscall(SYS_open, reinterpret_cast<long>(path), flags, static_cast<long>(mode))), path, \
        flags, mode);                                                                                       \
  }
OPEN_HOOK(open)
OPEN_HOOK(open64)

#define OPENAT_HOOK(name)                                                                       \
  DECLARE(int, name, int directory, const char* path, int flags, mode_t mode);                  \
  int hook_##name(int directory, const char* path, int flags, mode_t mode) {                    \
    if (const auto answer = try_open(path, flags)) return static_cast<int>(finish(*answer));    \
    return REAL(name, int(int, const char*, int, ...),                                          \
                to_libc(raw_syscall(SYS_openat, directory, reinterpret_cast<long>(path), flags, \
                                    static_cast<long>(mode))),                                  \
                directory, path, flags, mode);                                                  \
  }
OPENAT_HOOK(openat)
OPENAT_HOOK(openat64)

#define OPEN_2_HOOK(name)                                                                    \
  DECLARE(int, name, const char* path, int flags);                                           \
  int hook_##name(const char* path, int flags) {                                             \
    if (const auto answer = try_open(path, flags)) return static_cast<int>(finish(*answer)); \
    return REAL(name, int(const char*, int), -1, path, flags);                               \
  }
OPEN_2_HOOK(__open_2)
OPEN_2_HOOK(__open64_2)

#define OPENAT_2_HOOK(name)                                                                  \
  DECLARE(int, name, int directory, const char* path, int flags);                            \
  int hook_##name(int directory, const char* path, int flags) {                              \
    if (const auto answer = try_open(path, flags)) return static_cast<int>(finish(*answer)); \
    return REAL(name, int(int, const char*, int), -1, directory, path, flags);               \
  }
OPENAT_2_HOOK(__openat_2)
OPENAT_2_HOOK(__openat64_2)

#define FOPEN_HOOK(name)                                                                          \
  DECLARE(FILE*, name, const char* path, const char* mode);                                       \
  FILE* hook_##name(const char* path, const char* mode) {                                         \
    if (mode != nullptr && mode[0] == 'r' && mode[1] != '+')                                      \
      if (const auto answer = try_open(path, O_RDONLY | O_CLOEXEC))                               \
        return *answer < 0 ? (finish(*answer), nullptr) : fdopen(static_cast<int>(*answer), "r"); \
    return REAL(name, FILE * (const char*, const char*), nullptr, path, mode);                    \
  }
FOPEN_HOOK(fopen)
FOPEN_HOOK(fopen64)

DECLARE(int, access, const char* path, int mode);
int hook_access(const char* path, int mode) {
  if (!inside() && (mode & (W_OK | X_OK)) == 0 &&
      guarded([&]() -> std::optional<bool> { return is_virtual_file(path); }).value_or(false))
    return 0;
  return REAL(access, int(const char*, int),
              to_libc(raw_syscall(SYS_access, reinterpret_cast<long>(path), mode)), path, mode);
}

DECLARE(int, faccessat, int directory, const char* path, int mode, int flags);
int hook_faccessat(int directory, const char* path, int mode, int flags) {
  if (!inside() && (mode & (W_OK | X_OK)) == 0 &&
      guarded([&]() -> std::optional<bool> { return is_virtual_file(path); }).value_or(false))
    return 0;
  return REAL(faccessat, int(int, const char*, int, int), -1, directory, path, mode, flags);
}

// ---- rights and limits ----

DECLARE(uid_t, geteuid, void);
uid_t hook_geteuid(void) {
  if (const auto answer = try_geteuid()) return static_cast<uid_t>(*answer);
  return static_cast<uid_t>(raw_syscall(SYS_geteuid));
}

#define SETRLIMIT_HOOK(name)                                                                               \
  DECLARE(int, name, int resource, const struct rlimit* limit);                                            \
  int hook_##name(int resource, const struct rlimit* limit) {                                              \
    return forgive_memlock(resource, static_cast<int>(to_libc(raw_syscall(                                 \
                                         SYS_prlimit64, 0, resource, reinterpret_cast<long>(limit), 0)))); \
  }
SETRLIMIT_HOOK(setrlimit)
SETRLIMIT_HOOK(setrlimit64)

#define PRLIMIT_HOOK(name)                                                                                 \
  DECLARE(int, name, pid_t pid, int resource, const struct rlimit* limit, struct rlimit* old);             \
  int hook_##name(pid_t pid, int resource, const struct rlimit* limit, struct rlimit* old) {               \
    return forgive_memlock(resource, static_cast<int>(to_libc(raw_syscall(SYS_prlimit64, pid, resource,    \
                                                                          reinterpret_cast<long>(limit),   \
                                                                          reinterpret_cast<long>(old))))); \
  }
PRLIMIT_HOOK(prlimit)
PRLIMIT_HOOK(prlimit64)

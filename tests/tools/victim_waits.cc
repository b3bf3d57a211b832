#include "victim_waits.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>

extern "C" long victim_call(const char* text, long add);
extern "C" long victim_through(void (*function)(void*), void* argument);

namespace {

const char* const kWays[] = {
    "sigsuspend",     "ppoll",          "pselect",           "epoll_pwait",     "epoll_pwait2",
    "raw sigsuspend", "raw ppoll",      "raw pselect",       "raw epoll_pwait", "raw epoll_pwait2",
    "io_pgetevents",  "io_uring_enter", "io_uring_enter ext"};

volatile sig_atomic_t handled, wrong, masked_before;

void on_signal(int, siginfo_t*, void* context) {
  char* const bad = reinterpret_cast<char*>(0x10);
  wrong = wrong + (victim_call(bad, 1) != 0x10 * 3 + 1);
  handled = handled + 1;
  const sigset_t& mask = static_cast<ucontext_t*>(context)->uc_sigmask;
  masked_before = sigismember(&mask, SIGUSR1) * 10 + sigismember(&mask, SIGSEGV);
}

void catch_usr1() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  ::sigaction(SIGUSR1, &action, nullptr);
  handled = 0;
  wrong = 0;
}

// What is in no program's power to change: the mask lies in memory nobody may write.
struct Masks {
  sigset_t others, all;
};
const Masks& masks() {
  static const Masks* const page = [] {
    auto* made = static_cast<Masks*>(
        ::mmap(nullptr, sizeof(Masks), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    sigfillset(&made->others);
    sigdelset(&made->others, SIGUSR1);
    sigfillset(&made->all);
    ::mprotect(made, sizeof(Masks), PROT_READ);
    return made;
  }();
  return *page;
}

struct Descriptors {
  int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  aio_context_t aio = 0;
  int ring = -1;
  Descriptors() {
    ::syscall(SYS_io_setup, 1, &aio);
    io_uring_params parameters = {};
    ring = static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters));
  }
};

// Waits under `mask`, for ever but for `at_once`; the result or -errno.
long wait_under(const std::string& how, const sigset_t* mask, size_t size, bool at_once) {
  static const Descriptors descriptors;
  const timespec none = {0, 0};
  timespec rest = none;
  const timespec* timeout = at_once ? &none : nullptr;
  const int milliseconds = at_once ? 0 : -1;
  struct {
    const sigset_t* mask;
    size_t size;
  } both = {mask, size};
  epoll_event event;
  io_event done;
  long result = -1;
  errno = ENOSYS;
  if (how == "sigsuspend") result = ::sigsuspend(mask);
  if (how == "ppoll") result = ::ppoll(nullptr, 0, timeout, mask);
  if (how == "pselect") result = ::pselect(0, nullptr, nullptr, nullptr, timeout, mask);
  if (how == "epoll_pwait") result = ::epoll_pwait(descriptors.epoll, &event, 1, milliseconds, mask);
  if (how == "epoll_pwait2") result = ::epoll_pwait2(descriptors.epoll, &event, 1, timeout, mask);
  if (how == "raw sigsuspend") result = ::syscall(SYS_rt_sigsuspend, mask, size);
  if (how == "raw ppoll") result = ::syscall(SYS_ppoll, nullptr, 0, at_once ? &rest : nullptr, mask, size);
  if (how == "raw pselect")
    result = ::syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, at_once ? &rest : nullptr, &both);
  if (how == "raw epoll_pwait")
    result = ::syscall(SYS_epoll_pwait, descriptors.epoll, &event, 1, milliseconds, mask, size);
  if (how == "raw epoll_pwait2")
    result = ::syscall(SYS_epoll_pwait2, descriptors.epoll, &event, 1, timeout, mask, size);
  if (how == "io_pgetevents")
    result = ::syscall(SYS_io_pgetevents, descriptors.aio, 1, 1, &done, at_once ? &rest : nullptr, &both);
  if (how == "io_uring_enter")
    result = ::syscall(SYS_io_uring_enter, descriptors.ring, 0, 1, IORING_ENTER_GETEVENTS, mask, size);
  if (how == "io_uring_enter ext") {
    io_uring_getevents_arg argument = {};
    argument.sigmask = reinterpret_cast<uint64_t>(mask);
    argument.sigmask_sz = static_cast<uint32_t>(size);
    argument.ts = at_once ? reinterpret_cast<uint64_t>(&none) : 0;
    result = ::syscall(SYS_io_uring_enter, descriptors.ring, 0, 1,
                       IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof argument);
  }
  return result < 0 ? -errno : result;
}

constexpr size_t kMaskSize = 8;

std::atomic<pid_t> waiter;
struct Left {
  const char* how;
  ~Left() { say("%s: unwound\n", how); }
};
void wait_here(void* how) {
  const Left left{static_cast<const char*>(how)};
  waiter = static_cast<pid_t>(::syscall(SYS_gettid));
  for (;;) wait_under(left.how, &masks().all, kMaskSize, false);
}
void* wait_to_be_cancelled(void* how) {
  victim_through(wait_here, how);
  return nullptr;
}

bool asleep(pid_t tid) {
  char path[64], text[512] = "";
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  FILE* file = ::fopen(path, "r");
  if (file == nullptr) return false;
  (void)!::fgets(text, sizeof text, file);
  ::fclose(file);
  const char* end = strrchr(text, ')');
  return end != nullptr && end[1] == ' ' && end[2] == 'S';
}

}  // namespace

void wait_for_signal(const std::string& how) {
  sigset_t usr1;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &usr1, nullptr);
  catch_usr1();
  const long result = wait_under(how, &masks().others, kMaskSize, false);
  say("%s: %ld handled %d wrong %d before %02d\n", how.c_str(), result, handled, wrong, masked_before);
  ::pthread_sigmask(SIG_UNBLOCK, &usr1, nullptr);
}

void wait_in_all_ways() {
  for (const std::string how : kWays) {
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    ::pthread_sigmask(SIG_BLOCK, &usr1, nullptr);
    ::raise(SIGUSR1);
    wait_for_signal(how);
    const bool raw = how.find(' ') != std::string::npos || how.find("io_") == 0;
    const bool suspends = how.find("sigsuspend") != std::string::npos;
    if (!suspends && how != "io_uring_enter")
      say("in time %ld\n", wait_under(how, &masks().others, kMaskSize, true));
    if (!suspends && raw && how != "io_uring_enter") say("without %ld\n", wait_under(how, nullptr, 0, true));
    if (raw)
      say("nowhere %ld, size 4 %ld, size 16 %ld\n",
          wait_under(how, reinterpret_cast<sigset_t*>(16), kMaskSize, true),
          wait_under(how, &masks().others, 4, true), wait_under(how, &masks().others, 16, true));
  }
}

void cancel_waits() {
  for (const char* how : kWays) {
    if (strchr(how, '_') != nullptr && strncmp(how, "io_", 3) == 0) continue;  // no cancellation points
    if (strncmp(how, "raw ", 4) == 0) continue;
    pthread_t thread;
    void* result = nullptr;
    waiter = 0;
    ::pthread_create(&thread, nullptr, wait_to_be_cancelled, const_cast<char*>(how));
    while (waiter == 0 || !asleep(waiter)) ::usleep(1000);
    ::pthread_cancel(thread);
    ::pthread_join(thread, &result);
    say("%s: cancelled %d\n", how, result == PTHREAD_CANCELED);
  }
}

// The signal guard in real processes: repairs, and hosts that see nothing of it. Each test runs in a child,
// which exits with kFine or dies as its host would have died without us.
#include <gtest/gtest.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "agent/signals.h"
#include "agent/test_guard.h"
#include "wire/checked_load.h"
#include "wire/signal_frame.h"

namespace bpftime::agent {
namespace {

static_assert(offsetof(ucontext_t, uc_mcontext.gregs) + REG_RIP * 8 == kContextRip);
static_assert(offsetof(ucontext_t, uc_sigmask) == kContextMask);
static_assert(offsetof(ucontext_t, uc_link) == kContextLink);

auto safe_copy() {
  return TestAgent::get().symbol<long (*)(void*, const void*, uint64_t)>("bpftime_agent_safe_copy");
}
auto safe_copy_string() {
  return TestAgent::get().symbol<long (*)(char*, const void*, uint64_t)>("bpftime_agent_safe_copy_string");
}

int* const kNowhere = reinterpret_cast<int*>(16);
void fault() { *const_cast<volatile int*>(kNowhere) = 1; }

// Whether a repairable fault is repaired now.
bool repairs() {
  uint64_t value = 7;
  return safe_copy()(&value, kNowhere, sizeof value) == -EFAULT;
}

TEST(SafeCopy, CopiesEveryLength) {
  std::vector<uint8_t> source(2000), target(2100);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint8_t>(i * 7 + 1);
  for (size_t length = 0; length < source.size(); ++length) {
    std::fill(target.begin(), target.end(), 0);
    ASSERT_EQ(safe_copy()(target.data(), source.data(), length), 0);
    ASSERT_EQ(std::memcmp(target.data(), source.data(), length), 0);
    ASSERT_EQ(target[length], 0) << "wrote past the end of " << length;
  }
}

TEST(SafeCopy, CopiesStrings) {
  char out[8];
  EXPECT_EQ(safe_copy_string()(out, "abc", sizeof out), 4);
  EXPECT_STREQ(out, "abc");
  EXPECT_EQ(safe_copy_string()(out, "abcdefghij", sizeof out), 8);
  EXPECT_STREQ(out, "abcdefg");
  EXPECT_EQ(safe_copy_string()(out, "abc", 0), 0);
  EXPECT_EQ(safe_copy_string()(out, "", 1), 1);
}

TEST(SafeCopy, RepairsFaults) {
  expect_fine([] {
    TestAgent& agent = TestAgent::get();
    agent.install_guard();
    REQUIRE(agent.context().guard_installed == 1);
    auto* page = static_cast<uint8_t*>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(page + 4096, 4096, PROT_NONE);
    const void* bad[] = {nullptr,
                         kNowhere,
                         page + 4096,
                         reinterpret_cast<void*>(0x8000000000000000),
                         reinterpret_cast<void*>(0xffffffff81000000),
                         reinterpret_cast<void*>(0x00007ffffffff000)};
    uint8_t out[1024];
    uint64_t expected = 0;
    for (const void* from : bad) {
      for (const uint64_t length : {1, 2, 3, 4, 5, 7, 8, 9, 16, 100, 300, 1000}) {
        REQUIRE(safe_copy()(out, from, length) == -EFAULT);
        ++expected;
      }
      REQUIRE(safe_copy_string()(reinterpret_cast<char*>(out), from, 16) == -EFAULT);
      ++expected;
    }
    for (int before = 1; before < 400; ++before) {  // runs into the bad page
      REQUIRE(safe_copy()(out, page + 4096 - before, before) == 0);
      REQUIRE(safe_copy()(out, page + 4096 - before, before + 1) == -EFAULT);
      ++expected;
    }
    REQUIRE(agent.context().faults_repaired == expected);
    char name[] = "/tmp/bpftime-agent-test-XXXXXX";  // beyond the end of a file: SIGBUS
    const int fd = mkstemp(name);
    unlink(name);
    const void* hole = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
    REQUIRE(safe_copy()(out, hole, 8) == -EFAULT);
  });
}

// long read(const long*): 0 or -EFAULT, as the compiler emits checked loads.
const uint8_t kCheckedLoad[] = {
    0x48, 0xc7, 0xc1, 0xf2, 0xff, 0xff, 0xff,  // mov $-14, %rcx
    0x0f, 0x1f, 0x80, 0x05, 0x62, 0x70, 0x66,  // the mark: skip 5 bytes
    0x48, 0x8b, 0x07,                          // mov (%rdi), %rax
    0x31, 0xc9,                                // xor %ecx, %ecx
    0x48, 0x89, 0xc8,                          // mov %rcx, %rax
    0xc3,
};

// long read(const uint16_t*): 1 and the value above it, or 1.
const uint8_t kZeroLoad[] = {
    0x49, 0x89, 0xf8,                    // mov %rdi, %r8
    0x2e, 0x3e, 0x45, 0x0f, 0xb7, 0x00,  // movzwl (%r8), %r8d: its own base is the target
    0x4b, 0x8d, 0x44, 0x00, 0x01,        // lea 1(%r8,%r8), %rax
    0xc3,
};

using CheckedLoad = long (*)(const void*);

template <size_t kBytes>
CheckedLoad place_checked_load(TestAgent& agent, bool in_an_arena, const uint8_t (&code)[kBytes]) {
  constexpr size_t kInFront = wire::kCheckedLoadMark;  // readable, as the mark's place must be
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* at = static_cast<uint8_t*>(page) + kInFront;
  std::memcpy(at, code, kBytes);
  agent.context().arena_count = 2;
  agent.context().arenas[1] = {reinterpret_cast<uint64_t>(page) + (in_an_arena ? 0 : 4096), 4096, 0, 0};
  return reinterpret_cast<CheckedLoad>(at);
}

TEST(CheckedLoad, IsRepairedWhereverItsMarkSays) {
  expect_fine([] {
    TestAgent& agent = TestAgent::get();
    agent.install_guard();
    const CheckedLoad read = place_checked_load(agent, true, kCheckedLoad);
    const uint64_t before = agent.context().faults_repaired, good = 5;
    REQUIRE(read(&good) == 0);
    REQUIRE(agent.context().faults_repaired == before);
    for (const uint64_t bad : {uint64_t{0}, uint64_t{16}, uint64_t{1} << 63, ~uint64_t{7}})
      REQUIRE(read(reinterpret_cast<const void*>(bad)) == -EFAULT);
    REQUIRE(agent.context().faults_repaired == before + 4);
  });
}

TEST(CheckedLoad, ReadsZeroWhereItsPrefixesSay) {
  expect_fine([] {
    TestAgent& agent = TestAgent::get();
    agent.install_guard();
    const CheckedLoad read = place_checked_load(agent, true, kZeroLoad);
    const uint64_t before = agent.context().faults_repaired, good = 5;
    REQUIRE(read(&good) == 11);
    REQUIRE(agent.context().faults_repaired == before);
    for (const uint64_t bad : {uint64_t{0}, uint64_t{16}, uint64_t{1} << 63, ~uint64_t{0}})
      REQUIRE(read(reinterpret_cast<const void*>(bad)) == 1);
    REQUIRE(agent.context().faults_repaired == before + 4);
  });
}

TEST(CheckedLoad, MeansNothingOutsideOurCode) {
  expect_death(SIGSEGV, [] {
    TestAgent& agent = TestAgent::get();
    agent.install_guard();
    place_checked_load(agent, false, kCheckedLoad)(kNowhere);
  });
  expect_death(SIGSEGV, [] {
    TestAgent& agent = TestAgent::get();
    agent.install_guard();
    place_checked_load(agent, false, kZeroLoad)(kNowhere);
  });
}

TEST(Guard, DefaultActionKillsAtTheTruePlace) {
  expect_death(SIGSEGV, [] {
    guard_all();
    fault();
  });
  expect_death(SIGSEGV, [] {
    guard_all();
    kill(getpid(), SIGSEGV);
    pause();
  });
  expect_death(SIGBUS, [] {
    guard_all();
    raise(SIGBUS);
  });
}

sigjmp_buf escape;
volatile int seen_signal, seen_count;
siginfo_t seen;

void host_handler(int signal, siginfo_t* info, void*) {
  seen_signal = signal;
  seen = *info;
  seen_count = seen_count + 1;
  siglongjmp(escape, 1);
}

void catch_fault() {
  seen_signal = 0;
  if (sigsetjmp(escape, 1) == 0) {
    fault();
    REQUIRE(false);
  }
  REQUIRE(seen_signal == SIGSEGV);
  REQUIRE(seen.si_addr == kNowhere);
  REQUIRE(seen.si_code == SEGV_MAPERR);
}

void set_handler(int signal, void (*handler)(int, siginfo_t*, void*), int flags = SA_SIGINFO) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = flags;
  REQUIRE(sigaction(signal, &action, nullptr) == 0);
}

TEST(Guard, HostHandlersBeforeAndAfter) {
  expect_fine([] {
    set_handler(SIGSEGV, host_handler);
    guard_all();
    for (int i = 0; i < 100; ++i) catch_fault();
    REQUIRE(repairs());
  });
  expect_fine([] {
    guard_all();
    set_handler(SIGSEGV, host_handler);
    for (int i = 0; i < 100; ++i) catch_fault();
    REQUIRE(repairs());
    REQUIRE(signal(SIGSEGV, SIG_DFL) != SIG_DFL);
    REQUIRE(repairs());
  });
}

TEST(Guard, HostSeesItsOwnDispositions) {
  expect_fine([] {
    guard_all();
    struct sigaction old {};
    REQUIRE(sigaction(SIGSEGV, nullptr, &old) == 0 && old.sa_handler == SIG_DFL);
    set_handler(SIGSEGV, host_handler, SA_SIGINFO | SA_RESTART);
    REQUIRE(sigaction(SIGSEGV, nullptr, &old) == 0 && old.sa_sigaction == host_handler);
    REQUIRE((old.sa_flags & (SA_SIGINFO | SA_RESTART | SA_ONSTACK | SA_NODEFER)) ==
            (SA_SIGINFO | SA_RESTART));
    // Masks of other handlers: shown whole, without effect on repairs.
    struct sigaction masked {};
    masked.sa_handler = [](int) { REQUIRE(repairs()); };
    sigfillset(&masked.sa_mask);
    REQUIRE(sigaction(SIGUSR1, &masked, nullptr) == 0);
    REQUIRE(sigaction(SIGUSR1, nullptr, &old) == 0 && sigismember(&old.sa_mask, SIGSEGV) == 1);
    raise(SIGUSR1);
    REQUIRE(sigaction(SIGKILL, &masked, nullptr) == -1 && errno == EINVAL);
    REQUIRE(sigaction(99, &masked, nullptr) == -1 && errno == EINVAL);
  });
}

TEST(Guard, EarlierMasksOfOtherHandlersAreOpened) {
  expect_fine([] {
    struct sigaction masked {};
    masked.sa_handler = [](int) { REQUIRE(repairs()); };
    sigfillset(&masked.sa_mask);
    REQUIRE(sigaction(SIGUSR1, &masked, nullptr) == 0);
    guard_all();
    raise(SIGUSR1);
    struct sigaction old {};
    REQUIRE(sigaction(SIGUSR1, nullptr, &old) == 0 && sigismember(&old.sa_mask, SIGSEGV) == 1);
  });
}

TEST(Guard, MaskedByTheHostStaysRepairable) {
  expect_fine([] {
    guard_all();
    sigset_t all, old;
    sigfillset(&all);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &all, &old) == 0 && sigismember(&old, SIGSEGV) == 0);
    REQUIRE(repairs());
    REQUIRE(pthread_sigmask(SIG_SETMASK, nullptr, &old) == 0);
    REQUIRE(sigismember(&old, SIGSEGV) == 1 && sigismember(&old, SIGUSR1) == 1);
    sigset_t none;
    sigemptyset(&none);
    REQUIRE(sigprocmask(SIG_SETMASK, &none, &old) == 0 && sigismember(&old, SIGBUS) == 1);
    REQUIRE(sigprocmask(SIG_BLOCK, nullptr, &old) == 0 && sigismember(&old, SIGSEGV) == 0);
    REQUIRE(pthread_sigmask(77, &none, nullptr) == EINVAL);
  });
  // A fault while the host has it blocked kills, handler or not, as the kernel does.
  expect_death(SIGSEGV, [] {
    guard_all();
    set_handler(SIGSEGV, host_handler);
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    sigprocmask(SIG_BLOCK, &segv, nullptr);
    if (sigsetjmp(escape, 1) == 0) fault();
  });
}

TEST(Guard, TheDaemonMayTakeOverAMask) {
  expect_fine([] {
    guard_all();
    // What the daemon does by ptrace on a thread it found masked.
    uint64_t thread_pointer;
    asm("mov %%fs:0, %0" : "=r"(thread_pointer));
    const long offset = TestAgent::get().symbol<long (*)()>("bpftime_agent_host_masked_offset")();
    *reinterpret_cast<uint32_t*>(thread_pointer + offset) = kGuardedSignals;
    sigset_t mask;
    REQUIRE(pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0);
    REQUIRE(sigismember(&mask, SIGSEGV) == 1 && sigismember(&mask, SIGBUS) == 1 &&
            sigismember(&mask, SIGUSR1) == 0);
    REQUIRE(repairs());
  });
}

TEST(Guard, SentSignalsWaitWhileMasked) {
  expect_fine([] {
    guard_all();
    struct sigaction count {};
    count.sa_handler = [](int) { seen_count = seen_count + 1; };
    sigaction(SIGSEGV, &count, nullptr);
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    sigprocmask(SIG_BLOCK, &segv, nullptr);
    kill(getpid(), SIGSEGV);
    REQUIRE(seen_count == 0);
    sigprocmask(SIG_UNBLOCK, &segv, nullptr);
    REQUIRE(seen_count == 1);
    signal(SIGSEGV, SIG_IGN);
    kill(getpid(), SIGSEGV);
    REQUIRE(seen_count == 1);
  });
}

TEST(Guard, HandlerFlagsMeanWhatTheyMean) {
  // SA_RESETHAND: the second fault kills.
  expect_death(SIGSEGV, [] {
    guard_all();
    set_handler(SIGSEGV, host_handler, SA_SIGINFO | static_cast<int>(SA_RESETHAND));
    catch_fault();
    if (sigsetjmp(escape, 1) == 0) fault();
  });
  // Without SA_NODEFER a fault inside the handler kills; with it, it comes again.
  const auto nested = [](int, siginfo_t*, void*) {
    seen_count = seen_count + 1;
    if (seen_count == 1) fault();
    _exit(kFine);
  };
  expect_death(SIGSEGV, [&] {
    guard_all();
    set_handler(SIGSEGV, nested);
    fault();
  });
  expect_fine([&] {
    guard_all();
    set_handler(SIGSEGV, nested, SA_SIGINFO | SA_NODEFER);
    fault();
  });
  // sa_mask blocks the others meanwhile, and no longer.
  expect_fine([] {
    guard_all();
    struct sigaction count {
    }, action{};
    count.sa_handler = [](int) { seen_count = seen_count + 1; };
    sigaction(SIGUSR1, &count, nullptr);
    action.sa_handler = [](int) {
      raise(SIGUSR1);
      REQUIRE(seen_count == 0);
      REQUIRE(repairs());
    };
    sigaddset(&action.sa_mask, SIGUSR1);
    sigaction(SIGSEGV, &action, nullptr);
    raise(SIGSEGV);
    REQUIRE(seen_count == 1);
    raise(SIGUSR1);
    REQUIRE(seen_count == 2);
  });
}

TEST(Guard, HandlersMayChangeTheContext) {
  expect_fine([] {
    guard_all();
    set_handler(SIGSEGV, [](int, siginfo_t*, void* context) {
      // Over "mov (%rax),%ecx", two bytes.
      static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] += 2;
      static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RCX] = 1234;
    });
    int value = 0;
    asm volatile("mov (%%rax), %%ecx" : "=c"(value) : "a"(kNowhere) : "memory");
    REQUIRE(value == 1234);
  });
}

TEST(Guard, ChildrenThatShareMemoryChangeNothingHere) {
  expect_fine([] {
    guard_all();
    set_handler(SIGSEGV, host_handler);
    sigset_t bus;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    sigprocmask(SIG_BLOCK, &bus, nullptr);
    const pid_t child = vfork();
    if (child == 0) {
      signal(SIGSEGV, SIG_DFL);
      sigprocmask(SIG_UNBLOCK, &bus, nullptr);
      _exit(7);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
    struct sigaction old {};
    REQUIRE(sigaction(SIGSEGV, nullptr, &old) == 0 && old.sa_sigaction == host_handler);
    sigset_t mask;
    REQUIRE(sigprocmask(SIG_BLOCK, nullptr, &mask) == 0 && sigismember(&mask, SIGBUS) == 1);
    REQUIRE(system("exit 3") >> 8 == 3);  // posix_spawn inside
    catch_fault();
    REQUIRE(repairs());
    // A forked child has its own of both.
    const pid_t forked = fork();
    if (forked == 0) {
      signal(SIGSEGV, SIG_DFL);
      REQUIRE(sigaction(SIGSEGV, nullptr, &old) == 0 && old.sa_handler == SIG_DFL);
      REQUIRE(repairs());
      _exit(9);
    }
    REQUIRE(waitpid(forked, &status, 0) == forked && WEXITSTATUS(status) == 9);
    catch_fault();
  });
}

// What code that makes system calls itself is led to (rewrite's trampolines call it).
long guarded_call(long number, uint64_t* arguments, void* stack = nullptr) {
  return TestAgent::get().symbol<long (*)(long, uint64_t*, void*)>("bpftime_agent_guarded_call")(
      number, arguments, stack);
}
long signal_call(long number, long first, const void* second, void* third, long size = 8) {
  uint64_t arguments[6] = {static_cast<uint64_t>(first), reinterpret_cast<uint64_t>(second),
                           reinterpret_cast<uint64_t>(third), static_cast<uint64_t>(size)};
  return guarded_call(number, arguments);
}

TEST(Guard, CallsPastLibcTakeNothingAway) {
  expect_fine([] {
    uint64_t old = 1;
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == wire::kSignalCallIsTheKernels);
    guard_all();
    const uint64_t all = ~uint64_t{0}, usr1 = uint64_t{1} << (SIGUSR1 - 1);
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, &all, &old) == 0 && old == 0);
    REQUIRE(repairs());
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == 0);
    REQUIRE((old & kGuardedSignals) == kGuardedSignals && (old & usr1) != 0 && "as the host set it");
    sigset_t seen;
    REQUIRE(sigprocmask(SIG_BLOCK, nullptr, &seen) == 0 && sigismember(&seen, SIGTRAP) == 1);
    raise(SIGBUS);  // waits
    REQUIRE(signal_call(SYS_rt_sigprocmask, 99, &all, &old) == -EINVAL);
    KernelAction ignore{};
    ignore.handler = kIgnore;
    REQUIRE(signal_call(SYS_rt_sigaction, SIGBUS, &ignore, nullptr) == 0);
    const uint64_t none = 0;
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_SETMASK, &none, &old) == 0 && (old & usr1) != 0);
    const KernelAction by_default{};
    KernelAction before{};
    REQUIRE(signal_call(SYS_rt_sigaction, SIGSEGV, &by_default, &before) == 0 &&
            before.handler == kDefaultAction);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGBUS, nullptr, &before) == 0 && before.handler == kIgnore);
    REQUIRE(repairs());
    // A handler's mask: shown whole, without effect on repairs.
    struct sigaction action {};
    action.sa_handler = [](int) { REQUIRE(repairs()); };
    REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGUSR1, nullptr, &before) == 0);
    before.mask = all;
    REQUIRE(signal_call(SYS_rt_sigaction, SIGUSR1, &before, nullptr) == 0);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGUSR1, nullptr, &before) == 0 &&
            (before.mask & kGuardedSignals) == kGuardedSignals);
    raise(SIGUSR1);
    // What the kernel would refuse.
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, kNowhere, nullptr) == wire::kSignalCallIsTheKernels);
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, &none, kNowhere) == -EFAULT);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGSEGV, kNowhere, nullptr) == wire::kSignalCallIsTheKernels);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGSEGV, nullptr, kNowhere) == -EFAULT);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGKILL, &by_default, nullptr) == -EINVAL);
    REQUIRE(signal_call(SYS_rt_sigaction, 65, &by_default, nullptr) == wire::kSignalCallIsTheKernels);
    REQUIRE(signal_call(SYS_rt_sigaction, SIGSEGV, &by_default, nullptr, 16) ==
            wire::kSignalCallIsTheKernels);
    // Before it executes a program a child in our memory puts handlers back: not those that keep it alive till then.
    const pid_t child = vfork();
    if (child == 0) {
      signal_call(SYS_rt_sigaction, SIGSEGV, &by_default, nullptr);
      signal_call(SYS_rt_sigprocmask, SIG_BLOCK, &all, nullptr);
      uint64_t value = 7;
      _exit(safe_copy()(&value, kNowhere, sizeof value) == -EFAULT ? 7 : 8);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == 0 && (old & kGuardedSignals) == 0);
  });
  expect_death(SIGSEGV, [] {
    guard_all();
    set_handler(SIGSEGV, host_handler);
    const KernelAction by_default{};
    REQUIRE(signal_call(SYS_rt_sigaction, SIGSEGV, &by_default, nullptr) == 0);
    fault();
  });
}

// Replaces the mask that a call takes for as long as it lasts, and says the same as before of all else.
TEST(Guard, LendsMasksToWaits) {
  expect_fine([] {
    struct Behind {
      const uint64_t* mask;
      uint64_t size;
      uint64_t timeout;
    };
    const uint64_t all = ~uint64_t{0}, harmless = 1;
    const auto argument = [](const void* pointer) { return reinterpret_cast<uint64_t>(pointer); };
    const auto asked = [](long number, int which, uint64_t value, uint64_t size, uint64_t flags = 0) {
      uint64_t arguments[6] = {1, 2, 3, 4, 5, 6};
      if (number == SYS_io_uring_enter) arguments[3] = flags;
      if (which < 5) arguments[which + 1] = size;
      arguments[which] = value;
      REQUIRE(guarded_call(number, arguments) == wire::kSignalCallIsTheKernels);
      return arguments[which];
    };
    REQUIRE(asked(SYS_ppoll, 3, argument(&all), 8) == argument(&all));  // no guard yet
    guard_all();
    constexpr uint64_t kGetEvents = 1, kExtended = 8;
    const struct {
      long number;
      int which;
      uint64_t flags;
    } plain[] = {{SYS_rt_sigsuspend, 0, 0},
                 {SYS_ppoll, 3, 0},
                 {SYS_epoll_pwait, 4, 0},
                 {SYS_epoll_pwait2, 4, 0},
                 {SYS_io_uring_enter, 4, kGetEvents}};
    for (const auto& [number, which, flags] : plain) {
      const uint64_t lent = asked(number, which, argument(&all), 8, flags);
      REQUIRE(lent != argument(&all));
      REQUIRE(*reinterpret_cast<uint64_t*>(lent) == (all & ~kGuardedSignals));
      REQUIRE(asked(number, which, argument(&all), 8, flags) == lent && "equal ones are one");
      REQUIRE(asked(number, which, lent, 8, flags) == lent);
      REQUIRE(asked(number, which, argument(&harmless), 8, flags) == argument(&harmless));
      for (const uint64_t size : {0, 4, 16})
        REQUIRE(asked(number, which, argument(&all), size, flags) == argument(&all));
      for (const uint64_t bad : {uint64_t{0}, uint64_t{16}, ~uint64_t{7}})
        REQUIRE(asked(number, which, bad, 8, flags) == bad);
    }
    REQUIRE(asked(SYS_io_uring_enter, 4, argument(&all), 8, 0) == argument(&all));  // waits for nothing
    const Behind both = {&all, 8, 77}, wrong = {&all, 16, 77}, none = {nullptr, 8, 77},
                 bad = {reinterpret_cast<uint64_t*>(16), 8, 77};
    for (const long number : {SYS_pselect6, SYS_io_pgetevents}) {
      const auto* lent = reinterpret_cast<const Behind*>(asked(number, 5, argument(&both), 0));
      REQUIRE(lent != &both && lent->size == 8 && *lent->mask == (all & ~kGuardedSignals));
      for (const Behind* same :
           {&wrong, &none, &bad, static_cast<const Behind*>(nullptr), reinterpret_cast<const Behind*>(16)})
        REQUIRE(asked(number, 5, argument(same), 0) == argument(same));
    }
    const uint64_t extended = kGetEvents | kExtended;
    const auto* lent =
        reinterpret_cast<const Behind*>(asked(SYS_io_uring_enter, 4, argument(&both), 24, extended));
    REQUIRE(lent != &both && lent->size == 8 && lent->timeout == 77 &&
            *lent->mask == (all & ~kGuardedSignals));
    REQUIRE(asked(SYS_io_uring_enter, 4, argument(&both), 16, extended) == argument(&both));
    // There is room for some hundred; beyond, calls stay the host's. Those that are there stay.
    uint64_t many = all;
    int kept = 0;
    for (; kept < 2000; ++kept, many -= uint64_t{1} << 32)
      if (asked(SYS_ppoll, 3, argument(&many), 8) == argument(&many)) break;
    REQUIRE(kept > 400 && kept < 1000);
    REQUIRE(asked(SYS_io_uring_enter, 4, argument(&both), 24, extended) == argument(lent));
    REQUIRE(*lent->mask == (all & ~kGuardedSignals));
    REQUIRE(asked(SYS_getpid, 0, argument(&all), 8) == argument(&all));
  });
}

TEST(Guard, FramesBlockNothing) {
  expect_fine([] {
    guard_all();
    alignas(ucontext_t) uint8_t frame[sizeof(ucontext_t)] = {};
    uint64_t& mask = *reinterpret_cast<uint64_t*>(frame + kContextMask);
    const uint64_t usr1 = uint64_t{1} << (SIGUSR1 - 1), segv = uint64_t{1} << (SIGSEGV - 1);
    mask = usr1 | segv;
    uint64_t arguments[6] = {}, old = 0;
    REQUIRE(guarded_call(SYS_rt_sigreturn, arguments, frame) == wire::kSignalCallIsTheKernels);
    REQUIRE(mask == usr1);
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == 0 && old == segv);
    REQUIRE(guarded_call(SYS_rt_sigreturn, arguments, kNowhere) == wire::kSignalCallIsTheKernels);
    mask = usr1;  // says nothing of ours; one of before the guard does
    REQUIRE(guarded_call(SYS_rt_sigreturn, arguments, frame) == wire::kSignalCallIsTheKernels);
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == 0 && old == segv);
    *reinterpret_cast<uint64_t*>(frame + kContextLink) = wire::kFrameOfHost;
    REQUIRE(guarded_call(SYS_rt_sigreturn, arguments, frame) == wire::kSignalCallIsTheKernels);
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == 0 && old == 0);
    mask = segv;
    REQUIRE(guarded_call(SYS_rt_sigreturn, arguments, frame) == wire::kSignalCallIsTheKernels);
    // The same of a handler that is the host's, but called by us.
    set_handler(SIGBUS, [](int, siginfo_t*, void* context) {
      sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, SIGTRAP);
    });
    raise(SIGBUS);
    REQUIRE(repairs());
    REQUIRE(signal_call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old) == 0 &&
            old == (segv | uint64_t{1} << (SIGTRAP - 1)));
  });
}

// The handler runs on the host's alternate stack. There has to be room for a frame on it, as for the host's own handlers.
TEST(Guard, AlternateStacksHoldOneFrame) {
  static uint8_t stack[65536];
  const auto repaired_on = [](size_t size) {
    guard_all();
    const stack_t alternate = {stack, 0, size};
    REQUIRE(sigaltstack(&alternate, nullptr) == 0);
    REQUIRE(repairs());
  };
  const size_t frame = getauxval(AT_MINSIGSTKSZ);
  expect_fine([&] { repaired_on(frame + 2048); });
  constexpr size_t kSmallest = 2048;  // MINSIGSTKSZ, which the kernel takes
  if (frame <= kSmallest) GTEST_SKIP() << "frames are no larger than the smallest stack here";
  expect_death(SIGSEGV, [&] { repaired_on(kSmallest); });
}

TEST(Guard, IgnoredFaultsKill) {
  expect_death(SIGSEGV, [] {
    guard_all();
    signal(SIGSEGV, SIG_IGN);
    fault();
  });
}

TEST(Guard, RemoveGivesEverythingBack) {
  expect_fine([] {
    set_handler(SIGSEGV, host_handler);
    struct sigaction masked {
    }, old{};
    masked.sa_handler = [](int) {};
    sigfillset(&masked.sa_mask);
    sigaction(SIGUSR1, &masked, nullptr);
    TestAgent::get().install_guard();
    sigaction(SIGSEGV, nullptr, &old);
    REQUIRE(old.sa_sigaction != host_handler);  // no redirects here: the kernel's truth
    TestAgent::get().remove_guard();
    sigaction(SIGSEGV, nullptr, &old);
    REQUIRE(old.sa_sigaction == host_handler);
    sigaction(SIGUSR1, nullptr, &old);
    REQUIRE(sigismember(&old.sa_mask, SIGSEGV) == 1);
    catch_fault();
  });
}

}  // namespace
}  // namespace bpftime::agent

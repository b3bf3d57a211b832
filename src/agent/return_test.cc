// Return probes on functions of this process: what is observed, and that the host notices nothing.
#include <execinfo.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>

#include "agent/test_agent.h"
#include "rewrite/test_patch.h"

namespace bpftime::agent {
namespace {

using rewrite::LivePatch;
using rewrite::TestArena;

#ifdef __clang__
#define PROBED extern "C" __attribute__((noinline, used))
#else
#define PROBED extern "C" __attribute__((noinline, noclone, used))
#endif

std::atomic<uint64_t> entries, returns;  // std::atomic cannot be inlined into general-regs-only functions
wire::PtRegs last_return;

extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t on_entry_program(
    void*, const wire::Invocation*) {
  asm volatile("lock incq %0" : "+m"(entries));
  return 0;
}

extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t on_return_program(
    void* ctx, const wire::Invocation*) {
  last_return = *static_cast<wire::PtRegs*>(ctx);
  asm volatile("lock incq %0" : "+m"(returns));
  asm volatile(
      "mov $-1, %%rax; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi; mov %%rax, %%rdi;"
      "mov %%rax, %%r8; mov %%rax, %%r9; mov %%rax, %%r10; mov %%rax, %%r11" ::
          : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
  return 0;
}

// Which return slots the probes of a test use: one after the other, if both.
enum class Slots { kAgents, kNear, kBoth };

class Return : public ::testing::TestWithParam<Slots> {
 protected:
  Return() : arena_(reinterpret_cast<void*>(on_return_program)) {
    entries = returns = 0;
    missed_before_ = TestAgent::get().context().returns_missed;
  }
  template <typename F>
  std::unique_ptr<LivePatch> probe(F* function, bool also_entry = false) {
    const auto* code = reinterpret_cast<const uint8_t*>(function);
    rewrite::SiteRequest request;
    request.address = reinterpret_cast<uint64_t>(code);
    request.code = Bytes(code, 64);
    request.trampoline_address = arena_.next();
    const bool near = GetParam() == Slots::kNear || (GetParam() == Slots::kBoth && probes_++ % 2 == 0);
    request.return_path = TestAgent::get().return_path(near, request.trampoline_address);
    if (also_entry) request.on_entry = {{reinterpret_cast<uint64_t>(on_entry_program), {}, 0}};
    request.on_return = {{reinterpret_cast<uint64_t>(on_return_program), {}, 0}};
    auto plan = plan_probe(request);
    if (!plan.ok()) throw std::runtime_error(plan.error().message);
    return std::make_unique<LivePatch>(arena_, request.address, std::move(*plan));
  }
  uint64_t missed() const { return TestAgent::get().context().returns_missed - missed_before_; }

  TestArena arena_;
  uint64_t missed_before_;
  int probes_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Slots, Return, ::testing::Values(Slots::kAgents, Slots::kNear, Slots::kBoth),
                         [](const auto& info) {
                           return info.param == Slots::kAgents ? "agents"
                                  : info.param == Slots::kNear ? "near"
                                                               : "both";
                         });

// --- results and arguments
// ------------------------------------------------------------------------------------------

PROBED long return_add(long a, long b) {
  asm volatile("");
  return a + b;
}
struct Pair {
  long first, second;
};
PROBED Pair return_pair(long a) {
  asm volatile("");
  return {a, a * 2};
}
PROBED double return_double(double a, double b) {
  asm volatile("");
  return a * b;
}
PROBED long double return_long_double(long double a) {
  asm volatile("");
  return a / 3;
}
PROBED long return_many(long a, long b, long c, long d, long e, long f, long g, long h, double x, long i) {
  asm volatile("");
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + static_cast<long>(x);
}
PROBED int return_variadic(char* out, const char* format, ...) {
  va_list list;
  va_start(list, format);
  const int length = vsnprintf(out, 64, format, list);
  va_end(list);
  return length;
}

TEST_P(Return, SeesResultAndReturnAddress) {
  auto live = probe(return_add, true);
  EXPECT_EQ(return_add(40, 2), 42);
  EXPECT_EQ(entries, 1u);
  EXPECT_EQ(returns, 1u);
  EXPECT_EQ(last_return.rax, 42u);
  Dl_info info;
  ASSERT_NE(dladdr(reinterpret_cast<void*>(last_return.rip), &info), 0) << "rip is the caller's";
  EXPECT_EQ(last_return.rsp % 16, 0u);
  EXPECT_EQ(missed(), 0u);
}

TEST_P(Return, EveryKindOfResultAndArgumentSurvives) {
  auto a = probe(return_pair), b = probe(return_double), c = probe(return_long_double),
       d = probe(return_many), e = probe(return_variadic);
  const uint32_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  for (int i = 0; i < 200; ++i) {
    const long n = static_cast<long>(random() % 100000);
    const Pair pair = return_pair(n);
    ASSERT_EQ(pair.first, n) << "seed " << seed;
    ASSERT_EQ(pair.second, 2 * n);
    ASSERT_EQ(return_double(n, 0.5), n * 0.5);
    ASSERT_EQ(return_long_double(n), static_cast<long double>(n) / 3);
    ASSERT_EQ(return_many(n, 1, 1, 1, 1, 1, 1, n, 3.5, n), n + 2 + 3 + 4 + 5 + 6 + 7 + 8 * n + 9 * n + 3);
    char text[64];
    ASSERT_EQ(return_variadic(text, "%d %.1f %s", 7, 2.5, "x"), 7);
    ASSERT_STREQ(text, "7 2.5 x");
  }
  EXPECT_EQ(returns, 1000u);
}

// Registers neither side may change: rbx and the other callee-saved ones around the call, r10 and
// r11 into it.
asm(R"(
    .text
    .globl return_registers
    .type return_registers,@function
return_registers:
    lea (%r10,%r11), %rax
    add %rbp, %rax
    ret
    .globl return_registers_forgotten
    .type return_registers_forgotten,@function
return_registers_forgotten:        # the same, and the probe goes meanwhile
    lea (%r10,%r11), %rax
    add %rbp, %rax
    push %rcx; push %r8; push %r9; push %r10; push %r11; push %rax
    sub $8, %rsp
    call forget_returns
    add $8, %rsp
    pop %rax; pop %r11; pop %r10; pop %r9; pop %r8; pop %rcx
    ret
    .globl return_registers_call
return_registers_call:             # (function): all callee-saved registers carry marks; 0: all right
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    sub $8, %rsp
    mov $0x1000, %ebx; mov $2, %ebp; mov $3, %r12d; mov $4, %r13d; mov $5, %r14d; mov $6, %r15d
    mov $0x100, %r10d; mov $0x10, %r11d; mov $7, %ecx; mov $8, %r8d
    call *%rdi
    sub $0x112, %rax
    sub $0x1000, %rbx; or %rbx, %rax
    sub $2, %rbp; or %rbp, %rax
    sub $3, %r12; or %r12, %rax
    sub $4, %r13; or %r13, %rax
    sub $5, %r14; or %r14, %rax
    sub $6, %r15; or %r15, %rax
    sub $0x100, %r10; or %r10, %rax
    sub $0x10, %r11; or %r11, %rax
    sub $7, %rcx; or %rcx, %rax
    sub $8, %r8; or %r8, %rax
    add $8, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret
)");
extern "C" long return_registers();
extern "C" long return_registers_forgotten();
extern "C" long return_registers_call(long (*function)());
// As the daemon when it takes the guard away.
extern "C" __attribute__((used)) void forget_returns() {
  static const auto forget = TestAgent::get().symbol<long (*)()>("bpftime_agent_forget_returns");
  if (forget() != 0) abort();
}

TEST_P(Return, NoRegisterChangesEitherWay) {
  ASSERT_EQ(return_registers_call(return_registers), 0);
  auto live = probe(return_registers, true);
  for (int i = 0; i < 200; ++i) ASSERT_EQ(return_registers_call(return_registers), 0);
  EXPECT_EQ(returns, 200u);
  EXPECT_EQ(last_return.rbx, 0x1000u) << "the host's rbx, not our frame";
}

asm(R"(
    .text
    .globl return_tail
    .type return_tail,@function
return_tail:
    mov $1, %esi
    jmp return_add
)");
extern "C" long return_tail(long a);

TEST_P(Return, TailCallsBetweenProbedFunctions) {
  auto a = probe(return_add), b = probe(return_tail);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(return_tail(i), i + 1);
  EXPECT_EQ(returns, 2000u);
  EXPECT_EQ(missed(), 0u);
}

asm(R"(
    .text
    .globl return_tail_deep
    .type return_tail_deep,@function
return_tail_deep:
    nop
    nop
    nop
    nop
    nop
    jmp return_deep
)");
extern "C" long return_tail_deep(long n);

PROBED long return_deep(long n) {
  volatile long keep = n;
  if (n == 0) return 0;
  const long below = return_deep(n - 1);
  return below + (keep == n);
}

TEST_P(Return, DeepRecursion) {
  auto live = probe(return_deep);
  EXPECT_EQ(return_deep(20000), 20000);
  EXPECT_EQ(returns, 20001u);
  EXPECT_EQ(missed(), 0u);
}

// Frames run out while the first two calls share a stack slot: neither may be taken for dead, whosesoever slots they use.
TEST_P(Return, TailCallsOutliveTheSearchForDeadFrames) {
  auto a = probe(return_tail_deep), b = probe(return_deep);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(return_tail_deep(1000), 1000);
  EXPECT_EQ(returns, 20u * 1002u);
  EXPECT_EQ(missed(), 0u);
}

TEST_P(Return, DeeperThanThePoolStillRuns) {
  auto live = probe(return_deep);
  EXPECT_EQ(return_deep(80000), 80000);
  EXPECT_GT(missed(), 0u);
  EXPECT_EQ(returns + missed(), 80001u);
}

// --- calls that never return
// ------------------------------------------------------------------------------------------

PROBED void return_throw(int value) {
  if (value >= 0) throw std::runtime_error(std::to_string(value));
}
PROBED int return_catch(int value) {
  try {
    return_throw(value);
  } catch (const std::runtime_error& error) {
    return std::stoi(error.what());
  }
  return -1;
}
PROBED int return_rethrow(int value) {
  try {
    return_throw(value);
  } catch (...) {
    throw;
  }
  return -1;
}
PROBED int return_pass(int value) {
  struct Destroyed {
    ~Destroyed() { asm volatile(""); }
  } guard;
  return_throw(value);
  return -1;
}

TEST_P(Return, ExceptionsPassThroughTheSlot) {
  auto a = probe(return_throw), b = probe(return_catch), c = probe(return_rethrow), d = probe(return_pass);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(return_catch(i), i) << "caught in the direct caller";
    try {
      return_pass(i);
      FAIL();
    } catch (const std::runtime_error& error) {
      ASSERT_EQ(std::stoi(error.what()), i) << "caught one frame up";
    }
    try {
      return_rethrow(i);
      FAIL();
    } catch (const std::runtime_error& error) {
      ASSERT_EQ(std::stoi(error.what()), i) << "rethrown";
    }
  }
  EXPECT_EQ(return_catch(-1), -1);
  EXPECT_EQ(missed(), 0u) << "leaked frames are taken back";
}

jmp_buf escape;
PROBED void return_jump(int value) { longjmp(escape, value); }
PROBED int return_jump_outer(int value) {
  volatile int keep = value;
  return_jump(keep);
  return keep;
}

TEST_P(Return, LongjmpDoesNotExhaust) {
  auto a = probe(return_jump), b = probe(return_jump_outer);
  static int i;
  for (i = 1; i <= 10000; ++i) {
    const int value = setjmp(escape);
    if (value == 0) return_jump_outer(i);
    ASSERT_EQ(value, i);
  }
  EXPECT_EQ(missed(), 0u);
}

PROBED void return_wait(std::atomic<bool>* ready) {
  *ready = true;
  for (;;) pause();
}

TEST_P(Return, CancellationUnwindsThroughTheSlot) {
  auto live = probe(return_wait);
  for (int i = 0; i < 20; ++i) {
    static std::atomic<bool> ready, cleaned;
    ready = cleaned = false;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          struct Cleaned {
            ~Cleaned() { cleaned = true; }
          } guard;
          return_wait(&ready);
          return nullptr;
        },
        nullptr);
    while (!ready) std::this_thread::yield();
    pthread_cancel(thread);
    void* result = nullptr;
    pthread_join(thread, &result);
    EXPECT_EQ(result, PTHREAD_CANCELED);
    EXPECT_TRUE(cleaned);
  }
}

PROBED void return_exit_thread() { pthread_exit(nullptr); }

TEST_P(Return, ManyThreadsComeAndGo) {
  auto a = probe(return_add), b = probe(return_exit_thread);
  for (int i = 0; i < 10000; ++i) {
    pthread_t thread;
    ASSERT_EQ(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                    if (return_add(1, 2) != 3) abort();
                    return_exit_thread();
                    return nullptr;
                  },
                  nullptr),
              0);
    pthread_join(thread, nullptr);
  }
  EXPECT_EQ(returns, 10000u);
  EXPECT_EQ(missed(), 0u);
}

TEST_P(Return, ThreadsInParallel) {
  auto live = probe(return_add, true);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20000; ++i) wrong += return_add(i, t) != i + t;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(returns, 160000u);
  EXPECT_EQ(missed(), 0u);
}

// --- calls that outlive their probe
// ------------------------------------------------------------------------------------------

PROBED long return_forgotten(long depth) {
  if (depth == 0) {
    forget_returns();
    return 0;
  }
  return 1 + return_forgotten(depth - 1);
}
PROBED Pair return_pair_forgotten(long a) {
  forget_returns();
  return {a, a * 2};
}
PROBED void return_throw_forgotten() {
  forget_returns();
  throw std::runtime_error("forgotten");
}

TEST_P(Return, ForgottenCallsRunNoProgramAndKeepRegisters) {
  ASSERT_EQ(return_registers_call(return_registers_forgotten), 0);
  auto a = probe(return_registers_forgotten), b = probe(return_pair_forgotten), c = probe(return_add);
  for (long i = 0; i < 200; ++i) {
    ASSERT_EQ(return_registers_call(return_registers_forgotten), 0);
    const Pair pair = return_pair_forgotten(i);
    ASSERT_EQ(pair.first, i);
    ASSERT_EQ(pair.second, 2 * i);
  }
  EXPECT_EQ(returns, 0u);
  EXPECT_EQ(return_add(40, 2), 42);
  EXPECT_EQ(returns, 1u) << "calls that begin later are seen";
  EXPECT_EQ(missed(), 0u);
}

TEST_P(Return, ForgottenFramesAreUsedAgain) {
  auto a = probe(return_forgotten), b = probe(return_deep);
  for (int i = 0; i < 200; ++i) ASSERT_EQ(return_forgotten(2000), 2000);
  EXPECT_EQ(returns, 0u);
  EXPECT_EQ(return_deep(2000), 2000);
  EXPECT_EQ(returns, 2001u);
  EXPECT_EQ(missed(), 0u);
}

TEST_P(Return, ExceptionsLeaveForgottenCalls) {
  auto live = probe(return_throw_forgotten);
  int caught = 0;
  for (int i = 0; i < 1000; ++i) {
    try {
      return_throw_forgotten();
    } catch (const std::runtime_error&) {
      ++caught;
    }
  }
  EXPECT_EQ(caught, 1000);
  EXPECT_EQ(missed(), 0u);
}

// SIGALRM to `handler` every `interval_ns`, as long as this lives.
class Alarms {
 public:
  Alarms(void (*handler)(int), long interval_ns) {
    struct sigaction action {};
    action.sa_handler = handler;
    sigaction(SIGALRM, &action, nullptr);
    const itimerspec interval = {{0, interval_ns}, {0, interval_ns}};
    EXPECT_EQ(timer_create(CLOCK_MONOTONIC, nullptr, &timer_), 0);
    timer_settime(timer_, 0, &interval, nullptr);
  }
  ~Alarms() {
    timer_delete(timer_);
    signal(SIGALRM, SIG_DFL);
  }

 private:
  timer_t timer_;
};

void hit_probe_in_handler(int) {
  if (return_add(20, 3) != 23) abort();
}

TEST_P(Return, SignalsWhileForgottenCallsReturn) {
  auto a = probe(return_forgotten), b = probe(return_add);
  {
    const Alarms alarms(hit_probe_in_handler, 50'000);
    for (int i = 0; i < 300; ++i)
      if (return_forgotten(2000) != 2000) abort();
  }
  EXPECT_EQ(missed(), 0u);
}

// --- signals, coroutines, forks
// -----------------------------------------------------------------------------------------

TEST_P(Return, SignalHandlersThatHitProbes) {
  auto live = probe(return_add, true);
  {
    const Alarms alarms(hit_probe_in_handler, 50'000);
    for (int i = 0; i < 2000000; ++i) {
      if (return_add(i, 1) != i + 1) abort();
    }
  }
  EXPECT_GE(returns, 2000000u);
  EXPECT_EQ(missed(), 0u);
}

sigjmp_buf signal_escape;
volatile sig_atomic_t escapable, escapes;

TEST_P(Return, SignalHandlersThatJumpOutAnywhere) {
  auto a = probe(return_add, true), b = probe(return_tail), c = probe(return_deep);
  const auto handler = [](int) {
    if (return_add(20, 3) != 23) abort();
    if (escapable == 0) return;
    escapable = 0;
    escapes = escapes + 1;
    siglongjmp(signal_escape, 1);
  };
  {
    const Alarms alarms(handler, 40'000);
    static int round;
    for (round = 0; round < 5000; ++round) {
      if (sigsetjmp(signal_escape, 1) == 0) {
        escapable = 1;
        for (int i = 0; i < 100; ++i) {
          if (return_add(i, 1) != i + 1 || return_tail(i) != i + 1 || return_deep(3) != 3) abort();
        }
      }
      escapable = 0;
    }
  }
  EXPECT_GT(escapes, 0);
  EXPECT_EQ(missed(), 0u);
}

ucontext_t main_context, coroutine_context[8];
int coroutine_turns;
PROBED int return_yield(int which) {
  swapcontext(&coroutine_context[which], &main_context);
  return which;
}
void coroutine(int which) {
  for (;;) {
    if (return_yield(which) != which) abort();
    ++coroutine_turns;
  }
}

TEST_P(Return, CoroutinesReturnInAnyOrder) {
  auto live = probe(return_yield);
  static char stacks[8][65536];
  for (int i = 0; i < 8; ++i) {
    getcontext(&coroutine_context[i]);
    coroutine_context[i].uc_stack = {stacks[i], 0, sizeof stacks[i]};
    makecontext(&coroutine_context[i], reinterpret_cast<void (*)()>(coroutine), 1, i);
  }
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int i = 0; i < 20000; ++i) {
    const int which = static_cast<int>(random() % 8);
    swapcontext(&main_context, &coroutine_context[which]);
  }
  EXPECT_GT(coroutine_turns, 19000) << "seed " << seed;
  EXPECT_EQ(missed(), 0u);
}

TEST_P(Return, ForkedChildren) {
  auto live = probe(return_add);
  const pid_t child = fork();
  if (child == 0) _exit(return_add(30, 3) == 33 && returns == 1 ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(return_add(1, 1), 2);
}

// --- those who look at stacks
// -------------------------------------------------------------------------------------------

PROBED int return_backtrace(void** out, int size) {
  const int depth = backtrace(out, size);
  asm volatile("");
  return depth;
}
PROBED int return_backtrace_outer(void** out, int size) {
  const int depth = return_backtrace(out, size);
  asm volatile("");
  return depth;
}

TEST_P(Return, BacktracePassesThroughTheSlot) {
  void* plain[64];
  const int plain_depth = return_backtrace_outer(plain, 64);
  auto a = probe(return_backtrace), b = probe(return_backtrace_outer);
  void* probed[64];
  const int depth = return_backtrace_outer(probed, 64);
  ASSERT_EQ(depth, plain_depth + 2) << "two slots between the same frames";
  EXPECT_EQ(probed[depth - 1], plain[plain_depth - 1]);
  EXPECT_EQ(probed[depth - 3], plain[plain_depth - 3]);
}

// This test once more, under a program that looks at it. Empty: it may not.
std::string output_under(const std::string& before, const std::string& after) {
  char self[4096] = {};
  if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0) return "";
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string command = "BPFTIME_LOOKED_AT=1 BPFTIME_BIN_DIR='" +
                              agent_path().substr(0, agent_path().rfind('/')) + "' " + before + " " + self +
                              " --gtest_filter=" + test->test_suite_name() + "." + test->name() + " 2>&1" +
                              after;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  std::string output;
  char line[1024];
  while (fgets(line, sizeof line, pipe) != nullptr) output += line;
  pclose(pipe);
  return output;
}

// With frame pointers (CMakeLists.txt).
PROBED long return_busy(long rounds) {
  volatile long left = rounds;
  while (left > 0) left = left - 1;
  return left;
}
PROBED long return_busy_caller(long rounds) { return return_busy(rounds) + 1; }
PROBED long return_busy_outer(long rounds) { return return_busy_caller(rounds) + 1; }

// By frame pointers perf gets through; in the place of the direct caller it sees the slot, as it sees [uprobes] on Linux. With
// --call-graph dwarf it copies the stack alone, where the return address is not, and ends at the slot.
TEST_P(Return, ProfilerPassesThroughTheSlot) {
  if (system("perf --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "perf is not installed";
  if (getenv("BPFTIME_LOOKED_AT") != nullptr) {
    auto live = probe(return_busy);
    for (int i = 0; i < 50; ++i)
      if (return_busy_outer(4000000) != 2) abort();
    return;
  }
  char directory[] = "/tmp/bpftime-perf-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  const std::string data = std::string(directory) + "/data";
  for (const std::string how : {"fp", "dwarf,4096"}) {
    SCOPED_TRACE(how);
    const std::string output =
        output_under("perf record -q -e cpu-clock:u --call-graph " + how + " -o " + data + " --",
                     "; perf script -i " + data + " -F ip,sym 2>/dev/null");
    unlink(data.c_str());
    if (output.find("return_busy\n") == std::string::npos) {
      rmdir(directory);
      GTEST_SKIP() << "perf does not sample here: " << output.substr(0, 300);
    }
    bool slot_seen = false, through = false;
    for (size_t at = 0, end; at < output.size(); at = end + 2) {  // one sample's chain
      end = std::min(output.find("\n\n", at), output.size());
      const std::string sample = output.substr(at, end - at) + "\n";
      const size_t busy = sample.find(" return_busy\n"), slot = sample.find(" bpftime_agent_return_slots\n");
      const size_t outer = sample.find(" return_busy_outer\n");
      slot_seen |= busy < slot && slot != std::string::npos;
      through |= busy < slot && slot < outer && outer != std::string::npos;
    }
    EXPECT_TRUE(slot_seen) << output.substr(0, 4000);
    EXPECT_TRUE(through || how != "fp") << output.substr(0, 4000);
  }
  rmdir(directory);
}

PROBED void return_trap() { asm volatile(".skip 8, 0x90; int3"); }

TEST_P(Return, DebuggerPassesThroughTheSlot) {
  if (system("gdb --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "gdb is not installed";
  if (getenv("BPFTIME_LOOKED_AT") != nullptr) {
    auto live = probe(return_trap);
    return_trap();
    return;
  }
  const std::string output = output_under("gdb -nx -batch -ex run -ex bt --args", "");
  if (output.find("ptrace: Operation not permitted") != std::string::npos)
    GTEST_SKIP() << "ptrace is not permitted here";
  EXPECT_THAT(output, ::testing::HasSubstr("return_trap"));
  EXPECT_THAT(output, ::testing::HasSubstr("bpftime_agent_return_slots"));
  EXPECT_THAT(output, ::testing::ContainsRegex("in main"));
}

}  // namespace
}  // namespace bpftime::agent

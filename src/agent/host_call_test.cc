// Programs that call functions of their host: results, saved state, and everything that can leave such a call.
#include <gtest/gtest.h>
#include <pthread.h>
#include <setjmp.h>

#include <exception>
#include <functional>
#include <optional>
#include <stdexcept>

#include "agent/test_agent.h"
#include "rewrite/test_patch.h"

namespace bpftime::agent {
namespace {

using rewrite::LivePatch;
using rewrite::TestArena;

uint64_t (*host_function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
uint64_t host_result;
uint64_t programs_finished;

// As compiled code calls the bridge: seven arguments, the last one the registers.
extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t calling_program(
    void* ctx, const wire::Invocation*) {
  using Bridge = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void*, void*);
  const auto bridge = reinterpret_cast<Bridge>(TestAgent::context_address()->host_call);
  host_result = bridge(1, 2, 3, 4, 5, reinterpret_cast<void*>(host_function), ctx);
  ++programs_finished;
  return 0;
}

// Twelve instructions, so that there is something to displace; sums ten doubles: all vector arguments are live at its entry.
extern "C" __attribute__((noinline, noclone)) double probed_sum(double a, double b, double c, double d,
                                                                double e, double f, double g, double h,
                                                                uint64_t count) {
  asm volatile("" ::: "memory");
  return (a + b + c + d + e + f + g + h) * static_cast<double>(count);
}
double (*volatile call_probed)(double, double, double, double, double, double, double, double,
                               uint64_t) = probed_sum;
double probed() { return call_probed(1, 2, 3, 4, 5, 6, 7, 8, 10); }

class HostCall : public ::testing::Test {
 protected:
  HostCall() : arena_(reinterpret_cast<void*>(probed_sum)) {
    TestAgent& agent = TestAgent::get();
    agent.context().host_call = agent.symbol<uint64_t>("bpftime_agent_host_call");
    rewrite::SiteRequest request;
    request.on_entry = {{reinterpret_cast<uint64_t>(calling_program), {}, 0}};
    patch_.emplace(arena_, reinterpret_cast<void*>(probed_sum), 64, request);
    programs_finished = 0;
    aborted_before_ = agent.context().host_calls_aborted;
  }
  uint64_t aborted() { return TestAgent::get().context().host_calls_aborted - aborted_before_; }

  TestArena arena_;
  std::optional<LivePatch> patch_;
  uint64_t aborted_before_ = 0;
};

TEST_F(HostCall, PassesArgumentsAndTheResultAndKeepsVectorRegisters) {
  host_function = [](uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) -> uint64_t {
    // Everything a function may clobber.
    asm volatile(
        "pxor %%xmm0, %%xmm0; pxor %%xmm1, %%xmm1; pxor %%xmm2, %%xmm2; pxor %%xmm7, %%xmm7; pxor %%xmm15, "
        "%%xmm15;"
        "fninit; fld1" ::
            : "xmm0", "xmm1", "xmm2", "xmm7", "xmm15");
    asm volatile("fstp %%st(0)" ::: "st");
    const bool aligned = reinterpret_cast<uint64_t>(__builtin_frame_address(0)) % 16 == 0;
    return aligned ? a * 10000 + b * 1000 + c * 100 + d * 10 + e : 0;
  };
  EXPECT_EQ(probed(), 360.0);
  EXPECT_EQ(host_result, 12345u);
  EXPECT_EQ(programs_finished, 1u);
}

TEST_F(HostCall, AnExceptionEndsTheProgramAndNotTheHost) {
  host_function = [](uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) -> uint64_t {
    throw std::runtime_error("from the host");
  };
  for (int i = 0; i < 100; ++i) {
    double result = 0;
    EXPECT_NO_THROW(result = probed());
    EXPECT_EQ(result, 360.0);
  }
  EXPECT_EQ(programs_finished, 0u);
  EXPECT_EQ(aborted(), 100u);
  EXPECT_EQ(std::uncaught_exceptions(), 0);
}

TEST_F(HostCall, ExceptionsCaughtInsideAreNoneOfOurs) {
  host_function = [](uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) -> uint64_t {
    try {
      throw 5;
    } catch (int value) {
      return static_cast<uint64_t>(value);
    }
  };
  EXPECT_EQ(probed(), 360.0);
  EXPECT_EQ(host_result, 5u);
  EXPECT_EQ(aborted(), 0u);
}

jmp_buf escape;

TEST_F(HostCall, ALongjmpPastTheProgramLeavesTheHostRight) {
  host_function = [](uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) -> uint64_t { longjmp(escape, 1); };
  volatile int jumps = 0;
  while (jumps < 100) {
    if (setjmp(escape) == 0) {
      probed();
      FAIL() << "came back";
    }
    jumps = jumps + 1;
  }
  EXPECT_EQ(programs_finished, 0u);
}

struct CountsDestruction {
  int& count;
  ~CountsDestruction() { ++count; }
};

TEST_F(HostCall, AThreadThatEndsInsideUnwindsItsCallers) {
  host_function = [](uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) -> uint64_t { pthread_exit(nullptr); };
  int destroyed = 0;
  pthread_t thread;
  pthread_create(
      &thread, nullptr,
      [](void* count) -> void* {
        const CountsDestruction guard{*static_cast<int*>(count)};
        probed();
        return count;
      },
      &destroyed);
  void* result = &destroyed;
  pthread_join(thread, &result);
  EXPECT_EQ(result, nullptr);
  EXPECT_EQ(destroyed, 1);
}

TEST_F(HostCall, ProbesInsideTheHostFunctionFire) {
  static int depth;
  depth = 0;
  host_function = [](uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) -> uint64_t {
    if (++depth < 3) probed();
    return 7;
  };
  EXPECT_EQ(probed(), 360.0);
  EXPECT_EQ(programs_finished, 3u);
}

}  // namespace
}  // namespace bpftime::agent

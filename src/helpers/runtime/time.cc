// Clocks, by the vDSO's clock_gettime: on x86-64 it uses general registers only.
#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {
namespace {

struct TimeSpec {
  int64_t seconds;
  int64_t nanoseconds;
};
using ClockGettime = long (*)(int clock, TimeSpec* time);
constexpr int kMonotonic = 1, kMonotonicCoarse = 6, kBoottime = 7, kTai = 11;

}  // namespace

// Not inlined: a program that reads the clock twice should not carry it twice, and the call is noise beside
// the rdtsc.
__attribute__((noinline)) uint64_t clock_ns(int clock) {
  TimeSpec time{};
  const auto vdso = reinterpret_cast<ClockGettime>(context()->vdso_clock_gettime);
  if (__builtin_expect(vdso != nullptr, 1)) {
    vdso(clock, &time);
  } else if (may_call_system()) {
    system_call(kSysClockGettime, static_cast<uint64_t>(clock), reinterpret_cast<uint64_t>(&time));
  }
  return static_cast<uint64_t>(time.seconds) * 1'000'000'000u + static_cast<uint64_t>(time.nanoseconds);
}

BPFTIME_HELPER_FUNCTION(ktime_get_ns) { return clock_ns(kMonotonic); }

BPFTIME_HELPER_FUNCTION(ktime_get_boot_ns) { return clock_ns(kBoottime); }

BPFTIME_HELPER_FUNCTION(ktime_get_coarse_ns) { return clock_ns(kMonotonicCoarse); }

BPFTIME_HELPER_FUNCTION(ktime_get_tai_ns) { return clock_ns(kTai); }

// The kernel's tick count starts five minutes before it wraps around at 32 bits, at boot.
BPFTIME_HELPER_FUNCTION(jiffies64) {
  const uint64_t tick = context()->task.tick_ns;
  if (tick == 0) return 0;
  const uint64_t per_second = 1'000'000'000u / tick;
  return static_cast<uint32_t>(0 - 300 * per_second) + clock_ns(kMonotonicCoarse) / tick;
}

}  // namespace bpftime::runtime

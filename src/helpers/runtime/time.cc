#include "helpers/runtime/clock.h"

namespace bpftime::runtime {

BPFTIME_HELPER_FUNCTION(ktime_get_ns) { return fast_clock(kClockMonotonic); }

BPFTIME_HELPER_FUNCTION(ktime_get_boot_ns) { return fast_clock(kClockBoottime); }

BPFTIME_HELPER_FUNCTION(ktime_get_coarse_ns) { return bpftime_clock(kClockMonotonicCoarse); }

BPFTIME_HELPER_FUNCTION(ktime_get_tai_ns) { return bpftime_clock(kClockTai); }

// The kernel's tick count starts five minutes before it wraps around at 32 bits, at boot.
BPFTIME_HELPER_FUNCTION(jiffies64) {
  const uint64_t tick = context()->task.tick_ns;
  if (tick == 0) return 0;
  const uint64_t per_second = 1'000'000'000u / tick;
  return static_cast<uint32_t>(0 - 300 * per_second) + bpftime_clock(kClockMonotonicCoarse) / tick;
}

}  // namespace bpftime::runtime

#include "helpers/runtime/clock.h"

namespace bpftime::runtime {

BPFTIME_HELPER_FUNCTION(ktime_get_ns) { return fast_clock(kClockMonotonic); }

BPFTIME_HELPER_FUNCTION(ktime_get_boot_ns) { return fast_clock(kClockBoottime); }

BPFTIME_HELPER_FUNCTION(ktime_get_coarse_ns) { return bpftime_clock(kClockMonotonicCoarse); }

}  // namespace bpftime::runtime

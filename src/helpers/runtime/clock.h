// CLOCK_MONOTONIC and CLOCK_BOOTTIME by one rdtsc: a line (wire::ClockLine) good for a millisecond, which whoever finds it
// expired draws anew from the vDSO. Nobody has to refresh it: it is as right when the daemon is dead as when it lives, and a
// process that reads no clock pays nothing. docs/decisions/0040-clock-lines.md has the argument.
//
// Rules for whoever edits this:
//  1. A line never lies below the kernel's clock: it starts at a counter value read before the clock was, and is a little
//     too steep (kSteeper). So whoever changes from the vDSO to a line does not go back in time.
//  2. A line never starts below the end of the one before (ns_end). So neither does who changes lines, however late.
//  3. Both together would run ahead for ever: a line that starts ahead is less steep and meets the clock at its end.
//  4. Everything read here may have been scribbled on by the host: no division by what is not checked, no loop.
#pragma once

#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {

inline constexpr int kClockMonotonic = 1, kClockMonotonicCoarse = 6, kClockBoottime = 7, kClockTai = 11;

inline uint64_t read_ticks() {
  uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return uint64_t{high} << 32 | low;
}

inline wire::ClockLine* clock_line(int clock) {
  return clock == kClockMonotonic ? &identity()->monotonic : &identity()->boottime;
}

// The time on the line. False: there is none, it has come to its end, or is being drawn.
inline bool read_line(const wire::ClockLine* line, uint64_t* time) {
  const uint64_t sequence = __atomic_load_n(&line->sequence, __ATOMIC_ACQUIRE);
  const uint64_t start = __atomic_load_n(&line->ticks, __ATOMIC_RELAXED);
  const uint64_t ns = __atomic_load_n(&line->ns, __ATOMIC_RELAXED);
  const uint64_t slope = __atomic_load_n(&line->slope, __ATOMIC_RELAXED);
  const uint64_t ticks_max = __atomic_load_n(&line->ticks_max, __ATOMIC_RELAXED);
  const uint64_t passed = read_ticks() - start;  // huge when the counter was reset meanwhile
  const uint64_t torn = (sequence & 1) | (sequence ^ __atomic_load_n(&line->sequence, __ATOMIC_ACQUIRE));
  *time = ns + (passed * slope >> 32);
  return (passed < ticks_max) & (torn == 0);
}

inline uint64_t fast_clock(int clock) {
  uint64_t time;
  return __builtin_expect(read_line(clock_line(clock), &time), 1) ? time : bpftime_slow_clock(clock);
}

}  // namespace bpftime::runtime

// The kernel's clocks, by the vDSO's clock_gettime (on x86-64 it uses general registers only), and new lines for clock.h.
#include "helpers/runtime/clock.h"

namespace bpftime::runtime {
namespace {

struct TimeSpec {
  int64_t seconds;
  int64_t nanoseconds;
};
using ClockGettime = long (*)(int clock, TimeSpec* time);

constexpr uint64_t kLineNs = 1'000'000;
// A reading of counter and clock that took longer was interrupted: no line starts there.
constexpr uint64_t kReadingTicksMax = 1024;
constexpr uint64_t kFirstBaseNsMin = kLineNs, kBaseNsMin = 16 * kLineNs, kBaseNsRenew = 1'000'000'000,
                   kBaseNsMax = 0xffffffff;
// One part in 2^14, 61 ns per line: more than a reading of the slope is off by.
constexpr uint32_t kSteeper = 14;
// A line ends less than this above the clock (kSteeper, and what kSlopeChangeMax lets pass). Who is further ahead did not run
// ahead: the clock was set back (another time namespace, another machine), and steps; or ns_end is of a line that began just now.
constexpr uint64_t kAheadNsMax = kLineNs / 100;
// NTP changes the slope by less. More: the counter stood still or was reset, and the base with it.
constexpr uint32_t kSlopeChangeMax = 9;  // one part in 2^9

struct Reading {
  uint64_t ticks, ns;
};

// Never below the end of the last line, unless the clock was set back.
uint64_t not_before(uint64_t ns, uint64_t ns_end) { return ns_end - ns < kAheadNsMax ? ns_end : ns; }

bool about_equal(uint64_t a, uint64_t b) { return (a > b ? a - b : b - a) <= b >> kSlopeChangeMax; }

// What the kernel's clock gains per tick; 0 while that is not known.
uint64_t measure_slope(wire::ClockLine& line, const Reading& now) {
  const uint64_t known = line.measured;
  const uint64_t ns = now.ns - line.base_ns, ticks = now.ticks - line.base_ticks;
  const bool has_base = line.base_ticks != 0 && ns <= kBaseNsMax && ticks < uint64_t{1} << 40;
  if (has_base && ns < (known != 0 ? kBaseNsMin : kFirstBaseNsMin)) return known;
  uint64_t slope = known;
  if (has_base && ticks != 0) {
    slope = (ns << 32) / ticks;
    if (known != 0 && !about_equal(slope, known)) slope = 0;
  }
  if (!has_base || ns >= kBaseNsRenew || slope == 0) {
    line.base_ticks = now.ticks;
    line.base_ns = now.ns;
  }
  return line.measured = slope;
}

void draw_line(wire::ClockLine& line, const Reading& now) {
  const uint64_t slope = measure_slope(line, now);
  const uint64_t ns = not_before(now.ns, line.ns_end), ahead = ns - now.ns;
  const uint64_t ticks_max = slope != 0 ? (kLineNs << 32) / slope : 0;
  line.ticks = now.ticks;
  line.ns = ns;
  line.ticks_max = ticks_max;
  line.slope = slope;
  if (ticks_max == 0) return;
  line.slope = slope + (slope >> kSteeper) - (ahead << 32) / ticks_max;
  __atomic_store_n(&line.ns_end, ns + (ticks_max * line.slope >> 32), __ATOMIC_RELAXED);
}

}  // namespace

uint64_t bpftime_clock(int clock) {
  TimeSpec time{};
  const auto vdso = reinterpret_cast<ClockGettime>(context()->vdso_clock_gettime);
  if (__builtin_expect(vdso != nullptr, 1)) {
    vdso(clock, &time);
  } else if (may_call_system()) {
    system_call(kSysClockGettime, static_cast<uint64_t>(clock), reinterpret_cast<uint64_t>(&time));
  }
  return static_cast<uint64_t>(time.seconds) * 1'000'000'000u + static_cast<uint64_t>(time.nanoseconds);
}

uint64_t bpftime_slow_clock(int clock) {
  if ((context()->flags & wire::kTscClock) == 0) return bpftime_clock(clock);
  wire::ClockLine& line = *clock_line(clock);
  uint64_t sequence = __atomic_load_n(&line.sequence, __ATOMIC_ACQUIRE);
  asm volatile("lfence" : : : "memory");  // the counter must not be read before the sequence is
  // Somebody else may have drawn a line since the caller looked. It must be used to its end: the next one starts there.
  uint64_t time;
  if (read_line(&line, &time)) return time;
  const uint64_t before = read_ticks();
  const uint64_t ns = bpftime_clock(clock);
  const bool disturbed = read_ticks() - before > kReadingTicksMax;
  const uint64_t result = not_before(ns, __atomic_load_n(&line.ns_end, __ATOMIC_RELAXED));
  if (ns == 0 || disturbed || (sequence & 1) != 0) return result;
  // Whoever is first draws it. A thread that was killed here (a child of vfork) leaves the vDSO to all others: slower, right.
  if (__atomic_compare_exchange_n(&line.sequence, &sequence, sequence + 1, false, __ATOMIC_ACQ_REL,
                                  __ATOMIC_RELAXED)) {
    draw_line(line, {before, ns});
    __atomic_store_n(&line.sequence, sequence + 2, __ATOMIC_RELEASE);
  }
  return result;
}

}  // namespace bpftime::runtime

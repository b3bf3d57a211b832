// Counts runs of programs at their places in targets, while somebody wants to know (BPF_ENABLE_STATS). The counters lie in
// memory that targets map and trampolines add to; nothing of it exists in a trampoline while nobody asks.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "base/bytes.h"

namespace bpftime::kernel {

// One place: in process `pid`, at `address` (an entry or a return), one attachment of a program (`order`).
struct HitPlace {
  int32_t pid = 0;
  uint64_t address = 0;
  uint32_t program = 0;
  uint64_t order = 0;
  bool on_return = false;

  auto operator<=>(const HitPlace&) const = default;
};

struct HitCount {
  uint64_t runs = 0, ns = 0;

  HitCount& operator+=(const HitCount& other) {
    runs += other.runs;
    ns += other.ns;
    return *this;
  }
};

uint64_t monotonic_ns();

class Hits {
 public:
  Hits();

  // A counter as trampolines know it (rewrite::ProgramCall::counter): how often the program began, how often it ended, and
  // the sum of all ends less the sum of all beginnings, by the time stamp counter.
  struct Counter {
    uint64_t begun, ended, cycles;
    uint64_t unused[5];  // a cache line of its own
  };
  static_assert(sizeof(Counter) == 64);

  // The memory: an array of counters at `address` in every target. Targets can write anything there.
  void use(uint8_t* memory, uint64_t address, uint32_t counters);
  // Address of the place's counter, in targets; given out now if it has none. 0: all are in use.
  uint64_t counter(const HitPlace& place);
  // What the counter at that address says now; nothing for 0.
  HitCount at(uint64_t address) const;
  HitCount of_program(uint32_t program) const;
  // A program that was run outside of targets.
  void add(uint32_t program, const HitCount& count) { past_[program] += count; }
  void forget_program(uint32_t program);
  // Nobody counts any more, or somebody begins to: what was counted becomes the programs', the counters are free.
  void settle();

 private:
  uint8_t* memory_ = nullptr;
  uint64_t address_ = 0;
  uint32_t counters_ = 0, next_ = 0;
  std::map<HitPlace, uint32_t> places_;
  std::map<uint32_t, HitCount> past_;  // by program
  uint64_t first_cycles_, first_ns_;   // when we began: what a cycle is worth follows from then and now

  HitCount read(uint32_t index) const;
};

}  // namespace bpftime::kernel

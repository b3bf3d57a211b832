#include "kernel/hits.h"

#include <time.h>
#include <x86intrin.h>

#include <cstring>

namespace bpftime::kernel {

uint64_t monotonic_ns() {
  timespec ts{};
  ::clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(ts.tv_nsec);
}

Hits::Hits() : first_cycles_(__rdtsc()), first_ns_(monotonic_ns()) {}

void Hits::use(uint8_t* memory, uint64_t address, uint32_t counters) {
  memory_ = memory;
  address_ = address;
  counters_ = counters;
}

uint64_t Hits::counter(const HitPlace& place) {
  auto known = places_.find(place);
  if (known == places_.end()) {
    if (memory_ == nullptr || places_.size() >= counters_) return 0;
    // In turn: a thread may still be on its way through a trampoline with a counter that was freed a moment ago.
    const uint32_t index = next_++ % counters_;
    std::memset(memory_ + uint64_t{index} * sizeof(Counter), 0, sizeof(Counter));
    known = places_.emplace(place, index).first;
  }
  return address_ + uint64_t{known->second} * sizeof(Counter);
}

HitCount Hits::at(uint64_t address) const {
  if (address < address_ || (address - address_) / sizeof(Counter) >= counters_) return {};
  return read(static_cast<uint32_t>((address - address_) / sizeof(Counter)));
}

HitCount Hits::read(uint32_t index) const {
  const auto* counter = reinterpret_cast<const Counter*>(memory_) + index;
  const auto load = [](const uint64_t& word) { return __atomic_load_n(&word, __ATOMIC_RELAXED); };
  const uint64_t ended = load(counter->ended), begun = load(counter->begun);
  // Those that run now have only taken their beginning away: for them it ends now.
  const uint64_t now = __rdtsc(), running = begun > ended ? begun - ended : 0;
  const auto cycles = static_cast<int64_t>(load(counter->cycles) + running * now);
  HitCount out{begun, 0};
  const uint64_t passed = monotonic_ns() - first_ns_;
  if (cycles > 0 && now > first_cycles_ && passed != 0)
    out.ns = static_cast<uint64_t>(static_cast<double>(cycles) * static_cast<double>(passed) /
                                   static_cast<double>(now - first_cycles_));
  if (out.runs != 0 && out.ns == 0) out.ns = 1;  // tools take 0 for "not counted"
  return out;
}

HitCount Hits::of_program(uint32_t program) const {
  HitCount out;
  if (const auto past = past_.find(program); past != past_.end()) out = past->second;
  for (const auto& [place, index] : places_)
    if (place.program == program) out += read(index);
  return out;
}

void Hits::forget_program(uint32_t program) {
  past_.erase(program);
  std::erase_if(places_, [&](const auto& entry) { return entry.first.program == program; });
}

void Hits::settle() {
  for (const auto& [place, index] : places_) past_[place.program] += read(index);
  places_.clear();
}

}  // namespace bpftime::kernel

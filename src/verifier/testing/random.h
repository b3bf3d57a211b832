// Random choices that are the same for a seed with every compiler and library. Test-only.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

namespace bpftime::verifier::testing {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull) {}

  uint64_t next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(next() % bound); }
  int32_t between(int32_t low, int32_t high) {  // inclusive
    return low + static_cast<int32_t>(next() % (static_cast<uint64_t>(static_cast<int64_t>(high) - low) + 1));
  }
  bool chance(uint32_t percent) { return below(100) < percent; }
  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[below(static_cast<uint32_t>(choices.size()))];
  }
  template <typename T>
  const T& pick(const std::vector<T>& choices) {
    return choices[below(static_cast<uint32_t>(choices.size()))];
  }
  // Numbers that verifiers get wrong: around zero and around the ends of each width.
  int32_t edge_imm() {
    const int32_t base = pick<int32_t>({0, 0, 1, 7, 8, 16, 31, 32, 48, 63, 64, 255, 256, 512, 0xffff,
                                        0x7fffffff, -1, -8, static_cast<int32_t>(0x80000000)});
    const int64_t moved = int64_t{base} + between(-1, 1);
    return static_cast<int32_t>(moved);
  }
  uint64_t edge_u64() {
    const uint64_t base = pick<uint64_t>({0, 1ull << 7, 1ull << 8, 1ull << 15, 1ull << 16, 1ull << 31,
                                          1ull << 32, 1ull << 63, ~0ull, 48, 512});
    if (chance(20)) return next();
    return base + static_cast<uint64_t>(static_cast<int64_t>(between(-1, 1)));
  }

 private:
  uint64_t state_;
};

// A number from the environment, for repeating or lengthening a run.
inline uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 0) : otherwise;
}

}  // namespace bpftime::verifier::testing

// Soundness of the scalar domain: exhaustive where numbers have 4 bits (with halves of 2), random at 8 and 64. Every concrete
// result must be contained in the abstract one.
#include "verifier/scalar.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "verifier/scalar_view.h"

namespace bpftime::verifier {
namespace {

constexpr uint8_t kAluOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_MOD, BPF_AND,
                               BPF_OR,  BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH};
constexpr uint8_t kJumps[] = {BPF_JEQ, BPF_JNE,  BPF_JSET, BPF_JGT,  BPF_JGE, BPF_JLT,
                              BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE};

// ---- the concrete side ----

uint64_t mask_of(unsigned width) { return ~0ull >> (64 - width); }
int64_t as_signed(uint64_t value, unsigned width) {
  return static_cast<int64_t>(value << (64 - width)) >> (64 - width);
}

uint64_t evaluate_at(unsigned width, uint8_t op, bool is_signed, uint64_t a, uint64_t b) {
  const uint64_t mask = mask_of(width);
  a &= mask;
  b &= mask;
  const int64_t sa = as_signed(a, width), sb = as_signed(b, width);
  const unsigned count = static_cast<unsigned>(b & (width - 1));
  switch (op) {
    case BPF_ADD:
      return (a + b) & mask;
    case BPF_SUB:
      return (a - b) & mask;
    case BPF_MUL:
      return (a * b) & mask;
    case BPF_DIV:
      if (b == 0) return 0;
      if (!is_signed) return a / b;
      return (sb == -1 ? 0 - a : static_cast<uint64_t>(sa / sb)) & mask;
    case BPF_MOD:
      if (b == 0) return a;
      if (!is_signed) return a % b;
      return (sb == -1 ? 0 : static_cast<uint64_t>(sa % sb)) & mask;
    case BPF_AND:
      return a & b;
    case BPF_OR:
      return a | b;
    case BPF_XOR:
      return a ^ b;
    case BPF_LSH:
      return (a << count) & mask;
    case BPF_RSH:
      return a >> count;
    case BPF_ARSH:
      return static_cast<uint64_t>(sa >> count) & mask;
    default:
      std::abort();
  }
}

uint64_t evaluate(const Domain& domain, uint8_t op, bool is_wide, bool is_signed, uint64_t a, uint64_t b) {
  return evaluate_at(is_wide ? domain.width : domain.half(), op, is_signed, a, b);
}

bool holds(const Domain& domain, uint8_t op, bool is_wide, uint64_t a, uint64_t b) {
  const unsigned width = is_wide ? domain.width : domain.half();
  a &= mask_of(width);
  b &= mask_of(width);
  const int64_t sa = as_signed(a, width), sb = as_signed(b, width);
  switch (op) {
    case BPF_JEQ:
      return a == b;
    case BPF_JNE:
      return a != b;
    case BPF_JSET:
      return (a & b) != 0;
    case BPF_JGT:
      return a > b;
    case BPF_JGE:
      return a >= b;
    case BPF_JLT:
      return a < b;
    case BPF_JLE:
      return a <= b;
    case BPF_JSGT:
      return sa > sb;
    case BPF_JSGE:
      return sa >= sb;
    case BPF_JSLT:
      return sa < sb;
    case BPF_JSLE:
      return sa <= sb;
    default:
      std::abort();
  }
}

// ---- sets of 4-bit numbers ----

constexpr Domain kSmall{4};
constexpr unsigned kCount = 16;
using Set = uint16_t;  // bit v: v is a member

Set members(const Scalar& a) {
  Set set = 0;
  for (unsigned v = 0; v < kCount; ++v) set = static_cast<Set>(set | (kSmall.contains(a, v) << v));
  return set;
}

std::vector<Tnum> all_tnums(unsigned width) {
  std::vector<Tnum> all;
  for (uint64_t mask = 0; mask <= mask_of(width); ++mask) {
    for (uint64_t value = 0; value <= mask_of(width); ++value) {
      if ((value & mask) == 0) all.push_back({value, mask});
    }
  }
  return all;
}

Scalar with_bits(Tnum bits) {
  Scalar a = kSmall.unknown();
  a.bits = bits;
  return a;
}

// Every set that one view alone can describe, unnormalised.
std::vector<Scalar> single_views() {
  std::vector<Scalar> all;
  for (const Tnum bits : all_tnums(4)) all.push_back(with_bits(bits));
  for (int low = 0; low < 16; ++low) {
    for (int high = low; high < 16; ++high) {
      Scalar a = kSmall.unknown();
      a.umin = static_cast<uint64_t>(low);
      a.umax = static_cast<uint64_t>(high);
      all.push_back(a);
      Scalar b = kSmall.unknown();
      b.smin = low - 8;
      b.smax = high - 8;
      all.push_back(b);
    }
  }
  for (int low = 0; low < 4; ++low) {
    for (int high = low; high < 4; ++high) {
      Scalar a = kSmall.unknown();
      a.umin32 = static_cast<uint32_t>(low);
      a.umax32 = static_cast<uint32_t>(high);
      all.push_back(a);
      Scalar b = kSmall.unknown();
      b.smin32 = low - 2;
      b.smax32 = high - 2;
      all.push_back(b);
    }
  }
  return all;
}

class Random {
 public:
  Random() {
    const char* text = std::getenv("BPFTIME_TEST_SEED");
    seed_ = text != nullptr ? std::strtoull(text, nullptr, 0) : 20240611;
    std::printf("BPFTIME_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed_));
    engine_.seed(seed_);
  }
  uint64_t operator()() { return engine_(); }
  uint64_t below(uint64_t limit) { return engine_() % limit; }
  template <typename T>
  const T& of(const std::vector<T>& all) {
    return all[below(all.size())];
  }

 private:
  uint64_t seed_;
  std::mt19937_64 engine_;
};

// Combinations of views that normalise() left not empty.
std::vector<Scalar> combined_views(Random& random, size_t count) {
  const std::vector<Scalar> views = single_views();
  std::vector<Scalar> all;
  while (all.size() < count) {
    Scalar a = random.of(views);
    if (!kSmall.normalise(a) || !kSmall.intersect(a, random.of(views))) continue;
    if (random.below(2) && !kSmall.intersect(a, random.of(views))) continue;
    all.push_back(a);
  }
  return all;
}

std::vector<Scalar> normalised_views() {
  std::vector<Scalar> all;
  for (Scalar a : single_views()) {
    EXPECT_TRUE(kSmall.normalise(a));
    all.push_back(a);
  }
  return all;
}

// ---- normalise ----

void check_normalise(const Scalar& a) {
  const Set before = members(a);
  Scalar once = a;
  if (!kSmall.normalise(once)) {
    ASSERT_EQ(before, 0) << "dropped members";
    return;
  }
  ASSERT_EQ(members(once), before);
  Scalar twice = once;
  ASSERT_TRUE(kSmall.normalise(twice) || before == 0);
  if (before != 0) {
    ASSERT_TRUE(twice == once) << "not idempotent";
  }
}

TEST(Normalise, KeepsEveryMemberOfBitsAndBothRanges) {
  for (const Tnum bits : all_tnums(4)) {
    for (uint64_t umin = 0; umin < 16; ++umin) {
      for (uint64_t umax = umin; umax < 16; ++umax) {
        for (int64_t smin = -8; smin < 8; smin += 1) {
          for (int64_t smax = smin; smax < 8; smax += 3) {
            Scalar a = with_bits(bits);
            a.umin = umin;
            a.umax = umax;
            a.smin = smin;
            a.smax = smax;
            check_normalise(a);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(Normalise, KeepsEveryMemberOfAllFiveViews) {
  Random random;
  const std::vector<Tnum> tnums = all_tnums(4);
  for (int i = 0; i < 300'000; ++i) {
    Scalar a = with_bits(random.of(tnums));
    if (random.below(3) == 0) a = kSmall.unknown();
    const auto range = [&](int lowest, int count, auto& low, auto& high) {
      int first = lowest + static_cast<int>(random.below(static_cast<uint64_t>(count)));
      int last = lowest + static_cast<int>(random.below(static_cast<uint64_t>(count)));
      if (first > last) std::swap(first, last);
      low = static_cast<std::remove_reference_t<decltype(low)>>(first);
      high = static_cast<std::remove_reference_t<decltype(high)>>(last);
    };
    if (random.below(3)) range(0, 16, a.umin, a.umax);
    if (random.below(3)) range(-8, 16, a.smin, a.smax);
    if (random.below(3)) range(0, 4, a.umin32, a.umax32);
    if (random.below(3)) range(-2, 4, a.smin32, a.smax32);
    check_normalise(a);
    if (HasFatalFailure()) return;
  }
}

TEST(Normalise, ExactForUnsignedAndSignedRangesTogether) {
  // What is left must be the hull of what both allow.
  for (uint64_t umin = 0; umin < 16; ++umin) {
    for (uint64_t umax = umin; umax < 16; ++umax) {
      for (int64_t smin = -8; smin < 8; ++smin) {
        for (int64_t smax = smin; smax < 8; ++smax) {
          View v = View::unsigned_range(4, umin, umax);
          v.smin = smin;
          v.smax = smax;
          uint64_t low = 16, high = 0;
          for (uint64_t value = 0; value < 16; ++value) {
            if (!v.contains(value)) continue;
            low = std::min(low, value);
            high = std::max(high, value);
          }
          ASSERT_EQ(v.learn(), low != 16);
          if (low == 16) continue;
          ASSERT_EQ(v.umin, low);
          ASSERT_EQ(v.umax, high);
        }
      }
    }
  }
}

// ---- operators ----

std::string to_text(const Scalar& a) {
  char text[160];
  std::snprintf(text, sizeof(text), "bits %llx/%llx u [%llu,%llu] s [%lld,%lld] u32 [%u,%u] s32 [%d,%d]",
                static_cast<unsigned long long>(a.bits.value), static_cast<unsigned long long>(a.bits.mask),
                static_cast<unsigned long long>(a.umin), static_cast<unsigned long long>(a.umax),
                static_cast<long long>(a.smin), static_cast<long long>(a.smax), a.umin32, a.umax32, a.smin32,
                a.smax32);
  return text;
}

struct AluCase {
  uint8_t op;
  bool is_wide, is_signed;
};

std::vector<AluCase> alu_cases() {
  std::vector<AluCase> all;
  for (const uint8_t op : kAluOps) {
    for (const bool is_wide : {true, false}) {
      all.push_back({op, is_wide, false});
      if (op == BPF_DIV || op == BPF_MOD) all.push_back({op, is_wide, true});
    }
  }
  return all;
}

// results[a] for one case and b: filled once, so that pairs of sets cost 256 look-ups.
struct Table {
  uint8_t result[kCount][kCount];
};

void check_alu(const AluCase& c, const Table& table, const Scalar& a, Set in_a, const Scalar& b, Set in_b) {
  const Scalar result = kSmall.alu(c.op, c.is_wide, c.is_signed, a, b);
  Set needed = 0;
  for (unsigned x = 0; x < kCount; ++x) {
    if (!(in_a >> x & 1)) continue;
    for (unsigned y = 0; y < kCount; ++y) {
      if (in_b >> y & 1) needed = static_cast<Set>(needed | 1u << table.result[x][y]);
    }
  }
  ASSERT_EQ(needed & ~members(result), 0)
      << "op " << int(c.op) << " wide " << c.is_wide << " signed " << c.is_signed << "\n a " << to_text(a)
      << "\n b " << to_text(b) << "\n = " << to_text(result);
}

Table alu_table(const AluCase& c) {
  Table table;
  for (unsigned x = 0; x < kCount; ++x) {
    for (unsigned y = 0; y < kCount; ++y)
      table.result[x][y] = static_cast<uint8_t>(evaluate(kSmall, c.op, c.is_wide, c.is_signed, x, y));
  }
  return table;
}

struct Sample {
  Scalar scalar;
  Set set;
};

std::vector<Sample> with_members(const std::vector<Scalar>& scalars) {
  std::vector<Sample> all;
  for (const Scalar& a : scalars) all.push_back({a, members(a)});
  return all;
}

TEST(Operators, EveryPairOfSingleViews) {
  const std::vector<Sample> all = with_members(normalised_views());
  for (const AluCase& c : alu_cases()) {
    const Table table = alu_table(c);
    for (const Sample& a : all) {
      for (const Sample& b : all) {
        check_alu(c, table, a.scalar, a.set, b.scalar, b.set);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Operators, OnInputsThatAreNotNormalised) {
  // An operator must be sound by itself, not only because normalise() repairs it.
  Random random;
  const std::vector<Scalar> views = single_views();
  for (const AluCase& c : alu_cases()) {
    const Table table = alu_table(c);
    for (int i = 0; i < 20'000; ++i) {
      Scalar a = random.of(views), b = random.of(views);
      const Scalar other = random.of(views);
      a.umin = std::max(a.umin, other.umin);
      a.umax = std::min(a.umax, other.umax);
      if (members(a) == 0) continue;
      check_alu(c, table, a, members(a), b, members(b));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Operators, CombinedViews) {
  Random random;
  const std::vector<Sample> all = with_members(combined_views(random, 20'000));
  for (const AluCase& c : alu_cases()) {
    const Table table = alu_table(c);
    for (int i = 0; i < 40'000; ++i) {
      const Sample &a = random.of(all), &b = random.of(all);
      check_alu(c, table, a.scalar, a.set, b.scalar, b.set);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Operators, ViewsAloneAtEveryWidth) {
  // The operators of one view, before anything else is learned: each part of the result by itself.
  for (const unsigned width : {1u, 2u, 3u, 4u}) {
    std::vector<View> all;
    for (const Tnum bits : all_tnums(width)) {
      all.push_back(View::unknown(width));
      all.back().bits = bits;
    }
    const int count = 1 << width;
    for (int low = 0; low < count; ++low) {
      for (int high = low; high < count; ++high) {
        all.push_back(View::unsigned_range(width, static_cast<uint64_t>(low), static_cast<uint64_t>(high)));
        all.push_back(View::signed_range(width, low - count / 2, high - count / 2));
      }
    }
    for (const AluCase& c : alu_cases()) {
      if (!c.is_wide || c.op == BPF_LSH || c.op == BPF_RSH || c.op == BPF_ARSH) continue;
      for (const View& a : all) {
        for (const View& b : all) {
          const View result = view_alu(c.op, c.is_signed, a, b);
          for (int x = 0; x < count; ++x) {
            if (!a.contains(static_cast<uint64_t>(x))) continue;
            for (int y = 0; y < count; ++y) {
              if (!b.contains(static_cast<uint64_t>(y))) continue;
              const uint64_t z =
                  evaluate_at(width, c.op, c.is_signed, static_cast<uint64_t>(x), static_cast<uint64_t>(y));
              ASSERT_TRUE(result.contains(z))
                  << "width " << width << " op " << int(c.op) << ": " << x << ", " << y;
            }
          }
        }
      }
    }
  }
}

TEST(Operators, OneOperand) {
  Random random;
  std::vector<Scalar> all = normalised_views();
  for (const Scalar& a : combined_views(random, 50'000)) all.push_back(a);
  for (const Scalar& a : all) {
    for (unsigned x = 0; x < kCount; ++x) {
      if (!kSmall.contains(a, x)) continue;
      ASSERT_TRUE(kSmall.contains(kSmall.negate(a, true), (0 - uint64_t{x}) & 15));
      ASSERT_TRUE(kSmall.contains(kSmall.negate(a, false), (0 - uint64_t{x}) & 3));
      for (const unsigned bits : {1u, 2u, 3u, 4u}) {
        const uint64_t low = x & mask_of(bits);
        ASSERT_TRUE(kSmall.contains(kSmall.truncate(a, bits), low)) << to_text(a);
        const uint64_t extended = static_cast<uint64_t>(as_signed(low, bits));
        ASSERT_TRUE(kSmall.contains(kSmall.sign_extend(a, bits, true), extended & 15))
            << to_text(a) << " " << bits;
        if (bits <= 2) {
          ASSERT_TRUE(kSmall.contains(kSmall.sign_extend(a, bits, false), extended & 3)) << to_text(a);
        }
      }
    }
  }
}

TEST(Lattice, JoinAndIntersection) {
  Random random;
  std::vector<Scalar> all = normalised_views();
  for (const Scalar& a : combined_views(random, 2'000)) all.push_back(a);
  for (int i = 0; i < 200'000; ++i) {
    const Scalar &a = random.of(all), &b = random.of(all);
    const Scalar joined = kSmall.join(a, b);
    ASSERT_EQ((members(a) | members(b)) & ~members(joined), 0);
    ASSERT_TRUE(joined.contains(a) && joined.contains(b));
    Scalar both = a;
    if (kSmall.intersect(both, b)) {
      ASSERT_EQ(members(both), members(a) & members(b));
    } else {
      ASSERT_EQ(members(a) & members(b), 0);
    }
    if (a.contains(b)) {
      ASSERT_EQ(members(b) & ~members(a), 0);
    }
  }
}

// ---- comparisons ----

void check_comparison(uint8_t op, bool is_wide, const Scalar& a, Set in_a, const Scalar& b, Set in_b) {
  bool any[2] = {false, false};
  Set left[2] = {0, 0}, right[2] = {0, 0};
  for (unsigned x = 0; x < kCount; ++x) {
    if (!(in_a >> x & 1)) continue;
    for (unsigned y = 0; y < kCount; ++y) {
      if (!(in_b >> y & 1)) continue;
      const bool taken = holds(kSmall, op, is_wide, x, y);
      any[taken] = true;
      left[taken] = static_cast<Set>(left[taken] | 1u << x);
      right[taken] = static_cast<Set>(right[taken] | 1u << y);
    }
  }
  const Outcome outcome = kSmall.compare(op, is_wide, a, b);
  ASSERT_FALSE(outcome == Outcome::kAlways && any[false]) << "op " << int(op) << "\n"
                                                          << to_text(a) << "\n"
                                                          << to_text(b);
  ASSERT_FALSE(outcome == Outcome::kNever && any[true]) << "op " << int(op) << "\n"
                                                        << to_text(a) << "\n"
                                                        << to_text(b);
  for (const bool taken : {false, true}) {
    Scalar narrowed_a = a, narrowed_b = b;
    if (!kSmall.assume(op, is_wide, taken, narrowed_a, narrowed_b)) {
      ASSERT_FALSE(any[taken]) << "op " << int(op) << "\n" << to_text(a) << "\n" << to_text(b);
      continue;
    }
    ASSERT_EQ(left[taken] & ~members(narrowed_a), 0)
        << "op " << int(op) << " wide " << is_wide << " taken " << taken << "\n"
        << to_text(a) << "\n"
        << to_text(b);
    ASSERT_EQ(right[taken] & ~members(narrowed_b), 0)
        << "op " << int(op) << " wide " << is_wide << " taken " << taken << "\n"
        << to_text(a) << "\n"
        << to_text(b);
    ASSERT_EQ(members(narrowed_a) & ~in_a, 0) << "narrowing widened";
  }
}

TEST(Comparisons, EveryPairOfSingleViews) {
  const std::vector<Sample> all = with_members(normalised_views());
  for (const uint8_t op : kJumps) {
    for (const bool is_wide : {true, false}) {
      for (const Sample& a : all) {
        for (const Sample& b : all) {
          check_comparison(op, is_wide, a.scalar, a.set, b.scalar, b.set);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Comparisons, CombinedViews) {
  Random random;
  const std::vector<Sample> all = with_members(combined_views(random, 20'000));
  for (const uint8_t op : kJumps) {
    for (const bool is_wide : {true, false}) {
      for (int i = 0; i < 20'000; ++i) {
        const Sample &a = random.of(all), &b = random.of(all);
        check_comparison(op, is_wide, a.scalar, a.set, b.scalar, b.set);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Comparisons, DecideConstants) {
  for (const uint8_t op : kJumps) {
    for (unsigned x = 0; x < kCount; ++x) {
      for (unsigned y = 0; y < kCount; ++y) {
        for (const bool is_wide : {true, false}) {
          const Outcome outcome = kSmall.compare(op, is_wide, kSmall.constant(x), kSmall.constant(y));
          ASSERT_EQ(outcome, holds(kSmall, op, is_wide, x, y) ? Outcome::kAlways : Outcome::kNever);
        }
      }
    }
  }
}

// ---- random programs over one number ----

// Values at which 32- and 64-bit arithmetic turns.
std::vector<uint64_t> boundary_values(unsigned width) {
  std::vector<uint64_t> all;
  for (const unsigned bit : {0u, width / 4, width / 2 - 1, width / 2, width - 1}) {
    for (const uint64_t step : {~0ull, 0ull, 1ull}) {
      all.push_back(((1ull << bit) + step) & mask_of(width));
      all.push_back((0 - (1ull << bit) + step) & mask_of(width));
    }
  }
  all.push_back(0);
  return all;
}

class Walk {
 public:
  Walk(const Domain& domain, Random& random)
      : domain_(domain), random_(random), values_(boundary_values(domain.width)) {}

  // Some set and one of its members.
  void start(Scalar& a, uint64_t& x) {
    a = domain_.unknown();
    x = random_.below(2) ? random_.of(values_) : random_() & mask_of(domain_.width);
    for (int i = 0; i < 2; ++i) {
      Scalar bound =
          domain_.constant(random_.below(2) ? random_.of(values_) : random_() & mask_of(domain_.width));
      if (random_.below(4) == 0) bound = domain_.constant(x);
      constrain(a, x, bound, bound.bits.value);
    }
    if (random_.below(3) == 0) {
      const uint64_t known = random_() & random_();
      Scalar bits = domain_.unknown();
      bits.bits = {x & known & mask_of(domain_.width), mask_of(domain_.width) & ~known};
      if (!domain_.intersect(a, bits)) std::abort();
    }
  }

  void constrain(Scalar& a, uint64_t x, Scalar b, uint64_t y) {
    const uint8_t op = kJumps[random_.below(std::size(kJumps))];
    const bool is_wide = random_.below(2);
    const bool taken = holds(domain_, op, is_wide, x, y);
    const Outcome outcome = domain_.compare(op, is_wide, a, b);
    ASSERT_NE(outcome, taken ? Outcome::kNever : Outcome::kAlways);
    ASSERT_TRUE(domain_.assume(op, is_wide, taken, a, b)) << "jump " << int(op) << " wide " << is_wide;
    ASSERT_TRUE(domain_.contains(a, x)) << "jump " << int(op) << " wide " << is_wide;
    ASSERT_TRUE(domain_.contains(b, y)) << "jump " << int(op) << " wide " << is_wide;
  }

  void step(Scalar& a, uint64_t& x) {
    Scalar b;
    uint64_t y;
    start(b, y);
    const uint64_t mask = mask_of(domain_.width);
    const bool is_wide = random_.below(2);
    const Scalar before = a;
    switch (random_.below(8)) {
      case 0:
        constrain(a, x, b, y);
        return;
      case 1: {
        const unsigned bits =
            static_cast<unsigned>(1 + random_.below(is_wide ? domain_.width : domain_.half()));
        a = domain_.sign_extend(a, bits, is_wide);
        x = static_cast<uint64_t>(as_signed(x & mask_of(bits), bits)) &
            (is_wide ? mask : mask_of(domain_.half()));
        break;
      }
      case 2:
        a = domain_.negate(a, is_wide);
        x = (0 - x) & (is_wide ? mask : mask_of(domain_.half()));
        break;
      case 3:
        a = domain_.truncate(a, domain_.half());
        x &= mask_of(domain_.half());
        break;
      default: {
        const uint8_t op = kAluOps[random_.below(std::size(kAluOps))];
        const bool is_signed = (op == BPF_DIV || op == BPF_MOD) && random_.below(2);
        a = domain_.alu(op, is_wide, is_signed, a, b);
        const uint64_t result = evaluate(domain_, op, is_wide, is_signed, x, y);
        ASSERT_TRUE(domain_.contains(a, result))
            << "op " << int(op) << " wide " << is_wide << " signed " << is_signed << ": " << x << ", " << y
            << "\n a " << to_text(before) << "\n b " << to_text(b) << "\n = " << to_text(a);
        x = result;
      }
    }
    ASSERT_TRUE(domain_.contains(a, x)) << to_text(before) << "\n" << to_text(a);
    Scalar again = a;
    ASSERT_TRUE(domain_.normalise(again));
    ASSERT_TRUE(domain_.contains(again, x));
  }

 private:
  const Domain& domain_;
  Random& random_;
  std::vector<uint64_t> values_;
};

void walk(unsigned width, int walks) {
  Random random;
  const Domain domain{width};
  Walk walk(domain, random);
  for (int i = 0; i < walks; ++i) {
    Scalar a;
    uint64_t x;
    walk.start(a, x);
    for (int step = 0; step < 8 && !testing::Test::HasFatalFailure(); ++step) walk.step(a, x);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Chains, EightBits) { walk(8, 40'000); }
TEST(Chains, SixteenBits) { walk(16, 20'000); }
TEST(Chains, SixtyFourBits) { walk(64, 40'000); }

TEST(Boundaries, EveryPairAtSixtyFourBits) {
  const std::vector<uint64_t> values = boundary_values(64);
  std::vector<std::pair<Scalar, std::vector<uint64_t>>> sets;
  for (const uint64_t low : values) {
    for (const uint64_t high : values) {
      Scalar range = low <= high
                         ? Scalar::unsigned_range(low, high)
                         : Scalar::signed_range(
                               std::min<int64_t>(static_cast<int64_t>(low), static_cast<int64_t>(high)),
                               std::max<int64_t>(static_cast<int64_t>(low), static_cast<int64_t>(high)));
      std::vector<uint64_t> inside;
      for (const uint64_t value : {low, high, low + 1, high - 1}) {
        if (range.contains(value)) inside.push_back(value);
      }
      if (!inside.empty()) sets.emplace_back(range, inside);
    }
  }
  const Domain domain{64};
  Random random;
  for (const AluCase& c : alu_cases()) {
    for (int i = 0; i < 6'000; ++i) {
      const auto &a = random.of(sets), &b = random.of(sets);
      const Scalar result = apply_alu(c.op, c.is_wide, c.is_signed, a.first, b.first);
      for (const uint64_t x : a.second) {
        for (const uint64_t y : b.second) {
          ASSERT_TRUE(result.contains(evaluate(domain, c.op, c.is_wide, c.is_signed, x, y)))
              << "op " << int(c.op) << " wide " << c.is_wide << ": " << x << ", " << y;
        }
      }
    }
  }
}

// ---- the 64-bit product ----

Scalar unknown_and(uint64_t mask) {
  return apply_alu(BPF_AND, true, false, Scalar::unknown(), Scalar::constant(mask));
}

TEST(Product, ByteSwaps) {
  Random random;
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t x = random(), known = random();
    Scalar a = Scalar::unknown();
    a.bits = {x & known, ~known};
    ASSERT_TRUE(a.normalise());
    ASSERT_TRUE(byte_swap(a, 64, false, true).contains(__builtin_bswap64(x)));
    ASSERT_TRUE(byte_swap(a, 32, true, false).contains(__builtin_bswap32(static_cast<uint32_t>(x))));
    ASSERT_TRUE(byte_swap(a, 16, true, false).contains(__builtin_bswap16(static_cast<uint16_t>(x))));
    ASSERT_TRUE(byte_swap(a, 16, false, false).contains(x & 0xffff));
  }
  EXPECT_EQ(byte_swap(Scalar::constant(0x1234), 16, false, true), Scalar::constant(0x3412));
  EXPECT_FALSE(byte_swap(Scalar::constant(0x1234), 16, false, true).contains(0x1234));
}

TEST(Product, Loads) {
  EXPECT_EQ(Scalar::loaded(1, false).umax, 255u);
  EXPECT_EQ(Scalar::loaded(4, false).umax, UINT32_MAX);
  EXPECT_EQ(Scalar::loaded(8, false), Scalar::unknown());
  EXPECT_EQ(Scalar::loaded(2, true).smin, INT16_MIN);
  EXPECT_EQ(Scalar::loaded(2, true).smax, INT16_MAX);
  EXPECT_EQ(Scalar::loaded(8, true), Scalar::unknown());
}

// What Linux 6.18's log shows for the same operations.
TEST(Product, DescribesAsTheKernelDoes) {
  EXPECT_EQ(Scalar::unknown().describe(), "scalar()");
  EXPECT_EQ(Scalar::constant(7).describe(), "7");
  EXPECT_EQ(Scalar::constant(~0ull).describe(), "-1");
  EXPECT_EQ(Scalar::constant(0x12340000).describe(), "0x12340000");
  EXPECT_EQ(unknown_and(15).describe(),
            "scalar(smin=smin32=0,smax=umax=smax32=umax32=15,var_off=(0x0; 0xf))");
  EXPECT_EQ(negate(unknown_and(15), true).describe(), "scalar(smin=smin32=-15,smax=smax32=0)");
  EXPECT_EQ(negate(negate(unknown_and(15), true), false).describe(),
            "scalar(smin=smin32=0,smax=umax=smax32=umax32=15,var_off=(0x0; 0xf))");
  EXPECT_EQ(zero_extend_32(Scalar::unknown()).describe(),
            "scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))");
  EXPECT_EQ(sign_extend(Scalar::unknown(), 8, true).describe(), "scalar(smin=smin32=-128,smax=smax32=127)");
  EXPECT_EQ(sign_extend(Scalar::unknown(), 8, false).describe(),
            "scalar(smin=0,smax=umax=0xffffffff,smin32=-128,smax32=127,var_off=(0x0; 0xffffffff))");
  EXPECT_EQ(apply_alu(BPF_ADD, true, false, unknown_and(255), Scalar::constant(0x20000000)).describe(),
            "scalar(smin=umin=smin32=umin32=0x20000000,smax=umax=smax32=umax32=0x200000ff,var_off=("
            "0x20000000; 0xff))");
}

TEST(Product, NarrowingReachesEveryView) {
  Scalar a = Scalar::unknown(), limit = Scalar::constant(100);
  ASSERT_TRUE(assume(BPF_JGT, true, false, a, limit));
  EXPECT_EQ(a.describe(), "scalar(smin=smin32=0,smax=umax=smax32=umax32=100,var_off=(0x0; 0x7f))");
  // A 32-bit test says nothing of the upper half …
  a = Scalar::unknown();
  ASSERT_TRUE(assume(BPF_JGT, false, false, a, limit));
  EXPECT_EQ(a.umax32, 100u);
  EXPECT_GT(a.umax, 100u);
  // … unless that is known.
  a = zero_extend_32(Scalar::unknown());
  ASSERT_TRUE(assume(BPF_JGT, false, false, a, limit));
  EXPECT_EQ(a.umax, 100u);
  // A number that is not the edge of its range is within the edge.
  Scalar zero = Scalar::constant(0);
  a = unknown_and(7);
  ASSERT_TRUE(assume(BPF_JNE, true, true, a, zero));
  EXPECT_EQ(a.umin, 1u);
  // No way at all.
  a = unknown_and(7);
  EXPECT_FALSE(assume(BPF_JGT, true, true, a, limit));
}

TEST(Product, ShiftingAnIntUpAndDownKeepsItsSign) {
  Scalar a = Scalar::unknown(), low = Scalar::constant(static_cast<uint64_t>(-5)), high = Scalar::constant(9);
  ASSERT_TRUE(assume(BPF_JSGE, false, true, a, low) && assume(BPF_JSLE, false, true, a, high));
  const Scalar count = Scalar::constant(32);
  a = apply_alu(BPF_ARSH, true, false, apply_alu(BPF_LSH, true, false, a, count), count);
  EXPECT_EQ(a.smin, -5);
  EXPECT_EQ(a.smax, 9);
}

}  // namespace
}  // namespace bpftime::verifier

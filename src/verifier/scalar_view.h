// One view of a number: of `width` bits, what is known of its bits, its unsigned and its signed range.
// Every operator is written once, for any width from 1 to 64: the 64-bit and the 32-bit half of Scalar use the same code, and
// tests run it at widths where everything can be tried.
//
// Rules for whoever edits this file:
//  1. Sound: whatever concrete values the inputs contain, the result contains the concrete result.
//  2. No result is empty unless an input is.
//  3. As precise as Linux 6.18 at 64 and 32 bits: a program that Linux accepts must not fail for lost bounds.
#pragma once

#include <linux/bpf.h>

#include <cstdint>

#include "verifier/scalar.h"

namespace bpftime::verifier {

// ---- known bits ----
// The smallest Tnum that contains every number from low to high.
Tnum bits_of_range(uint64_t low, uint64_t high);
Tnum bits_add(Tnum a, Tnum b);
Tnum bits_sub(Tnum a, Tnum b);
Tnum bits_mul(Tnum a, Tnum b);
Tnum bits_join(Tnum a, Tnum b);
[[nodiscard]] bool bits_meet(Tnum& into, Tnum other);  // false: they contradict each other

struct View {
  unsigned width = 64;
  Tnum bits;                                   // zero above `width`
  uint64_t umin = 0, umax = ~0ull;             // zero above `width`
  int64_t smin = INT64_MIN, smax = INT64_MAX;  // sign-extended from `width`
  bool operator==(const View&) const = default;

  static View unknown(unsigned width);
  static View constant(unsigned width, uint64_t value);
  static View unsigned_range(unsigned width, uint64_t low, uint64_t high);
  static View signed_range(unsigned width, int64_t low, int64_t high);

  uint64_t mask() const { return ~0ull >> (64 - width); }
  int64_t lowest() const { return static_cast<int64_t>(~0ull << (width - 1)); }
  int64_t highest() const { return static_cast<int64_t>(mask() >> 1); }
  int64_t as_signed(uint64_t value) const {
    return static_cast<int64_t>(value << (64 - width)) >> (64 - width);
  }
  bool is_const() const { return bits.mask == 0; }
  bool contains(uint64_t value) const;
  // Bits and ranges learn from each other. False: nothing is left.
  [[nodiscard]] bool learn();
};

View join(const View& a, const View& b);
[[nodiscard]] bool meet(View& into, const View& other);  // without learn()

// The low `width` bits of a view that is at least as wide; and a view widened with zeroes or copies of the sign.
View low_bits(const View& a, unsigned width);
View zero_extended(const View& a, unsigned width);
View sign_extended(const View& a, unsigned width);

// BPF_ADD, SUB, MUL, AND, OR, XOR; DIV and MOD with BPF's answers for a zero divisor.
View view_alu(uint8_t op, bool is_signed, const View& a, const View& b);
// BPF_LSH, RSH, ARSH by a constant below 64. LSH by width or more gives 0; the others need count < width.
View view_shift(uint8_t op, const View& a, unsigned count);

Outcome view_compare(uint8_t op, const View& a, const View& b);
// Narrows both to what holds when `a op b`. `op` is that of a jump, or kNoneSet for the other side of BPF_JSET. Without
// learn(); false: impossible.
inline constexpr uint8_t kNoneSet = 0xff;
[[nodiscard]] bool view_assume(uint8_t op, View& a, View& b);
// The operator that holds when `op` does not.
uint8_t negated(uint8_t op);

// A Scalar whose 64-bit view has `width` bits and whose 32-bit view half of it. The product is Domain{64}.
struct Domain {
  unsigned width = 64;  // a power of two, at least 4

  Scalar unknown() const;
  Scalar constant(uint64_t value) const;
  bool contains(const Scalar& a, uint64_t value) const;
  [[nodiscard]] bool normalise(Scalar& a) const;
  Scalar alu(uint8_t op, bool is_wide, bool is_signed, const Scalar& a, const Scalar& b) const;
  Scalar negate(const Scalar& a, bool is_wide) const;
  Scalar sign_extend(const Scalar& a, unsigned bits, bool is_wide) const;
  Scalar truncate(const Scalar& a, unsigned bits) const;  // zero-extended
  Scalar byte_swap(const Scalar& a, unsigned bits) const;
  Scalar join(const Scalar& a, const Scalar& b) const;
  [[nodiscard]] bool intersect(Scalar& into, const Scalar& other) const;
  Outcome compare(uint8_t op, bool is_wide, const Scalar& a, const Scalar& b) const;
  [[nodiscard]] bool assume(uint8_t op, bool is_wide, bool taken, Scalar& a, Scalar& b) const;

  View wide(const Scalar& a) const;
  View narrow(const Scalar& a) const;
  Scalar combine(const View& wide, const View& narrow) const;  // normalised
  unsigned half() const { return width / 2; }

 private:
  Scalar shift(uint8_t op, bool is_wide, const Scalar& a, const Scalar& b) const;
};

}  // namespace bpftime::verifier

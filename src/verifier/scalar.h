// What is known about a number: an over-approximation of the set of values it can have, as Linux keeps it.
// Five views of one set: known bits, and signed and unsigned ranges at 64 and 32 bits. Each operation is sound: whatever
// concrete values its inputs contain, its result contains the concrete result (scalar_test.cc checks all of it at small
// widths; scalar_view.h has the operators for any width for that reason).
#pragma once

#include <cstdint>
#include <string>

namespace bpftime::verifier {

// Known bits: where `mask` is 0 the bit is that of `value`; value & mask == 0.
struct Tnum {
  uint64_t value = 0;
  uint64_t mask = ~0ull;
  bool operator==(const Tnum&) const = default;
  bool is_const() const { return mask == 0; }
};

struct Scalar {
  Tnum bits;
  int64_t smin = INT64_MIN, smax = INT64_MAX;
  uint64_t umin = 0, umax = UINT64_MAX;
  int32_t smin32 = INT32_MIN, smax32 = INT32_MAX;  // of the low 32 bits
  uint32_t umin32 = 0, umax32 = UINT32_MAX;
  bool operator==(const Scalar&) const = default;

  static Scalar unknown() { return {}; }
  static Scalar constant(uint64_t value);
  static Scalar unsigned_range(uint64_t low, uint64_t high);
  static Scalar signed_range(int64_t low, int64_t high);
  // What a load of `bytes` (1, 2, 4, 8) bytes gives, zero- or sign-extended.
  static Scalar loaded(uint32_t bytes, bool sign_extended);

  bool is_const() const { return bits.mask == 0; }
  uint64_t value() const { return bits.value; }  // of a constant
  bool contains(uint64_t value) const;
  bool contains(const Scalar& other) const;  // every value of other, view by view
  // Lets each view learn from the others, to a fixpoint. False: the set is empty (the path is dead).
  [[nodiscard]] bool normalise();
  // Kernel notation: "5", "scalar(umin=1,umax=9,var_off=(0x0; 0xf))".
  std::string describe() const;
  // Linux's words for a number that should lie in [low, high] and may not: "has smin=2 smax=2 should have been in [0, 1]".
  std::string describe_outside(int64_t low, int64_t high) const;
};

// dst = dst OP src for BPF_OP `op` of BPF_ALU64 (is64) or BPF_ALU; `sign` is the instruction's `off`
// (1: signed division and modulo). Unsupported precision gives unknown, never something unsound.
Scalar apply_alu(uint8_t op, bool is64, bool is_signed, const Scalar& dst, const Scalar& src);
// BPF_MOV with sign extension from `bits` (8, 16, 32); is64 as above.
Scalar sign_extend(const Scalar& src, uint32_t bits, bool is64);
Scalar zero_extend_32(const Scalar& src);  // the low 32 bits
Scalar truncate(const Scalar& src,
                uint32_t bytes);  // what a `bytes`-wide load of the value sees, zero-extended
// BPF_END: to little or big endian, or unconditional swap.
Scalar byte_swap(const Scalar& src, uint32_t bits, bool to_big, bool unconditional);
Scalar negate(const Scalar& src, bool is64);

// The smallest Scalar this domain has that contains both; the largest set both contain (false: empty).
Scalar join(const Scalar& a, const Scalar& b);
[[nodiscard]] bool intersect(Scalar& into, const Scalar& other);

enum class Outcome : uint8_t { kNever, kAlways, kUnknown };
// Whether `a OP b` holds, for BPF_OP `op` of a conditional jump (BPF_JSET included).
Outcome compare(uint8_t op, bool is64, const Scalar& a, const Scalar& b);
// Narrows both to what holds when the jump is taken or not. False: that way is impossible.
[[nodiscard]] bool assume(uint8_t op, bool is64, bool taken, Scalar& a, Scalar& b);

// The inside of describe()'s brackets: "umin=1,umax=9,var_off=(0x0; 0xf)"; empty when nothing is known.
std::string ranges_text(const Scalar& a);

}  // namespace bpftime::verifier

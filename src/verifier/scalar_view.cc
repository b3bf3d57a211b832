#include "verifier/scalar_view.h"

#include <algorithm>
#include <array>
#include <bit>

namespace bpftime::verifier {
namespace {

// Wide enough for any sum, difference or product of two 64-bit numbers.
__extension__ using Wide = __int128;

Tnum cut(Tnum t, uint64_t mask) { return {t.value & mask, t.mask & mask}; }

// Both ends of an unsigned range, whose order as signed numbers is known only within one half of the number circle.
void set_unsigned(View& v, uint64_t low, uint64_t high) {
  v.umin = low;
  v.umax = high;
}

}  // namespace

Tnum bits_of_range(uint64_t low, uint64_t high) {
  const uint64_t differing = low ^ high;
  const uint64_t unknown = differing == 0 ? 0 : ~0ull >> std::countl_zero(differing);
  return {low & ~unknown, unknown};
}

Tnum bits_add(Tnum a, Tnum b) {
  // A carry is unknown where the sums with all unknown bits clear and all set differ.
  const uint64_t smallest = a.value + b.value;
  const uint64_t largest = smallest + a.mask + b.mask;
  const uint64_t unknown = (smallest ^ largest) | a.mask | b.mask;
  return {smallest & ~unknown, unknown};
}

Tnum bits_sub(Tnum a, Tnum b) {
  const uint64_t difference = a.value - b.value;
  const uint64_t unknown = ((difference + a.mask) ^ (difference - b.mask)) | a.mask | b.mask;
  return {difference & ~unknown, unknown};
}

Tnum bits_mul(Tnum a, Tnum b) {
  // Long multiplication; an unknown digit gives either sum.
  if (std::popcount(b.value | b.mask) < std::popcount(a.value | a.mask)) std::swap(a, b);
  Tnum sum{0, 0};
  while ((a.value | a.mask) != 0) {
    if (a.value & 1) {
      sum = bits_add(sum, b);
    } else if (a.mask & 1) {
      sum = bits_join(sum, bits_add(sum, b));
    }
    a = {a.value >> 1, a.mask >> 1};
    b = {b.value << 1, b.mask << 1};
  }
  return sum;
}

Tnum bits_join(Tnum a, Tnum b) {
  const uint64_t unknown = (a.value ^ b.value) | a.mask | b.mask;
  return {a.value & ~unknown, unknown};
}

bool bits_meet(Tnum& into, Tnum other) {
  if (((into.value ^ other.value) & ~into.mask & ~other.mask) != 0) return false;
  const uint64_t unknown = into.mask & other.mask;
  into = {(into.value | other.value) & ~unknown, unknown};
  return true;
}

namespace {

// The smallest member of `t` that is at least `low`, which must not be above the largest.
uint64_t first_member(Tnum t, uint64_t low) {
  const uint64_t mismatch = (low ^ t.value) & ~t.mask;
  if (mismatch == 0) return low;
  uint64_t bit = std::bit_floor(mismatch);
  if ((low & bit) != 0) {
    // `low` has a bit there that no member has: carry into the next unknown bit above that is not set yet.
    const uint64_t above = t.mask & ~low & ~(bit | (bit - 1));
    if (above == 0) return t.value;  // `low` is above every member
    bit = above & (0 - above);
  }
  // As `low` above the bit, which is set; the least possible below.
  return (low & ~(bit | (bit - 1))) | bit | (t.value & (bit - 1));
}

}  // namespace

// ---- views ----

View View::unknown(unsigned width) {
  View v;
  v.width = width;
  v.bits = {0, v.mask()};
  v.umax = v.mask();
  v.smin = v.lowest();
  v.smax = v.highest();
  return v;
}

View View::constant(unsigned width, uint64_t value) {
  View v;
  v.width = width;
  v.bits = {value & v.mask(), 0};
  v.umin = v.umax = v.bits.value;
  v.smin = v.smax = v.as_signed(value);
  return v;
}

View View::unsigned_range(unsigned width, uint64_t low, uint64_t high) {
  View v = unknown(width);
  v.umin = low;
  v.umax = high;
  return v;
}

View View::signed_range(unsigned width, int64_t low, int64_t high) {
  View v = unknown(width);
  v.smin = low;
  v.smax = high;
  return v;
}

bool View::contains(uint64_t value) const {
  value &= mask();
  const int64_t number = as_signed(value);
  return (value & ~bits.mask) == bits.value && umin <= value && value <= umax && smin <= number &&
         number <= smax;
}

bool View::learn() {
  const uint64_t sign = 1ull << (width - 1);
  umin = std::max(umin, bits.value);
  umax = std::min(umax, bits.value | bits.mask);
  smin = std::max(smin, as_signed(bits.value | (bits.mask & sign)));
  smax = std::min(smax, as_signed(bits.value | (bits.mask & ~sign)));
  if (umin > umax || smin > smax) return false;

  // On either side of the sign both orders agree: intersect there, then take the hull of what is left.
  const uint64_t positive_low = std::max(umin, static_cast<uint64_t>(std::max<int64_t>(smin, 0)));
  const uint64_t positive_high = std::min(umax, static_cast<uint64_t>(std::min(smax, highest())));
  const bool positive = smax >= 0 && positive_low <= positive_high;
  const uint64_t negative_low = std::max(umin, smin < 0 ? static_cast<uint64_t>(smin) & mask() : sign);
  const uint64_t negative_high = std::min(umax, smax < 0 ? static_cast<uint64_t>(smax) & mask() : mask());
  const bool negative = smin < 0 && std::max(negative_low, sign) <= negative_high;
  if (!positive && !negative) return false;
  set_unsigned(*this, positive ? positive_low : std::max(negative_low, sign),
               negative ? negative_high : positive_high);
  smin = negative ? as_signed(std::max(negative_low, sign)) : static_cast<int64_t>(positive_low);
  smax = positive ? static_cast<int64_t>(positive_high) : as_signed(negative_high);
  if (!bits_meet(bits, bits_of_range(umin, umax))) return false;
  // One possible member left: as Linux, which does not look for the first and the last of several.
  const uint64_t largest = bits.value | bits.mask;
  if (is_const() || umin > largest) return true;
  const uint64_t first = first_member(bits, umin);
  if (first > umax) return false;
  if (first != largest && first_member(bits, first + 1) <= umax) return true;
  if (!contains(first)) return false;
  *this = constant(width, first);
  return true;
}

View join(const View& a, const View& b) {
  View v = a;
  v.bits = bits_join(a.bits, b.bits);
  v.umin = std::min(a.umin, b.umin);
  v.umax = std::max(a.umax, b.umax);
  v.smin = std::min(a.smin, b.smin);
  v.smax = std::max(a.smax, b.smax);
  return v;
}

bool meet(View& into, const View& other) {
  into.umin = std::max(into.umin, other.umin);
  into.umax = std::min(into.umax, other.umax);
  into.smin = std::max(into.smin, other.smin);
  into.smax = std::min(into.smax, other.smax);
  return bits_meet(into.bits, other.bits) && into.umin <= into.umax && into.smin <= into.smax;
}

View low_bits(const View& a, unsigned width) {
  View v = View::unknown(width);
  v.bits = cut(a.bits, v.mask());
  // Fewer than 2^width numbers in a row: their low bits run from the first's to the last's, perhaps over the end of the
  // circle; where that end lies differs between the two orders.
  const auto learn_run = [&v](uint64_t first, uint64_t last) {
    if (last - first > v.mask()) return;
    first &= v.mask();
    last &= v.mask();
    if (first <= last) {
      v.umin = std::max(v.umin, first);
      v.umax = std::min(v.umax, last);
    }
    if (v.as_signed(first) <= v.as_signed(last)) {
      v.smin = std::max(v.smin, v.as_signed(first));
      v.smax = std::min(v.smax, v.as_signed(last));
    }
  };
  learn_run(a.umin, a.umax);
  learn_run(static_cast<uint64_t>(a.smin), static_cast<uint64_t>(a.smax));
  return v;
}

View zero_extended(const View& a, unsigned width) {
  View v = View::unknown(width);
  v.bits = a.bits;
  v.umin = a.umin;
  v.umax = a.umax;
  return v;
}

View sign_extended(const View& a, unsigned width) {
  View v = View::unknown(width);
  v.bits =
      cut({static_cast<uint64_t>(a.as_signed(a.bits.value)), static_cast<uint64_t>(a.as_signed(a.bits.mask))},
          v.mask());
  v.bits.value &= ~v.bits.mask;
  v.smin = a.smin;
  v.smax = a.smax;
  return v;
}

// ---- arithmetic ----
namespace {

View add(const View& a, const View& b) {
  View v = View::unknown(a.width);
  v.bits = cut(bits_add(a.bits, b.bits), v.mask());
  // All sums wrap or none does.
  const Wide low = static_cast<Wide>(a.umin) + b.umin, high = static_cast<Wide>(a.umax) + b.umax;
  if ((low > v.mask()) == (high > v.mask()))
    set_unsigned(v, static_cast<uint64_t>(low) & v.mask(), static_cast<uint64_t>(high) & v.mask());
  const Wide least = static_cast<Wide>(a.smin) + b.smin, most = static_cast<Wide>(a.smax) + b.smax;
  if (least >= v.lowest() && most <= v.highest()) {
    v.smin = static_cast<int64_t>(least);
    v.smax = static_cast<int64_t>(most);
  }
  return v;
}

View subtract(const View& a, const View& b) {
  View v = View::unknown(a.width);
  v.bits = cut(bits_sub(a.bits, b.bits), v.mask());
  const Wide low = static_cast<Wide>(a.umin) - b.umax, high = static_cast<Wide>(a.umax) - b.umin;
  if ((low < 0) == (high < 0))
    set_unsigned(v, static_cast<uint64_t>(low) & v.mask(), static_cast<uint64_t>(high) & v.mask());
  const Wide least = static_cast<Wide>(a.smin) - b.smax, most = static_cast<Wide>(a.smax) - b.smin;
  if (least >= v.lowest() && most <= v.highest()) {
    v.smin = static_cast<int64_t>(least);
    v.smax = static_cast<int64_t>(most);
  }
  return v;
}

View multiply(const View& a, const View& b) {
  View v = View::unknown(a.width);
  v.bits = cut(bits_mul(a.bits, b.bits), v.mask());
  __extension__ using UnsignedWide = unsigned __int128;
  const UnsignedWide high = static_cast<UnsignedWide>(a.umax) * b.umax;
  if (high <= v.mask()) set_unsigned(v, a.umin * b.umin, static_cast<uint64_t>(high));
  const auto [least, most] =
      std::minmax({static_cast<Wide>(a.smin) * b.smin, static_cast<Wide>(a.smin) * b.smax,
                   static_cast<Wide>(a.smax) * b.smin, static_cast<Wide>(a.smax) * b.smax});
  if (least >= v.lowest() && most <= v.highest()) {
    v.smin = static_cast<int64_t>(least);
    v.smax = static_cast<int64_t>(most);
  }
  return v;
}

View bitwise(uint8_t op, const View& a, const View& b) {
  View v = View::unknown(a.width);
  const uint64_t one = op == BPF_AND  ? a.bits.value & b.bits.value
                       : op == BPF_OR ? a.bits.value | b.bits.value
                                      : a.bits.value ^ b.bits.value;
  uint64_t unknown = a.bits.mask | b.bits.mask;
  if (op == BPF_AND) unknown &= (a.bits.value | a.bits.mask) & (b.bits.value | b.bits.mask);
  if (op == BPF_OR) unknown &= ~(a.bits.value | b.bits.value);
  v.bits = {one & ~unknown, unknown};
  v.umin = v.bits.value;
  v.umax = v.bits.value | v.bits.mask;
  if (op == BPF_AND) v.umax = std::min({v.umax, a.umax, b.umax});
  if (op == BPF_OR) v.umin = std::max({v.umin, a.umin, b.umin});
  return v;
}

View divide_unsigned(const View& a, const View& b) {
  View v = View::constant(a.width, 0);  // by zero
  if (b.umax == 0) return v;
  View quotient = View::unsigned_range(a.width, a.umin / b.umax, a.umax / std::max<uint64_t>(b.umin, 1));
  return b.contains(0) ? join(v, quotient) : quotient;
}

View divide_signed(const View& a, const View& b) {
  // For divisors of one sign the quotient is monotonous in either operand: its extremes are at the corners.
  bool any = b.contains(0);
  int64_t least = 0, most = 0;
  const auto add_corners = [&](int64_t low, int64_t high) {
    for (const int64_t dividend : {a.smin, a.smax}) {
      for (const int64_t divisor : {low, high}) {
        Wide quotient = static_cast<Wide>(dividend) / divisor;
        if (quotient > a.highest()) return false;  // lowest / -1 wraps
        least = any ? std::min(least, static_cast<int64_t>(quotient)) : static_cast<int64_t>(quotient);
        most = any ? std::max(most, static_cast<int64_t>(quotient)) : static_cast<int64_t>(quotient);
        any = true;
      }
    }
    return true;
  };
  if (a.is_const() && b.is_const() && b.as_signed(b.bits.value) == -1)
    return subtract(View::constant(a.width, 0), a);
  if (b.smin < 0 && !add_corners(b.smin, std::min<int64_t>(b.smax, -1))) return View::unknown(a.width);
  if (b.smax > 0 && !add_corners(std::max<int64_t>(b.smin, 1), b.smax)) return View::unknown(a.width);
  return View::signed_range(a.width, least, most);
}

View modulo_unsigned(const View& a, const View& b) {
  if (b.umax == 0 || a.umax < b.umin) return a;  // by zero: unchanged
  View v = View::unsigned_range(a.width, 0, std::min(a.umax, b.umax - 1));
  if (a.is_const() && b.is_const() && b.bits.value != 0)
    v = View::constant(a.width, a.bits.value % b.bits.value);
  return b.contains(0) ? join(v, a) : v;
}

View modulo_signed(const View& a, const View& b) {
  if (b.smin == 0 && b.smax == 0) return a;
  // Sign of the dividend; smaller than the divisor, no larger than the dividend.
  const Wide limit = std::max(-static_cast<Wide>(b.smin), static_cast<Wide>(b.smax)) - 1;
  View v = View::signed_range(a.width, a.smin < 0 ? static_cast<int64_t>(std::max<Wide>(a.smin, -limit)) : 0,
                              a.smax > 0 ? static_cast<int64_t>(std::min<Wide>(a.smax, limit)) : 0);
  const int64_t divisor = b.as_signed(b.bits.value);
  if (a.is_const() && b.is_const() && divisor != 0) {
    // lowest % -1 traps on the processor; it is 0.
    const int64_t rest = divisor == -1 ? 0 : a.as_signed(a.bits.value) % divisor;
    v = View::constant(a.width, static_cast<uint64_t>(rest));
  }
  return b.contains(0) ? join(v, a) : v;
}

}  // namespace

View view_alu(uint8_t op, bool is_signed, const View& a, const View& b) {
  switch (op) {
    case BPF_ADD:
      return add(a, b);
    case BPF_SUB:
      return subtract(a, b);
    case BPF_MUL:
      return multiply(a, b);
    case BPF_AND:
    case BPF_OR:
    case BPF_XOR:
      return bitwise(op, a, b);
    case BPF_DIV:
      return is_signed ? divide_signed(a, b) : divide_unsigned(a, b);
    case BPF_MOD:
      return is_signed ? modulo_signed(a, b) : modulo_unsigned(a, b);
    default:
      return View::unknown(a.width);
  }
}

View view_shift(uint8_t op, const View& a, unsigned count) {
  View v = View::unknown(a.width);
  if (op == BPF_LSH) {
    if (count >= a.width) return View::constant(a.width, 0);
    // Only the low bits survive, and of those the order too, in either reading.
    View kept = low_bits(a, a.width - count);
    v.bits = cut({a.bits.value << count, a.bits.mask << count}, v.mask());
    set_unsigned(v, kept.umin << count, kept.umax << count);
    v.smin = static_cast<int64_t>(static_cast<uint64_t>(kept.smin) << count);
    v.smax = static_cast<int64_t>(static_cast<uint64_t>(kept.smax) << count);
  } else if (op == BPF_RSH) {
    v.bits = {a.bits.value >> count, a.bits.mask >> count};
    set_unsigned(v, a.umin >> count, a.umax >> count);
  } else if (op == BPF_ARSH) {
    const View extended = sign_extended(a, 64);
    v.bits = cut({static_cast<uint64_t>(static_cast<int64_t>(extended.bits.value) >> count),
                  static_cast<uint64_t>(static_cast<int64_t>(extended.bits.mask) >> count)},
                 v.mask());
    v.smin = a.smin >> count;
    v.smax = a.smax >> count;
  }
  return v;
}

// ---- comparison ----
namespace {

Outcome ordered(bool always, bool never) {
  return always ? Outcome::kAlways : never ? Outcome::kNever : Outcome::kUnknown;
}

bool overlap(const View& a, const View& b) {
  return a.umin <= b.umax && b.umin <= a.umax && a.smin <= b.smax && b.smin <= a.smax &&
         ((a.bits.value ^ b.bits.value) & ~a.bits.mask & ~b.bits.mask) == 0;
}

Outcome opposite(Outcome outcome) {
  return outcome == Outcome::kAlways  ? Outcome::kNever
         : outcome == Outcome::kNever ? Outcome::kAlways
                                      : Outcome::kUnknown;
}

// a <= b, or a < b.
bool assume_unsigned(View& a, View& b, bool strict) {
  if (strict && (b.umax == 0 || a.umin == a.mask())) return false;
  a.umax = std::min(a.umax, b.umax - strict);
  b.umin = std::max(b.umin, a.umin + strict);
  return a.umin <= a.umax && b.umin <= b.umax;
}

bool assume_signed(View& a, View& b, bool strict) {
  if (strict && (b.smax == b.lowest() || a.smin == a.highest())) return false;
  a.smax = std::min(a.smax, b.smax - strict);
  b.smin = std::max(b.smin, a.smin + strict);
  return a.smin <= a.smax && b.smin <= b.smax;
}

// a is not the constant b: matters only at the edges of its ranges.
bool exclude(View& a, const View& b) {
  if (!b.is_const()) return true;
  const uint64_t value = b.bits.value;
  if (a.umin == value && a.umax == value) return false;
  if (a.umin == value) ++a.umin;
  if (a.umax == value) --a.umax;
  const int64_t number = a.as_signed(value);
  if (a.smin == number && a.smax == number) return false;
  if (a.smin == number) ++a.smin;
  if (a.smax == number) --a.smax;
  return true;
}

// Some bit of both is set: known which if only one can be. Linux looks at constants only.
bool assume_set(View& a, const View& b) {
  if (!b.is_const() || !std::has_single_bit(b.bits.value)) return true;
  return bits_meet(a.bits, {b.bits.value, a.mask() & ~b.bits.value});
}

bool assume_none_set(View& a, const View& b) {
  return !b.is_const() || bits_meet(a.bits, {0, a.mask() & ~b.bits.value});
}

}  // namespace

Outcome view_compare(uint8_t op, const View& a, const View& b) {
  switch (op) {
    case BPF_JEQ:
      return ordered(a.is_const() && b.is_const() && a.bits == b.bits, !overlap(a, b));
    case BPF_JNE:
      return opposite(view_compare(BPF_JEQ, a, b));
    case BPF_JSET:
      if (!a.is_const() && !b.is_const()) return Outcome::kUnknown;
      return ordered((a.bits.value & b.bits.value) != 0,
                     ((a.bits.value | a.bits.mask) & (b.bits.value | b.bits.mask)) == 0);
    case BPF_JGT:
      return ordered(a.umin > b.umax, a.umax <= b.umin);
    case BPF_JGE:
      return ordered(a.umin >= b.umax, a.umax < b.umin);
    case BPF_JLT:
      return view_compare(BPF_JGT, b, a);
    case BPF_JLE:
      return view_compare(BPF_JGE, b, a);
    case BPF_JSGT:
      return ordered(a.smin > b.smax, a.smax <= b.smin);
    case BPF_JSGE:
      return ordered(a.smin >= b.smax, a.smax < b.smin);
    case BPF_JSLT:
      return view_compare(BPF_JSGT, b, a);
    case BPF_JSLE:
      return view_compare(BPF_JSGE, b, a);
    default:
      return Outcome::kUnknown;
  }
}

uint8_t negated(uint8_t op) {
  switch (op) {
    case BPF_JEQ:
      return BPF_JNE;
    case BPF_JNE:
      return BPF_JEQ;
    case BPF_JGT:
      return BPF_JLE;
    case BPF_JGE:
      return BPF_JLT;
    case BPF_JLT:
      return BPF_JGE;
    case BPF_JLE:
      return BPF_JGT;
    case BPF_JSGT:
      return BPF_JSLE;
    case BPF_JSGE:
      return BPF_JSLT;
    case BPF_JSLT:
      return BPF_JSGE;
    case BPF_JSLE:
      return BPF_JSGT;
    case BPF_JSET:
      return kNoneSet;
    default:
      return op;
  }
}

bool view_assume(uint8_t op, View& a, View& b) {
  switch (op) {
    case BPF_JEQ:
      if (!meet(a, b)) return false;
      b = a;
      return true;
    case BPF_JNE:
      return exclude(a, b) && exclude(b, a);
    case BPF_JSET:
      return assume_set(a, b) && assume_set(b, a);
    case kNoneSet:
      return assume_none_set(a, b) && assume_none_set(b, a);
    case BPF_JGT:
      return assume_unsigned(b, a, true);
    case BPF_JGE:
      return assume_unsigned(b, a, false);
    case BPF_JLT:
      return assume_unsigned(a, b, true);
    case BPF_JLE:
      return assume_unsigned(a, b, false);
    case BPF_JSGT:
      return assume_signed(b, a, true);
    case BPF_JSGE:
      return assume_signed(b, a, false);
    case BPF_JSLT:
      return assume_signed(a, b, true);
    case BPF_JSLE:
      return assume_signed(a, b, false);
    default:
      return true;
  }
}

}  // namespace bpftime::verifier

#include "verifier/scalar.h"

#include <algorithm>
#include <bit>
#include <cstdio>

#include "verifier/scalar_view.h"

namespace bpftime::verifier {
namespace {

// Each round carries what one view knows to the others. Two or three settle all but contrived sets; giving up early is sound.
constexpr int kRounds = 8;

// What the low half says about the whole: within one block of equal upper halves, the order is that of the low half.
void learn_from_low(View& wide, const View& low) {
  const uint64_t mask = low.mask();
  wide.umin = std::max(wide.umin, (wide.umin & ~mask) | low.umin);
  wide.umax = std::min(wide.umax, (wide.umax & ~mask) | low.umax);
  const auto with_low = [mask](int64_t number, uint64_t bits) {
    return static_cast<int64_t>((static_cast<uint64_t>(number) & ~mask) | bits);
  };
  wide.smin = std::max(wide.smin, with_low(wide.smin, low.umin));
  wide.smax = std::min(wide.smax, with_low(wide.smax, low.umax));
  if (wide.smin >= low.lowest() && wide.smax <= low.highest()) {
    wide.smin = std::max(wide.smin, low.smin);
    wide.smax = std::min(wide.smax, low.smax);
  }
}

bool settle(View& wide, View& low) {
  for (int round = 0; round < kRounds; ++round) {
    const View wide_before = wide, low_before = low;
    if (!meet(low, low_bits(wide, low.width)) || !low.learn()) return false;
    learn_from_low(wide, low);
    wide.bits = {(wide.bits.value & ~low.mask()) | low.bits.value,
                 (wide.bits.mask & ~low.mask()) | low.bits.mask};
    if (!wide.learn()) return false;
    if (wide == wide_before && low == low_before) break;
  }
  // The bits are kept once, in the wide view.
  return meet(low, low_bits(wide, low.width));
}

Scalar to_scalar(const View& wide, const View& low) {
  Scalar a;
  a.bits = wide.bits;
  a.umin = wide.umin;
  a.umax = wide.umax;
  a.smin = wide.smin;
  a.smax = wide.smax;
  a.umin32 = static_cast<uint32_t>(low.umin);
  a.umax32 = static_cast<uint32_t>(low.umax);
  a.smin32 = static_cast<int32_t>(low.smin);
  a.smax32 = static_cast<int32_t>(low.smax);
  return a;
}

// Whether the low half of the result needs only the low halves of the operands.
bool is_low_local(uint8_t op) {
  return op == BPF_ADD || op == BPF_SUB || op == BPF_MUL || op == BPF_AND || op == BPF_OR || op == BPF_XOR;
}

uint64_t swap_bytes(uint64_t value, unsigned bits) { return __builtin_bswap64(value) >> (64 - bits); }

}  // namespace

View Domain::wide(const Scalar& a) const { return {width, a.bits, a.umin, a.umax, a.smin, a.smax}; }

View Domain::narrow(const Scalar& a) const {
  View v{half(), {}, a.umin32, a.umax32, a.smin32, a.smax32};
  v.bits = {a.bits.value & v.mask(), a.bits.mask & v.mask()};
  return v;
}

Scalar Domain::combine(const View& wide, const View& narrow) const {
  View whole = wide, low = narrow;
  // Empty only for operands that were empty: nothing is known of a path that cannot be.
  if (!settle(whole, low)) return unknown();
  return to_scalar(whole, low);
}

Scalar Domain::unknown() const { return to_scalar(View::unknown(width), View::unknown(half())); }

Scalar Domain::constant(uint64_t value) const {
  return to_scalar(View::constant(width, value), View::constant(half(), value));
}

bool Domain::contains(const Scalar& a, uint64_t value) const {
  return wide(a).contains(value) && narrow(a).contains(value);
}

bool Domain::normalise(Scalar& a) const {
  View whole = wide(a), low = narrow(a);
  if (!settle(whole, low)) return false;
  a = to_scalar(whole, low);
  return true;
}

Scalar Domain::alu(uint8_t op, bool is_wide, bool is_signed, const Scalar& a, const Scalar& b) const {
  if (op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH) return shift(op, is_wide, a, b);
  if (!is_wide) {
    View low = view_alu(op, is_signed, narrow(a), narrow(b));
    if (!low.learn()) return unknown();
    return combine(zero_extended(low, width), low);
  }
  View low = is_low_local(op) ? view_alu(op, is_signed, narrow(a), narrow(b)) : View::unknown(half());
  return combine(view_alu(op, is_signed, wide(a), wide(b)), low);
}

Scalar Domain::shift(uint8_t op, bool is_wide, const Scalar& a, const Scalar& b) const {
  // Counts are taken modulo the operand's width. The union over all possible ones.
  const View count = is_wide ? wide(b) : narrow(b);
  Scalar result;
  bool any = false;
  for (unsigned c = 0; c < count.width; ++c) {
    const uint64_t first = count.umin + ((c - count.umin) & (count.width - 1));
    if (first < count.umin || first > count.umax) continue;
    if (((c ^ count.bits.value) & ~count.bits.mask & (count.width - 1)) != 0) continue;
    Scalar one;
    if (is_wide) {
      View low = op == BPF_LSH ? view_shift(op, narrow(a), c) : View::unknown(half());
      View whole = view_shift(op, wide(a), c);
      // The sign of what is left is best known of the low half alone: `x << 32` of an int.
      if (op == BPF_LSH && c == half() && !meet(whole, view_shift(op, sign_extended(narrow(a), width), c)))
        continue;
      one = combine(whole, low);
    } else {
      View low = view_shift(op, narrow(a), c);
      if (!low.learn()) continue;
      one = combine(zero_extended(low, width), low);
    }
    result = any ? join(result, one) : one;
    any = true;
  }
  return any ? result : unknown();
}

Scalar Domain::negate(const Scalar& a, bool is_wide) const {
  return alu(BPF_SUB, is_wide, false, constant(0), a);
}

Scalar Domain::truncate(const Scalar& a, unsigned bits) const {
  if (bits >= width) return a;
  View kept = low_bits(wide(a), bits);
  const View low = narrow(a);
  if (bits <= half() && !meet(kept, bits == half() ? low : low_bits(low, bits))) return unknown();
  if (!kept.learn()) return unknown();
  return combine(zero_extended(kept, width), bits == half() ? kept : View::unknown(half()));
}

Scalar Domain::sign_extend(const Scalar& a, unsigned bits, bool is_wide) const {
  const Scalar kept = truncate(a, bits);
  const View low = low_bits(wide(kept), bits);
  if (is_wide) return combine(sign_extended(low, width), View::unknown(half()));
  if (bits >= half()) return truncate(a, half());
  View extended = sign_extended(low, half());
  if (!extended.learn()) return unknown();
  return combine(zero_extended(extended, width), extended);
}

Scalar Domain::byte_swap(const Scalar& a, unsigned bits) const {
  const Scalar kept = truncate(a, bits);
  View v = View::unknown(width);
  v.bits = {swap_bytes(kept.bits.value, bits), swap_bytes(kept.bits.mask, bits)};
  return combine(v, View::unknown(half()));
}

Scalar Domain::join(const Scalar& a, const Scalar& b) const {
  return combine(verifier::join(wide(a), wide(b)), verifier::join(narrow(a), narrow(b)));
}

bool Domain::intersect(Scalar& into, const Scalar& other) const {
  View whole = wide(into), low = narrow(into);
  if (!meet(whole, wide(other)) || !meet(low, narrow(other)) || !settle(whole, low)) return false;
  into = to_scalar(whole, low);
  return true;
}

Outcome Domain::compare(uint8_t op, bool is_wide, const Scalar& a, const Scalar& b) const {
  if (!is_wide) return view_compare(op, narrow(a), narrow(b));
  const Outcome outcome = view_compare(op, wide(a), wide(b));
  if (outcome != Outcome::kUnknown || (op != BPF_JEQ && op != BPF_JNE)) return outcome;
  // Low halves that differ decide as well; equal ones do not.
  const Outcome low = view_compare(BPF_JEQ, narrow(a), narrow(b));
  if (low != Outcome::kNever) return Outcome::kUnknown;
  return op == BPF_JEQ ? Outcome::kNever : Outcome::kAlways;
}

bool Domain::assume(uint8_t op, bool is_wide, bool taken, Scalar& a, Scalar& b) const {
  if (!taken) op = negated(op);
  View wide_a = wide(a), wide_b = wide(b), low_a = narrow(a), low_b = narrow(b);
  if (!(is_wide ? view_assume(op, wide_a, wide_b) : view_assume(op, low_a, low_b))) return false;
  if (!settle(wide_a, low_a) || !settle(wide_b, low_b)) return false;
  a = to_scalar(wide_a, low_a);
  b = to_scalar(wide_b, low_b);
  return true;
}

// ---- the product: 64 and 32 bits ----
namespace {
constexpr Domain kDomain{64};
}

Scalar Scalar::constant(uint64_t value) { return kDomain.constant(value); }

Scalar Scalar::unsigned_range(uint64_t low, uint64_t high) {
  return kDomain.combine(View::unsigned_range(64, low, high), View::unknown(32));
}

Scalar Scalar::signed_range(int64_t low, int64_t high) {
  return kDomain.combine(View::signed_range(64, low, high), View::unknown(32));
}

Scalar Scalar::loaded(uint32_t bytes, bool sign_extended) {
  const unsigned bits = bytes * 8;
  return sign_extended ? kDomain.sign_extend(unknown(), bits, true) : kDomain.truncate(unknown(), bits);
}

bool Scalar::contains(uint64_t value) const { return kDomain.contains(*this, value); }

bool Scalar::contains(const Scalar& other) const {
  return smin <= other.smin && other.smax <= smax && umin <= other.umin && other.umax <= umax &&
         smin32 <= other.smin32 && other.smax32 <= smax32 && umin32 <= other.umin32 &&
         other.umax32 <= umax32 && (other.bits.mask & ~bits.mask) == 0 &&
         ((other.bits.value ^ bits.value) & ~bits.mask) == 0;
}

bool Scalar::normalise() { return kDomain.normalise(*this); }

Scalar apply_alu(uint8_t op, bool is64, bool is_signed, const Scalar& dst, const Scalar& src) {
  return kDomain.alu(op, is64, is_signed, dst, src);
}

Scalar sign_extend(const Scalar& src, uint32_t bits, bool is64) {
  return kDomain.sign_extend(src, bits, is64);
}

Scalar zero_extend_32(const Scalar& src) { return kDomain.truncate(src, 32); }

Scalar truncate(const Scalar& src, uint32_t bytes) { return kDomain.truncate(src, bytes * 8); }

Scalar byte_swap(const Scalar& src, uint32_t bits, bool to_big, bool unconditional) {
  const bool swaps = unconditional || to_big == (std::endian::native == std::endian::little);
  return swaps ? kDomain.byte_swap(src, bits) : kDomain.truncate(src, bits);
}

Scalar negate(const Scalar& src, bool is64) { return kDomain.negate(src, is64); }

Scalar join(const Scalar& a, const Scalar& b) { return kDomain.join(a, b); }

bool intersect(Scalar& into, const Scalar& other) { return kDomain.intersect(into, other); }

Outcome compare(uint8_t op, bool is64, const Scalar& a, const Scalar& b) {
  return kDomain.compare(op, is64, a, b);
}

bool assume(uint8_t op, bool is64, bool taken, Scalar& a, Scalar& b) {
  return kDomain.assume(op, is64, taken, a, b);
}

// ---- text ----
namespace {

// Numbers of up to 16 bits in decimal, longer ones in hexadecimal, as Linux's log has them.
std::string signed_text(int64_t number) {
  char text[32];
  const bool is_short = number >= INT16_MIN && number <= INT16_MAX;
  std::snprintf(text, sizeof(text), is_short ? "%lld" : "0x%llx", static_cast<long long>(number));
  return text;
}

std::string unsigned_text(uint64_t number) {
  char text[32];
  std::snprintf(text, sizeof(text), number <= UINT16_MAX ? "%llu" : "0x%llx",
                static_cast<unsigned long long>(number));
  return text;
}

// 32-bit numbers that are shown in hexadecimal are shown, and compared, without their sign.
uint64_t shown32(int32_t number) {
  return number >= INT16_MIN && number <= INT16_MAX ? static_cast<uint64_t>(static_cast<int64_t>(number))
                                                    : static_cast<uint32_t>(number);
}

struct Bound {
  const char* name;
  uint64_t value;
  bool is_default;
};

}  // namespace

std::string ranges_text(const Scalar& a) {
  Bound bounds[] = {{"smin", static_cast<uint64_t>(a.smin), a.smin == INT64_MIN},
                    {"smax", static_cast<uint64_t>(a.smax), a.smax == INT64_MAX},
                    {"umin", a.umin, a.umin == 0},
                    {"umax", a.umax, a.umax == UINT64_MAX},
                    {"smin32", shown32(a.smin32), a.smin32 == INT32_MIN},
                    {"smax32", shown32(a.smax32), a.smax32 == INT32_MAX},
                    {"umin32", a.umin32, a.umin32 == 0},
                    {"umax32", a.umax32, a.umax32 == UINT32_MAX}};
  const auto is_negative = [](const Bound& b) {
    return b.name[0] == 's' && static_cast<int64_t>(b.value) < 0;
  };
  std::string text;
  for (size_t i = 0; i < std::size(bounds); ++i) {
    if (bounds[i].is_default) continue;
    if (!text.empty()) text += ',';
    text += std::string(bounds[i].name) + "=";
    // Minima stand at even places: equal ones are named together.
    for (size_t j = i + 2; j < std::size(bounds); j += 2) {
      if (bounds[j].is_default || bounds[j].value != bounds[i].value ||
          is_negative(bounds[i]) != is_negative(bounds[j]))
        continue;
      bounds[j].is_default = true;
      text += std::string(bounds[j].name) + "=";
    }
    text += bounds[i].name[0] == 's' ? signed_text(static_cast<int64_t>(bounds[i].value))
                                     : unsigned_text(bounds[i].value);
  }
  if (a.bits.mask != ~0ull) {
    char bits[64];
    std::snprintf(bits, sizeof(bits), "%svar_off=(0x%llx; 0x%llx)", text.empty() ? "" : ",",
                  static_cast<unsigned long long>(a.bits.value),
                  static_cast<unsigned long long>(a.bits.mask));
    text += bits;
  }
  return text;
}

std::string Scalar::describe_outside(int64_t low, int64_t high) const {
  std::string out = "has";
  if (smin > INT64_MIN) out += " smin=" + std::to_string(smin);
  if (smax < INT64_MAX) out += " smax=" + std::to_string(smax);
  if (smin == INT64_MIN && smax == INT64_MAX) out += " unknown scalar value";
  return out + " should have been in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
}

std::string Scalar::describe() const {
  if (is_const()) return signed_text(static_cast<int64_t>(bits.value));
  return "scalar(" + ranges_text(*this) + ")";
}

}  // namespace bpftime::verifier

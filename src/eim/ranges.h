// Ranges as the verifier keeps them, with all views filled in that a range determines.
#pragma once

#include <bit>
#include <cstdint>

#include "verifier/scalar.h"

namespace bpftime::eim {

inline verifier::Scalar unsigned_range(uint64_t low, uint64_t high) {
  verifier::Scalar out;
  out.umin = low;
  out.umax = high;
  // With one sign both orders agree; with one upper half the lower halves are in order, too.
  if ((low ^ high) >> 63 == 0) {
    out.smin = static_cast<int64_t>(low);
    out.smax = static_cast<int64_t>(high);
  }
  if (low >> 32 == high >> 32) {
    out.umin32 = static_cast<uint32_t>(low);
    out.umax32 = static_cast<uint32_t>(high);
    if (((out.umin32 ^ out.umax32) >> 31) == 0) {
      out.smin32 = static_cast<int32_t>(out.umin32);
      out.smax32 = static_cast<int32_t>(out.umax32);
    }
  }
  // Bits above the highest in which the ends differ are known.
  const int width = std::bit_width(low ^ high);
  out.bits.mask = width == 64 ? UINT64_MAX : (uint64_t{1} << width) - 1;
  out.bits.value = low & ~out.bits.mask;
  return out;
}

inline verifier::Scalar signed_range(int64_t low, int64_t high) {
  if ((low < 0) == (high < 0)) return unsigned_range(static_cast<uint64_t>(low), static_cast<uint64_t>(high));
  verifier::Scalar out;
  out.smin = low;
  out.smax = high;
  if (low >= INT32_MIN && high <= INT32_MAX) {
    out.smin32 = static_cast<int32_t>(low);
    out.smax32 = static_cast<int32_t>(high);
  }
  return out;
}

inline bool in_range(const verifier::Scalar& range, uint64_t value) {
  return value >= range.umin && value <= range.umax && static_cast<int64_t>(value) >= range.smin &&
         static_cast<int64_t>(value) <= range.smax;
}

}  // namespace bpftime::eim

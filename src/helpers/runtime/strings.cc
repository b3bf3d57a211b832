// Strings and numbers. Memory is the program's own and verified; what a format's %s points to is not.
#include "helpers/runtime/format.h"

namespace bpftime::runtime {
namespace {

constexpr int64_t kErange = 34;
constexpr uint32_t kSnprintfFieldMax = 4096;

// _ctype of the kernel: the no-break space of Latin-1 is one, too.
inline bool is_kernel_space(char c) { return is_space(c) || static_cast<uint8_t>(c) == 0xa0; }
inline char lower(char c) { return static_cast<char>(c | 0x20); }
// 99: no digit.
inline uint32_t digit_value(char c) {
  if (is_digit(c)) return static_cast<uint32_t>(c - '0');
  const char small = lower(c);
  return small >= 'a' && small <= 'f' ? static_cast<uint32_t>(small - 'a' + 10) : 99;
}

struct Number {
  uint64_t value;
  bool negative;
  int64_t consumed;  // bytes, or a negative errno
};

// __bpf_strtoull: white space, a minus sign, at most 63 characters of number.
__attribute__((noinline)) Number parse(const char* text, uint64_t size, uint64_t flags) {
  constexpr uint64_t kBaseMask = 0x1f, kLongest = 63;
  Number out{0, false, -kEinval};
  uint64_t base = flags & kBaseMask;
  if (size == 0 || (flags & ~kBaseMask) != 0 || (base != 0 && base != 8 && base != 10 && base != 16))
    return out;
  uint64_t at = 0;
  while (at < size && is_kernel_space(text[at])) at++;
  out.negative = at < size && text[at] == '-';
  if (out.negative) at++;
  if (at == size) return out;
  const uint64_t end = size - at < kLongest ? size : at + kLongest;
  const auto peek = [&](uint64_t ahead) { return at + ahead < end ? text[at + ahead] : '\0'; };
  const bool hex = peek(0) == '0' && lower(peek(1)) == 'x';
  if (base == 0) base = peek(0) != '0' ? 10 : hex && digit_value(peek(2)) < 16 ? 16 : 8;
  if (base == 16 && hex) at += 2;
  const uint64_t start = at;
  bool overflow = false;
  for (; at < end && digit_value(text[at]) < base; at++) {
    const uint64_t digit = digit_value(text[at]);
    overflow |= out.value > (~uint64_t{0} - digit) / base;
    out.value = out.value * base + digit;
  }
  out.consumed = overflow ? -kErange : at == start ? -kEinval : static_cast<int64_t>(at);
  return out;
}

}  // namespace

// r1 string, r2 its size, r3 constant string.
BPFTIME_HELPER_FUNCTION(strncmp) {
  const auto* one = pointer<const uint8_t>(r1);
  const auto* other = pointer<const uint8_t>(r3);
  const uint32_t size = static_cast<uint32_t>(r2);
  for (uint32_t i = 0; i < size; i++) {
    if (one[i] != other[i]) return static_cast<uint64_t>(one[i] < other[i] ? -1 : 1);
    if (one[i] == 0) break;
  }
  return 0;
}

// r1 text, r2 its size, r3 flags (the base), r4 where the number goes.
BPFTIME_HELPER_FUNCTION(strtol) {
  auto* result = pointer<int64_t>(r4);
  *result = 0;
  const Number number = parse(pointer<const char>(r1), r2, r3);
  if (number.consumed < 0) return static_cast<uint64_t>(number.consumed);
  const auto value = static_cast<int64_t>(number.negative ? 0 - number.value : number.value);
  if (number.negative ? value > 0 : value < 0) return static_cast<uint64_t>(-kErange);
  *result = value;
  return static_cast<uint64_t>(number.consumed);
}

BPFTIME_HELPER_FUNCTION(strtoul) {
  auto* result = pointer<uint64_t>(r4);
  *result = 0;
  const Number number = parse(pointer<const char>(r1), r2, r3);
  if (number.consumed < 0) return static_cast<uint64_t>(number.consumed);
  if (number.negative) return static_cast<uint64_t>(-kEinval);
  *result = number.value;
  return static_cast<uint64_t>(number.consumed);
}

// r1 buffer, r2 its size, r3 format, r4 values, r5 their bytes. The length with its NUL, whether or not it found room.
BPFTIME_HELPER_FUNCTION(snprintf) {
  const uint32_t size = static_cast<uint32_t>(r2);
  Arguments arguments{};
  if (!take_arguments(r4, static_cast<uint32_t>(r5), arguments)) return static_cast<uint64_t>(-kEinval);
  const Format format = find_end(pointer<const char>(r3), kFormatMax);
  if (format.at == nullptr) return static_cast<uint64_t>(-kEinval);
  // Nothing is written when the format is bad.
  Sink counted{nullptr, 0, kSnprintfFieldMax};
  const int64_t checked = format_text(counted, format, arguments);
  if (checked < 0) return static_cast<uint64_t>(checked);
  Sink sink{pointer<char>(r1), size == 0 ? 0 : size - 1, kSnprintfFieldMax};
  const int64_t length = format_text(sink, format, arguments);
  if (length < 0) return static_cast<uint64_t>(length);
  if (size != 0) sink.text[length < size ? length : size - 1] = '\0';
  return static_cast<uint64_t>(length + 1);
}

}  // namespace bpftime::runtime

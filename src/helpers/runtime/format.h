// The kernel's subset of printf, as bpf_bprintf_prepare and bstr_printf have it. Text is made twice where its size must be
// known first; memory that %s reads may change in between.
#pragma once

#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {
namespace {

constexpr uint32_t kFormatArguments = 12;  // MAX_BPRINTF_VARARGS

constexpr uint64_t kFormatMax =
    4096;  // bytes of format looked at; more than the verifier's stack and most rodata hold

constexpr uint32_t kWidthMax = 4096;  // where digits of a width stop to count

struct Sink {
  char* text;         // nullptr: only count
  uint32_t capacity;  // characters beyond are counted, not stored
  uint32_t limit;     // no field makes more than this; the whole text may be a little longer
  uint32_t length = 0;

  void put(char c) {
    if (text != nullptr && length < capacity) text[length] = c;
    length++;
  }
  void fill(char c, uint32_t count) {
    for (uint32_t i = 0; i < count && length < limit; i++) put(c);
  }
};

struct Spec {
  bool zero = false, left = false, plus = false, space = false;
  uint32_t width = 0;
};

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool is_print(char c) { return c >= ' ' && c <= '~'; }
inline bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool is_punct(char c) { return is_print(c) && c != ' ' && !is_alnum(c); }
inline bool ends_specifier(char c) { return c == '\0' || is_space(c) || is_punct(c); }

__attribute__((noinline)) void put_number(Sink& sink, const Spec& spec, uint64_t value, uint32_t base,
                                          bool upper, char sign) {
  char digits[20];
  uint32_t count = 0;
  do {
    const auto digit = static_cast<char>(value % base);
    digits[count++] = static_cast<char>(digit < 10 ? '0' + digit : (upper ? 'A' : 'a') + digit - 10);
    value /= base;
  } while (value != 0);
  const uint32_t used = count + (sign != '\0');
  const uint32_t padding = spec.width > used ? spec.width - used : 0;
  if (!spec.left && !spec.zero) sink.fill(' ', padding);
  if (sign != '\0') sink.put(sign);
  if (!spec.left && spec.zero) sink.fill('0', padding);
  while (count > 0) sink.put(digits[--count]);
  if (spec.left) sink.fill(' ', padding);
}

void put_signed(Sink& sink, const Spec& spec, int64_t value) {
  const char sign = value < 0 ? '-' : spec.plus ? '+' : spec.space ? ' ' : '\0';
  const uint64_t magnitude = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  put_number(sink, spec, magnitude, 10, false, sign);
}

// A string of the process, in pieces; unreadable prints as nothing.
__attribute__((noinline)) void put_string(Sink& sink, const Spec& spec, uint64_t address) {
  char piece[64];
  const uint32_t start = sink.length;
  if (spec.width != 0 && !spec.left) {  // right-aligned: its length comes first
    uint32_t length = 0;
    for (uint64_t at = address; length < sink.limit;) {
      const int64_t read = read_string(piece, sizeof(piece), at);
      if (read <= 0) break;
      length += static_cast<uint32_t>(read - 1);
      at += sizeof(piece) - 1;
      if (read < static_cast<int64_t>(sizeof(piece))) break;
    }
    if (spec.width > length) sink.fill(' ', spec.width - length);
  }
  while (sink.length < sink.limit) {
    const int64_t read = read_string(piece, sizeof(piece), address);
    if (read <= 0) break;
    for (int64_t i = 0; i < read - 1; i++) sink.put(piece[i]);
    if (read < static_cast<int64_t>(sizeof(piece))) break;
    address += sizeof(piece) - 1;
  }
  const uint32_t used = sink.length - start;
  if (spec.left && spec.width > used) sink.fill(' ', spec.width - used);
}

// A reader of the format that never leaves it: the format may lie in a map, where a peer can remove
// its NUL meanwhile.
struct Format {
  const char* at;
  const char* end;

  char operator[](uint32_t offset) const {
    return offset < static_cast<uint64_t>(end - at) ? at[offset] : '\0';
  }
  char operator*() const { return (*this)[0]; }
  void skip(uint32_t count) { at = count < static_cast<uint64_t>(end - at) ? at + count : end; }
};

struct Arguments {
  const uint64_t* values;
  uint32_t count;
  uint32_t used = 0;
};

// One specifier; `at` stands behind its flags and width and is left behind it. False: not one
// the kernel takes.
bool put_specifier(Sink& sink, Spec spec, Format& at, uint64_t value) {
  if (*at == 'p') {
    at.skip(1);
    if ((at[0] == 'k' || at[0] == 'u') && at[1] == 's') {
      at.skip(2);
      if (!ends_specifier(*at)) return false;
      put_string(sink, Spec{}, value);  // bstr_printf copies what was made before: no width
      return true;
    }
    if (!ends_specifier(*at)) {
      if (*at != 'x' && *at != 'K') return false;
      at.skip(1);
    }
    if (spec.width == 0) {  // as the kernel prints pointers: all 16 digits
      spec.width = 16;
      spec.zero = true;
    }
    put_number(sink, spec, value, 16, false, '\0');
    return true;
  }
  if (*at == 's') {
    at.skip(1);
    if (!ends_specifier(*at)) return false;
    put_string(sink, spec, value);
    return true;
  }
  if (*at == 'c') {
    at.skip(1);
    if (!spec.left && spec.width > 1) sink.fill(' ', spec.width - 1);
    sink.put(static_cast<char>(value));
    if (spec.left && spec.width > 1) sink.fill(' ', spec.width - 1);
    return true;
  }
  bool wide = false;
  for (int i = 0; i < 2 && *at == 'l'; i++, at.skip(1)) wide = true;
  const char kind = *at;
  at.skip(1);
  switch (kind) {
    case 'd':
    case 'i':
      put_signed(sink, spec, wide ? static_cast<int64_t>(value) : static_cast<int32_t>(value));
      return true;
    case 'u':
    case 'x':
    case 'X':
      put_number(sink, spec, wide ? value : static_cast<uint32_t>(value), kind == 'u' ? 10 : 16, kind == 'X',
                 '\0');
      return true;
    default:
      return false;
  }
}

// Reads flags and width at `at`.
Spec read_spec(Format& at) {
  Spec spec;
  for (;; at.skip(1)) {
    if (*at == '0')
      spec.zero = true;
    else if (*at == '-')
      spec.left = true;
    else if (*at == '+')
      spec.plus = true;
    else if (*at == ' ')
      spec.space = true;
    else
      break;
  }
  for (; is_digit(*at); at.skip(1)) {
    if (spec.width <= kWidthMax) spec.width = spec.width * 10 + static_cast<uint32_t>(*at - '0');
  }
  if (spec.left) spec.zero = false;
  return spec;
}

// Returns the text's length, or -EINVAL as bpf_bprintf_prepare does.
__attribute__((noinline)) int64_t format_text(Sink& sink, Format at, Arguments arguments) {
  while (*at != '\0') {
    if (!is_print(*at) && !is_space(*at)) return -kEinval;
    if (*at != '%') {
      sink.put(*at);
      at.skip(1);
      continue;
    }
    if (at[1] == '%') {
      sink.put('%');
      at.skip(2);
      continue;
    }
    if (arguments.used >= arguments.count) return -kEinval;
    at.skip(1);
    const Spec spec = read_spec(at);
    if (!put_specifier(sink, spec, at, arguments.values[arguments.used++])) return -kEinval;
  }
  return sink.length;
}

// The format up to its NUL; at == nullptr: the kernel wants it terminated, and it is not.
Format find_end(const char* format, uint64_t size) {
  for (uint64_t i = 0; i < size && i < kFormatMax; i++) {
    if (format[i] == '\0') return {format, format + i};
  }
  return {nullptr, nullptr};
}

// `arguments` as bpf_snprintf and bpf_trace_vprintk get them: 8 bytes each. False: -EINVAL.
inline bool take_arguments(uint64_t data, uint32_t bytes, Arguments& out) {
  if (bytes % 8 != 0 || bytes / 8 > kFormatArguments || (bytes != 0 && data == 0)) return false;
  out = Arguments{pointer<const uint64_t>(data), bytes / 8};
  return true;
}

}  // namespace
}  // namespace bpftime::runtime

// bpf_trace_printk: the kernel's subset of printf, formatted here into a record of the trace ring.
// The text is made twice: once to count it (a ring record's size must be known when it is reserved, and a
// kilobyte of the host's stack is too much to ask), once into the record. Memory that %s reads may change in
// between; the second run is cut at, and padded to, what the first counted.
#include "helpers/runtime/clock.h"
#include "helpers/trace_record.h"
#include "maps/program_side.h"

namespace bpftime::runtime {
namespace {

using helpers::kTraceTextMax;
using helpers::kTraceTextOffset;
using helpers::TraceRecord;

constexpr uint32_t kTraceArgs = 3;
constexpr uint64_t kFormatMax =
    4096;  // bytes of format looked at; more than the verifier's stack and most rodata hold

struct Sink {
  char* text;         // nullptr: only count
  uint32_t capacity;  // characters beyond are counted, not stored
  uint32_t length;

  void put(char c) {
    if (text != nullptr && length < capacity) text[length] = c;
    length++;
  }
  void fill(char c, uint32_t count) {
    for (uint32_t i = 0; i < count && length < kTraceTextMax; i++) put(c);
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
    for (uint64_t at = address; length < kTraceTextMax;) {
      const int64_t read = read_string(piece, sizeof(piece), at);
      if (read <= 0) break;
      length += static_cast<uint32_t>(read - 1);
      at += sizeof(piece) - 1;
      if (read < static_cast<int64_t>(sizeof(piece))) break;
    }
    if (spec.width > length) sink.fill(' ', spec.width - length);
  }
  while (sink.length < kTraceTextMax) {
    const int64_t read = read_string(piece, sizeof(piece), address);
    if (read <= 0) break;
    for (int64_t i = 0; i < read - 1; i++) sink.put(piece[i]);
    if (read < static_cast<int64_t>(sizeof(piece))) break;
    address += sizeof(piece) - 1;
  }
  const uint32_t used = sink.length - start;
  if (spec.left && spec.width > used) sink.fill(' ', spec.width - used);
}

// A reader of the format that never leaves it: the format may lie in a map, where a peer can remove its NUL
// meanwhile.
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
  uint64_t values[kTraceArgs];
  uint32_t used = 0;
};

// One specifier; `at` stands behind its flags and width and is left behind it. False: not one the kernel
// takes.
bool put_specifier(Sink& sink, Spec spec, Format& at, uint64_t value) {
  if (*at == 'p') {
    at.skip(1);
    if ((at[0] == 'k' || at[0] == 'u') && at[1] == 's') {
      at.skip(2);
      if (!ends_specifier(*at)) return false;
      put_string(sink, spec, value);
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
    if (spec.width <= kTraceTextMax) spec.width = spec.width * 10 + static_cast<uint32_t>(*at - '0');
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
    if (arguments.used >= kTraceArgs) return -kEinval;
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

}  // namespace

BPFTIME_HELPER_FUNCTION(trace_printk) {
  const Format format = find_end(pointer<const char>(r1), static_cast<uint32_t>(r2));
  if (bpftime_trace_ring.base == nullptr || format.at == nullptr) return -kEinval;
  const Arguments arguments{{r3, r4, r5}};
  Sink counted{nullptr, 0, 0};
  const int64_t length = format_text(counted, format, arguments);
  if (length < 0) return length;
  const uint32_t stored = length < kTraceTextMax ? static_cast<uint32_t>(length) : kTraceTextMax - 1;

  const maps::MapView ring{bpftime_trace_ring.base, &bpftime_trace_ring.spec};
  const uint32_t tgid = current_tgid();
  void* memory = maps::program_side::ring_reserve(ring, kTraceTextOffset + stored, 0, tgid);
  if (memory == nullptr) return length;  // full: dropped, as the kernel's own buffer overwrites
  auto* record = static_cast<TraceRecord*>(memory);
  record->time_ns = bpftime_slow_clock(kClockMonotonic);
  record->lineage = context()->lineage;
  record->tgid = tgid;
  record->tid = current_tid();
  record->cpu = current_cpu();
  current_comm(record->comm);
  record->text_length = static_cast<uint16_t>(stored);
  Sink sink{static_cast<char*>(memory) + kTraceTextOffset, stored, 0};
  format_text(sink, format, arguments);
  while (sink.length < stored) sink.put(' ');
  if (maps::program_side::ring_commit(ring, memory, 0, false))
    bpftime_wake(maps::program_side::ring_wake_word(ring));
  return length;
}

}  // namespace bpftime::runtime

// Loads and stores on the stack: byte-wise slots, and whole values spilled into them.
//
// For whoever edits this:
//  1. bytes[0] of a slot is its lowest address, which on this machine is the low byte of a spilled number.
//  2. A spill starts at bytes[0] and fills 1, 2, 4 or 8 bytes; pointers always 8. Whatever overwrites a part of a spill
//     turns the rest of it into kMisc; no slot ever holds the tail of a value.
//  3. kUninitialised is never turned into something readable by a read or by a write that may miss: the frame's bytes are
//     those of the host's stack. Reads of it are noted in Facts::zeroed_bytes, or refused.
#include <algorithm>
#include <cerrno>

#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

constexpr int64_t kFrameLow = -static_cast<int64_t>(kStackBytes);

// The bytes [low, high) of frame `frame` that an access may touch; one place if `fixed`.
struct Span {
  uint32_t frame;
  int64_t low, high;
  bool fixed;
};

size_t slot_index(int64_t offset) { return static_cast<size_t>(-offset - 1) / kSlotBytes; }
size_t byte_index(int64_t offset) { return kSlotBytes - 1 - static_cast<size_t>(-offset - 1) % kSlotBytes; }

Slot& slot_at(Frame& frame, int64_t offset) {
  const size_t index = slot_index(offset);
  if (frame.stack.size() <= index) frame.stack.resize(index + 1);
  return frame.stack[index];
}

Byte byte_at(const Frame& frame, int64_t offset) {
  const size_t index = slot_index(offset);
  return index < frame.stack.size() ? frame.stack[index].bytes[byte_index(offset)] : Byte::kUninitialised;
}

bool is_special(const Slot& slot) {
  return slot.bytes[0] == Byte::kSpill || slot.bytes[0] == Byte::kDynptr || slot.bytes[0] == Byte::kIterator;
}

uint32_t spill_size(const Slot& slot) {
  uint32_t size = 0;
  while (size < kSlotBytes && slot.bytes[size] == Byte::kSpill) ++size;
  return size;
}

// What was one value is now unrelated bytes.
void scrub(Slot& slot) {
  slot.value = Value();
  for (Byte& byte : slot.bytes)
    if (byte != Byte::kUninitialised && byte != Byte::kZero) byte = Byte::kMisc;
}

bool fits(const Scalar& number, uint32_t size) { return size >= 8 || number.umax < 1ull << (8 * size); }

// Frames are made of whole slots.
int64_t slot_start(int64_t offset) { return -static_cast<int64_t>((slot_index(offset) + 1) * kSlotBytes); }

// Where the access lies; false with `refused` decided otherwise. Linux: check_stack_access_within_bounds.
bool refuse_place(Engine& engine, uint32_t reg, const Span& span, const Scalar& variable, int64_t offset,
                  uint32_t size, Access access) {
  const std::string what = access == Access::kRead ? " read from stack " : " write to stack ";
  const std::string linux_message =
      span.fixed
          ? "invalid" + what + reg_name(reg) + " off=" + std::to_string(span.low) +
                " size=" + std::to_string(size)
          : "invalid variable-offset" + what + reg_name(reg) + " var_off=" + describe_bits(variable.bits) +
                " off=" + std::to_string(offset) + " size=" + std::to_string(size);
  const std::string where =
      span.fixed ? "offset " + std::to_string(span.low)
                 : "offsets " + std::to_string(span.low) + " to " + std::to_string(span.high - size);
  const bool starts_inside = span.low >= kFrameLow && span.low < 0;
  return refuse_register_as(
      engine, starts_inside ? EINVAL : EACCES, Rule::kSTK002, reg,
      std::to_string(size) + " bytes at " + where + " of the stack frame, which has [-512, 0)",
      linux_message);
}

enum class Place : uint8_t { kInside, kRefused, kUnenforced };

// Where the access lies. kUnenforced: nowhere in the frame, but the rule is switched off. Linux:
// check_stack_access_within_bounds.
Place locate(Engine& engine, uint32_t reg, uint32_t frame, const Scalar& variable, int64_t offset,
             uint32_t size, Access access, Span& span) {
  span = {frame, 0, 0, variable.is_const()};
  if (span.fixed) {
    span.low = static_cast<int64_t>(variable.value() + static_cast<uint64_t>(offset));
    span.high = span.low + size;
  } else {
    if (variable.smax >= kOffsetMax || variable.smin <= -kOffsetMax) {
      const char* what = access == Access::kRead ? " read from stack " : " write to stack ";
      const bool goes_on =
          engine.refuse_register(Rule::kSTK005, reg, "the offset into the stack frame has no bounds",
                                 std::string("invalid unbounded variable-offset") + what + reg_name(reg));
      return goes_on ? Place::kUnenforced : Place::kRefused;
    }
    span.low = variable.smin + offset;
    span.high = variable.smax + offset + size;
  }
  if (span.low < kFrameLow || span.low >= 0 || span.high > 0) {
    return refuse_place(engine, reg, span, variable, offset, size, access) ? Place::kUnenforced
                                                                           : Place::kRefused;
  }
  engine.mark_stack_used(frame, slot_start(span.low));
  return Place::kInside;
}

// A byte that nobody wrote is read.
template <typename Message>
bool read_uninitialised(Engine& engine, uint32_t frame, int64_t offset, const Message& linux_message) {
  if (!engine.request.options.zero_stack &&
      !engine.refuse(Rule::kSTK001,
                     "the byte at offset " + std::to_string(offset) + " of the stack frame was never written",
                     linux_message()))
    return false;
  engine.mark_stack_zeroed(frame, offset);
  return true;
}

// Reads bytes one by one. Zeroes give zero: all written as such, or, where the place is known, all of one spilled zero (a
// mixture would too, but Linux does not see it). Refuses those that only helpers may read.
template <typename Describe>
bool read_bytes(Engine& engine, const Span& span, uint32_t size, const Describe& linux_place, Value* loaded) {
  const Frame& frame = engine.state.frames[span.frame];
  uint32_t zeroes = 0, spilled_zeroes = 0;
  for (int64_t offset = span.low; offset < span.high; ++offset) {
    const Byte byte = byte_at(frame, offset);
    const auto linux_message = [&] {
      return "invalid read from stack " + linux_place() + "+" + std::to_string(offset - span.low) + " size " +
             std::to_string(size);
    };
    switch (byte) {
      case Byte::kZero:
        ++zeroes;
        break;
      case Byte::kSpill: {
        const Value& spilled = frame.stack[slot_index(offset)].value;
        spilled_zeroes += span.fixed && spilled.is_null();
        if (spilled.is_pointer() && !engine.request.options.allow_pointer_leaks &&
            !engine.refuse(Rule::kSTK004, "the bytes hold part of a pointer", linux_message()))
          return false;
        break;
      }
      case Byte::kMisc:
        break;
      case Byte::kUninitialised:
        if (!read_uninitialised(engine, span.frame, offset, linux_message)) return false;
        break;
      case Byte::kDynptr:
      case Byte::kIterator:
        if (!refuse_as(engine, EACCES, Rule::kDYN001,
                       "the stack bytes hold a dynptr or iterator, which only helpers may read",
                       linux_message()))
          return false;
        break;
    }
  }
  if (loaded) {
    const auto bytes = static_cast<uint32_t>(span.high - span.low);
    const bool zero = zeroes == bytes || spilled_zeroes == bytes;
    *loaded = zero ? Value::of(Scalar::constant(0)) : loaded_number(engine, size);
    loaded->made_at = engine.insn_index;
  }
  return true;
}

// Linux: check_stack_read_fixed_off. `loaded` null: only asks whether the bytes may be used as a number.
bool read_fixed(Engine& engine, const Span& span, uint32_t size, Value* loaded) {
  Frame& frame = engine.state.frames[span.frame];
  const auto place = [&] { return "off " + std::to_string(span.low); };
  if (slot_index(span.low) >= frame.stack.size()) return read_bytes(engine, span, size, place, loaded);
  Slot& slot = frame.stack[slot_index(span.low)];
  const uint32_t spilled = spill_size(slot);
  if (spilled == 0) return read_bytes(engine, span, size, place, loaded);

  if (!slot.value.is_number()) {
    if (size != kSlotBytes &&
        !engine.refuse(Rule::kSTK004,
                       std::to_string(size) + " bytes of a pointer that lies at offset " +
                           std::to_string(span.low - static_cast<int64_t>(byte_index(span.low))),
                       "invalid size of register fill"))
      return false;
    if (size != kSlotBytes) return read_bytes(engine, span, size, place, loaded);
    if (loaded) {
      *loaded = slot.value;
      return true;
    }
    return engine.request.options.allow_pointer_leaks ||
           engine.refuse(Rule::kTYP006, "a pointer on the stack would be used as a number",
                         "leaking pointer from stack off " + std::to_string(span.low));
  }
  const bool whole_low_part = byte_index(span.low) == 0 && size <= spilled;
  if (!whole_low_part) return read_bytes(engine, span, size, place, loaded);
  if (!loaded) return true;
  // The number keeps its link to its copies when all of it is read: what is learnt of one holds for the other.
  if (fits(slot.value.scalar, size)) {
    if (slot.value.id == 0 && !slot.value.scalar.is_const() && (size == 4 || size == 8)) {
      slot.value.id = engine.new_id();
      slot.value.off = 0;
      slot.value.delta32 = false;
    }
    *loaded = slot.value;
  } else {
    *loaded = Value::of(truncate(slot.value.scalar, size));
    loaded->made_at = slot.value.made_at;
    loaded->lost_at = slot.value.lost_at;
  }
  return true;
}

// Overwrites the bytes [low, low + size) of one slot with `byte`.
void overwrite(Slot& slot, int64_t low, uint32_t size, Byte byte) {
  if (is_special(slot)) scrub(slot);
  slot.value = Value();
  std::fill_n(slot.bytes.begin() + static_cast<ptrdiff_t>(byte_index(low)), size, byte);
}

void spill(Slot& slot, const Value& value, uint32_t size) {
  // What was above a narrower spill stays as it was, save that no value ends there any more.
  if (is_special(slot)) scrub(slot);
  slot.value = value;
  std::fill_n(slot.bytes.begin(), size, Byte::kSpill);
}

bool destroy_dynptrs(Engine& engine, const Span& span) {
  for (size_t index = slot_index(span.high - 1); index <= slot_index(span.low); ++index) {
    const Frame& frame = engine.state.frames[span.frame];
    if (index >= frame.stack.size()) break;
    if (frame.stack[index].bytes[0] == Byte::kDynptr &&
        !destroy_dynptr(engine, span.frame, static_cast<uint32_t>(index)))
      return false;
  }
  return true;
}

// Linux: check_stack_write_fixed_off.
bool write_fixed(Engine& engine, uint32_t reg, const Span& span, uint32_t size, const Value* stored) {
  Slot& slot = slot_at(engine.state.frames[span.frame], span.low);
  const bool holds_pointer = slot.bytes[0] == Byte::kSpill && slot.value.is_pointer();
  if (holds_pointer && size != kSlotBytes && !engine.request.options.allow_pointer_leaks &&
      !engine.refuse_register(Rule::kSTK004, reg, "part of a pointer on the stack would be overwritten",
                              "attempt to corrupt spilled pointer on stack"))
    return false;
  if (stored && stored->is_pointer()) {
    if (size != kSlotBytes) {
      if (!engine.refuse(Rule::kSTK004,
                         "only the low " + std::to_string(size) + " bytes of a pointer would be stored",
                         "invalid size of register spill"))
        return false;
      overwrite(slot, span.low, size, Byte::kMisc);
      return true;
    }
    if (stored->kind == Kind::kStack && span.frame + 1 != engine.state.frames.size() &&
        !engine.refuse(Rule::kSTK006, "a pointer to the stack would be stored in the frame of a caller",
                       "cannot spill pointers to stack into stack frame of the caller"))
      return false;
    // As in Linux, which cannot spill one: what is read back is a number.
    if (stored->kind == Kind::kDynptr) {
      if (!engine.request.options.allow_pointer_leaks &&
          !engine.refuse(Rule::kSTK004, "a sample's dynptr cannot be kept on the stack",
                         "invalid size of register spill"))
        return false;
      overwrite(slot, span.low, size, Byte::kMisc);
      return true;
    }
    spill(slot, *stored, size);
    return true;
  }
  if (stored && stored->is_number() && byte_index(span.low) == 0) {
    Value value = *stored;
    if (!fits(value.scalar, size)) {
      value = Value::of(truncate(value.scalar, size));
      value.made_at = stored->made_at;
      value.lost_at = engine.insn_index;
    }
    spill(slot, value, size);
    return true;
  }
  overwrite(slot, span.low, size, stored && stored->is_null() ? Byte::kZero : Byte::kMisc);
  return true;
}

// The write hits one place of many, so each byte is either what it was or what is written.
bool write_variable(Engine& engine, uint32_t reg, const Span& span, const Value* stored) {
  const bool zero = stored && stored->is_null();
  const bool leaks = engine.request.options.allow_pointer_leaks;
  if (stored && stored->is_pointer() && !leaks &&
      !engine.refuse_register(Rule::kSTK005, reg,
                              "a pointer would be stored at an unknown place of the stack"))
    return false;
  Frame& frame = engine.state.frames[span.frame];
  for (int64_t offset = span.low; offset < span.high; ++offset) {
    if (slot_index(offset) >= frame.stack.size()) continue;  // stays uninitialised
    Slot& slot = frame.stack[slot_index(offset)];
    Byte& byte = slot.bytes[byte_index(offset)];
    if (byte == Byte::kSpill && slot.value.is_pointer() && !leaks &&
        !refuse_as(engine, EINVAL, Rule::kSTK004, "a pointer on the stack may be overwritten",
                   "spilled ptr in range of var-offset stack write; insn " +
                       std::to_string(engine.insn_index) + ", ptr off: " + std::to_string(offset)))
      return false;
    if (zero && byte == Byte::kSpill && slot.value.is_null()) continue;
    if (is_special(slot)) scrub(slot);
    if (byte == Byte::kUninitialised || (zero && byte == Byte::kZero)) continue;
    byte = Byte::kMisc;
  }
  return true;
}

// Every byte of the span must be readable; `clobber`: and becomes unknown.
bool check_range(Engine& engine, uint32_t reg, const Span& span, const Scalar& variable, uint32_t size,
                 bool clobber) {
  const auto place = [&] {
    return reg_name(reg) +
           (span.fixed ? " off " + std::to_string(span.low) : " var_off " + describe_bits(variable.bits));
  };
  if (!read_bytes(engine, span, size, place, nullptr)) return false;
  if (!clobber) return true;
  // A maximum size, an unknown place: bytes may keep what they had, which is initialised or zeroed.
  for (int64_t offset = span.low; offset < span.high; ++offset)
    overwrite(slot_at(engine.state.frames[span.frame], offset), offset, 1, Byte::kMisc);
  return true;
}

}  // namespace

namespace {

// Only when the rule about alignment is switched off: byte by byte, as if the place were unknown.
void split_if_misaligned(Span& span, uint32_t size) {
  if (span.fixed && byte_index(span.low) + size > kSlotBytes) span.fixed = false;
}

}  // namespace

bool read_stack(Engine& engine, uint32_t reg, uint32_t frame, const Scalar& variable, int64_t offset,
                uint32_t size, Value* loaded) {
  Span span;
  if (loaded) *loaded = loaded_number(engine, size);
  if (const Place place = locate(engine, reg, frame, variable, offset, size, Access::kRead, span);
      place != Place::kInside)
    return place == Place::kUnenforced;
  split_if_misaligned(span, size);
  if (span.fixed) return read_fixed(engine, span, size, loaded);
  if (!loaded)
    return engine.refuse_register(
        Rule::kSTK005, reg, "the place on the stack must be constant here",
        "variable offset stack pointer cannot be passed into helper function; var_off=" +
            describe_bits(variable.bits) + " off=" + std::to_string(offset) +
            " size=" + std::to_string(size));
  const auto place = [&] { return reg_name(reg) + " var_off " + describe_bits(variable.bits); };
  return read_bytes(engine, span, size, place, loaded);
}

bool write_stack(Engine& engine, uint32_t reg, uint32_t frame, const Scalar& variable, int64_t offset,
                 uint32_t size, const Value* stored) {
  Span span;
  if (const Place place = locate(engine, reg, frame, variable, offset, size, Access::kWrite, span);
      place != Place::kInside)
    return place == Place::kUnenforced;
  split_if_misaligned(span, size);
  if (!destroy_dynptrs(engine, span)) return false;
  return span.fixed ? write_fixed(engine, reg, span, size, stored)
                    : write_variable(engine, reg, span, stored);
}

bool check_stack_buffer(Engine& engine, uint32_t reg, const Value& base, uint32_t size, Access access,
                        bool fills) {
  Span span;
  if (const Place place = locate(engine, reg, base.frame, base.scalar, base.off, size, access, span);
      place != Place::kInside)
    return place == Place::kUnenforced;
  if (size == 0 && span.fixed) return true;
  if (access == Access::kRead || !fills || !span.fixed)
    return check_range(engine, reg, span, base.scalar, size, access == Access::kWrite);
  for (int64_t offset = span.low; offset < span.high; ++offset) {
    if (byte_at(engine.state.frames[span.frame], offset) == Byte::kDynptr &&
        !refuse_as(engine, EACCES, Rule::kDYN001, "the helper would overwrite a dynptr",
                   "potential write to dynptr at off=" + std::to_string(offset) + " disallowed"))
      return false;
    overwrite(slot_at(engine.state.frames[span.frame], offset), offset, 1, Byte::kMisc);
  }
  return true;
}

}  // namespace bpftime::verifier

// Dynptrs: objects of 16 bytes on the stack that only the dynptr helpers may touch. A slot of one holds, in Slot::value (a
// kMemory, so that states are compared by all of it): index its DynptrKind, off which half it is (0: the lower address),
// instance its identity, reference what it owns. A slice (bpf_dynptr_data) carries the identity as its own instance.
//
// A kDynptr is a sample of a user ring in the callback that looks at it: its memory is the ring's and nobody's to release.
//
// 1. Whatever writes to one of its slots ends the whole dynptr and its slices; if it owns something, the write is refused.
// 2. Releasing what it owns ends it and its slices.
#include <linux/bpf.h>

#include "verifier/calls.h"

namespace bpftime::verifier {
namespace {

constexpr uint32_t kDynptrBytes = 16;
constexpr int32_t kLowerHalf = 0, kUpperHalf = 1;

// Index of the slot that the lower half lies in, for a pointer at which a dynptr can be.
std::optional<uint32_t> slot_of(const Value& pointer) {
  if (pointer.kind != Kind::kStack || !pointer.scalar.is_const()) return {};
  const int64_t offset = pointer.off + static_cast<int64_t>(pointer.scalar.value());
  if (offset % kSlotBytes != 0 || offset > -int64_t{kDynptrBytes}) return {};
  return static_cast<uint32_t>((-offset - 1) / kSlotBytes);
}

bool holds(const Frame& frame, uint32_t slot, int32_t half) {
  return slot < frame.stack.size() && frame.stack[slot].bytes[0] == Byte::kDynptr &&
         frame.stack[slot].value.off == half;
}

// The dynptr that begins at the pointer, if there is a whole one.
const Value* dynptr_at(const Engine& engine, const Value& pointer) {
  const auto slot = slot_of(pointer);
  if (!slot || pointer.frame >= engine.state.frames.size()) return nullptr;
  const Frame& frame = engine.state.frames[pointer.frame];
  if (!holds(frame, *slot, kLowerHalf) || !holds(frame, *slot - 1, kUpperHalf)) return nullptr;
  const Value& lower = frame.stack[*slot].value;
  return lower.instance == frame.stack[*slot - 1].value.instance ? &lower : nullptr;
}

bool make_dynptr(Engine& engine, uint32_t number, DynptrKind kind) {
  const Value pointer = engine.state.reg(number);
  const auto slot = slot_of(pointer);
  // Outside of the frame is for the write below to say.
  const bool is_below =
      pointer.kind == Kind::kStack && pointer.scalar.is_const() && pointer.off < -int64_t{kStackBytes};
  if (!slot && !is_below &&
      !engine.refuse_register(Rule::kDYN001, number,
                              "there is no place for a dynptr: 16 bytes of the stack, aligned to 8",
                              "Dynptr has to be an uninitialized dynptr"))
    return false;
  for (int32_t offset = 0; offset < static_cast<int32_t>(kDynptrBytes); offset += kSlotBytes)
    if (!check_access(engine, number, offset, kSlotBytes, Access::kWrite, nullptr, nullptr)) return false;
  if (!slot || *slot >= engine.state.frames[pointer.frame].stack.size())
    return true;  // a rule is switched off
  if (kind == DynptrKind::kRecord && !check_reference_limit(engine)) return false;
  const uint32_t reference = kind == DynptrKind::kRecord ? acquire_reference(engine, 0) : 0;
  const uint32_t identity = engine.new_id();
  for (const int32_t half : {kLowerHalf, kUpperHalf}) {
    Slot& at = engine.state.frames[pointer.frame].stack[*slot - static_cast<uint32_t>(half)];
    at.bytes.fill(Byte::kDynptr);
    at.value = Value::pointer(Kind::kMemory);
    at.value.index = static_cast<uint32_t>(kind);
    at.value.off = half;
    at.value.instance = identity;
    at.value.reference = reference;
    at.value.made_at = engine.insn_index;
  }
  return true;
}

// Both halves and all slices of the dynptr with this identity.
void forget_dynptr(Engine& engine, uint32_t identity) {
  for (Frame& frame : engine.state.frames)
    for (Slot& slot : frame.stack)
      if (slot.bytes[0] == Byte::kDynptr && slot.value.instance == identity) slot = Slot{};
  invalidate_where(engine, [identity](const Value& value) {
    return value.kind == Kind::kMemory && value.instance == identity;
  });
}

}  // namespace

bool check_dynptr_argument(Engine& engine, Call& call, uint32_t number, ArgKind kind) {
  if (kind == ArgKind::kUninitLocalDynptr) return make_dynptr(engine, number, DynptrKind::kLocal);
  if (kind == ArgKind::kUninitRecordDynptr) return make_dynptr(engine, number, DynptrKind::kRecord);
  if (const Value& sample = engine.state.reg(number); sample.kind == Kind::kDynptr) {
    call.dynptr_id = sample.instance;
    return kind == ArgKind::kDynptr ||
           engine.refuse_register(Rule::kREF002, number, "a sample belongs to its ring and ends with the callback",
                                  "cannot release unowned const bpf_dynptr");
  }
  const Value* dynptr = dynptr_at(engine, engine.state.reg(number));
  if (kind == ArgKind::kRecordDynptr && (dynptr == nullptr || dynptr->reference == 0))
    return engine.refuse_register(Rule::kREF002, number, "this is no dynptr that owns a record",
                                  "arg " + std::to_string(number) + " is an unacquired reference");
  if (dynptr == nullptr)
    return engine.refuse_register(Rule::kDYN001, number, "there is no initialised dynptr here",
                                  "Expected an initialized dynptr as arg #" + std::to_string(number - 1));
  call.dynptr_id = dynptr->instance;
  call.dynptr_reference = dynptr->reference;
  if (kind == ArgKind::kRecordDynptr) {
    call.released_register = number;
    call.reference = dynptr->reference;
  }
  return true;
}

void end_dynptrs_of(Engine& engine, uint32_t reference) {
  for (size_t depth = 0; depth < engine.state.frames.size(); ++depth)
    for (size_t i = 0; i < engine.state.frames[depth].stack.size(); ++i) {
      const Slot& slot = engine.state.frames[depth].stack[i];
      if (slot.bytes[0] == Byte::kDynptr && slot.value.reference == reference)
        forget_dynptr(engine, slot.value.instance);
    }
}

bool destroy_dynptr(Engine& engine, uint32_t frame, uint32_t slot) {
  const Slot& at = engine.state.frames[frame].stack[slot];
  if (at.bytes[0] != Byte::kDynptr) return true;
  if (at.value.reference != 0 &&
      !engine.refuse(Rule::kDYN001, "the dynptr owns a record that is not yet submitted or discarded",
                     "cannot overwrite referenced dynptr", {{at.value.made_at, "the dynptr is made here"}}))
    return false;
  forget_dynptr(engine, at.value.instance);
  return true;
}

}  // namespace bpftime::verifier

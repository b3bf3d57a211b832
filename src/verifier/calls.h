// One call of a helper or host function while it is being checked: internal to calls.cc, arguments.cc, dynptr.cc, host_calls.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "verifier/engine.h"
#include "verifier/prototypes.h"

namespace bpftime::verifier {

// What the arguments told, for what comes after them.
struct Call {
  const Prototype& prototype;
  uint32_t map_register = 0;                     // of the kConstMap argument; 0: none yet
  std::optional<uint64_t> constant_key;          // of the kMapKey argument
  uint64_t size_max = 0;                         // of the last kSize or kSizeOrZero argument
  uint64_t memory_size = 0;                      // kAllocSize
  uint32_t reference = 0;                        // that the only owning argument stands for
  uint32_t released_register = 0;                // the argument the call releases
  uint32_t subprogram = 0;                       // kFunction
  uint32_t dynptr_id = 0, dynptr_reference = 0;  // of the initialised dynptr argument

  uint32_t id() const { return prototype.id; }
};

inline std::string reg_name(uint32_t number) { return "R" + std::to_string(number); }

// ---- arguments.cc ----
bool check_argument(Engine& engine, Call& call, uint32_t index);
// A number that says how many bytes the pointer in `pointer_register` must be good for.
bool check_size(Engine& engine, uint32_t size_register, uint32_t pointer_register, bool zero_allowed,
                Access access, bool may_be_uninitialised);
// A format string as bpf_snprintf takes it, for `values` values.
bool format_valid(std::string_view format, uint32_t values);
// The NUL-terminated constant string at a register that passed kConstString; empty optional: it was refused.
std::optional<std::string> constant_string(Engine& engine, uint32_t number);

// ---- references, in calls.cc ----
uint32_t acquire_reference(Engine& engine, uint32_t kind);
// Whether one more may be open.
bool check_reference_limit(Engine& engine);
// No longer to be used: a number nobody knows, or nothing at all when pointers must not leak.
void invalidate(const Engine& engine, Value& value);
// Calls visit(Value&) → bool for each register and each spilled value; where it is true the value is invalidated.
template <typename Match>
void invalidate_where(Engine& engine, Match match);
void forget_arguments(Engine& engine);  // r1 … r5 after a call

// ---- dynptr.cc ----
bool check_dynptr_argument(Engine& engine, Call& call, uint32_t number, ArgKind kind);
void end_dynptrs_of(Engine& engine, uint32_t reference);

template <typename Match>
void invalidate_where(Engine& engine, Match match) {
  for (Frame& frame : engine.state.frames) {
    for (Value& value : frame.registers)
      if (match(value)) invalidate(engine, value);
    for (Slot& slot : frame.stack) {
      if (slot.bytes[0] != Byte::kSpill || !match(slot.value)) continue;
      invalidate(engine, slot.value);
      if (slot.value.kind == Kind::kUninitialised) slot.bytes.fill(Byte::kUninitialised);
    }
  }
}

}  // namespace bpftime::verifier

// What memory.cc, stack.cc and context.cc share, and the symbolic lengths of host buffers for branches.cc and arithmetic.cc.
#pragma once

#include <cstdint>
#include <string>

#include "verifier/engine.h"

namespace bpftime::verifier {

// What Linux calls the type of a register in its log: "ctx", "map_value_or_null", "scalar".
std::string linux_type_name(const Value& value);
// Linux's notation of known bits: "(0x0; 0xff)".
std::string describe_bits(const Tnum& bits);

// Like Engine::refuse and refuse_register, with the errno that Linux gives here instead of the rule's.
bool refuse_as(Engine& engine, int error, Rule rule, std::string message, std::string linux_message = {});
bool refuse_register_as(Engine& engine, int error, Rule rule, uint32_t number, std::string message,
                        std::string linux_message = {});

// An unknown number as a load of `bytes` gives it, made here.
Value loaded_number(const Engine& engine, uint32_t bytes);

std::string reg_name(uint32_t reg);                   // "R3"
std::string bytes_at(uint32_t size, int64_t offset);  // "4 bytes at offset 12"

// One access through a register.
struct Touch {
  uint32_t reg;    // holds the address
  int64_t offset;  // of the instruction
  uint32_t size;
  Access access;
  bool sign_extended = false;
  bool atomic = false;            // must be aligned whatever the memory
  Value* loaded = nullptr;        // null: the value is not wanted
  const Value* stored = nullptr;  // null: unknown bytes
};

// ---- host_memory.cc: `base` is what the register holds, kHostObject or kHostBuffer, not null ----
bool access_object(Engine& engine, const Value& base, const Touch& touch);
bool access_buffer(Engine& engine, const Value& base, const Touch& touch);
// All bits of `size` bytes, 1 to 8.
constexpr uint64_t size_bits(uint32_t size) { return ~uint64_t{0} >> (64 - 8 * size); }
// An atomic or, or and, that gives nothing back and changes no other bits than `changed`: bit-fields are written so. nullopt:
// there is none of the object's, it is an access like any other.
std::optional<bool> change_bits(Engine& engine, const Value& base, const Touch& touch, uint64_t changed);

// ---- stack.cc ----
// A helper's buffer of at most `size` bytes on the stack. `fills`: the helper writes every byte of exactly `size`.
bool check_stack_buffer(Engine& engine, uint32_t reg, const Value& base, uint32_t size, Access access,
                        bool fills);

// ---- symbolic lengths (host_memory.cc) ----
// A buffer reached through a host object is as long as another member of the same object says. Both are loads from the object,
// so both get the same length id: the object's instance and the index of the length member. The index `i` is known to lie
// below it by a branch; the pointer `buffer + i` inherits that; the access is allowed when its end is within the slack.

// 0 when there are too many instances or members to name: then nothing is provable about the buffer, which is safe.
uint32_t length_id_of(uint32_t instance, uint32_t member);
// Argument `index` of a typed entry, as the instance of what is reached through it, and as a length.
uint32_t entry_instance(uint32_t index);
uint32_t entry_length_id(uint32_t index);
// The least the length can be, from every number that is bounded by it.
uint32_t proved_length(State& state, uint32_t length_id);

// The instance that a length id belongs to (0: arguments of the entry).
uint32_t length_instance(uint32_t length_id);
// For prune.cc, which maps names of one state to those of another. Instances of entry arguments are the same in all states,
// because loading the slot again names them again; so are lengths of the entry. Other lengths correspond when their members
// are the same and their instances correspond, as those of the objects do.
bool is_entry_instance(uint32_t instance);
bool is_same_length_member(uint32_t a, uint32_t b);

// branches.cc, after both sides of a comparison were narrowed in `state` for one outcome: `a OP b` (BPF_OP `op`, of BPF_JMP
// if is64) is now `taken`. Carries bounds by a length from one to the other, and to the buffers of that length. Constant time
// for programs without host buffers.
void learn_lengths(State& state, uint8_t op, bool is64, bool taken, Value& a, Value& b);
// arithmetic.cc: `result` = `before` + `addend`, numbers; both hold their new ranges. Keeps the bound where the sum cannot
// wrap. Every other operation on a number forgets length_id.
void shift_length(const Value& before, int64_t addend, Value& result);
// arithmetic.cc: `pointer` (kHostBuffer, its `scalar` not yet changed) gets the number `index` added to its variable part.
// An index bounded by the buffer's own length may be as large as that length, whatever the ranges say: no limit of offsets
// applies to it.
void index_buffer(Value& pointer, const Value& index);
// host_calls.cc: the host ran, lengths and buffers read from objects before may be stale.
void forget_lengths(State& state);

}  // namespace bpftime::verifier

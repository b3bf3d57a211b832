// One run of the verifier: every path from the entry is followed with what is believed about registers, stack and
// ownership, until it ends or reaches a state that was already explored.
//
// The parts are free functions on the Engine, one file each:
//   explore.cc   the loop over paths, pruning, the instruction bound
//   arithmetic.cc, branches.cc   numbers and pointers in registers
//   memory.cc, stack.cc, context.cc   loads, stores, atomics, and the check of any access
//   calls.cc     helpers and host functions: arguments, results, references, locks, dynptrs
//   subprograms.cc   local calls, callbacks, exit
// Each returns false when the program is refused; the diagnosis is then in the engine.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "verifier/control_flow.h"
#include "verifier/state.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {

class LogWriter;  // log.h

// Branches taken, newest first; states that part share their past.
struct Link {
  std::shared_ptr<const Link> before;
  Branch branch;
};

class Engine {
 public:
  Engine(const Request& request, const ControlFlow& flow, Verdict& verdict);

  const Request& request;
  const ControlFlow& flow;
  Facts& facts;
  Statistics& statistics;
  Verdict& verdict;
  LogWriter* log = nullptr;  // set when request.log_level != 0

  // The path being followed.
  State state;
  uint32_t insn_index = 0;
  std::shared_ptr<const Link> trail;
  // Per instruction slot, over all paths: the kind of memory it accessed first (kUninitialised: none yet). memory.cc's.
  std::vector<Kind> accessed;

  const program::Insn& insn() const { return request.program.insns[insn_index]; }
  uint32_t new_id() { return ++last_id_; }

  // Whether `rule` is enforced (tests switch rules off).
  bool enforces(Rule rule) const { return !request.options.disabled_rules.test(static_cast<size_t>(rule)); }

  // Records a diagnosis at the current instruction, with the path and the operands' states, and returns false; returns true
  // when the rule is switched off, so that `if (bad && !engine.refuse(…)) return false;` goes on in tests.
  // `linux_message`: the kernel's words, "R1 !read_ok"; empty: `message`.
  bool refuse(Rule rule, std::string message, std::string linux_message = {}, std::vector<Cause> causes = {});
  // The same with the state and the causes (made_at, lost_at) of register `number` added.
  bool refuse_register(Rule rule, uint32_t number, std::string message, std::string linux_message = {});

  // Puts a copy of `other` aside, to be continued at `insn_index`.
  bool push_branch(State other, uint32_t insn_index, Branch branch);

 private:
  uint32_t last_id_ = 0;
  friend class Explorer;
  struct Pending {
    State state;
    uint32_t insn_index;
    std::shared_ptr<const Link> trail;
  };
  std::vector<Pending> pending_;
};

// ---- arithmetic.cc ----
bool step_arithmetic(Engine& engine);      // BPF_ALU, BPF_ALU64, MOV, END
bool step_load_immediate(Engine& engine);  // ld_imm64: constants, maps, map values, functions, host globals

// ---- branches.cc ----
// Conditional jumps: decides, narrows both sides, pushes one. Sets insn_index to what follows.
bool step_branch(Engine& engine);
// Every copy of the pointer with this null-test id becomes null or not null.
void resolve_null(Engine& engine, State& state, uint32_t id, bool is_null);
// After `known` was narrowed: carries it to all values linked with it.
void update_links(State& state, const Value& known);

// ---- memory.cc: access through any register ----
enum class Access : uint8_t { kRead, kWrite };
bool step_load(Engine& engine);   // BPF_LDX (MEM, MEMSX), legacy packet loads
bool step_store(Engine& engine);  // BPF_ST, BPF_STX
bool step_atomic(Engine& engine);
// Checks `size` bytes at register + offset; `what`: for messages. On reads into a register, *loaded becomes the value.
bool check_access(Engine& engine, uint32_t reg, int32_t offset, uint32_t size, Access access, Value* loaded,
                  const Value* stored);
// A helper's buffer: `size` may be a range [0, max] already checked to be non-negative and below kSizeMax; `zero_allowed`.
// Reads need initialised bytes (or mark them to be zeroed). Writes make the bytes unknown numbers; when the helper may leave
// some of them as they were (strings), say must_be_initialised, so that nothing uninitialised shows through. A helper's
// inputs are to be checked before its outputs, because an output counts as written at once.
bool check_buffer(Engine& engine, uint32_t reg, const Scalar& size, bool zero_allowed, Access access,
                  bool must_be_initialised);

// ---- stack.cc: `offset` counts from the top of frame `frame` ----
bool read_stack(Engine& engine, uint32_t reg, uint32_t frame, const Scalar& variable, int64_t offset,
                uint32_t size, Value* loaded);
bool write_stack(Engine& engine, uint32_t reg, uint32_t frame, const Scalar& variable, int64_t offset,
                 uint32_t size, const Value* stored);

// ---- context.cc ----
bool read_context(Engine& engine, uint32_t reg, int64_t offset, uint32_t size, Value* loaded);
bool write_context(Engine& engine, uint32_t reg, int64_t offset, uint32_t size, const Value& stored);
// The value r1 has on entry, and what the program may return.
Value entry_context(const Engine& engine);
bool check_return(Engine& engine);  // r0 at the exit of the main program

// ---- dynptr.cc ----
// Slot `slot` of frame `frame` holds part of a dynptr and is about to be overwritten: forgets the whole dynptr and the slices
// made from it. Refuses (DYN001) one that stands for a reference.
bool destroy_dynptr(Engine& engine, uint32_t frame, uint32_t slot);

// ---- calls.cc ----
bool step_helper_call(Engine& engine);
bool step_host_call(Engine& engine);
// Ends a reference: all its copies become unusable.
bool release_reference(Engine& engine, uint32_t id);
bool check_no_references(Engine& engine, std::string_view where);  // at exit and before tail calls

// ---- subprograms.cc ----
bool step_local_call(Engine& engine);
bool step_exit(Engine& engine, bool& path_ends);
// Enters subprogram `subprogram` as the callback of the helper called here, with r1..r5 = arguments. The path without a
// call, and the one after the last round, go on behind the helper call.
bool enter_callback(Engine& engine, uint32_t subprogram, const std::array<Value, 5>& arguments,
                    const Scalar& result);

}  // namespace bpftime::verifier

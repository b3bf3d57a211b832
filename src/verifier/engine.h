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
  Link(std::shared_ptr<const Link> before, Branch branch) : before(std::move(before)), branch(branch) {}
  ~Link();  // takes long chains down without recursion
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
};

class StateStore;  // state_store.h

// Where a path is in the tree of stored states: which one it came by last, how, and how many instructions ago.
struct PathEdge {
  enum Kind : uint8_t {
    kOn,      // straight on
    kBody,    // into the callback of the call that the stored state stands at
    kRest,    // past that call, after its last round
    kReturn,  // out of the callback that the stored state is in, back at the call
    kAgain,   // through the whole callback and back at the call that the stored state stands at
  };
  uint32_t node = 0;
  Kind kind = kOn;
  uint32_t call = 0;  // kReturn, kAgain: node of the call
  uint64_t count = 0;
};

class Engine {
 public:
  Engine(const Request& request, const ControlFlow& flow, Verdict& verdict);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

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

  // Puts a copy of `other` aside, to be continued at `insn_index`. `branch`: what was decided on that way. The way that is
  // gone on with gets the opposite decision on its trail by the explorer. False: too many (refused).
  bool push_branch(State other, uint32_t insn_index, Branch branch);
  // The same into the callback called here: its instructions count once per round. `trips`: rounds at most.
  bool push_callback(State inside, uint32_t insn_index, uint64_t trips);

  // Bookkeeping of Facts for whoever touches the stack: bytes of frame `frame` down to `lowest` (negative, from its top)
  // are used; those in [lowest, 0) may be read before they are written and must be zeroed on entry.
  void mark_stack_used(uint32_t frame, int64_t lowest);
  void mark_stack_zeroed(uint32_t frame, int64_t lowest);
  // Instructions that a call at the current place costs beyond itself (HostFunction::cost - 1).
  void add_cost(uint64_t instructions) { path_.count += instructions; }

  // For subprograms.cc: the path has left the callback entered at the stored call `call` and is back at that call.
  void leave_callback(uint32_t call);
  // Forgets the numbers that differ from those of the round that began in the stored call `call`.
  void widen_round(uint32_t call);

  // Follows all paths. False: refused.
  bool explore();

  bool widen_callbacks = true;  // whether widen_round() may be used
  bool widened = false;         // it was: a refusal may be due to that

 private:
  struct Pending {
    State state;
    uint32_t insn_index;
    uint32_t from;  // instruction where it was put aside
    std::shared_ptr<const Link> trail;
    PathEdge path;
  };
  enum class Visit : uint8_t { kGoOn, kPruned, kRefused };

  bool push(State other, uint32_t at, Branch branch, PathEdge path);
  bool follow_path();
  bool step(bool& path_ends);
  bool step_jump(bool& path_ends);
  bool check_registers();
  Visit visit_prune_point();
  void enter_state(bool is_call);
  bool refuse_limit(Rule rule, const std::string& words, const char* limit);
  bool refuse_too_complex();
  bool check_path_length();
  bool check_memory();
  bool check_bound();
  void finish_facts();

  uint32_t last_id_ = 0;
  std::vector<Pending> pending_;
  PathEdge path_;
  std::unique_ptr<StateStore> store_;
  uint32_t jumps_processed_ = 0;
  uint32_t stored_at_insns_ = 0, stored_at_jumps_ = 0;  // counters when a state was stored last
  uint64_t pending_bytes_ = 0;
  std::vector<bool> helper_seen_;  // by id
};

// ---- arithmetic.cc ----
bool step_arithmetic(Engine& engine);      // BPF_ALU, BPF_ALU64, MOV, END
bool step_load_immediate(Engine& engine);  // ld_imm64: constants, maps, map values, functions, host globals
// Refuses (TYP001) a register without a value.
bool check_readable(Engine& engine, uint32_t reg);

// ---- branches.cc ----
// Conditional jumps: decides, narrows both sides, pushes one. Sets insn_index to what follows.
bool step_branch(Engine& engine);
// Every copy of the pointer with this null-test id becomes null or not null. An acquired one (reference == id) that is null
// has nothing to be released.
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
bool attach_type_exists(const Request& request);
bool check_return(Engine& engine);  // r0 at the exit of the main program

// ---- dynptr.cc ----
// Slot `slot` of frame `frame` holds part of a dynptr and is about to be overwritten: forgets the whole dynptr and the slices
// made from it. Refuses (DYN001) one that stands for a reference.
bool destroy_dynptr(Engine& engine, uint32_t frame, uint32_t slot);
// What Slot::value.index of a dynptr can be.
enum class DynptrKind : uint32_t { kLocal = 1, kRecord = 2 };

// ---- calls.cc ----
bool step_helper_call(Engine& engine);
bool step_host_call(Engine& engine);
bool load_host_global(Engine& engine);  // host_calls.cc: ld_imm64 of BPF_PSEUDO_BTF_ID, with constraints
// Ends a reference: all its copies become unusable.
bool release_reference(Engine& engine, uint32_t id);
// At exit and before tail calls: nothing is owned, no lock is held. `where` as Linux words it: "BPF_EXIT instruction in
// main prog", "tail_call".
bool check_no_references(Engine& engine, std::string_view where);
// The geometry of the map that `map` (kMap) stands for.
const wire::MapSpec& spec_of_map(const Engine& engine, const Value& map);
// Every map the program names may be used by its type of program: once, before anything is explored. Sets insn_index.
bool check_maps(Engine& engine);

// ---- subprograms.cc ----
bool step_local_call(Engine& engine);
bool step_exit(Engine& engine, bool& path_ends);
// Called by step_helper_call once the arguments are checked and BEFORE r0..r5 are set to what the helper leaves: puts a path
// into subprogram `subprogram` aside, as the callback of the helper called here, with r1..r5 = arguments (those that are
// kUninitialised may not be read). The current path, which the caller goes on with, is the one after the last round; when a
// round ends, its path comes back to this call, whose arguments are then checked again.
bool enter_callback(Engine& engine, uint32_t subprogram, const std::array<Value, 5>& arguments,
                    const Scalar& result);

}  // namespace bpftime::verifier

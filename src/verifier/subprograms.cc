// Local calls, callbacks and exit.
#include <algorithm>
#include <string>

#include "program/instructions.h"
#include "verifier/engine.h"

namespace bpftime::verifier {
namespace {

constexpr uint32_t kFrameRegister = 10;
// Rounds of a callback that are simulated exactly before what changes from one to the next is forgotten.
constexpr uint32_t kExactRounds = 2;
constexpr size_t kFramesEver = 64;
constexpr uint64_t kUserRingSamplesMax = 128 * 1024;  // BPF_MAX_USER_RINGBUF_SAMPLES

uint32_t subprogram_at(const Engine& engine, uint32_t insn) { return engine.flow.subprogram_of[insn]; }

bool check_depth(Engine& engine) {
  const size_t frames = engine.state.frames.size();
  if (frames >= kFramesEver) return false;  // a test that switched the rule off must end as well
  return frames < kFramesMax ||
         engine.refuse(Rule::kCFG004, "more than 8 functions are active here",
                       "the call stack of " + std::to_string(frames + 1) + " frames is too deep");
}

Frame new_frame(uint32_t depth, uint32_t subprogram, uint32_t call_site) {
  Frame frame;
  frame.subprogram = subprogram;
  frame.call_site = call_site;
  Value pointer = Value::pointer(Kind::kStack);
  pointer.frame = static_cast<uint8_t>(depth);
  frame.registers[kFrameRegister] = pointer;
  return frame;
}

// The rounds bpf_loop is asked for. It looks at the low 32 bits of what it gets; those of a pointer can be any number, for what
// is known of its value is about its offset. (Linux takes that for the number.)
uint64_t rounds_wanted(const Engine& engine) {
  const Value& number = engine.state.reg(1);
  return number.is_pointer() ? UINT32_MAX : number.scalar.umax;
}

// Rounds that the helper called here runs its callback at most.
uint64_t trips_of(const Engine& engine) {
  switch (engine.insn().imm) {
    case BPF_FUNC_loop:
      return std::min<uint64_t>(rounds_wanted(engine), kLoopTripsMax);
    case BPF_FUNC_for_each_map_elem: {
      const Value& map = engine.state.reg(1);
      if (map.kind != Kind::kMap || map.index >= engine.request.maps.size()) return UINT32_MAX;
      return engine.request.maps[map.index].spec.max_entries;
    }
    case BPF_FUNC_user_ringbuf_drain:
      return kUserRingSamplesMax;
    default:
      return 1;
  }
}

bool check_no_stack_pointer(Engine& engine) {
  return engine.state.reg(0).kind != Kind::kStack ||
         engine.refuse_register(Rule::kSTK006, 0, "a pointer to the stack is returned",
                                "cannot return stack pointer to the caller");
}

// Leaves a callback: its result is checked, and the path is back at the helper's call, whose caller's registers are
// as they were.
bool leave_callback(Engine& engine) {
  if (!check_no_stack_pointer(engine)) return false;
  const Value result = engine.state.reg(0);
  const Frame& callee = engine.state.current();
  if (!result.is_number() && !engine.refuse_register(Rule::kFUN007, 0, "the callback's result is no number",
                                                     "R0 not a scalar value"))
    return false;
  if (result.is_number() && !callee.callback_result.contains(result.scalar)) {
    if (!engine.refuse_register(
            Rule::kFUN007, 0, "the callback's result may be out of range",
            "At callback return the register R0 " +
                result.scalar.describe_outside(callee.callback_result.smin, callee.callback_result.smax))) {
      engine.verdict.diagnoses.back().error = EINVAL;
      return false;
    }
  }
  const uint32_t call_site = callee.call_site, call = callee.callback_node;
  engine.state.frames.pop_back();
  engine.insn_index = call_site;
  engine.leave_callback(call);
  if (engine.widen_callbacks && engine.state.current().callback_depth >= kExactRounds)
    engine.widen_round(call);
  return true;
}

bool leave_subprogram(Engine& engine) {
  if (!check_no_stack_pointer(engine)) return false;
  const Value result = engine.state.reg(0);
  const uint32_t call_site = engine.state.current().call_site;
  const auto depth = static_cast<uint8_t>(engine.state.frames.size() - 1);
  engine.state.frames.pop_back();
  // What the callee left of pointers to its own frame in a caller's frame points nowhere now.
  engine.state.for_each_value([&](Value& value) {
    if (value.kind == Kind::kStack && value.frame >= depth) value = Value::of(Scalar::unknown());
  });
  engine.state.reg(0) = result;
  engine.insn_index = call_site + 1;
  return true;
}

}  // namespace

bool step_local_call(Engine& engine) {
  const auto target = static_cast<uint32_t>(*program::call_target(engine.insn(), engine.insn_index));
  const uint32_t subprogram = subprogram_at(engine, target);
  if (!check_depth(engine)) return false;
  Frame callee = new_frame(static_cast<uint32_t>(engine.state.frames.size()), subprogram, engine.insn_index);
  Frame& caller = engine.state.current();
  for (uint32_t reg = 0; reg <= 5; ++reg) {
    if (reg != 0) callee.registers[reg] = caller.registers[reg];
    caller.registers[reg] = Value{};
  }
  engine.state.frames.push_back(std::move(callee));
  engine.insn_index = target;
  return true;
}

bool step_exit(Engine& engine, bool& path_ends) {
  const Frame& frame = engine.state.current();
  const bool is_main = engine.state.frames.size() == 1;
  // What a callback acquires and keeps is found missing here as well, since one round is a path to the end too.
  if (is_main && !check_no_references(engine, "BPF_EXIT instruction in main prog")) return false;
  if (frame.is_callback) return leave_callback(engine);
  if (!is_main) return leave_subprogram(engine);
  path_ends = true;
  return check_return(engine);
}

bool enter_callback(Engine& engine, uint32_t subprogram, const std::array<Value, 5>& arguments,
                    const Scalar& result) {
  if (!check_depth(engine)) return false;
  Frame& caller = engine.state.current();
  const uint64_t trips = trips_of(engine);
  if (engine.insn().imm == BPF_FUNC_loop && caller.callback_depth >= rounds_wanted(engine)) {
    caller.callback_depth = 0;  // every round there can be was simulated
    return true;
  }
  State inside = engine.state;
  ++inside.callback_rounds;
  ++inside.current().callback_depth;
  caller.callback_depth = 0;
  Frame callee = new_frame(static_cast<uint32_t>(inside.frames.size()), subprogram, engine.insn_index);
  callee.is_callback = true;
  callee.callback_helper = static_cast<uint32_t>(engine.insn().imm);
  callee.callback_result = result;
  for (uint32_t i = 0; i < arguments.size(); ++i) callee.registers[i + 1] = arguments[i];
  inside.frames.push_back(std::move(callee));
  return engine.push_callback(std::move(inside), engine.flow.subprograms[subprogram].start, trips);
}

}  // namespace bpftime::verifier

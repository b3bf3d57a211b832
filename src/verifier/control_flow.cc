// The shape of the program: subprograms, what can be reached, where paths meet.
#include "verifier/control_flow.h"

#include <algorithm>
#include <string>

#include "program/instructions.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

bool is_conditional_jump(const Insn& insn) {
  const uint8_t code_class = BPF_CLASS(insn.code), operation = BPF_OP(insn.code);
  return (code_class == BPF_JMP || code_class == BPF_JMP32) && operation != BPF_JA && operation != BPF_CALL &&
         operation != BPF_EXIT;
}

bool refuse(Verdict& verdict, Rule rule, uint32_t insn, std::string message, std::string linux_message) {
  Diagnosis diagnosis;
  diagnosis.rule = rule;
  diagnosis.error = info(rule).error;
  diagnosis.insn = insn;
  diagnosis.message = std::move(message);
  diagnosis.linux_message = std::move(linux_message);
  verdict.diagnoses.push_back(std::move(diagnosis));
  return false;
}

void find_subprograms(const program::Program& program, ControlFlow& flow) {
  const std::vector<uint32_t> starts = program::subprogram_starts(program);
  const auto count = static_cast<uint32_t>(program.insns.size());
  flow.subprograms.resize(starts.size());
  flow.subprogram_of.resize(count);
  for (uint32_t i = 0; i < starts.size(); ++i) {
    flow.subprograms[i].start = starts[i];
    flow.subprograms[i].end = i + 1 < starts.size() ? starts[i + 1] : count;
    std::fill(flow.subprogram_of.begin() + starts[i], flow.subprogram_of.begin() + flow.subprograms[i].end,
              i);
  }
  for (program::InsnCursor at(program); !at.done(); at.advance()) {
    flow.any_reserved_fields |= program::uses_reserved_fields(at.insn());
    const auto target = program::call_target(at.insn(), at.index());
    if (!target) continue;
    const uint32_t callee = flow.subprogram_of[static_cast<uint32_t>(*target)];
    if (!program::is_local_call(at.insn())) flow.subprograms[callee].is_callback = true;
    std::vector<uint32_t>& callees = flow.subprograms[flow.subprogram_of[at.index()]].callees;
    if (std::find(callees.begin(), callees.end(), callee) == callees.end()) callees.push_back(callee);
  }
}

// Depth-first walk over everything that the text leads to, without looking at values: what is not met is refused, what is
// met again while still open is a loop head.
class Walk {
 public:
  Walk(const program::Program& program, ControlFlow& flow) : program_(program), flow_(flow) {
    flow_.prune_point.assign(program.insns.size(), false);
    flow_.loop_head.assign(program.insns.size(), false);
    colour_.assign(program.insns.size(), kNew);
  }

  void run() {
    enter(0);
    while (!open_.empty()) {
      Open& top = open_.back();
      uint32_t successors[2];
      const uint32_t count = successors_of(top.insn, successors);
      if (top.next < count) {
        enter(successors[top.next++]);
      } else {
        colour_[top.insn] = kDone;
        open_.pop_back();
        // A callee is walked after its caller; calls are no edges here, since each comes back behind itself.
        if (open_.empty() && !callees_.empty()) {
          const uint32_t callee = callees_.back();
          callees_.pop_back();
          enter(callee);
          if (open_.empty()) next_callee();
        }
      }
    }
  }

  bool reached(uint32_t insn) const { return colour_[insn] != kNew; }

 private:
  enum Colour : uint8_t { kNew, kOpen, kDone };
  struct Open {
    uint32_t insn;
    uint8_t next;
  };

  void next_callee() {
    while (open_.empty() && !callees_.empty()) {
      const uint32_t callee = callees_.back();
      callees_.pop_back();
      enter(callee);
    }
  }

  void enter(uint32_t insn) {
    if (colour_[insn] == kOpen) flow_.loop_head[insn] = flow_.prune_point[insn] = true;
    if (colour_[insn] != kNew) return;
    colour_[insn] = kOpen;
    open_.push_back({insn, 0});
    const Insn& at = program_.insns[insn];
    if (const auto target = program::call_target(at, insn)) {
      callees_.push_back(static_cast<uint32_t>(*target));
      if (program::is_local_call(at)) flow_.prune_point[insn] = true;
    }
    if (is_conditional_jump(at) || calls_callback(at)) flow_.prune_point[insn] = true;
    if (const auto target = program::jump_target(at, insn); target && !is_conditional_jump(at))
      flow_.prune_point[static_cast<uint32_t>(*target)] = true;
  }

  uint32_t successors_of(uint32_t insn, uint32_t out[2]) const {
    const Insn& at = program_.insns[insn];
    const auto target = program::jump_target(at, insn);
    uint32_t count = 0;
    if (target && !is_conditional_jump(at)) {
      out[count++] = static_cast<uint32_t>(*target);
      return count;
    }
    if (program::ends_flow(at)) return 0;
    out[count++] = insn + (program::is_load_imm64(at) ? 2 : 1);
    if (target) out[count++] = static_cast<uint32_t>(*target);
    return count;
  }

  const program::Program& program_;
  ControlFlow& flow_;
  std::vector<uint8_t> colour_;
  std::vector<Open> open_;
  std::vector<uint32_t> callees_;
};

}  // namespace

bool calls_callback(const Insn& insn) {
  if (insn.code != (BPF_JMP | BPF_CALL) || insn.src_reg != 0) return false;
  return insn.imm == BPF_FUNC_loop || insn.imm == BPF_FUNC_for_each_map_elem ||
         insn.imm == BPF_FUNC_find_vma || insn.imm == BPF_FUNC_user_ringbuf_drain ||
         insn.imm == BPF_FUNC_timer_set_callback;
}

bool analyse(const Request& request, ControlFlow& flow, Verdict& verdict) {
  const program::Program& program = request.program;
  find_subprograms(program, flow);
  if (flow.subprograms.size() > kSubprogramsMax)
    return refuse(verdict, Rule::kCFG004, 0, "more than 256 functions", "too many subprograms");
  Walk walk(program, flow);
  walk.run();
  const bool enforced = !request.options.disabled_rules.test(static_cast<size_t>(Rule::kCFG002));
  for (program::InsnCursor at(program); !at.done(); at.advance()) {
    const auto insn = static_cast<uint32_t>(at.index());
    if (!enforced || walk.reached(insn)) continue;
    return refuse(verdict, Rule::kCFG002, insn, "nothing leads to this instruction",
                  "unreachable insn " + std::to_string(insn));
  }
  analyse_liveness(request, flow);
  return true;
}

}  // namespace bpftime::verifier

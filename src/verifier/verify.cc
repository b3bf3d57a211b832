// The front door: the checks in Linux's order, which decides the errno of a program that breaks several rules.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>

#include "program/instructions.h"
#include "program/program.h"
#include "verifier/engine.h"
#include "verifier/log.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {
namespace {

constexpr uint32_t kSleepable = 1u << 4;  // BPF_F_SLEEPABLE
constexpr uint32_t kKnownFlags =
    ((1u << 8) - 1) | 1u << 16;  // up to BPF_F_TEST_REG_INVARIANTS, and BPF_F_TOKEN_FD
constexpr uint32_t kStackAboveTailCallMax = 256;
constexpr uint32_t kPrivateStackMin = 64;  // BPF_PRIV_STACK_MIN_SIZE
constexpr uint32_t kStackRounding = 16;    // of a frame, by Linux's JIT compilers

bool enforces(const Request& request, Rule rule) {
  return !request.options.disabled_rules.test(static_cast<size_t>(rule));
}

void refuse(Verdict& verdict, Rule rule, int error, uint32_t insn, std::string message,
            std::string linux_message = {}) {
  Diagnosis diagnosis;
  diagnosis.rule = rule;
  diagnosis.error = error;
  diagnosis.insn = insn;
  diagnosis.message = std::move(message);
  diagnosis.linux_message = std::move(linux_message);
  verdict.diagnoses.push_back(std::move(diagnosis));
}

// "instruction 7: jump out of range to 12": which rule that is, and what Linux says.
void refuse_structure(Verdict& verdict, const Error& error) {
  constexpr std::string_view kPrefix = "instruction ";
  uint32_t insn = 0;
  std::string_view what = error.message;
  if (what.starts_with(kPrefix)) {
    insn = static_cast<uint32_t>(std::strtoul(error.message.c_str() + kPrefix.size(), nullptr, 10));
    const size_t colon = what.find(": ");
    if (colon != std::string_view::npos) what.remove_prefix(colon + 2);
  }
  const std::string at = std::to_string(insn);
  Rule rule = Rule::kENC001;
  std::string words(what);
  constexpr std::string_view kJump = "jump out of range to ";
  if (what.starts_with(kJump)) {
    rule = Rule::kCFG001;
    words = "jump out of range from insn " + at + " to " + std::string(what.substr(kJump.size()));
  } else if (what.starts_with("last instruction of a subprogram")) {
    rule = Rule::kCFG003;
    words = "last insn is not an exit or jmp";
  } else if (what.starts_with("unknown opcode (opcode ")) {
    words = "unknown opcode " + std::string(what.substr(23, 2));
  } else if (what.starts_with("jump into the middle")) {
    words = "jump into the middle of ldimm64 insn " + at;
  }
  refuse(verdict, rule, error.code, insn, std::string(what), words);
}

bool check_known_flags(const Request& request, Verdict& verdict) {
  if ((request.flags & ~kKnownFlags) == 0) return true;
  refuse(verdict, Rule::kENC001, EINVAL, 0, "unknown program flags");
  return false;
}

bool check_attach_type(const Request& request, Verdict& verdict) {
  if (!enforces(request, Rule::kCTX003) || attach_type_exists(request)) return true;
  refuse(verdict, Rule::kCTX003, EINVAL, 0,
         "attach type " + std::to_string(request.expected_attach_type) +
             " does not exist for programs of type " + std::to_string(request.program.type));
  return false;
}

bool check_sleepable(const Request& request, Verdict& verdict) {
  if ((request.flags & kSleepable) == 0 || request.program.type == BPF_PROG_TYPE_KPROBE) return true;
  refuse(verdict, Rule::kFUN002, EINVAL, 0, "this program type cannot be sleepable",
         "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable");
  return false;
}

bool calls_helper(const program::Insn& insn, int32_t id) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == 0 && insn.imm == id;
}

// Without BTF nobody knows whether a function returns a number, which tail calls and packet loads may do in its stead.
bool check_abnormal_returns(const Request& request, Verdict& verdict) {
  if (!request.func_info.empty()) return true;
  const std::vector<uint32_t> starts = program::subprogram_starts(request.program);
  if (starts.size() < 2) return true;
  for (program::InsnCursor at(request.program); !at.done(); at.advance()) {
    if (at.index() < starts[1]) continue;
    const program::Insn& insn = at.insn();
    const bool packet_load = BPF_CLASS(insn.code) == BPF_LD && !program::is_load_imm64(insn);
    if (!packet_load && !calls_helper(insn, BPF_FUNC_tail_call)) continue;
    const std::string what = packet_load ? "LD_ABS" : "tail_call";
    refuse(verdict, Rule::kFUN009, EINVAL, static_cast<uint32_t>(at.index()),
           what + " in a function that has no BTF", what + " is not allowed in subprogs without BTF");
    return false;
  }
  return true;
}

// The deepest stack over all chains of calls, as Linux adds it up: also over calls that no path reaches.
class StackDepth {
 public:
  StackDepth(const Request& request, const ControlFlow& flow, const Facts& facts)
      : request_(request), flow_(flow), facts_(facts), tail_calls_(flow.subprograms.size()) {
    for (program::InsnCursor at(request.program); !at.done(); at.advance())
      if (calls_helper(at.insn(), BPF_FUNC_tail_call)) {
        tail_calls_[flow.subprogram_of[at.index()]] = true;
        any_tail_call_ = true;
      }
  }

  // False: refused.
  bool check(Verdict& verdict) { return walk(0, 0, 1, verdict); }

 private:
  // Linux gives frames of these programs stacks of their own, from 64 bytes on, so that only the small ones add up.
  bool has_private_frames() const {
    if (any_tail_call_) return false;
    switch (request_.program.type) {
      case BPF_PROG_TYPE_KPROBE:
      case BPF_PROG_TYPE_TRACEPOINT:
      case BPF_PROG_TYPE_PERF_EVENT:
      case BPF_PROG_TYPE_RAW_TRACEPOINT:
        return true;
      default:
        return false;
    }
  }

  bool walk(uint32_t subprogram, uint32_t above, uint32_t frames, Verdict& verdict) {
    // A subprogram met again with no more above it and no deeper was walked already: chains can be many.
    for (const auto& [seen, seen_above, seen_frames] : walked_)
      if (seen == subprogram && above <= seen_above && frames <= seen_frames) return true;
    const Subprogram& here = flow_.subprograms[subprogram];
    if (frames > kFramesMax) {
      if (!enforces(request_, Rule::kCFG004)) return true;
      refuse(verdict, Rule::kCFG004, E2BIG, here.start, "functions are nested too deeply",
             "the call stack of " + std::to_string(frames - 1) + " frames is too deep !");
      return false;
    }
    if (subprogram != 0 && tail_calls_[subprogram] && above >= kStackAboveTailCallMax &&
        enforces(request_, Rule::kCFG005)) {
      refuse(verdict, Rule::kCFG005, EACCES, here.start,
             "this function tail-calls with " + std::to_string(above) + " bytes of stack above it",
             "tail_calls are not allowed when call stack of previous frames is " + std::to_string(above) +
                 " bytes. Too large");
      return false;
    }
    const uint32_t used =
        (facts_.stack_bytes[subprogram] + kStackRounding - 1) / kStackRounding * kStackRounding;
    const uint32_t depth = has_private_frames() && used >= kPrivateStackMin ? above : above + used;
    if (depth > kStackBytes && enforces(request_, Rule::kCFG005)) {
      refuse(verdict, Rule::kCFG005, EACCES, here.start,
             "the functions up to here use " + std::to_string(depth) + " bytes of stack",
             "combined stack size of " + std::to_string(frames) + " calls is " + std::to_string(depth) +
                 ". Too large");
      return false;
    }
    for (const uint32_t callee : here.callees)
      if (!walk(callee, depth, frames + 1, verdict)) return false;
    walked_.push_back({subprogram, above, frames});
    return true;
  }

  struct Walked {
    uint32_t subprogram, above, frames;
  };
  const Request& request_;
  const ControlFlow& flow_;
  const Facts& facts_;
  std::vector<bool> tail_calls_;  // per subprogram
  bool any_tail_call_ = false;
  std::vector<Walked> walked_;
};

// `lines` is filled, for the log and for diagnoses.
bool run(const Request& request, Verdict& verdict, SourceLines& lines, std::unique_ptr<LogWriter>& log) {
  if (!check_known_flags(request, verdict) || !check_attach_type(request, verdict)) return false;
  ControlFlow flow;
  if (auto valid = program::validate_structure(request.program); !valid) {
    refuse_structure(verdict, valid.error());
    return false;
  }
  if (!read_source_lines(request, lines, verdict) || !check_abnormal_returns(request, verdict) ||
      !check_sleepable(request, verdict))
    return false;
  {
    Engine engine(request, flow, verdict);
    engine.log = log.get();
    if (!check_maps(engine)) return false;
  }
  if (!analyse(request, flow, verdict)) return false;
  bool widened = false;
  {
    Engine engine(request, flow, verdict);
    engine.log = log.get();
    if (engine.explore()) return StackDepth(request, flow, verdict.facts).check(verdict);
    widened = engine.widened;
  }
  if (!widened) return false;
  // What was forgotten between rounds of callbacks may be what the proof needs: again, round by round.
  std::vector<Diagnosis> first = std::move(verdict.diagnoses);
  verdict.diagnoses.clear();
  if (log) log = std::make_unique<LogWriter>(request, lines);
  Engine engine(request, flow, verdict);
  engine.log = log.get();
  engine.widen_callbacks = false;
  if (engine.explore()) return StackDepth(request, flow, verdict.facts).check(verdict);
  if (!verdict.diagnoses.empty() && verdict.diagnoses[0].rule == Rule::kLIM001)
    verdict.diagnoses = std::move(first);
  return false;
}

}  // namespace

Verdict verify(const Request& asked) {
  const auto start = std::chrono::steady_clock::now();
  Verdict verdict;
  Request changed;
  const Request* request = &asked;
  if ((asked.flags & BPF_F_STRICT_ALIGNMENT) != 0 && !asked.options.strict_alignment) {
    changed = asked;
    changed.options.strict_alignment = true;
    request = &changed;
  }
  SourceLines lines;
  std::unique_ptr<LogWriter> log;
  if (request->log_level != 0) log = std::make_unique<LogWriter>(*request, lines);
  if (!run(*request, verdict, lines, log)) {
    verdict.error = verdict.diagnoses.empty() ? EINVAL : verdict.diagnoses.front().error;
    verdict.facts = Facts{};
  }
  verdict.statistics.time_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  if (log) log->finish(verdict);
  return verdict;
}

}  // namespace bpftime::verifier

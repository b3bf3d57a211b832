#include "verifier/testing/containment.h"

#include <cstring>
#include <map>

namespace bpftime::verifier::testing {

void StateRecorder::on_instruction(uint32_t insn, const State& state) {
  if (++count_ > kStatesMax) return;
  if (states_.size() <= insn) states_.resize(insn + 1);
  states_[insn].push_back(state);
}

const std::vector<State>& StateRecorder::at(uint32_t insn) const {
  static const std::vector<State> none;
  return insn < states_.size() ? states_[insn] : none;
}

std::string ContainmentMachine::outside(const Value& value, const Concrete& concrete) const {
  if (value.kind == Kind::kUninitialised) return "";
  if (value.kind == Kind::kScalar) {
    return value.scalar.contains(concrete.value) ? ""
                                                 : std::to_string(static_cast<int64_t>(concrete.value)) +
                                                       " is not in " + value.scalar.describe();
  }
  if (value.kind == Kind::kKernelObject) return "";
  if (concrete.region == kNoRegion) {
    if (concrete.value == 0 && value.may_be_null) return "";
    return "a number, believed to be " + describe(value);
  }
  const Region& object = region(concrete.region);
  const bool same =
      object.kind == value.kind ||
      (object.kind == Kind::kPacket && (value.kind == Kind::kPacketEnd || value.kind == Kind::kPacketMeta));
  if (!same) return "another kind of pointer than " + describe(value);
  const bool indexed =
      value.kind == Kind::kMap || value.kind == Kind::kMapValue || value.kind == Kind::kMapKey;
  if (indexed && object.index != value.index) return "pointer into another map than " + describe(value);
  if (value.kind == Kind::kStack && object.index != value.frame)
    return "pointer into another frame than " + describe(value);
  if (value.kind == Kind::kFunction) return "";
  const uint64_t origin = object.base + (value.kind == Kind::kStack       ? kStackBytes
                                         : value.kind == Kind::kPacketEnd ? object.size
                                                                          : 0);
  const uint64_t variable = concrete.value - origin - static_cast<uint64_t>(int64_t{value.off});
  if (!value.scalar.contains(variable)) {
    return "offset " + std::to_string(static_cast<int64_t>(concrete.value - origin)) + " is not in " +
           describe(value);
  }
  return "";
}

std::string ContainmentMachine::stack_outside(const Frame& frame, const ConcreteFrame& concrete) const {
  const Region& stack = region(concrete.stack_region);
  for (size_t slot = 0; slot < frame.stack.size(); ++slot) {
    const Slot& believed = frame.stack[slot];
    const auto lowest = static_cast<uint32_t>(kStackBytes - 8 * (slot + 1));
    uint32_t spilled = 0;
    for (uint32_t i = 0; i < kSlotBytes; ++i) {
      if (believed.bytes[i] == Byte::kSpill) ++spilled;
      if (believed.bytes[i] == Byte::kZero && stack.bytes[lowest + i] != 0) {
        return "stack byte -" + std::to_string(8 * (slot + 1) - i) + " is not zero";
      }
    }
    if (spilled == 0) continue;
    Concrete value;
    // Narrow ones lie in the low bytes of what was stored, wherever in the slot that is.
    uint32_t first = 0;
    while (believed.bytes[first] != Byte::kSpill) ++first;
    std::memcpy(&value.value, stack.bytes.data() + lowest + first, spilled);
    value.region = spilled == 8 ? stack.provenance[lowest / 8] : kNoRegion;
    if (const std::string why = outside(believed.value, value); !why.empty()) {
      return "stack slot -" + std::to_string(8 * (slot + 1)) + ": " + why;
    }
  }
  return "";
}

std::string ContainmentMachine::outside(const State& state) const {
  if (state.frames.size() != frames().size()) return "another depth of calls";
  if (state.references.size() < open_records()) return "fewer references than records";
  if (state.lock.held != lock_held()) return "the lock";
  std::map<uint32_t, uint64_t> linked;
  for (size_t depth = 0; depth < frames().size(); ++depth) {
    const Frame& frame = state.frames[depth];
    const ConcreteFrame& concrete = frames()[depth];
    if (frame.subprogram != concrete.subprogram) return "another subprogram";
    const bool innermost = depth + 1 == frames().size();
    for (uint32_t r = innermost ? 0 : 6; r <= 10; ++r) {
      const Value& value = frame.registers[r];
      if (const std::string why = outside(value, concrete.registers[r]); !why.empty()) {
        return "r" + std::to_string(r) + " of frame " + std::to_string(depth) + ": " + why;
      }
      if (!value.is_number() || value.id == 0 || value.delta32) continue;
      // Linked numbers are one number and what was added.
      const uint64_t base = concrete.registers[r].value - static_cast<uint64_t>(int64_t{value.off});
      const auto [place, is_new] = linked.try_emplace(value.id, base);
      if (!is_new && place->second != base)
        return "r" + std::to_string(r) + " differs from what it is linked with";
    }
    if (const std::string why = stack_outside(frame, concrete); !why.empty()) return why;
  }
  return "";
}

bool ContainmentMachine::before(uint32_t insn) {
  std::string why = "no state was explored here";
  const std::vector<State>& states = recorder_.at(insn);
  for (size_t i = states.size(); i-- > 0;) {
    why = outside(states[i]);
    if (why.empty()) return true;
  }
  return trap("not contained in any of " + std::to_string(states.size()) + " states; the first: " + why);
}

ContainmentResult check_containment(const Request& original, uint64_t seed, uint32_t rounds) {
  ContainmentResult result;
  StateRecorder recorder;
  Request request = original;
  request.options.observer = &recorder;
  const Verdict verdict = verify(request);
  result.accepted = verdict.error == 0;
  if (!result.accepted) return result;
  for (uint32_t i = 0; i < rounds; ++i) {
    const uint64_t one = seed * 1009 + i;
    RunResult run;
    if (recorder.overflowed()) {
      run = CheckedMachine(request, verdict.facts, one).run();
    } else {
      run = ContainmentMachine(request, verdict.facts, recorder, one).run(20'000);
    }
    result.steps += run.executed;
    result.finished += run.kind == RunResult::kFinished;
    if (run.kind == RunResult::kInconclusive) {
      ++result.inconclusive;
      if (result.first_inconclusive.empty()) result.first_inconclusive = run.why;
    }
    if (run.kind == RunResult::kTrapped) {
      result.failure = "insn " + std::to_string(run.insn) + " of run " + std::to_string(one) + ": " + run.why;
      return result;
    }
  }
  return result;
}

}  // namespace bpftime::verifier::testing

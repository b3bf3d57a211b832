// The oracle for false accepts: a concrete run beside what the verifier believed. At each instruction some state that was
// explored there must contain what is in the registers and on the stack. Test-only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "verifier/testing/checked_interpreter.h"

namespace bpftime::verifier::testing {

// Keeps every state of the last exploration, by instruction.
class StateRecorder : public StateObserver {
 public:
  void on_start() override { states_.clear(), count_ = 0; }
  void on_instruction(uint32_t insn, const State& state) override;
  const std::vector<State>& at(uint32_t insn) const;
  bool overflowed() const { return count_ > kStatesMax; }

 private:
  static constexpr size_t kStatesMax = 30'000;
  std::vector<std::vector<State>> states_;
  size_t count_ = 0;
};

class ContainmentMachine : public CheckedMachine {
 public:
  ContainmentMachine(const Request& request, const Facts& facts, const StateRecorder& recorder, uint64_t seed)
      : CheckedMachine(request, facts, seed), recorder_(recorder) {}

 protected:
  bool before(uint32_t insn) override;

 private:
  // Empty when contained, else what is not.
  std::string outside(const State& state) const;
  std::string outside(const Value& value, const Concrete& concrete) const;
  std::string stack_outside(const Frame& frame, const ConcreteFrame& concrete) const;

  const StateRecorder& recorder_;
};

// Verifies with the states recorded and, if accepted, runs `rounds` times. `why`: empty or the first failure. Counts go
// to the result.
struct ContainmentResult {
  bool accepted = false;
  size_t finished = 0, inconclusive = 0;
  uint64_t steps = 0;
  std::string failure;  // "insn 5: …"
  std::string first_inconclusive;
};
ContainmentResult check_containment(const Request& request, uint64_t seed, uint32_t rounds);

}  // namespace bpftime::verifier::testing

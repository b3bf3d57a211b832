// Turns what a value remembers about its past into causes a reader understands.
#pragma once

#include <string>
#include <vector>

#include "verifier/diagnosis.h"
#include "verifier/engine.h"

namespace bpftime::verifier {

// Causes for a refusal by `rule` because of register `number` of the current frame: where the null, the number, the lost
// bound, the reference came from. Nearest first, at most kCausesMax, each instruction once.
std::vector<Cause> blame_register(const Engine& engine, Rule rule, uint32_t number);
// The same for any value, called `name` ("r1", "fp-8").
std::vector<Cause> blame_value(const Engine& engine, Rule rule, const Value& value, const std::string& name);

// "r0 = map_value(conf, 8 bytes) or null, offset 0": for Diagnosis::state. In words, not in the kernel's notation.
std::string describe_operand(const Engine& engine, const Value& value, const std::string& name);

inline constexpr size_t kCausesMax = 4;

}  // namespace bpftime::verifier

// Why a program was refused, as data; render.h makes text and JSON of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verifier/rules.h"

namespace bpftime::verifier {

// Why a value is what it is: "null comes from this call", "the upper bound is lost here".
struct Cause {
  uint32_t insn;
  std::string text;
};

struct Branch {
  uint32_t insn;
  bool taken;
};

struct Diagnosis {
  Rule rule;
  int error = 0;      // errno; of the rule, unless Linux answers another one in this situation
  uint32_t insn = 0;  // where
  std::string
      message;  // one sentence about this program: "`r0` may be null", "4 bytes at offset 48 of a 48-byte value"
  std::string
      linux_message;  // what Linux's log would say: "R0 invalid mem access 'map_value_or_null'"; empty: message
  std::string help;  // what to do about it in this program; empty: the rule's help
  std::string
      grant;  // capability rules: what the class lacks, as a policy writes it: "read(r.headers_in.cookie)"
  std::vector<Cause> causes;  // nearest first
  std::vector<std::string>
      state;  // operands of the failing rule, rendered: "r0 = map_value(conf, 8 bytes) or null"
  std::vector<Branch> path;          // oldest first; the last kPathMax of them
  std::vector<uint32_t> call_chain;  // call sites of the active frames, outermost first
};

inline constexpr size_t kPathMax = 32;

// One line: "NUL001: `r0` may be null (instruction 17)".
std::string summary(const Diagnosis& diagnosis);

}  // namespace bpftime::verifier

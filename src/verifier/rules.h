// The rules a program can break; the rows are in rules.def.
#pragma once

#include <bitset>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bpftime::verifier {

enum class Rule : uint16_t {
#define BPFTIME_RULE(id, error, title, help) k##id,
#include "verifier/rules.def"
#undef BPFTIME_RULE
  kCount
};

inline constexpr size_t kRuleCount = static_cast<size_t>(Rule::kCount);
using RuleSet = std::bitset<kRuleCount>;

struct RuleInfo {
  std::string_view id;     // "MEM002"
  int error;               // errno bpf(2) answers
  std::string_view title;  // "access beyond the end of the object"
  std::string_view help;   // one line
};

const RuleInfo& info(Rule rule);
std::optional<Rule> find_rule(std::string_view id);  // case-insensitive

// The rule's page of docs/verifier-rules.md (Markdown, with its heading); empty when it has none, which a test prevents.
std::string_view explanation(Rule rule);

}  // namespace bpftime::verifier

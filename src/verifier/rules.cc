#include "verifier/rules.h"

#include <algorithm>
#include <array>
#include <string>

extern "C" const char bpftime_verifier_rules_begin[], bpftime_verifier_rules_end[];

namespace bpftime::verifier {
namespace {

constexpr std::array<RuleInfo, kRuleCount> kRules = {{
#define BPFTIME_RULE(id, error, title, help) {#id, error, title, help},
#include "verifier/rules.def"
#undef BPFTIME_RULE
}};

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

bool same(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return upper(x) == upper(y); });
}

}  // namespace

const RuleInfo& info(Rule rule) {
  const auto index = static_cast<size_t>(rule);
  return kRules[index < kRuleCount ? index : 0];
}

std::optional<Rule> find_rule(std::string_view id) {
  for (size_t i = 0; i < kRuleCount; ++i)
    if (same(kRules[i].id, id)) return static_cast<Rule>(i);
  return std::nullopt;
}

std::string_view explanation(Rule rule) {
  const std::string_view all(bpftime_verifier_rules_begin,
                             static_cast<size_t>(bpftime_verifier_rules_end - bpftime_verifier_rules_begin));
  const std::string heading = "\n## " + std::string(info(rule).id) + " ";
  const size_t begin = all.find(heading);
  if (begin == all.npos) return {};
  std::string_view page = all.substr(begin + 1);
  page = page.substr(0, page.find("\n## "));
  // A heading of a group ends the page, too.
  return page.substr(0, page.find("\n# "));
}

}  // namespace bpftime::verifier

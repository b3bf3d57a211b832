// rules.def and docs/verifier-rules.md say the same.
#include "verifier/rules.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace bpftime::verifier {
namespace {

std::string pages() {
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  std::ifstream file(std::string(source != nullptr ? source : ".") + "/docs/verifier-rules.md");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Rules, AreFoundByTheirIds) {
  EXPECT_EQ(find_rule("NUL001"), Rule::kNUL001);
  EXPECT_EQ(find_rule("nul001"), Rule::kNUL001);
  EXPECT_EQ(info(Rule::kMEM002).id, "MEM002");
  EXPECT_EQ(info(Rule::kMEM002).error, EACCES);
}

TEST(Rules, UnknownIdsAreNotFound) {
  for (const char* id : {"", "NUL", "NUL0011", "NUL999", "X"}) EXPECT_FALSE(find_rule(id)) << id;
}

TEST(Rules, EachHasAnErrnoATitleAndHelp) {
  for (size_t i = 0; i < kRuleCount; ++i) {
    const RuleInfo& rule = info(static_cast<Rule>(i));
    EXPECT_GT(rule.error, 0) << rule.id;
    EXPECT_FALSE(rule.title.empty()) << rule.id;
    EXPECT_FALSE(rule.help.empty()) << rule.id;
    EXPECT_EQ(find_rule(rule.id), static_cast<Rule>(i)) << rule.id;
  }
}

TEST(Rules, EachHasAPageWithAnExample) {
  for (size_t i = 0; i < kRuleCount; ++i) {
    const auto rule = static_cast<Rule>(i);
    const std::string_view page = explanation(rule);
    ASSERT_FALSE(page.empty()) << info(rule).id << " has no page in docs/verifier-rules.md";
    EXPECT_NE(page.find(info(rule).title), page.npos) << info(rule).id << ": the heading has another title";
    EXPECT_NE(page.find("```c"), page.npos) << info(rule).id << " has no example";
    EXPECT_NE(page.find("Linux:"), page.npos) << info(rule).id << " says nothing of Linux";
    EXPECT_EQ(page.find("\n## "), page.npos) << info(rule).id;
  }
}

TEST(Rules, EachPageHasARule) {
  const std::string text = pages();
  if (text.empty()) GTEST_SKIP() << "docs/verifier-rules.md is not where BPFTIME_SOURCE_DIR says";
  static const std::regex heading("\n## ([A-Z]{3}[0-9]{3}) ");
  size_t count = 0;
  std::set<std::string> seen;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), heading); it != std::sregex_iterator();
       ++it) {
    EXPECT_TRUE(find_rule((*it)[1].str())) << (*it)[1] << " is no rule";
    EXPECT_TRUE(seen.insert((*it)[1]).second) << (*it)[1] << " has two pages";
    ++count;
  }
  EXPECT_EQ(count, kRuleCount);
}

}  // namespace
}  // namespace bpftime::verifier

#include "eim/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace bpftime::eim {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Kind = Capability::Kind;

constexpr char kFirewall[] = R"(version: 1
manifest: nginx.eim.o            # binds to its build-id
classes:
  - name: observeProcessBegin
    extension_entry: processBegin
    allowed: [instructions < inf, nginxTime, readPid, read(r)]
  - name: firewall
    extension_entry: handleRequest
    allowed:
      - instructions < 5000
      - memory < 1MiB
      - read(r.uri)
      - write(r.headers_out.status)
      - ngx_http_finalize_request(rc in 403, 404)
      - return()
      - shared(rules)
extensions:
  - {program: firewall.bpf.o, class: firewall}
  - {program: watch.bpf.o, class: observeProcessBegin, function: begin}
)";

TEST(Policy, ReadsTheDesignsExample) {
  const auto policy = parse_policy(kFirewall, "/etc/bpftime/nginx.policy.yaml");
  ASSERT_TRUE(policy.ok()) << policy.error().message;
  EXPECT_EQ(policy->manifest, "/etc/bpftime/nginx.eim.o");
  EXPECT_EQ(policy->build, Policy::Build::kHost);
  ASSERT_EQ(policy->classes.size(), 2u);
  const auto& observe = policy->classes[0].allowed;
  ASSERT_EQ(observe.size(), 4u);
  EXPECT_EQ(observe[0].kind, Kind::kInstructions);
  EXPECT_EQ(observe[0].below, 0u);
  EXPECT_EQ(observe[1].name, "nginxTime");
  EXPECT_EQ(observe[3].path, std::vector<std::string>{"r"});
  EXPECT_EQ(observe[3].position.line, 6u);
  EXPECT_EQ(observe[3].position.column, 55u);
  const auto& firewall = policy->classes[1].allowed;
  ASSERT_EQ(firewall.size(), 7u);
  EXPECT_EQ(firewall[0].below, 5000u);
  EXPECT_EQ(firewall[1].below, 1u << 20);
  EXPECT_EQ(firewall[2].path, (std::vector<std::string>{"r", "uri"}));
  EXPECT_EQ(firewall[3].kind, Kind::kWrite);
  ASSERT_EQ(firewall[4].narrowings.size(), 1u);
  EXPECT_EQ(firewall[4].narrowings[0].argument, "rc");
  ASSERT_EQ(firewall[4].narrowings[0].values.size(), 2u);
  EXPECT_EQ(firewall[4].narrowings[0].values[1].low, 404u);
  EXPECT_EQ(firewall[5].kind, Kind::kReturn);
  EXPECT_EQ(firewall[6].name, "rules");
  ASSERT_EQ(policy->extensions.size(), 2u);
  EXPECT_EQ(policy->extensions[0].program, "/etc/bpftime/firewall.bpf.o");
  EXPECT_EQ(policy->extensions[1].function, "begin");
}

Capability good(const std::string& text) {
  auto parsed = parse_capability(text, {1, 1}, Policy{});
  EXPECT_TRUE(parsed.ok()) << text << ": " << parsed.error().message;
  return parsed.ok() ? *parsed : Capability{};
}

TEST(Policy, Capabilities) {
  EXPECT_EQ(good("instructions<inf").below, 0u);
  EXPECT_EQ(good("  memory  <  2 MB ").below, 2'000'000u);
  EXPECT_EQ(good("memory < 4096").below, 4096u);
  EXPECT_EQ(good("memory < 1GiB").below, 1u << 30);
  EXPECT_EQ(good("ns::tax").name, "ns::tax");
  EXPECT_TRUE(good("answer()").is_call);
  EXPECT_EQ(good("read( r . uri.data )").path.size(), 3u);
  const Capability values = good("return(-1, 0..9, METHOD_GET, 0x10, -5..-2, -3..3)");
  ASSERT_EQ(values.values.size(), 6u);
  EXPECT_TRUE(values.values[0].is_negative);
  EXPECT_EQ(values.values[0].low, UINT64_MAX);
  EXPECT_EQ(values.values[1].high, 9u);
  EXPECT_EQ(values.values[2].name, "METHOD_GET");
  EXPECT_EQ(values.values[3].low, 16u);
  EXPECT_EQ(values.values[4].high, static_cast<uint64_t>(-2));
  EXPECT_TRUE(good("return(0.5)").values.at(0).is_real);
  const Capability errors = good("return(-EACCES, -EPERM)");
  ASSERT_EQ(errors.values.size(), 2u);
  EXPECT_TRUE(errors.values[0].is_negative);
  EXPECT_EQ(errors.values[0].low, static_cast<uint64_t>(-EACCES));
  EXPECT_EQ(errors.values[1].high, static_cast<uint64_t>(-EPERM));
  EXPECT_EQ(good("f(a in 1; b in 2..3, 5)").narrowings.at(1).values.size(), 2u);
  EXPECT_EQ(good("return(18446744073709551615)").values.at(0).low, UINT64_MAX);
}

TEST(Policy, BracketsSplitAtCommasParenthesesDoNot) {
  const auto policy = parse_policy(
      "version: 1\nmanifest: m\nclasses: [{name: a, extension_entry: e, allowed: [f(rc in 403, 404), "
      "return(1, 2), read(r)]}]\n",
      "p");
  ASSERT_TRUE(policy.ok()) << policy.error().message;
  ASSERT_EQ(policy->classes[0].allowed.size(), 3u);
  EXPECT_EQ(policy->classes[0].allowed[0].narrowings[0].values.size(), 2u);
  EXPECT_EQ(policy->classes[0].allowed[1].values.size(), 2u);
}

struct Bad {
  const char* text;
  const char* message;
};

TEST(Policy, WrongCapabilitiesSayWhereAndWhat) {
  for (const Bad& bad : {
           Bad{"instructions < ", "p:1:16: expected a number or inf"},
           {"instructions <= 5", "\"<=\" is not a bound"},
           {"instructions < 5x", "unexpected \"x\""},
           {"instructions < 0", "nothing is below 0"},
           {"instructions", "expected \"instructions < N\""},
           {"instruction < 5", "did you mean \"instructions\"?"},
           {"memory < 1MX", "p:1:11: expected B, KB"},
           {"memory < 99999999999GiB", "too large"},
           {"read", "expected \"read(argument)\""},
           {"read(r", "expected \")\""},
           {"read()", "expected the name of an argument"},
           {"read(r->uri)", "members are separated by \".\""},
           {"read(r.ports[1])", "arrays are granted whole"},
           {"raed(r)", "did you mean \"read\"?"},
           {"f(rc = 1)", "expected \"rc in values\""},
           {"f(rc in )", "expected a number"},
           {"f(rc in 5..1)", "the range is empty"},
           {"f(rc in 1; rc in 2)", "narrowed twice"},
           {"return(1", "expected \")\""},
           {"return 1", "expected \"return()\""},
           {"return(99999999999999999999)", "expected a number"},
           {"return(-EACESS)", "expected a number"},
           {"return(-EACCES..0)", "expected \")\" or \",\""},
           {"shared()", "expected the name of a map"},
           {"read(r) write(r)", "unexpected \"write(r)\""},
           {"<", "expected a capability"},
       }) {
    const auto parsed = parse_capability(bad.text, {1, 1}, [] {
      Policy policy;
      policy.path = "p";
      return policy;
    }());
    ASSERT_FALSE(parsed.ok()) << bad.text;
    EXPECT_THAT(parsed.error().message, HasSubstr(bad.message)) << bad.text;
    EXPECT_THAT(parsed.error().message, StartsWith("p:1:"));
  }
}

// The firewall's policy with one line replaced.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kFirewall;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Policy, WrongPoliciesSayWhereAndWhat) {
  struct Case {
    std::string text, message;
    int code = EINVAL;
  };
  for (const Case& bad : {
           Case{with("version: 1", "version: 2"), "p.yaml:1:10: this command knows version 1"},
           {with("version: 1\n", ""), "\"version: 1\" is missing"},
           {with("manifest: nginx.eim.o", "manifst: x"),
            "p.yaml:2:1: a policy has no key \"manifst\"; did you mean \"manifest\"?"},
           {with("    extension_entry: handleRequest", "    entry: handleRequest"),
            "p.yaml:8:5: a class has no key \"entry\""},
           {with("class: firewall}", "class: firewal}"),
            "p.yaml:18:38: there is no class \"firewal\"; did you mean \"firewall\"?"},
           {with("name: firewall", "name: observeProcessBegin"), "declared twice"},
           {with("      - return()", "      - read(r\n      - return()"), "p.yaml:15:15: expected \")\""},
           {with("memory < 1MiB", "instructions < 7"), "granted before, on line 10"},
           {with("      - return()", "      - isolation: mpk"), "p.yaml:15:9: isolation: mpk: not yet built",
            ENOTSUP},
           {with("    allowed:\n", "    isolation: mpk\n    allowed:\n"), "isolation: mpk: not yet built",
            ENOTSUP},
           {with("shared(rules)", "shared(kernel)"), "not yet built", ENOTSUP},
           {with("nginx.eim.o ", "nginx.eim.o\nbuild: anny "), "did you mean \"any\"?"},
           {with("version: 1", "version: [1"), "p.yaml:"},
           {with("version: 1", "version: &a 1"), "anchors"},
           {with("version: 1", "version: *a"), "p.yaml:1:"},
           {with("version: 1", "version: !!int 1"), "tags"},
           {with("version: 1", "version: 1\nversion: 1"), "p.yaml:2:1: \"version\" is given twice"},
           {with("extensions:", "---\nextensions:"), "more than one YAML document"},
           {"", "empty"},
           {"- 1\n", "a policy is a map"},
           {"version: 1\nmanifest: m\nclasses: 7\n", "must be a list"},
           {"version: 1\nmanifest: m\nclasses: [7]\n", "must be a map"},
           {"version: 1\nmanifest: m\n", "\"classes\" is missing"},
           {"version: 1\nhost: h\nclasses: [{name: a, extension_entry: e, allowed: []}]\n",
            "p.yaml:1:1: \"manifest\" is missing"},
           {"version: 1\nclasses: [{name: a, extension_entry: 'syscalls:sys_enter_read', allowed: []}]\n",
            "\"host\" is missing"},
           {"version: 1\nmanifest: m\nclasses: [{name: a, extension_entry: e}]\n", "needs \"allowed\""},
       }) {
    const auto policy = parse_policy(bad.text, "p.yaml");
    ASSERT_FALSE(policy.ok()) << bad.message;
    EXPECT_THAT(policy.error().message, HasSubstr(bad.message));
    EXPECT_EQ(policy.error().code, bad.code) << bad.message;
  }
}

TEST(Policy, BuildIsBoundAnyOrGiven) {
  EXPECT_EQ(parse_policy(with("nginx.eim.o ", "x\nbuild: any "), "p")->build, Policy::Build::kAny);
  const auto given = parse_policy(with("nginx.eim.o ", "x\nbuild: 00ff00ff00ff "), "p");
  ASSERT_TRUE(given.ok());
  EXPECT_EQ(given->build, Policy::Build::kGiven);
  EXPECT_EQ(given->build_id, "00ff00ff00ff");
}

TEST(Policy, BombsAreBounded) {
  std::string laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'z'; ++c) {
    laughs += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 9; ++i) laughs += std::string(i ? ",*" : "*") + static_cast<char>(c - 1);
    laughs += "]\n";
  }
  EXPECT_THAT(parse_policy(laughs, "p").error().message, HasSubstr("anchors"));
  EXPECT_THAT(parse_policy(std::string(100'000, '['), "p").error().message, HasSubstr("p:1:1"));
  std::string dashes;
  for (int i = 0; i < 10'000; ++i) dashes += "- ";
  EXPECT_THAT(parse_policy(dashes, "p").error().message, HasSubstr("nested too deep"));
  EXPECT_THAT(parse_policy(std::string(100'000, '{'), "p").error().message, HasSubstr("p:"));
  std::string many = "version: 1\nmanifest: m\nclasses:\n";
  for (int i = 0; i < 30'000; ++i) many += " - {}\n";
  EXPECT_FALSE(parse_policy(many, "p").ok());
  EXPECT_EQ(parse_policy(std::string(kPolicyBytesMax + 1, 'x'), "p").error().code, E2BIG);
  std::string deep;
  for (int i = 0; i < 400; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(parse_policy(deep, "p").error().message, HasSubstr("nested too deep"));
}

// What fuzzing starts from is what its names say, so that it starts behind the first checks.
TEST(Policy, SeedsAreWhatTheyAreCalled) {
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  if (source == nullptr) GTEST_SKIP() << "BPFTIME_SOURCE_DIR is not set: run by ctest";
  int good = 0, bad = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(source) + "/tests/seeds/policy_fuzz")) {
    const std::string name = entry.path().filename();
    auto policy = read_policy(entry.path());
    EXPECT_EQ(policy.ok(), name.starts_with("good"))
        << name << (policy.ok() ? "" : ": " + policy.error().message);
    ++(policy.ok() ? good : bad);
  }
  EXPECT_GE(good, 3);
  EXPECT_GE(bad, 3);
}

TEST(Policy, NearestWords) {
  EXPECT_EQ(nearest_hint("proccessBegin", {"handleRequest", "processBegin"}),
            "; did you mean \"processBegin\"?");
  EXPECT_EQ(nearest_hint("zzz", {"handleRequest", "processBegin"}), "");
  EXPECT_EQ(nearest_hint("ab", {"x"}), "");
}

}  // namespace
}  // namespace bpftime::eim

// Policies as connections name them, on the hosts that the tests of src/eim build; and the audit log.
#include "daemon/policies.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "daemon/audit.h"
#include "kernel/testing.h"

namespace bpftime::daemon {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PoliciesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* fixtures = std::getenv("BPFTIME_EIM_FIXTURES");
    if (fixtures == nullptr) GTEST_SKIP() << "BPFTIME_EIM_FIXTURES is not set: run by ctest";
    char name[] = "/tmp/bpftime-policies-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    base_ = name;
    for (const char* file : {"host", "host_other", "host.o"})
      fs::copy_file(std::string(fixtures) + "/" + file, base_ + "/" + file);
  }
  void TearDown() override {
    if (!base_.empty()) fs::remove_all(base_);
  }
  // A policy of these lines, after `version: 1`.
  std::string write(const std::string& lines) {
    std::ofstream(base_ + "/p.yaml") << "version: 1\n" << lines;
    return base_ + "/p.yaml";
  }
  static std::string one_class(const std::string& allowed, const std::string& manifest = "manifest: host\n") {
    return manifest + "classes:\n  - {name: one, extension_entry: processBegin, allowed: [" + allowed +
           "]}\n";
  }
  std::string refused(const std::string& lines, const std::string& host = "") {
    auto opened = open_policy(kernel_, write(lines), host);
    EXPECT_FALSE(opened.ok()) << lines;
    return opened.ok() ? "" : opened.error().message;
  }

  kernel::Remembering observer_;
  kernel::Kernel kernel_{observer_, wire::window_address(::geteuid())};
  std::string base_;
};

TEST_F(PoliciesTest, ClassesAreWhatThePolicySays) {
  auto opened = open_policy(
      kernel_,
      write("manifest: host\nclasses:\n"
            "  - {name: one, extension_entry: processBegin, allowed: [read(r.uri), return(403)]}\n"
            "  - {name: two, extension_entry: handleRequest, allowed: [shared(counts), readPid]}\n"
            "extensions:\n"
            "  - {program: a.bpf.o, function: first, class: two}\n"
            "  - {program: /b.bpf.o, class: one}\n"),
      "");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const OpenPolicy& policy = **opened;
  ASSERT_EQ(policy.classes.size(), 2u);
  EXPECT_EQ(policy.host, base_ + "/host");
  EXPECT_FALSE(policy.build_id.empty());
  EXPECT_EQ(policy.classes[0]->build_id, policy.build_id);
  EXPECT_EQ(policy.classes[0]->entry.name, "process_request");
  EXPECT_THAT(policy.classes[0]->policy_place, HasSubstr("p.yaml:4"));
  EXPECT_THAT(policy.classes[1]->shared_maps, ElementsAre("counts"));
  EXPECT_THAT(policy.capabilities[0], ElementsAre("read(r.uri)", "return(403)"));
  // In the policy's order, with places of their own in the host's file.
  ASSERT_EQ(policy.extensions.size(), 2u);
  EXPECT_EQ(policy.extensions[0].program, base_ + "/a.bpf.o");
  EXPECT_EQ(policy.extensions[0].symbol, "handle_request");
  EXPECT_EQ(policy.extensions[1].program, "/b.bpf.o");
  EXPECT_NE(policy.extensions[0].offset, policy.extensions[1].offset);
  // Programs by name, by the class that was asked for, and nothing else where there are two.
  EXPECT_EQ(policy.class_of("first", ""), policy.classes[1]);
  EXPECT_EQ(policy.class_of("other", "one"), policy.classes[0]);
  EXPECT_EQ(policy.class_of("other", "none"), nullptr);
  EXPECT_EQ(policy.class_of("other", ""), nullptr);
  ASSERT_NE(policy.btf, nullptr);
  EXPECT_FALSE(policy.btf->blob.empty());
}

// Instructions name slots; each slot knows where the host keeps what it stands for.
TEST_F(PoliciesTest, FunctionsAndVariablesAreSlots) {
  auto opened = open_policy(kernel_, write(one_class("host_time, countRefused, readPid")), "");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const kernel::HostClass& one = *(*opened)->classes[0];
  for (const auto& function : one.constraints.functions)
    EXPECT_EQ(one.symbols.at(function.id).name, function.name);
  for (const auto& global : one.constraints.globals) {
    const auto& symbol = one.symbols.at(global.id);
    EXPECT_EQ(symbol.name, global.name.substr(0, global.name.find('.')));
    if (global.name == "host_counts.refused") {
      EXPECT_EQ(symbol.offset, 8u);
    }
    EXPECT_NE(symbol.address, 0u) << global.name;
  }
}

TEST_F(PoliciesTest, HintsOutliveTheConnection) {
  std::shared_ptr<const kernel::HostClass> one, handle;
  {
    auto opened = open_policy(
        kernel_,
        write(one_class("read(r.status)") + "  - {name: two, extension_entry: handleRequest, allowed: []}\n"),
        "");
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    one = (*opened)->classes[0];
    handle = (*opened)->classes[1];
  }
  EXPECT_EQ(one->hint("read(r.uri.len)"), "add \"read(r.uri.len)\" to class \"one\" (p.yaml:4)");
  EXPECT_EQ(one->hint("host_time"), "add \"host_time\" to class \"one\" (p.yaml:4)");
  EXPECT_EQ(one->hint("bpf_override_return"), "add \"return(VALUE)\" to class \"one\" (p.yaml:4)");
  EXPECT_EQ(handle->hint("bpf_override_return"), "add \"return()\" to class \"two\" (p.yaml:5)");
  EXPECT_EQ(one->hint("bpf_probe_write_user"), "add \"bpf_probe_write_user\" to class \"one\" (p.yaml:4)");
  EXPECT_EQ(one->hint("read(readPid.host_pid)"), "add \"readPid\" to class \"one\" (p.yaml:4)");
  EXPECT_EQ(one->hint("write(readPid.host_pid)"), "add \"writePid\" to class \"one\" (p.yaml:4)");
  // What the host does not offer no line of policy can grant.
  EXPECT_EQ(one->hint("bpf_send_signal"), "");
  EXPECT_EQ(one->hint("read(struct connection.fd)"), "");
  EXPECT_EQ(one->hint("write(readVersion.host_version)"), "");
}

// Identical grants of one object are one grant; a class holds both rights of two lines.
TEST_F(PoliciesTest, TwoLinesMayNameOneObject) {
  auto opened = open_policy(kernel_, write(one_class("read(r.status), write(r.status), read(r.status)")), "");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const auto& constraints = (*opened)->classes[0]->constraints;
  const auto& view = constraints.views.at(constraints.entry.at(0).view);
  int granted = 0;
  for (const auto& member : view.members) {
    granted += member.read || member.write;
    if (member.name == "status") {
      EXPECT_TRUE(member.read && member.write);
    }
  }
  EXPECT_EQ(granted, 1);
}

TEST_F(PoliciesTest, MistakesNameTheirPlaceAndNothingIsMade) {
  EXPECT_THAT(refused(one_class("read(r.statsu)")), HasSubstr("p.yaml:4:"));
  EXPECT_THAT(refused(one_class("readPid", "manifest: nothing\n")), HasSubstr("p.yaml:2:11: "));
  EXPECT_THAT(refused(one_class("readPid", "manifest: p.yaml\n")), HasSubstr("p.yaml:2:11: "));
  EXPECT_THAT(refused(one_class("readPid", "manifest: host.o\n")), HasSubstr("host"));
  EXPECT_THAT(refused(one_class("readPid", "manifest: host\nbuild: 0123456789\n")),
              HasSubstr("for build 0123456789"));
  EXPECT_THAT(refused(one_class("shared(kernel)")), HasSubstr("not yet built"));
  EXPECT_THAT(refused("*" + std::string(5000, '[')), HasSubstr("p.yaml:"));
  EXPECT_EQ(observer_.changes, 0) << "an object was made of a policy that is refused";
}

// Of a system call nothing is declared: its record is the context, and ending it is all there is to grant.
TEST_F(PoliciesTest, SystemCallsAreEntriesOfEveryHost) {
  auto opened = open_policy(
      kernel_,
      write(
          "host: host\nclasses:\n"
          "  - {name: deny, extension_entry: 'syscalls:sys_enter_openat', allowed: [return(-EACCES, 3..5)]}\n"
          "  - {name: see, extension_entry: 'syscalls:sys_exit_openat', allowed: []}\n"
          "extensions:\n  - {program: a.o, class: deny}\n"),
      "", {"1@2", 77, true});
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const auto& policy = **opened;
  ASSERT_EQ(policy.classes.size(), 2u);
  const kernel::HostClass& deny = *policy.classes[0];
  EXPECT_TRUE(deny.at_system_call);
  EXPECT_EQ(deny.entry.name, "syscalls:sys_enter_openat");
  EXPECT_EQ(deny.host, base_ + "/host");
  EXPECT_EQ(deny.build_id, "") << "nothing depends on the build";
  EXPECT_EQ(deny.session, 77u);
  EXPECT_TRUE(deny.check_promises);
  EXPECT_FALSE(deny.constraints.typed_entry);
  EXPECT_TRUE(deny.constraints.may_return);
  ASSERT_EQ(deny.constraints.return_values.size(), 2u);
  EXPECT_EQ(deny.constraints.return_values[0].low, static_cast<uint64_t>(-EACCES));
  EXPECT_FALSE(policy.classes[1]->constraints.may_return);
  ASSERT_EQ(policy.extensions.size(), 1u);
  EXPECT_TRUE(policy.extensions[0].system_call);
  // Programs of its own type alone are in such a class.
  EXPECT_EQ(policy.class_of("x", "deny", BPF_PROG_TYPE_TRACEPOINT), policy.classes[0]);
  EXPECT_EQ(policy.class_of("x", "deny", BPF_PROG_TYPE_KPROBE), nullptr);
  EXPECT_THAT(
      refused(
          "host: host\nclasses:\n  - {name: a, extension_entry: 'syscalls:sys_enter_opnat', allowed: []}\n"),
      HasSubstr("did you mean \"syscalls:sys_enter_openat\"?"));
}

// An object describes a binary that somebody has to name; addresses are taken from that.
TEST_F(PoliciesTest, ADescribedHostIsTheOneThatRuns) {
  const std::string lines = one_class("readPid", "manifest: host.o\nbuild: any\n") +
                            "extensions:\n  - {program: a.o, class: one}\n";
  EXPECT_THAT(refused(lines), HasSubstr("say which: `host:"));
  auto one = open_policy(kernel_, write(lines), base_ + "/host");
  auto other = open_policy(kernel_, write(lines), base_ + "/host_other");
  ASSERT_TRUE(one.ok()) << one.error().message;
  ASSERT_TRUE(other.ok()) << other.error().message;
  EXPECT_EQ((*one)->classes[0]->symbols[0].address, 0u) << "an address of the object, which is not what runs";
  EXPECT_NE((*one)->extensions[0].offset, 0u);
  EXPECT_EQ((*other)->host, base_ + "/host_other");
  ASSERT_EQ(std::system(("strip --strip-all " + base_ + "/host").c_str()), 0);
  EXPECT_THAT(refused(lines, base_ + "/host"),
              HasSubstr("has no symbol process_request; is it stripped of it?"));
}

class AuditTest : public PoliciesTest {
 protected:
  void SetUp() override {
    PoliciesTest::SetUp();
    if (IsSkipped()) return;
    directory_.path = base_;
    log_.emplace(directory_);
  }
  std::vector<nlohmann::json> lines() {
    std::vector<nlohmann::json> out;
    std::ifstream file(directory_.audit_log());
    for (std::string line; std::getline(file, line);)
      out.push_back(nlohmann::json::parse(line, nullptr, false));
    return out;
  }
  RuntimeDirectory directory_;
  std::optional<AuditLog> log_;
};

TEST_F(AuditTest, OneLineForEachLoadGrantAndRefusal) {
  auto opened = open_policy(kernel_, write(one_class("read(r.uri), return(403)")), "");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  log_->grant(11, 12, **opened);
  log_->load({11, 12, "guard", "one", "/p.yaml", 7, ""});
  log_->load({11, 12, "guard", "one", "/p.yaml", 0, "EIM001: no"});
  log_->load({11, 12, "tool", "", "", 8, ""});
  log_->refusal(11, 12, "/p.yaml", "line\nwith \"quotes\" and \xff");
  const auto said = lines();
  ASSERT_EQ(said.size(), 5u);
  for (const auto& line : said) {
    ASSERT_TRUE(line.is_object());
    EXPECT_EQ(line["pid"], 11);
    EXPECT_EQ(line["uid"], 12);
    EXPECT_THAT(line["time"].get<std::string>(), ::testing::MatchesRegex("....-..-..T..:..:..\\....Z"));
  }
  EXPECT_EQ(said[0]["event"], "grant");
  EXPECT_EQ(said[0]["allowed"], (nlohmann::json{"read(r.uri)", "return(403)"}));
  EXPECT_EQ(said[0]["build_id"], (*opened)->build_id);
  EXPECT_EQ(said[1]["event"], "load");
  EXPECT_EQ(said[1]["id"], 7);
  EXPECT_EQ(said[2]["event"], "refusal");
  EXPECT_EQ(said[2]["why"], "EIM001: no");
  EXPECT_FALSE(said[2].contains("id"));
  EXPECT_EQ(said[3]["class"], "observe-only");
  EXPECT_FALSE(said[3].contains("policy"));
  EXPECT_EQ(said[4]["event"], "refusal");
  struct stat st {};
  ASSERT_EQ(::stat(directory_.audit_log().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(AuditTest, AFullLogGoesAsideAndLinksAreNotFollowed) {
  log_->refusal(1, 1, "p", "first");
  ASSERT_EQ(::truncate(directory_.audit_log().c_str(), (16 << 20) + 1), 0);
  log_->refusal(1, 1, "p", "second");
  EXPECT_TRUE(fs::exists(directory_.audit_log() + ".1"));
  ASSERT_EQ(lines().size(), 1u);
  EXPECT_EQ(lines()[0]["why"], "second");
  fs::remove(directory_.audit_log());
  std::ofstream(base_ + "/elsewhere") << "";
  fs::create_symlink(base_ + "/elsewhere", directory_.audit_log());
  log_->refusal(1, 1, "p", "third");
  EXPECT_EQ(fs::file_size(base_ + "/elsewhere"), 0u);
}

}  // namespace
}  // namespace bpftime::daemon

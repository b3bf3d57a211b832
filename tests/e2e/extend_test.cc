// Extensions of a host under policies: what each capability allows and refuses, what happens to the host meanwhile.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>

#include "harness.h"

namespace bpftime::e2e {
namespace {

using std::chrono::seconds;

// One class and its extension.
struct Rule {
  std::string program;
  std::string allowed;  // capabilities with commas
};

class Extend : public EndToEnd {
 protected:
  // A policy for `host`, with a class for each rule. Its path.
  std::string policy(const std::vector<Rule>& rules, const std::string& host = "extend_host",
                     const std::string& more = "") {
    std::string text = "version: 1\nmanifest: " + program(host) + "\n" + more + "classes:\n";
    for (const Rule& rule : rules)
      text += "  - {name: class_" + rule.program + ", extension_entry: processBegin, allowed: [" +
              rule.allowed + "]}\n";
    text += "extensions:\n";
    for (const Rule& rule : rules)
      text += "  - {program: " + program("extensions.bpf.o") + ", function: " + rule.program +
              ", class: class_" + rule.program + "}\n";
    const std::string path = directory() + "/policy.yaml";
    // In place of the old one at once, as editors do.
    std::ofstream(path + ".new") << text;
    ::rename((path + ".new").c_str(), path.c_str());
    return path;
  }

  // `bpftime extend ARGUMENTS…` or a host, whose input the test writes.
  Child with_input(Arguments arguments, bool host_alone = false, void (*first)() = nullptr) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    input_ = ends[1];
    Child::Options with = options();
    const int theirs = ends[0];
    with.before_exec = [theirs, first] {
      ::dup2(theirs, STDIN_FILENO);
      if (first != nullptr) first();
    };
    Child child = host_alone ? Child(arguments, with) : bpftime_child(arguments, with);
    ::close(theirs);
    return child;
  }
  // A policy for one extension at a system call. Its path.
  std::string guard_policy(const std::string& allowed, const std::string& host,
                           const std::string& entry = "syscalls:sys_enter_openat") {
    const std::string path = directory() + "/guard.yaml";
    std::ofstream(path) << "version: 1\n" + host + "\nclasses:\n  - {name: guard, extension_entry: " + entry +
                               ", allowed: [" + allowed +
                               "]}\nextensions:\n  - {program: " + program("guard.bpf.o") +
                               ", class: guard}\n";
    return path;
  }
  void say(const std::string& line) {
    const std::string text = line + "\n";
    ASSERT_EQ(::write(input_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close_input() {
    if (input_ >= 0) ::close(input_);
    input_ = -1;
  }
  void TearDown() override {
    close_input();
    EndToEnd::TearDown();
  }

  // The host under a policy, asked one line: what it answered, and everything `extend` said.
  struct Answer {
    int code;
    std::string line, said;
  };
  Answer ask(const std::string& policy, const std::string& line, const std::string& host = "extend_host") {
    Child child = with_input({"extend", policy, "--", program(host)});
    say(line);
    close_input();
    const int code = child.wait(2 * kPatience).value_or(-1);
    const std::string& out = child.output();
    const size_t at = out.find("result ");
    return {code, at == std::string::npos ? "" : out.substr(at, out.find('\n', at) - at), child.error()};
  }

  int input_ = -1;
};

struct Case {
  std::string name, program, allowed, refusing, answer, why;
};
// Named by what it is about, in test names and output.
void PrintTo(const Case& each, std::ostream* out) { *out << each.name; }

class ExtendCapability : public Extend, public ::testing::WithParamInterface<Case> {};

TEST_P(ExtendCapability, AllowedAndRefused) {
  const Case& each = GetParam();
  const Answer allowed = ask(policy({{each.program, each.allowed}}), "7 3");
  EXPECT_EQ(allowed.code, 0) << allowed.said;
  EXPECT_EQ(allowed.line, each.answer) << allowed.said;
  const Answer refused = ask(policy({{each.program == "call_function" ? "call_too_wide"
                                      : each.program == "read_buffer" ? "read_past_buffer"
                                                                      : each.program,
                                      each.refusing}}),
                             "7 3");
  EXPECT_EQ(refused.code, 4) << refused.said;
  EXPECT_EQ(refused.line, "") << "the host must not run without its policy";
  EXPECT_NE(refused.said.find(each.why), std::string::npos) << refused.said;
}

INSTANTIATE_TEST_SUITE_P(
    Each, ExtendCapability,
    ::testing::Values(
        Case{"ReadMember", "read_member", "read(r.number), return(1000..1255)",
             "read(r.priority), return(1000..1255)", "result 1007 total 5",
             "add \"read(r.number)\" to class \"class_read_member\""},
        Case{"PointerLoadedTwice", "pointer_twice", "read(r.module.weight), return(1000..1255)",
             "read(r.module), return(1000..1255)", "result 1017 total 5", "read(r.module.weight)"},
        Case{"WriteMember", "write_member", "write(r.priority)", "read(r.priority)", "result 16 total 5",
             "write(r.priority)"},
        Case{"ReadBuffer", "read_buffer", "read(r.uri), return(1000..1255)",
             "read(r.uri), return(1000..1255)", "result 1055 total 5", "EIM"},
        Case{"CallFunction", "call_function", "read(r.number), scale(factor in 10, 20), return(1000..1255)",
             "read(r.number), scale(factor in 10, 20), return(1000..1255)", "result 1070 total 5", "EIM005"},
        Case{"CallNotGranted", "kernel_names",
             "memcpy, read(r.module.weight), read(r.inner), return(1000..1255)",
             "read(r.module.weight), read(r.inner), return(1000..1255)", "result 1120 total 5",
             "add \"memcpy\" to class"},
        Case{"ReadState", "read_state", "readTotal, return(1000..1255)", "return(1000..1255)",
             "result 1005 total 5", "readTotal"},
        Case{"WriteState", "write_state", "setTotal", "readTotal", "result 10 total 77", "setTotal"},
        Case{"ReturnValue", "return_value", "return(403, 404)", "return(404)", "result 403 total 5", "EIM"},
        Case{"Instructions", "loop", "instructions < 20000", "instructions < 500", "result 10 total 5",
             "are granted"},
        Case{"Memory", "use_map", "memory < 1MiB", "memory < 16KiB", "result 10 total 5", "are granted"}),
    [](const auto& info) { return info.param.name; });

// A pointer of the host needs no test to be loaded through: what is null reads 0, is counted, and the host goes on.
TEST_F(Extend, LoadsThroughNullReadZeroAndAreCounted) {
  const Answer twice = ask(policy({{"pointer_twice", "read(r.module.weight), return(1000..1255)"}}), "7 13");
  EXPECT_EQ(twice.line, "result 1001 total 5") << twice.said;
  EXPECT_EQ(twice.said.find("faults in"), std::string::npos) << twice.said;
  Child extend =
      with_input({"extend", policy({{"pointer_untested", "read(r.module.weight), return(1000..1255)"}}), "--",
                  program("extend_host")});
  say("7 13");
  EXPECT_TRUE(extend.wait_for_output("result 1000")) << extend.output();
  EXPECT_TRUE(extend.wait_for_error("1 loads through bad pointers")) << extend.error();
  say("7 3");
  EXPECT_TRUE(extend.wait_for_output("result 1017")) << extend.output();
  close_input();
  EXPECT_EQ(extend.wait(), 0);
}

TEST_F(Extend, OneObjectServesTwoBuilds) {
  const std::vector<Rule> rules = {
      {"kernel_names", "memcpy, read(r.module.weight), read(r.inner), return(1000..1255)"}};
  const Answer first = ask(policy(rules), "7 3");
  EXPECT_EQ(first.line, "result 1120 total 5") << first.said;
  const Answer other = ask(policy(rules, "extend_host_other"), "7 3", "extend_host_other");
  EXPECT_EQ(other.line, "result 1120 total 5") << other.said;
}

TEST_F(Extend, TypesTheHostDoesNotHaveAreNamed) {
  const Answer refused = ask(policy({{"missing_type", "read(r)"}}), "7 3");
  EXPECT_EQ(refused.code, 4);
  EXPECT_NE(refused.said.find("type gone not found in host"), std::string::npos) << refused.said;
}

TEST_F(Extend, ExtensionsOfOneEntryRunInPolicyOrder) {
  const std::string both = "readTotal, setTotal";
  EXPECT_EQ(ask(policy({{"add_one", both}, {"twice", both}}), "7 3").line, "result 10 total 12");
  EXPECT_EQ(ask(policy({{"twice", both}, {"add_one", both}}), "7 3").line, "result 10 total 11");
}

TEST_F(Extend, MistakesInPoliciesHaveAPlace) {
  const Answer refused = ask(policy({{"read_member", "read(r.numbr)"}}), "7 3");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.said.find("policy.yaml:4:"), std::string::npos) << refused.said;
  EXPECT_NE(refused.said.find("did you mean \"number\"?"), std::string::npos) << refused.said;
  EXPECT_EQ(refused.line, "");
}

TEST_F(Extend, CommandsKeepTheirExitStatus) {
  const Finished ended = bpftime({"extend", policy({{"read_member", "read(r.number), return(1000..1255)"}}),
                                  "--", "/bin/sh", "-c", "exit 7"});
  EXPECT_EQ(ended.code, 7) << ended.error;
}

// Two processes of one binary: what is granted in one is not in the other.
TEST_F(Extend, OnlyTheCommandIsExtended) {
  Child other = with_input({program("extend_host")}, /*host_alone=*/true);
  const int others_input = std::exchange(input_, -1);
  ASSERT_TRUE(other.wait_for_output("ready"));
  ASSERT_EQ(bpftime({"attach", std::to_string(other.pid())}).code, 0);
  const std::string path = policy({{"return_value", "return(403)"}});
  Child extend = with_input({"extend", path, "--", program("extend_host")});
  say("7 3");
  EXPECT_TRUE(extend.wait_for_output("result 403")) << extend.error();
  EXPECT_EQ(active_probes(other.pid()), 0u);
  const int commands_input = std::exchange(input_, others_input);
  say("7 3");
  EXPECT_TRUE(other.wait_for_output("result 10")) << other.output();
  // One that comes later is none of the command's either.
  ASSERT_EQ(bpftime({"detach", std::to_string(other.pid())}).code, 0);
  ASSERT_EQ(bpftime({"attach", std::to_string(other.pid())}).code, 0);
  EXPECT_EQ(active_probes(other.pid()), 0u);
  close_input();
  input_ = commands_input;
}

TEST_F(Extend, WhatTheCommandStartsIsExtendedToo) {
  // By fork and execve, then by fork alone.
  Child extend = with_input({"extend", policy({{"return_value", "return(403)"}}), "--", "/bin/sh", "-c",
                             program("extend_host") + "; exit 5"});
  say("7 3");
  EXPECT_TRUE(extend.wait_for_output("result 403")) << extend.output() << extend.error();
  say("fork");
  ASSERT_TRUE(extend.wait_for_output("forked"));
  const size_t before = extend.output().size();
  say("8 3");
  close_input();
  EXPECT_EQ(extend.wait(2 * kPatience), 5) << extend.error();
  EXPECT_NE(extend.output().find("result 403", before), std::string::npos) << extend.output();
}

TEST_F(Extend, OnlyTheProcessAndItsChildrenAreExtended) {
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  const int hosts_input = std::exchange(input_, -1);
  Child other = with_input({program("extend_host")}, /*host_alone=*/true);
  const int others_input = std::exchange(input_, hosts_input);
  ASSERT_TRUE(host.wait_for_output("ready"));
  ASSERT_TRUE(other.wait_for_output("ready"));
  for (const pid_t pid : {host.pid(), other.pid()})
    ASSERT_EQ(bpftime({"attach", std::to_string(pid)}).code, 0);
  say("fork");  // a target already when the policy comes
  ASSERT_TRUE(host.wait_for_output("forked"));
  Child extend = bpftime_child(
      {"extend", policy({{"return_value", "return(403)"}}), "--pid", std::to_string(host.pid())});
  ASSERT_TRUE(extend.wait_for_output("running in")) << extend.output() << extend.error();
  say("7 3");
  EXPECT_TRUE(host.wait_for_output("result 403")) << host.output();
  const size_t before = host.output().size();
  say("fork");  // and one that is forked under it
  say("8 3");
  EXPECT_TRUE(eventually([&] {
    host.wait_for_output("result", seconds(0));
    return host.output().find("result 403", before) != std::string::npos;
  })) << host.output();
  EXPECT_EQ(active_probes(other.pid()), 0u);
  input_ = others_input;
  say("7 3");
  EXPECT_TRUE(other.wait_for_output("result 10")) << other.output();
  extend.signal(SIGINT);
  EXPECT_EQ(extend.wait(), 0) << extend.error();
  close_input();
  input_ = hosts_input;
}

TEST_F(Extend, InterruptedItRestoresTheHost) {
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  const auto before = text_differences(host.pid());
  Child extend = bpftime_child(
      {"extend", policy({{"return_value", "return(403)"}}), "--pid", std::to_string(host.pid())});
  ASSERT_TRUE(extend.wait_for_output("running in")) << extend.output() << extend.error();
  say("7 3");
  EXPECT_TRUE(host.wait_for_output("result 403")) << host.output();
  EXPECT_NE(text_differences(host.pid()), before);
  EXPECT_TRUE(extend.wait_for_output("return_value 1")) << "hits: " << extend.output();
  extend.signal(SIGINT);
  EXPECT_EQ(extend.wait(), 0) << extend.error();
  EXPECT_EQ(text_differences(host.pid()), before);
  say("8 3");
  EXPECT_TRUE(host.wait_for_output("result 11")) << host.output();
}

TEST_F(Extend, OtherHostsAndBuildsAreSkippedWithTheReason) {
  // The host starts, then its file is replaced by another build of it.
  const std::string place = directory() + "/host";
  std::filesystem::copy_file(program("extend_host_other"), place);
  Child host = with_input({place}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  std::filesystem::copy_file(program("extend_host"), place + ".new");
  std::filesystem::rename(place + ".new", place);
  const std::string policy_of_place =
      policy({{"return_value", "return(403)"}}, "extend_host", "host: " + place + "\n");
  Child extend = bpftime_child({"extend", policy_of_place, "--pid", std::to_string(host.pid())});
  ASSERT_TRUE(extend.wait_for_output("skipped in " + std::to_string(host.pid())))
      << extend.output() << extend.error();
  EXPECT_NE(extend.output().find("is for build"), std::string::npos) << extend.output();
  say("7 3");
  EXPECT_TRUE(host.wait_for_output("result 10"))
      << "no extension may run in another build: " << host.output();
  Child other({"/bin/sleep", "60"});
  Child second = bpftime_child({"extend", policy_of_place, "--pid", std::to_string(other.pid())});
  EXPECT_TRUE(second.wait_for_output("does not run the policy's host")) << second.output() << second.error();
}

TEST_F(Extend, InterruptedWithACommandItTakesTheExtensionsOutAndWaits) {
  Child extend = with_input(
      {"extend", "--watch", policy({{"return_value", "return(403)"}}), "--", program("extend_host")});
  ASSERT_TRUE(extend.wait_for_output("ready"));
  say("7 3");
  ASSERT_TRUE(extend.wait_for_output("result 403")) << extend.error();
  // A change of the policy is seen without being told.
  policy({{"read_member", "read(r.number), return(1000..1255)"}});
  ASSERT_TRUE(extend.wait_for_error("the new policy is in force")) << extend.error();
  say("8 3");
  ASSERT_TRUE(extend.wait_for_output("result 1008"));
  close_input();
  EXPECT_EQ(extend.wait(), 0);
  EXPECT_NE(extend.error().find("taken out"), std::string::npos) << extend.error();
}

TEST_F(Extend, ReloadIsAtomicAndABadPolicyChangesNothing) {
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  const std::string path = policy({{"return_value", "return(403)"}});
  Child extend = bpftime_child({"extend", path, "--pid", std::to_string(host.pid())});
  ASSERT_TRUE(extend.wait_for_output("running in")) << extend.output() << extend.error();
  policy({{"return_value", "return(404)"}});
  extend.signal(SIGHUP);
  ASSERT_TRUE(extend.wait_for_output("stays as it was")) << extend.output();
  say("7 3");
  ASSERT_TRUE(host.wait_for_output("result 403")) << host.output();
  policy({{"read_member", "read(r.number), return(1000..1255)"}});
  extend.signal(SIGHUP);
  ASSERT_TRUE(extend.wait_for_output("the new policy is in force")) << extend.output();
  say("8 3");
  EXPECT_TRUE(host.wait_for_output("result 1008")) << host.output();
  extend.signal(SIGTERM);
  EXPECT_EQ(extend.wait(), 0);
}

TEST_F(Extend, ClassesSurviveTheWorker) {
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  Child extend = bpftime_child(
      {"extend", policy({{"call_function", "read(r.number), scale(factor in 10), return(1000..1255)"}}),
       "--pid", std::to_string(host.pid())});
  ASSERT_TRUE(extend.wait_for_output("running in")) << extend.output() << extend.error();
  const pid_t old = worker_pid();
  ASSERT_EQ(::kill(old, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return worker_pid() != 0 && worker_pid() != old; }));
  // Detached and attached again: the new worker compiles from the record alone.
  ASSERT_EQ(bpftime({"detach", std::to_string(host.pid())}).code, 0);
  ASSERT_EQ(bpftime({"attach", std::to_string(host.pid())}).code, 0);
  EXPECT_EQ(active_probes(host.pid()), 1u);
  say("7 3");
  EXPECT_TRUE(host.wait_for_output("result 1070")) << host.output();
}

TEST_F(Extend, LibbpfLoadersRunUnderAPolicy) {
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  const std::string path =
      policy({{"call_function", "read(r.number), scale(factor in 10), return(1000..1255)"},
              {"read_state", "return(1000..1255)"}});
  const Arguments tail = {program("extend_host"), "ngx_http_process_request"};
  Child refused = bpftime_child({"load", "--policy", path, program("extend_loader"),
                                 program("extensions.bpf.o"), "read_state", tail[0], tail[1]});
  EXPECT_EQ(refused.wait(), 1);
  EXPECT_NE(refused.error().find("readTotal"), std::string::npos) << refused.error();
  Child loader = bpftime_child({"load", "--policy", path, program("extend_loader"),
                                program("extensions.bpf.o"), "call_function", tail[0], tail[1]});
  ASSERT_TRUE(loader.wait_for_output("attached")) << loader.error();
  ASSERT_EQ(bpftime({"attach", std::to_string(host.pid())}).code, 0);
  say("7 3");
  EXPECT_TRUE(host.wait_for_output("result 1070")) << host.output();
  // Without a policy there is no host to be seen.
  Child without = bpftime_child(
      {"load", program("extend_loader"), program("extensions.bpf.o"), "call_function", tail[0], tail[1]});
  EXPECT_EQ(without.wait(), 1);
}

TEST_F(Extend, MapsAreSharedOnlyByClassesThatSaySo) {
  const auto loader = [&](const std::string& first, const std::string& second) {
    const std::string path = policy({{"use_map", first}, {"use_map_too", second}});
    return bpftime_child({"load", "--policy", path, program("extend_loader"), program("extensions.bpf.o"),
                          "use_map,use_map_too", program("extend_host"), "ngx_http_process_request"});
  };
  for (const auto& [first, second] :
       {std::pair{"read(r)", "read(r)"}, {"shared(large)", "read(r)"}, {"read(r)", "shared(large)"}}) {
    Child refused = loader(first, second);
    EXPECT_EQ(refused.wait(), 1);
    EXPECT_NE(refused.error().find("add \"shared(large)\" to both classes"), std::string::npos)
        << refused.error();
  }
  Child shared = loader("shared(large)", "shared(large)");
  EXPECT_TRUE(shared.wait_for_output("attached")) << shared.error();
}

TEST_F(Extend, WatchedItShowsWhatExtensionsPrint) {
  Child extend = with_input(
      {"extend", "--watch", policy({{"print_number", "read(r.number)"}}), "--", program("extend_host")});
  ASSERT_TRUE(extend.wait_for_output("ready"));
  say("7 3");
  EXPECT_TRUE(extend.wait_for_error(": number 7")) << extend.error();
  const size_t at = extend.error().find("bpftime: printed: ");
  EXPECT_NE(at, std::string::npos) << extend.error();
  close_input();
  EXPECT_EQ(extend.wait(), 0);
}

// What another session's extensions print in another process is not this one's.
TEST_F(Extend, WatchingAProcessShowsOnlyWhatIsPrintedThere) {
  const std::string path = policy({{"print_number", "read(r.number)"}});
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  const int hosts_input = std::exchange(input_, -1);
  Child other = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  ASSERT_TRUE(other.wait_for_output("ready"));
  Child watch = bpftime_child({"extend", "--watch", path, "--pid", std::to_string(host.pid())});
  Child others = bpftime_child({"extend", "--watch", path, "--pid", std::to_string(other.pid())});
  ASSERT_TRUE(watch.wait_for_output("running in")) << watch.output() << watch.error();
  ASSERT_TRUE(others.wait_for_output("running in")) << others.output() << others.error();
  say("9 3");
  EXPECT_TRUE(others.wait_for_output(": number 9")) << others.output();
  close_input();
  input_ = hosts_input;
  say("7 3");
  EXPECT_TRUE(watch.wait_for_output(": number 7")) << watch.output();
  EXPECT_EQ(watch.output().find(": number 9"), std::string::npos) << watch.output();
  for (Child* each : {&watch, &others}) {
    each->signal(SIGINT);
    EXPECT_EQ(each->wait(), 0) << each->error();
  }
}

TEST_F(Extend, AFourthSessionOfAProcessIsRefusedUntilOneEnds) {
  const std::string path = policy({{"return_value", "return(403)"}});
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  const Arguments extend = {"extend", path, "--pid", std::to_string(host.pid())};
  std::vector<std::unique_ptr<Child>> sessions;
  const auto enter = [&] {
    sessions.push_back(std::make_unique<Child>(bpftime_child(extend)));
    EXPECT_TRUE(sessions.back()->wait_for_output("running in"))
        << sessions.back()->output() << sessions.back()->error();
  };
  for (int i = 0; i < 3; ++i) enter();
  const auto fourth = bpftime(extend);
  EXPECT_NE(fourth.code, 0);
  EXPECT_NE(fourth.error.find("in 3 sessions of `bpftime extend` already; try ending one"), std::string::npos)
      << fourth.error;
  say("7 3");
  EXPECT_TRUE(host.wait_for_output("result 403")) << "the three go on: " << host.output();
  sessions[1]->signal(SIGINT);
  EXPECT_EQ(sessions[1]->wait(), 0) << sessions[1]->error();
  enter();
  for (const auto& each : sessions) {
    if (!each->running()) continue;
    each->signal(SIGINT);
    EXPECT_EQ(each->wait(), 0) << each->error();
  }
  say("8 3");
  EXPECT_TRUE(host.wait_for_output("result 11")) << host.output();
}

TEST_F(Extend, AFourthCommandWithinThreeIsRefused) {
  const std::string path = policy({{"return_value", "return(403)"}});
  Arguments nested;
  for (int i = 0; i < 3; ++i) nested.insert(nested.end(), {"extend", path, "--", program("bpftime")});
  nested.insert(nested.end(), {"extend", path, "--", program("extend_host")});
  const auto run = bpftime(nested);
  EXPECT_NE(run.code, 0);
  EXPECT_NE(run.error.find("within 3 `bpftime extend` already"), std::string::npos) << run.error;
}

// Each copy of the map takes some 68 KiB; proved of one alone is a bound of twice that. What was loaded before the worker was killed counts as well.
TEST_F(Extend, MemoryOfAClassIsCountedAcrossTheWorkersEnd) {
  for (const auto& [allowed, fits] : {std::pair{"memory < 134KiB", false}, {"memory < 400KiB", true}}) {
    const std::string path = policy({{"use_map", allowed}});
    Child loader =
        with_input({"load", "--policy", path, program("extend_loader"), program("extensions.bpf.o"),
                    "use_map", program("extend_host"), "ngx_http_process_request", "use_map"});
    ASSERT_TRUE(loader.wait_for_output("attached")) << loader.error();
    const pid_t old = worker_pid();
    ASSERT_EQ(::kill(old, SIGKILL), 0);
    ASSERT_TRUE(eventually([&] { return worker_pid() != 0 && worker_pid() != old; }));
    say("");
    if (fits) {
      EXPECT_TRUE(loader.wait_for_output("more")) << loader.error();
    } else {
      EXPECT_EQ(loader.wait(), 1);
      EXPECT_NE(loader.error().find("raise \"memory <\""), std::string::npos) << loader.error();
    }
    close_input();
  }
}

TEST_F(Extend, ProgramsAreHeldToTheirEntry) {
  Child host = with_input({program("extend_host")}, /*host_alone=*/true);
  ASSERT_TRUE(host.wait_for_output("ready"));
  const std::string path = policy({{"return_value", "return(403)"}});
  Child loader =
      bpftime_child({"load", "--policy", path, program("extend_loader"), program("extensions.bpf.o"),
                     "return_value", program("extend_host"), "nginxTime"});
  ASSERT_TRUE(loader.wait_for_output("attached")) << loader.error();
  ASSERT_EQ(bpftime({"attach", std::to_string(host.pid())}).code, 0);
  EXPECT_EQ(active_probes(host.pid()), 0u);
  const auto list = bpftime_json({"list"});
  EXPECT_NE(list.dump().find("is for ngx_http_process_request, not for nginxTime"), std::string::npos)
      << list.dump();
}

// What a proof took on trust is said, and looked at when asked for: the host goes on, the extension does not.
TEST_F(Extend, BrokenPromisesEndTheExtensionWhenChecked) {
  const std::string path = policy({{"use_promise", "nginxTime, return(1000..1255)"}});
  Child checked = with_input({"extend", "--check-promises", path, "--", program("extend_host")});
  say("7 3");
  ASSERT_TRUE(checked.wait_for_output("result 1042")) << checked.error();
  EXPECT_TRUE(checked.wait_for_error("use_promise relies on the host: nginxTime: result is in"))
      << checked.error();
  EXPECT_EQ(checked.error().find("promise broken"), std::string::npos);
  say("time -5");
  say("7 3");
  EXPECT_TRUE(checked.wait_for_output("result 10 ")) << checked.output();
  EXPECT_TRUE(checked.wait_for_error("promise broken")) << checked.error();
  EXPECT_NE(checked.error().find("use_promise: 1 runs ended there"), std::string::npos) << checked.error();
  close_input();
  EXPECT_EQ(checked.wait(), 0);
  Child trusting = with_input({"extend", path, "--", program("extend_host")});
  say("time -5");
  say("7 3");
  EXPECT_TRUE(trusting.wait_for_output("result 1251")) << trusting.output();
  close_input();
  EXPECT_EQ(trusting.wait(), 0);
  EXPECT_EQ(trusting.error().find("promise broken"), std::string::npos) << trusting.error();
}

// ---- system calls ----

constexpr char kMayAnswer[] = "bpf_probe_read_user_str, return(-EACCES)";

TEST_F(Extend, SystemCallsAreEndedWhereAPolicySaysSo) {
  std::ofstream(directory() + "/secret") << "s";
  std::ofstream(directory() + "/public") << "p";
  // Another process of the same host, entered as well: the policy is not for it.
  Child other = with_input({program("extend_host")}, /*host_alone=*/true);
  const int others_input = std::exchange(input_, -1);
  ASSERT_TRUE(other.wait_for_output("ready"));
  ASSERT_EQ(bpftime({"attach", std::to_string(other.pid())}).code, 0);
  Child extend = with_input({"extend", guard_policy(kMayAnswer, "manifest: " + program("extend_host")), "--",
                             program("extend_host")});
  say("open secret");
  say("open public");
  say("open missing");
  ASSERT_TRUE(extend.wait_for_output("open missing: 2")) << extend.output() << extend.error();
  EXPECT_NE(extend.output().find("open secret: 13\nopen public: 0\n"), std::string::npos) << extend.output();
  EXPECT_TRUE(extend.wait_for_error("at syscalls:sys_enter_openat: no_secret")) << extend.error();
  EXPECT_TRUE(extend.wait_for_error("hits: no_secret")) << extend.error();
  const int commands_input = std::exchange(input_, others_input);
  say("open secret");
  EXPECT_TRUE(other.wait_for_output("open secret: 0")) << other.output();
  // One that runs already, until the policy is taken out.
  Child entered = bpftime_child({"extend", guard_policy(kMayAnswer, "manifest: " + program("extend_host")),
                                 "--pid", std::to_string(other.pid())});
  ASSERT_TRUE(entered.wait_for_output("running in")) << entered.output() << entered.error();
  say("open secret");
  EXPECT_TRUE(other.wait_for_output("open secret: 13")) << other.output();
  entered.signal(SIGINT);
  EXPECT_EQ(entered.wait(), 0) << entered.error();
  say("open secret");
  say("open public");
  ASSERT_TRUE(other.wait_for_output("open public: 0")) << other.output();
  EXPECT_NE(other.output().find("open secret: 0\nopen public: 0"), std::string::npos) << other.output();
  close_input();
  input_ = commands_input;
  close_input();
  EXPECT_EQ(extend.wait(), 0);
}

TEST_F(Extend, NobodyEndsSystemCallsWithoutAGrant) {
  std::ofstream(directory() + "/secret") << "s";
  const std::string host = "manifest: " + program("extend_host");
  struct {
    std::string allowed, why;
  } const cases[] = {
      {"bpf_probe_read_user_str", "add \"return(VALUE)\" to class \"guard\""},
      {"bpf_probe_read_user_str, return(-EPERM)", "EIM005"},
      {"bpf_probe_read_user_str, return(-12..0)", "EIM005"},
      {"return(-EACCES)", "add \"bpf_probe_read_user_str\" to class \"guard\""},
  };
  for (const auto& each : cases) {
    const Finished refused =
        bpftime({"extend", guard_policy(each.allowed, host), "--", program("extend_host")});
    EXPECT_EQ(refused.code, 4) << each.allowed << refused.error;
    EXPECT_NE(refused.error.find(each.why), std::string::npos) << refused.error;
  }
  // Without a policy, and at a function's class.
  Child loader = bpftime_child({"load", program("extend_loader"), program("guard.bpf.o"), "no_secret",
                                program("extend_host"), "nginxTime"});
  EXPECT_EQ(loader.wait(), 1);
  EXPECT_NE(loader.error().find("bpf_override_return"), std::string::npos) << loader.error();
  Child other =
      bpftime_child({"load", "--policy", policy({{"return_value", "return(-13)"}}), program("extend_loader"),
                     program("guard.bpf.o"), "no_secret", program("extend_host"), "nginxTime"});
  EXPECT_EQ(other.wait(), 1);
  EXPECT_NE(other.error().find("bpf_override_return"), std::string::npos) << other.error();
}

TEST_F(Extend, ProgramsWithoutAManifestAreGuardedToo) {
  std::ofstream(directory() + "/secret") << "hidden\n";
  std::ofstream(directory() + "/public") << "shown\n";
  const std::string path = guard_policy(kMayAnswer, "host: /bin/cat");
  const Finished denied = bpftime({"extend", path, "--", "/bin/cat", "public", "secret"});
  EXPECT_EQ(denied.code, 1) << denied.error;
  EXPECT_EQ(denied.output, "shown\n");
  EXPECT_NE(denied.error.find("Permission denied"), std::string::npos) << denied.error;
  // It is for cat alone, even in the processes of its command.
  const Finished head = bpftime({"extend", path, "--", "/usr/bin/head", "secret"});
  EXPECT_EQ(head.output, "hidden\n") << head.error;
}

TEST_F(Extend, MistakesAboutSystemCallsHaveAPlace) {
  struct {
    std::string allowed, entry, host, why;
  } const cases[] = {
      {"return(-13)", "syscalls:sys_enter_opnat", "host: /bin/cat",
       "guard.yaml:4:36: there is no system call event"},
      {"return(-13)", "syscalls:sys_enter_opnat", "host: /bin/cat",
       "did you mean \"syscalls:sys_enter_openat\"?"},
      {"return(-13)", "syscalls:sys_exit_openat", "host: /bin/cat", "can be ended where it begins"},
      {"return()", "syscalls:sys_enter_openat", "host: /bin/cat", "write return(values)"},
      {"return(-EACESS)", "syscalls:sys_enter_openat", "host: /bin/cat", "expected a number"},
      {"read(filename)", "syscalls:sys_enter_openat", "host: /bin/cat", "bpf_probe_read_user"},
      {"readTotal", "syscalls:sys_enter_openat", "manifest: " + program("extend_host"), "is the host's"},
      {"return(-13)", "processBegin", "host: /bin/cat", "\"manifest\" is missing"},
  };
  for (const auto& each : cases) {
    const Finished refused =
        bpftime({"eim", "check", "--policy", guard_policy(each.allowed, each.host, each.entry)});
    EXPECT_NE(refused.code, 0) << each.why;
    EXPECT_NE(refused.error.find(each.why), std::string::npos) << refused.error;
  }
  const Finished explained =
      bpftime({"eim", "explain", "guard", "--policy", guard_policy(kMayAnswer, "host: /bin/cat")});
  EXPECT_EQ(explained.code, 0) << explained.error;
  EXPECT_NE(explained.output.find("with the result -13"), std::string::npos) << explained.output;
}

// ---- machines whose kernel does not show its types ----

void hide_kernel_types() {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", "/sys/kernel/btf", "tmpfs", 0, nullptr) != 0)
    ::_exit(99);
}

TEST_F(Extend, WithoutTheKernelsTypesExtensionsLoadAllTheSame) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may hide /sys/kernel/btf in a mount namespace";
  if (!std::filesystem::exists("/sys/kernel/btf")) GTEST_SKIP() << "there is no /sys/kernel/btf to hide";
  // Types, a function and a variable of the host, whatever the kernel calls the same.
  const std::string path =
      policy({{"kernel_names", "memcpy, read(r.module.weight), read(r.inner), return(1000..1255)"}});
  Child extend = with_input({"extend", path, "--", program("extend_host")}, false, hide_kernel_types);
  say("7 3");
  EXPECT_TRUE(extend.wait_for_output("result 1120 total 5")) << extend.output() << extend.error();
  close_input();
  EXPECT_EQ(extend.wait(), 0);
  Child::Options hidden = options();
  hidden.before_exec = hide_kernel_types;
  Child check = bpftime_child({"eim", "check", program("extensions.bpf.o"), "--policy", path}, hidden);
  EXPECT_EQ(check.wait(), 0) << check.output() << check.error();
  Child loader =
      bpftime_child({"load", "--policy", path, program("extend_loader"), program("extensions.bpf.o"),
                     "kernel_names", program("extend_host"), "ngx_http_process_request"},
                    hidden);
  EXPECT_TRUE(loader.wait_for_output("attached")) << loader.error();
  // What the host has not is still named.
  Child missing =
      bpftime_child({"extend", policy({{"missing_type", "read(r)"}}), "--", program("extend_host")}, hidden);
  EXPECT_EQ(missing.wait(), 4);
  EXPECT_NE(missing.error().find("type gone not found in host"), std::string::npos) << missing.error();
}

TEST_F(Extend, EverythingIsInTheAuditLog) {
  (void)ask(policy({{"read_member", "read(r.priority), return(1000..1255)"}}), "7 3");
  (void)ask(policy({{"read_member", "read(r.number), return(1000..1255)"}}), "7 3");
  const auto status = bpftime_json({"daemon", "status"});
  const std::string path = status["runtime_directory"].get<std::string>() + "/audit.jsonl";
  std::ifstream file(path);
  std::map<std::string, int> events;
  for (std::string line; std::getline(file, line);) {
    const auto event = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(event.is_object()) << line;
    ++events[event.value("event", "")];
  }
  EXPECT_EQ(events["grant"], 2);
  EXPECT_GE(events["refusal"], 1);
  EXPECT_EQ(events["load"], 1);
}

}  // namespace
}  // namespace bpftime::e2e

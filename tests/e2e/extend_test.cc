// Extensions of a host under policies: what each capability allows and refuses, what happens to the host meanwhile.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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
  Child with_input(Arguments arguments, bool host_alone = false) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    input_ = ends[1];
    Child::Options with = options();
    const int theirs = ends[0];
    with.before_exec = [theirs] { ::dup2(theirs, STDIN_FILENO); };
    Child child = host_alone ? Child(arguments, with) : bpftime_child(arguments, with);
    ::close(theirs);
    return child;
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
    const int code = child.wait(seconds(60)).value_or(-1);
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

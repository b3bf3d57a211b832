// Tools that nothing can be preloaded into, under `bpftime load`: statically linked, of another C library, in Go. What such
// tools see of maps, events and links is tested where that is tested for others (events_test, loaders_test, parity_test); here
// is what is particular to them, and what becomes of the supervisor.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "conversation.h"

namespace bpftime::e2e {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class Supervised : public VictimTest {
 protected:
  void SetUp() override {
    VictimTest::SetUp();
    supervise(true);
  }
  // Processes that answer for tools of this test.
  std::vector<pid_t> supervisors() const {
    std::vector<pid_t> out;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string path = entry.path().string();
      if (contents(path + "/comm") != "bpftime-answers\n") continue;
      if (contents(path + "/environ").find(directory()) != std::string::npos)
        out.push_back(std::stoi(entry.path().filename().string()));
    }
    return out;
  }
  Conversation static_link_tool() {
    Conversation out({program("bpftime"), "load", program("link_tool_alone"), victim_path, "victim_call"},
                     options());
    EXPECT_TRUE(out.ready());
    return out;
  }
  // A program that reads its own notes of a function of talker.
  std::string talk_offset() {
    const std::string symbols = run({"nm", program("talker")}).output;
    const size_t at = symbols.find(" T talk\n");
    return at == std::string::npos ? "" : "0x" + symbols.substr(at - 16, 16);
  }
  Child talker(int threads, int calls, Child::Options how = {}) {
    Child child =
        bpftime_child({"start", program("talker"), std::to_string(threads), std::to_string(calls)}, how);
    EXPECT_TRUE(child.wait_for_output("waiting\n")) << child.error();
    return child;
  }
  static void round(Child& talker, int number) {
    talker.signal(SIGUSR1);
    ASSERT_TRUE(talker.wait_for_output("round " + std::to_string(number) + " done\n")) << talker.error();
  }
};

// ---- C libraries ----

class RawLoader : public Supervised, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Libraries, RawLoader, ::testing::Values("raw_loader_musl", "raw_loader_musl_static"),
                         [](const auto& info) { return std::string(info.param); });

// Without libbpf: bpf(2), perf_event_open(2), ioctls, mappings of a ring and poll(2) on it.
TEST_P(RawLoader, CountsAndIsTold) {
  if (::access(program(GetParam()).c_str(), X_OK) != 0) GTEST_SKIP() << "no musl-gcc";
  supervise(false);  // is found out
  Child tool = load_tool({program(GetParam()), program("talker"), talk_offset()});
  Child target = talker(2, 40);
  round(target, 1);
  round(target, 2);
  // The last record may lie there still: what ends the tool's wait is the signal.
  EXPECT_TRUE(eventually([&] { return supervisors().size() == 1; }));
  const auto seen = finish_tool(tool);
  EXPECT_EQ(seen["calls"], 160);
  EXPECT_EQ(seen["records"], 160);
  EXPECT_TRUE(eventually([&] { return supervisors().empty() && no_objects(); }));
}

// ---- Go ----

class GoTool : public Supervised, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    Supervised::SetUp();
    supervise(false);
    if (::access(program(GetParam()).c_str(), X_OK) != 0)
      GTEST_SKIP() << GetParam() << " is not built: no Go with cilium/ebpf";
  }
};
INSTANTIATE_TEST_SUITE_P(Links, GoTool, ::testing::Values("uprobe_stat_go", "uprobe_stat_go_dynamic"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(GoTool, CountsAsTheLibbpfTool) {
  Child tool = load_tool({program(GetParam()), "count", program("talker"), "talk"});
  Child other = load_tool({program("uprobe_stat"), "count", program("talker"), "talk"});
  Child target = talker(4, 250);
  round(target, 1);
  const auto seen = finish_tool(tool), expected = finish_tool(other);
  for (const char* key : {"calls", "per_cpu", "by_tgid"}) EXPECT_EQ(seen[key], expected[key]) << key;
  EXPECT_EQ(seen["calls"], 1000);
  EXPECT_EQ(seen["hammered_wrong"], 0) << "eight threads at one map";
}

TEST_P(GoTool, TimesReturns) {
  Child tool = load_tool({program(GetParam()), "latency", program("talker"), "talk"});
  Child target = talker(2, 100);
  round(target, 1);
  EXPECT_EQ(finish_tool(tool)["timed"], 200);
}

TEST_P(GoTool, PinsAMapForTheNextProcess) {
  const Finished made = bpftime(load({program(GetParam()), "pin", "/sys/fs/bpf/from_go"}));
  ASSERT_EQ(made.code, 0) << made.error;
  EXPECT_NE(::access("/sys/fs/bpf/from_go", F_OK), 0) << "the machine's own is left alone";
  const Finished found = bpftime(load({program(GetParam()), "unpin", "/sys/fs/bpf/from_go"}));
  EXPECT_EQ(found.output, "77\n") << found.error;
  EXPECT_NE(bpftime(load({program(GetParam()), "unpin", "/sys/fs/bpf/from_go"})).code, 0);
  EXPECT_TRUE(eventually([&] { return no_objects(); }));
}

// ---- lives and deaths ----

TEST_F(Supervised, TheToolIsTheProcessThatWasStarted) {
  const Finished status = bpftime(load({"/bin/sh", "-c", "echo $$ $PPID; exit 7"}));
  EXPECT_EQ(status.code, 7);
  EXPECT_NE(status.output.find(" " + std::to_string(::getpid()) + "\n"), std::string::npos) << status.output;
  EXPECT_EQ(bpftime(load({"/bin/sh", "-c", "kill -KILL $$"})).code, 128 + SIGKILL);
  EXPECT_EQ(bpftime(load({"/bin/sh", "-c", "wait; ps -o comm= --ppid $$ | grep -c answers"})).output, "0\n")
      << "a child that it has not made";
  EXPECT_TRUE(eventually([&] { return supervisors().empty(); }));
}

TEST_F(Supervised, KilledToolLeavesNothing) {
  Conversation target = victim();
  attach(target);
  Conversation tool = static_link_tool();
  ASSERT_EQ(tool.ask("attach 7 -1 entry"), "index 0\n");
  EXPECT_EQ(active_probes(target.pid()), 1u);
  EXPECT_EQ(supervisors().size(), 1u);
  tool.child().signal(SIGKILL);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's death"));
  EXPECT_TRUE(eventually([&] { return no_objects() && supervisors().empty(); }));
}

TEST_F(Supervised, ChildrenKeepTheSupervisor) {
  Conversation target = victim();
  attach(target);
  Conversation tool = static_link_tool();
  ASSERT_EQ(tool.ask("attach 7 -1 entry"), "index 0\n");
  const pid_t heir = tool.number("fork", "child");
  ASSERT_GT(heir, 0);
  tool.child().signal(SIGKILL);
  tool.child().wait();
  EXPECT_EQ(daemon_status()["links"], 1);
  EXPECT_EQ(supervisors().size(), 1u);
  ::kill(heir, SIGKILL);
  EXPECT_TRUE(becomes_restored(target.pid(), "the heir's death"));
  EXPECT_TRUE(eventually([&] { return no_objects() && supervisors().empty(); }));
}

// Calls fail as on a kernel without eBPF; what is there goes on, and goes with the tool.
TEST_F(Supervised, ToolSurvivesItsSupervisor) {
  Conversation target = victim();
  attach(target);
  Conversation tool = static_link_tool();
  ASSERT_EQ(tool.ask("attach 7 -1 entry"), "index 0\n");
  const auto answering = supervisors();
  ASSERT_EQ(answering.size(), 1u);
  ::kill(answering[0], SIGKILL);
  ASSERT_TRUE(eventually([&] { return gone(answering[0]); }));
  EXPECT_EQ(tool.ask("attach 8 -1 entry"), "failed Function not implemented\n");
  target.ask("call 1");
  EXPECT_EQ(active_probes(target.pid()), 1u);
  tool.child().signal(SIGTERM);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
  EXPECT_TRUE(eventually([&] { return no_objects(); }));
}

TEST_F(Supervised, ScriptStartsSeveralTools) {
  Child target = talker(1, 30);
  const std::string tool = program("uprobe_stat_alone") + " count " + program("talker") + " talk";
  Child script = bpftime_child(load(
      {"/bin/sh", "-c",
       "trap 'kill -TERM $one $two; wait' TERM; " + tool + " & one=$!; " + tool + " & two=$!; wait; wait"}));
  ASSERT_TRUE(eventually([&] {
    const std::string& said = script.output();
    return said.find("ready\n", said.find("ready\n") + 1) != std::string::npos &&
           said.find("ready\n") != said.npos;
  })) << script.error();
  round(target, 1);
  script.signal(SIGTERM);
  EXPECT_TRUE(eventually([&] {
    const std::string& said = script.output();
    const size_t first = said.find("\"calls\": 30");
    return first != std::string::npos && said.find("\"calls\": 30", first + 1) != std::string::npos;
  })) << script.output()
      << script.error();
}

// ---- rights ----

TEST_F(Supervised, NobodyNeedsARight) {
  std::string reason;
  const Child::Options nobody = options_of_nobody(&reason);
  if (!nobody.before_exec) GTEST_SKIP() << reason;
  Child tool({program("bpftime"), "load", "--pretend-root", program("uprobe_stat_alone"), "count",
              program("talker"), "talk"},
             nobody);
  ASSERT_TRUE(tool.wait_for_output("ready\n")) << tool.error();
  Child target({program("bpftime"), "start", program("talker"), "1", "25"}, nobody);
  ASSERT_TRUE(target.wait_for_output("waiting\n")) << target.error();
  round(target, 1);
  EXPECT_EQ(finish_tool(tool)["calls"], 25);
  EXPECT_EQ(run({program("bpftime"), "load", "--supervise", "id", "-u"}, nobody).output, "65534\n");
  EXPECT_EQ(run({program("bpftime"), "load", "--supervise", "--pretend-root", "id", "-u"}, nobody).output,
            "0\n");
  EXPECT_NE(
      run({program("bpftime"), "load", "--supervise", "--pretend-root", "cat", "/etc/shadow"}, nobody).code,
      0);
}

TEST_F(Supervised, NothingGainsPrivileges) {
  EXPECT_NE(bpftime(load({"/bin/grep", "NoNewPrivs", "/proc/self/status"})).output.find("1"),
            std::string::npos);
  const std::string copy = directory() + "/setuid";
  std::filesystem::copy_file(program("uprobe_stat_alone"), copy);
  ASSERT_EQ(::chmod(copy.c_str(), 04755), 0);
  supervise(false);
  const Finished refused = bpftime(load({copy, "count", program("talker"), "talk"}));
  EXPECT_EQ(refused.code, 4);
  EXPECT_NE(refused.error.find("setuid program"), std::string::npos) << refused.error;
}

// ---- other filters ----

// A container's filter is asked as well, and the strictest answer counts.
TEST_F(Supervised, SaysThatAnotherFilterDecides) {
  std::string reason;
  if (::geteuid() == 0 && !options_of_nobody(&reason).before_exec) GTEST_SKIP() << reason;
  Child::Options how = ::geteuid() == 0 ? options_of_nobody(&reason) : options();
  const Finished refused = run({program("deny_bpf"), program("bpftime"), "load", program("uprobe_stat_alone"),
                                "count", program("talker"), "talk"},
                               how);
  EXPECT_NE(refused.code, 0);
  EXPECT_NE(refused.error.find("a filter of this process"), std::string::npos) << refused.error;
  EXPECT_EQ(refused.output, "");
}

TEST_F(Supervised, TheToolsOwnFilterCounts) {
  const Finished denied = bpftime(load({program("deny_bpf"), program("hostile_calls"), "/bin/true"}));
  EXPECT_NE(denied.output.find(": EPERM\n"), std::string::npos) << denied.output << denied.error;
}

TEST_F(Supervised, LoadUnderLoad) {
  Child tool = load_tool(
      {program("bpftime"), "load", program("uprobe_stat_alone"), "count", program("talker"), "talk"});
  EXPECT_EQ(supervisors().size(), 1u) << "one answers for all";
  Child target = talker(1, 20);
  round(target, 1);
  EXPECT_EQ(finish_tool(tool)["calls"], 20);
}

// ---- what is said ----

TEST_F(Supervised, VerboseLoadSaysWhichCallFailed) {
  Arguments loud = load({program("hostile_calls"), "/bin/true"});
  loud.insert(loud.begin() + 1, "-v");
  const Finished said = bpftime(loud);
  EXPECT_NE(said.error.find("a supervisor that answers its system calls"), std::string::npos) << said.error;
  EXPECT_NE(said.error.find("bpf(MAP_CREATE): EINVAL: create map"), std::string::npos) << said.error;
  EXPECT_NE(said.error.find("perf_event_open(type "), std::string::npos) << said.error;
  EXPECT_EQ(bpftime(load({program("hostile_calls"), "/bin/true"})).error, "");
}

// The same questions, answered from outside and within. parity_test compares the latter with the kernel.
class SameAnswers : public Supervised, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Probes, SameAnswers,
                         ::testing::Values("hostile_calls", "bpf_probe", "map_probe", "call_sweep"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SameAnswers, FromOutsideAndWithin) {
  Arguments tool = {program(GetParam())};
  if (tool[0] == program("hostile_calls")) tool.push_back(program("hostile_calls"));
  if (tool[0] == program("bpf_probe")) tool.insert(tool.end(), {program("talker"), talk_offset()});
  const Finished supervised = bpftime(load(tool));
  supervise(false);
  const Finished preloaded = bpftime(load(tool));
  ASSERT_EQ(supervised.code, 0) << supervised.error;
  ASSERT_EQ(preloaded.code, 0) << preloaded.error;
  // Sets are woken once too often, and with what an eventfd has to say (loader/supervised_epoll.h).
  const std::set<std::string> differ = {"epoll wait with ringbuf 1 0", "user ring: epoll tells = 5",
                                        "user ring: epoll wait for input 1 0"};
  std::istringstream ours(supervised.output), others(preloaded.output);
  size_t count = 0;
  for (std::string our, other; std::getline(others, other); ++count) {
    ASSERT_TRUE(std::getline(ours, our)) << "after " << other;
    if (!differ.contains(our)) {
      EXPECT_EQ(our, other);
    }
  }
  EXPECT_GT(count, 100u);
  std::string more;
  EXPECT_FALSE(std::getline(ours, more)) << more;
  EXPECT_EQ(bpftime_json({"map", "show"}).size(), 0u);
  EXPECT_EQ(bpftime_json({"prog", "show"}).size(), 0u);
}

}  // namespace
}  // namespace bpftime::e2e

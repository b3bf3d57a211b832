// Calls of a return-probed function that have not returned yet, while everything around them changes: the probe goes, the daemon
// dies, the process forks, another probe comes to the same place. The host comes back to where it called from, always; the
// program reads what the result (42) points to as if it were a pointer, so that it must be repaired, or not run at all.
#include <signal.h>

#include <fstream>

#include "conversation.h"

namespace bpftime::e2e {
namespace {

// Which return slots the calls go through: the agent's (the first return probe is there before main, when nothing can be loaded)
// or some near the text, if the process is found at a safe point soon enough.
enum class Slots { kAgents, kNear };

class InFlight : public VictimTest, public ::testing::WithParamInterface<Slots> {
 protected:
  // A tool with one return probe on the function the victim stands in. Attached to whatever comes.
  Conversation return_tool() {
    Arguments all = load({program("link_tool"), victim_path, "victim_through"});
    all.insert(all.begin(), program("bpftime"));
    Conversation out(all, options());
    EXPECT_TRUE(out.ready());
    EXPECT_EQ(out.ask("attach 1 -1 return"), "index 0\n");
    return out;
  }
  // A victim that is probed by now, since `return_tool` was there before.
  Conversation probed_victim() {
    Conversation out = GetParam() == Slots::kAgents ? victim_started() : victim();
    if (GetParam() == Slots::kNear) attach(out);
    EXPECT_EQ(active_probes(out.pid()), 1u);
    EXPECT_EQ(out.ask("through 3"), "");
    std::ifstream maps("/proc/" + pid_of(out) + "/maps");
    const std::string all(std::istreambuf_iterator<char>(maps), {});
    const bool near = all.find("libbpftime-near.so") != std::string::npos;
    if (near != (GetParam() == Slots::kNear))
      std::cerr << "the process has " << (near ? "" : "no ") << "slots near its text\n";
    return out;
  }
  // How many calls of `pid` the tool has seen since it was asked last.
  static long seen(Conversation& tool, pid_t pid) {
    const std::string log = tool.ask("dump"), wanted = " 1:" + std::to_string(pid) + "r";
    long out = 0;
    for (size_t at = log.find(wanted); at != std::string::npos; at = log.find(wanted, at + 1)) ++out;
    return out;
  }
  static void expect_alive(Conversation& target) {
    EXPECT_EQ(target.ask("through 3"), "");
    EXPECT_EQ(target.ask("call 10"), "wrong 0\n");
    EXPECT_TRUE(target.child().running());
  }
  std::string pid_of(const Conversation& target) { return std::to_string(target.pid()); }
};

INSTANTIATE_TEST_SUITE_P(Slots, InFlight, ::testing::Values(Slots::kAgents, Slots::kNear),
                         [](const auto& info) { return info.param == Slots::kAgents ? "agents" : "near"; });

// The positive twin of all others: nothing changes meanwhile, and every return is seen, more at once than there are slots.
TEST_P(InFlight, AllReturn) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  EXPECT_EQ(seen(tool, target.pid()), 3);
  for (const int depth : {1, 5, 300}) {
    SCOPED_TRACE(depth);
    EXPECT_EQ(target.ask("inside " + std::to_string(depth)), "");
    EXPECT_EQ(target.ask("through 2"), "");
    EXPECT_EQ(seen(tool, target.pid()), 2);
    ASSERT_EQ(target.ask("leave"), "left\n");
    EXPECT_EQ(seen(tool, target.pid()), depth);
  }
  expect_alive(target);
}

TEST_P(InFlight, ProcessIsDetached) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  for (const int depth : {3, 200}) {
    SCOPED_TRACE(depth);
    EXPECT_EQ(target.ask("inside " + std::to_string(depth)), "");
    seen(tool, target.pid());
    EXPECT_EQ(bpftime({"detach", pid_of(target)}).code, 0);
    EXPECT_TRUE(restored(target.pid()));
    EXPECT_EQ(target.ask("handler"), "handler default flags 0\n");
    ASSERT_EQ(target.ask("leave"), "left\n");
    EXPECT_EQ(seen(tool, target.pid()), 0);
    expect_alive(target);
    attach(target);
    EXPECT_EQ(target.ask("through 5"), "");
    EXPECT_EQ(seen(tool, target.pid()), 5);
  }
}

// The outer calls began before the process was detached, the inner after it was attached again.
TEST_P(InFlight, ProcessIsDetachedAndAttachedAgain) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  EXPECT_EQ(target.ask("inside 3"), "");
  EXPECT_EQ(bpftime({"detach", pid_of(target)}).code, 0);
  EXPECT_EQ(target.ask("inside 2"), "");
  attach(target);
  EXPECT_EQ(target.ask("inside 4"), "");
  seen(tool, target.pid());
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 4);
  ASSERT_EQ(target.ask("leave"), "left\n");
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 0);
  expect_alive(target);
}

// It lets go of its link, and what the process keeps for the next probe goes, too.
TEST_P(InFlight, ToolEnds) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  EXPECT_EQ(target.ask("inside 3"), "");
  tool.child().signal(SIGKILL);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
  EXPECT_TRUE(eventually([&] { return target.ask("handler") == "handler default flags 0\n"; }));
  ASSERT_EQ(target.ask("leave"), "left\n");
  expect_alive(target);
}

TEST_P(InFlight, DaemonIsStopped) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  EXPECT_EQ(target.ask("inside 3"), "");
  EXPECT_EQ(bpftime({"daemon", "stop"}).code, 0);
  EXPECT_TRUE(restored(target.pid()));
  EXPECT_EQ(target.ask("handler"), "handler default flags 0\n");
  ASSERT_EQ(target.ask("leave"), "left\n");
  expect_alive(target);
}

TEST_P(InFlight, WorkerIsKilled) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  EXPECT_EQ(target.ask("inside 3"), "");
  EXPECT_EQ(target.ask("inside 2"), "");
  const pid_t worker = worker_pid();
  ASSERT_EQ(::kill(worker, SIGKILL), 0);
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_TRUE(eventually([&] { return worker_pid() > 0 && worker_pid() != worker; }));
  EXPECT_EQ(active_probes(target.pid()), 1u);
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 3 + 3 + 2);
  expect_alive(target);
}

// Some return while there is no daemon, some when the next has taken out what nobody owns, some when there is another probe.
TEST_P(InFlight, DaemonIsKilled) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  for (const int depth : {2, 3, 4}) EXPECT_EQ(target.ask("inside " + std::to_string(depth)), "");
  const pid_t keeper = keeper_pid(), worker = worker_pid();
  ASSERT_EQ(::kill(keeper, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return gone(keeper) && gone(worker); }));
  tool.child().signal(SIGKILL);
  EXPECT_FALSE(restored(target.pid()));
  ASSERT_EQ(target.ask("leave"), "left\n");
  bpftime_json({"daemon", "start"});
  EXPECT_TRUE(becomes_restored(target.pid(), "the new daemon's start"));
  EXPECT_TRUE(eventually([&] { return target.ask("handler") == "handler default flags 0\n"; }));
  ASSERT_EQ(target.ask("leave"), "left\n");
  Conversation other = return_tool();
  EXPECT_EQ(active_probes(target.pid()), 1u);
  EXPECT_EQ(target.ask("inside 5"), "");
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(other, target.pid()), 5);
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(other, target.pid()), 0);
  expect_alive(target);
}

TEST_P(InFlight, ProcessForks) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  seen(tool, target.pid());
  EXPECT_EQ(target.ask("inside 200"), "");
  const std::string said = target.ask("fork_leave");
  const pid_t child = std::atoi(said.c_str() + said.find(' '));
  EXPECT_EQ(said, "child " + std::to_string(child) + " ended 0\n");
  EXPECT_EQ(seen(tool, child), 200);
  // The next child returns where nothing is probed any more.
  EXPECT_EQ(bpftime({"detach", pid_of(target)}).code, 0);
  EXPECT_NE(target.ask("fork_leave").find(" ended 0\n"), std::string::npos);
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 0);
  expect_alive(target);
}

// The child shares its parent's memory, frames and all, and never returns from what it calls.
TEST_P(InFlight, VforkedChildrenBecomeOtherPrograms) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  seen(tool, target.pid());
  for (const int depth : {1, 3}) {
    SCOPED_TRACE(depth);
    EXPECT_EQ(target.ask("inside " + std::to_string(depth)), "");
    for (const char* way : {"vfork", "vfork_through", "vfork_through", "vfork"})
      EXPECT_NE(target.ask(way).find(" ended 0\n"), std::string::npos);
    EXPECT_EQ(target.ask("through 2"), "");
    ASSERT_EQ(target.ask("leave"), "left\n");
    EXPECT_EQ(seen(tool, target.pid()), depth + 2);
  }
  // Frames that such children have taken with them come back.
  for (int i = 0; i < 100; ++i) target.ask("vfork_through");
  EXPECT_EQ(target.ask("inside 150"), "");
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 150);
  expect_alive(target);
}

// Calls see the programs that were there when they began, whatever their place looks like when they return.
TEST_P(InFlight, AnotherProbeComesToTheSamePlace) {
  Conversation tool = return_tool();
  Conversation target = probed_victim();
  EXPECT_EQ(target.ask("inside 2"), "");
  Conversation other = return_tool();
  Child entries = stat_tool("count", "victim_through");
  EXPECT_EQ(target.ask("inside 3"), "");
  seen(tool, target.pid());
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 3);
  EXPECT_EQ(seen(other, target.pid()), 3);
  EXPECT_EQ(finish_tool(entries)["calls"], 3);
  EXPECT_EQ(target.ask("inside 4"), "");
  other.child().signal(SIGKILL);
  EXPECT_TRUE(other.child().wait());
  EXPECT_EQ(target.ask("through 1"), "");
  ASSERT_EQ(target.ask("leave"), "left\n");
  ASSERT_EQ(target.ask("leave"), "left\n");
  EXPECT_EQ(seen(tool, target.pid()), 1 + 4 + 2);
  expect_alive(target);
}

}  // namespace
}  // namespace bpftime::e2e

// How long probes live: as long as somebody holds them, as in the kernel, and no longer.
#include <signal.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

#include "conversation.h"

namespace bpftime::e2e {
namespace {

using Lifetime = VictimTest;

TEST_F(Lifetime, ProbeEndsWithItsLinksLastDescriptor) {
  Conversation target = victim();
  attach(target);
  Conversation tool = link_tool();
  ASSERT_EQ(tool.ask("attach 7 -1 entry"), "index 0\n");
  EXPECT_FALSE(restored(target.pid()));
  target.ask("call 2");
  EXPECT_EQ(tool.ask("dump"),
            "log 7:" + std::to_string(target.pid()) + " 7:" + std::to_string(target.pid()) + "\n");
  // The link keeps its event alive, so closing that changes nothing.
  tool.ask("close_event 0");
  bpftime({"list"});
  EXPECT_FALSE(restored(target.pid()));
  // Nor does closing one of two.
  tool.ask("dup_link 0");
  tool.ask("close_link 0");
  target.ask("call 1");
  EXPECT_EQ(tool.ask("dump"), "log 7:" + std::to_string(target.pid()) + "\n");
  tool.ask("attach 8 -1 entry");
  EXPECT_EQ(active_probes(target.pid()), 1u);
  tool.ask("close_event 1");
  tool.ask("close_link 1");
  target.ask("call 1");
  EXPECT_TRUE(eventually([&] {
    target.ask("call 1");
    return tool.ask("dump").find("8:") == std::string::npos;
  }));
  EXPECT_FALSE(restored(target.pid()));
}

TEST_F(Lifetime, ClosingTheOnlyDescriptorRestoresTheText) {
  Conversation target = victim();
  attach(target);
  Conversation tool = link_tool();
  tool.ask("attach 1 -1 entry");
  tool.ask("close_event 0");
  EXPECT_FALSE(restored(target.pid()));
  tool.ask("close_link 0");
  EXPECT_TRUE(becomes_restored(target.pid(), "close"));
  target.ask("call 5");
  EXPECT_EQ(tool.ask("dump"), "log\n");
}

TEST_F(Lifetime, InheritedDescriptorsKeepTheProbe) {
  Conversation target = victim();
  attach(target);
  Conversation tool = link_tool();
  tool.ask("attach 1 -1 entry");
  const pid_t heir = tool.number("fork", "child");
  ASSERT_GT(heir, 0);
  tool.child().signal(SIGKILL);
  tool.child().wait();
  daemon_status();
  target.ask("call 1");
  EXPECT_FALSE(restored(target.pid()));
  EXPECT_EQ(daemon_status()["links"], 1);
  ::kill(heir, SIGKILL);
  EXPECT_TRUE(becomes_restored(target.pid(), "the heir's death"));
  EXPECT_TRUE(eventually([&] { return no_objects(); }));
}

TEST_F(Lifetime, ProbeEndsWithItsTool) {
  for (int number : {SIGTERM, SIGKILL, SIGSEGV}) {
    SCOPED_TRACE(number);
    Conversation target = victim();
    attach(target);
    Child tool = stat_tool("latency");
    EXPECT_FALSE(restored(target.pid()));
    target.ask("call 3");
    tool.signal(number);
    EXPECT_TRUE(tool.wait());
    EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
    EXPECT_TRUE(eventually([&] { return no_objects(); }));
    EXPECT_EQ(target.ask("call 3"), "wrong 0\n");
  }
}

TEST_F(Lifetime, EnableAndDisable) {
  Conversation target = victim();
  attach(target);
  Conversation tool = link_tool();
  tool.ask("attach_ioctl -1");
  EXPECT_TRUE(restored(target.pid()));
  target.ask("call 1");
  EXPECT_EQ(tool.ask("dump"), "log\n");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(tool.ask("enable 0"), "0\n");
    EXPECT_FALSE(restored(target.pid()));
    target.ask("call 1");
    EXPECT_EQ(tool.ask("dump"), "log 0:" + std::to_string(target.pid()) + "\n");
    EXPECT_EQ(tool.ask("disable 0"), "0\n");
    EXPECT_TRUE(becomes_restored(target.pid(), "disable"));
    target.ask("call 1");
    EXPECT_EQ(tool.ask("dump"), "log\n");
  }
  // A program set by ioctl lives with the event's descriptor.
  tool.ask("enable 0");
  EXPECT_FALSE(restored(target.pid()));
  tool.ask("close_event 0");
  EXPECT_TRUE(becomes_restored(target.pid(), "close of the event"));
}

TEST_F(Lifetime, ProgramsOfOneSiteRunInTheOrderTheyWereAttached) {
  Conversation target = victim();
  attach(target);
  const std::string pid = std::to_string(target.pid());
  Conversation first = link_tool();
  Conversation second = link_tool({std::to_string(first.number("mapid", "mapid"))});
  first.ask("attach 1 -1 entry");
  second.ask("attach 2 -1 entry");
  first.ask("attach 3 -1 entry");
  second.ask("attach 4 -1 return");
  first.ask("attach 5 -1 entry");
  target.ask("call 1");
  EXPECT_EQ(first.ask("dump"),
            "log 1:" + pid + " 2:" + pid + " 3:" + pid + " 5:" + pid + " 4:" + pid + "r\n");
  // One out of the middle, another at the end.
  first.ask("close_event 1");
  first.ask("close_link 1");
  second.ask("attach 6 -1 entry");
  EXPECT_TRUE(eventually([&] {
    first.ask("dump");
    target.ask("call 1");
    return first.ask("dump") ==
           "log 1:" + pid + " 2:" + pid + " 5:" + pid + " 6:" + pid + " 4:" + pid + "r\n";
  }));
  // The first loader's death takes its programs only; its map lives on in the second.
  first.child().signal(SIGKILL);
  EXPECT_TRUE(eventually([&] {
    second.ask("dump");
    target.ask("call 1");
    return second.ask("dump") == "log 2:" + pid + " 6:" + pid + " 4:" + pid + "r\n";
  }));
  second.child().signal(SIGKILL);
  EXPECT_TRUE(becomes_restored(target.pid(), "both loaders' death"));
}

TEST_F(Lifetime, PidFilter) {
  Conversation one = victim(), other = victim();
  attach(one);
  attach(other);
  Conversation tool = link_tool();
  ASSERT_EQ(tool.ask("attach 9 " + std::to_string(one.pid()) + " entry"), "index 0\n");
  EXPECT_TRUE(restored(other.pid()));
  EXPECT_FALSE(restored(one.pid()));
  one.ask("call 1");
  other.ask("call 1");
  one.ask("fork 5");
  EXPECT_EQ(tool.ask("dump"), "log 9:" + std::to_string(one.pid()) + "\n");
  // Without a filter the child is seen as itself.
  ASSERT_EQ(tool.ask("attach 10 -1 entry"), "index 1\n");
  const long child = one.number("fork 2", "child");
  const std::string seen = " 10:" + std::to_string(child);
  EXPECT_EQ(tool.ask("dump"), "log" + seen + seen + "\n");
  EXPECT_NE(tool.ask("attach 1 999999999 entry").find("No such process"), std::string::npos);
}

TEST_F(Lifetime, ForkedChildrenAreRestoredToo) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("count");
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) children.push_back(target.number("fork_stay", "child"));
  // Also of those whose parent is gone.
  target.child().signal(SIGKILL);
  target.child().wait();
  tool.signal(SIGKILL);
  for (pid_t child : children) {
    EXPECT_TRUE(becomes_restored(child, "the tool's end, in a forked child"));
    EXPECT_EQ(::kill(child, SIGKILL), 0);
  }
}

// Two loaders and three targets, killed in some order. Nothing may stay behind.
class KillOrder : public VictimTest {
 protected:
  void play(const std::array<int, 5>& order) {
    std::string name;
    for (int i : order) name += std::to_string(i);
    SCOPED_TRACE("order " + name);
    std::vector<Conversation> targets;
    for (int i = 0; i < 3; ++i) {
      targets.push_back(victim());
      attach(targets.back());
    }
    std::vector<Child> loaders;
    loaders.push_back(stat_tool("latency"));
    loaders.push_back(stat_tool("count"));
    for (auto& target : targets) EXPECT_EQ(target.ask("call 3"), "wrong 0\n");
    int loaders_left = 2;
    for (int i : order) {
      Child& victim = i < 3 ? targets[i].child() : loaders[i - 3];
      loaders_left -= i >= 3;
      victim.signal(SIGKILL);
      ASSERT_TRUE(victim.wait());
      for (auto& target : targets) {
        if (!target.child().running()) continue;
        EXPECT_EQ(target.ask("call 3"), "wrong 0\n");
        EXPECT_TRUE(loaders_left != 0 || eventually([&] { return restored(target.pid()); }));
      }
    }
    EXPECT_TRUE(eventually([&] { return no_objects(); })) << daemon_status().dump();
    EXPECT_TRUE(eventually([&] { return daemon_status()["targets"] == 0; })) << daemon_status().dump();
  }
};

TEST_F(KillOrder, LeavesNothingBehind) {
  std::vector<std::array<int, 5>> orders;
  std::array<int, 5> order = {0, 1, 2, 3, 4};
  do orders.push_back(order);
  while (std::next_permutation(order.begin(), order.end()));
  ASSERT_EQ(orders.size(), 120u);
  if (std::getenv("BPFTIME_LONG") == nullptr) {
    const auto seed = std::random_device()();
    std::cerr << "12 of 120 orders, seed " << seed << "; all with BPFTIME_LONG=1\n";
    std::shuffle(orders.begin(), orders.end(), std::mt19937(seed));
    orders.resize(12);
  }
  for (const auto& one : orders) {
    play(one);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace bpftime::e2e

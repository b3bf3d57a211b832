// The daemon's own deaths: targets go on undisturbed, the next command finds everything as it was or cleans up.
#include <signal.h>

#include <filesystem>
#include <thread>

#include "conversation.h"

namespace bpftime::e2e {
namespace {

class Recovery : public VictimTest {
 protected:
  void TearDown() override {
    VictimTest::TearDown();
    for (pid_t pid : seen_)
      EXPECT_TRUE(eventually([&] { return gone(pid); })) << "daemon process " << pid << " is left";
  }
  struct Daemon {
    pid_t worker, keeper;
  };
  Daemon processes() {
    const auto status = daemon_status();
    const Daemon out{status.value("worker_pid", 0), status.value("keeper_pid", 0)};
    seen_.push_back(out.worker);
    seen_.push_back(out.keeper);
    return out;
  }
  void kill_and_see(pid_t pid) {
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    ASSERT_TRUE(eventually([&] { return gone(pid); }));
  }

 private:
  std::vector<pid_t> seen_;
};

TEST_F(Recovery, WorkerKilledAtRest) {
  Conversation target = victim();
  attach(target);
  const std::string pid = std::to_string(target.pid());
  Child tool = stat_tool("latency");
  Conversation links = link_tool();
  links.ask("attach 5 -1 entry");
  uint64_t calls = 0;
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    const Daemon before = processes();
    EXPECT_EQ(target.ask("call 100"), "wrong 0\n");
    kill_and_see(before.worker);
    // Nobody looks, the probes go on.
    EXPECT_EQ(target.ask("call 100"), "wrong 0\n");
    const Daemon after = processes();
    EXPECT_EQ(after.keeper, before.keeper);
    EXPECT_NE(after.worker, before.worker);
    EXPECT_EQ(active_probes(target.pid()), 1u);
    EXPECT_EQ(target.ask("call 100"), "wrong 0\n");
    calls += 300;
  }
  links.ask("dump");
  // What existed before can be used, and new objects made.
  links.ask("attach 6 -1 entry");
  target.ask("call 1");
  EXPECT_EQ(links.ask("dump"), "log 5:" + pid + " 6:" + pid + "\n");
  calls += 1;
  const auto seen = finish_tool(tool);
  EXPECT_EQ(seen["calls"], calls);
  EXPECT_EQ(seen["timed"], calls);
  links.child().signal(SIGKILL);
  EXPECT_TRUE(becomes_restored(target.pid(), "the last tool's end"));
  EXPECT_TRUE(eventually([&] { return no_objects(); }));
  EXPECT_EQ(target.ask("call 100"), "wrong 0\n");
}

TEST_F(Recovery, LoaderDiesWhileNoWorkerLives) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  const Daemon before = processes();
  // Both at once: the last close is seen by nobody.
  tool.signal(SIGSTOP);
  ASSERT_EQ(::kill(before.keeper, SIGSTOP), 0);
  kill_and_see(before.worker);
  tool.signal(SIGKILL);
  tool.wait();
  EXPECT_FALSE(restored(target.pid()));
  ASSERT_EQ(::kill(before.keeper, SIGCONT), 0);
  EXPECT_TRUE(becomes_restored(target.pid(), "the keeper's wake"));
  EXPECT_TRUE(eventually([&] { return no_objects(); }));
  processes();
}

TEST_F(Recovery, WorkerKilledInTheMiddleOfWork) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  Conversation links = link_tool();
  target.ask("hammer 2");
  std::atomic<bool> stop = false;
  std::thread work([&] {
    const std::string pid = std::to_string(target.pid());
    for (; !stop;) {
      bpftime({"detach", pid});
      bpftime({"attach", pid});
    }
  });
  constexpr int kRounds = 12;
  for (int round = 0; round < kRounds; ++round) {
    const pid_t worker = worker_pid();
    // Any moment is as good as another: a different number of commands' time each round.
    for (int i = 0; i < round % 4; ++i) bpftime({"list"});
    if (worker > 0) ::kill(worker, SIGKILL);
    EXPECT_TRUE(eventually([&] {
      const pid_t now = worker_pid();
      return now > 0 && now != worker;
    }));
    EXPECT_TRUE(target.child().running()) << "ended with " << *target.child().wait();
    if (HasFailure()) break;
  }
  stop = true;
  work.join();
  if (HasFailure()) return;
  attach(target);
  EXPECT_EQ(active_probes(target.pid()), 1u);
  const std::string hammered = target.ask("hammer_stop");
  EXPECT_NE(hammered.find("wrong 0\n"), std::string::npos) << hammered;
  // Exact from here on.
  Child fresh = stat_tool("count");
  EXPECT_EQ(target.ask("call 100"), "wrong 0\n");
  EXPECT_EQ(finish_tool(fresh)["calls"], 100);
  finish_tool(tool);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tools' end"));
  processes();
}

TEST_F(Recovery, KeeperKilled) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  Child faults = stat_tool("ring");
  const Daemon before = processes();
  target.ask("call 10");
  kill_and_see(before.keeper);
  ASSERT_TRUE(eventually([&] { return gone(before.worker); }));
  // The probes go on, harmlessly, also where they read what is not there.
  EXPECT_FALSE(restored(target.pid()));
  EXPECT_EQ(target.ask("call 100"), "wrong 0\n");
  EXPECT_EQ(target.ask("bad 100"), "wrong 0\n");
  EXPECT_EQ(target.ask("fork 10").find("ended 0") == std::string::npos, false);
  // The next command starts a daemon, which removes what nobody owns.
  const auto status = bpftime_json({"daemon", "start"});
  EXPECT_NE(status["keeper_pid"], before.keeper);
  processes();
  EXPECT_TRUE(becomes_restored(target.pid(), "the new daemon's start"));
  EXPECT_EQ(target.ask("call 10"), "wrong 0\n");
  EXPECT_EQ(target.ask("handler"), "handler default flags 0\n");
  // And works.
  Child again = stat_tool("count");
  EXPECT_EQ(active_probes(target.pid()), 1u);
  target.ask("call 25");
  EXPECT_EQ(finish_tool(again)["calls"], 25);
  EXPECT_TRUE(becomes_restored(target.pid(), "the new tool's end"));
  tool.signal(SIGTERM);
  EXPECT_TRUE(tool.wait());
  faults.signal(SIGKILL);
}

TEST_F(Recovery, KeeperKilledAndTargetForkedMeanwhile) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  const Daemon before = processes();
  kill_and_see(before.keeper);
  const pid_t child = target.number("fork_stay", "child");
  target.child().signal(SIGKILL);
  target.child().wait();
  bpftime_json({"daemon", "start"});
  processes();
  EXPECT_TRUE(becomes_restored(child, "the new daemon's start, in a fork"));
  ::kill(child, SIGKILL);
}

TEST_F(Recovery, RestartKeepsEverything) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  const Daemon before = processes();
  const auto objects = daemon_status();
  target.ask("call 10");
  for (int i = 0; i < 7; ++i) ASSERT_EQ(bpftime({"daemon", "restart"}).code, 0);
  const Daemon after = processes();
  EXPECT_NE(before.worker, after.worker);
  EXPECT_EQ(before.keeper, after.keeper);
  const auto now = daemon_status();
  for (const char* key : {"maps", "programs", "links", "targets"}) EXPECT_EQ(objects[key], now[key]) << key;
  target.ask("call 10");
  EXPECT_EQ(finish_tool(tool)["calls"], 20);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
}

TEST_F(Recovery, StopTakesTheProbesOut) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  const Daemon daemon = processes();
  EXPECT_FALSE(restored(target.pid()));
  ASSERT_EQ(bpftime({"daemon", "stop"}).code, 0);
  EXPECT_TRUE(gone(daemon.worker));
  EXPECT_TRUE(gone(daemon.keeper));
  EXPECT_TRUE(restored(target.pid()));
  EXPECT_EQ(bpftime({"daemon", "status"}).code, 3);
  EXPECT_EQ(target.ask("call 10"), "wrong 0\n");
  tool.signal(SIGTERM);
  EXPECT_TRUE(tool.wait());
}

TEST_F(Recovery, LeavesWhenIdleAndNotBefore) {
  std::filesystem::create_directory(directory() + "/run");
  std::filesystem::permissions(directory() + "/run", std::filesystem::perms::owner_all);
  Child keeper({program("bpftimed"), "--runtime-dir", directory() + "/run", "--idle-seconds", "1"},
               options());
  ASSERT_TRUE(eventually([&] { return worker_pid() > 0; })) << keeper.error();
  EXPECT_EQ(processes().keeper, keeper.pid());
  Conversation target = victim();
  attach(target);
  {
    Child tool = stat_tool("count");
    // As long as a tool holds something it stays; the target alone does not hold it.
    EXPECT_FALSE(eventually([&] { return !keeper.running(); }, std::chrono::seconds(3)));
    target.ask("call 3");
    EXPECT_EQ(finish_tool(tool)["calls"], 3);
  }
  EXPECT_EQ(keeper.wait(), 0);
  EXPECT_TRUE(restored(target.pid()));
  EXPECT_EQ(bpftime({"daemon", "status"}).code, 3);
  // A later daemon knows the target still.
  Child tool = stat_tool("count");
  EXPECT_EQ(active_probes(target.pid()), 1u);
  target.ask("call 4");
  EXPECT_EQ(finish_tool(tool)["calls"], 4);
  processes();
}

}  // namespace
}  // namespace bpftime::e2e

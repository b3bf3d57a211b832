// The daemon's own deaths: targets go on undisturbed, the next command finds everything as it was or cleans up.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "conversation.h"
#include "daemon/keeper_protocol.h"
#include "wire/client.h"
#include "wire/object.h"
#include "wire/target_context.h"

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

// As after an upgrade with the old daemon killed: what its version left in a target goes, and is not taken for ours.
TEST_F(Recovery, ProbesOfAnotherVersionAreTakenOut) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  const Daemon before = processes();
  kill_and_see(before.keeper);
  ASSERT_TRUE(eventually([&] { return gone(before.worker); }));
  ASSERT_FALSE(restored(target.pid()));
  uint16_t version = wire::kAbiVersion + 1;
  const iovec ours{&version, sizeof version};
  const iovec theirs{
      reinterpret_cast<void*>(wire::window_address(::geteuid()) + offsetof(wire::SharedHeader, abi_version)),
      sizeof version};
  ASSERT_EQ(::process_vm_writev(target.pid(), &ours, 1, &theirs, 1, 0), ssize_t{sizeof version});
  bpftime_json({"daemon", "start"});
  processes();
  // What leads sigaction through that version's agent stays: it works by itself.
  const auto probed = [&] {
    const auto places = text_differences(target.pid());
    return std::any_of(places.begin(), places.end(),
                       [](const auto& place) { return place.find("/libc.so.6") == std::string::npos; });
  };
  EXPECT_TRUE(eventually([&] { return !probed(); }));
  EXPECT_EQ(target.ask("call 10"), "wrong 0\n");
  const auto attached = bpftime({"attach", std::to_string(target.pid())});
  EXPECT_NE(attached.code, 0);
  EXPECT_NE(attached.error.find("version " + std::to_string(version)), std::string::npos) << attached.error;
  EXPECT_NE(attached.error.find("restarting the process"), std::string::npos) << attached.error;
  Child again = stat_tool("count");
  EXPECT_FALSE(probed());
  EXPECT_EQ(finish_tool(again)["calls"], 0);
  EXPECT_EQ(target.ask("call 10"), "wrong 0\n");
}

// A keeper that lives while its program is replaced starts a worker of the new version. The test is such a keeper.
TEST_F(Recovery, RecordsOfAnotherVersionAreDropped) {
  using daemon::KeeperMessage;
  constexpr uint16_t kOther = wire::kAbiVersion + 1;
  const std::string run = directory() + "/run", socket = run + "/daemon.sock";
  std::filesystem::create_directory(run);
  std::filesystem::permissions(run, std::filesystem::perms::owner_all);
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd channel(pair[0]);
  Fd theirs(pair[1]), listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  Child::Options options = this->options();
  options.before_exec = [&] {
    const int a = ::fcntl(theirs.get(), F_DUPFD, 10), b = ::fcntl(listener.get(), F_DUPFD, 10);
    ::dup2(a, daemon::kKeeperChannelFd);
    ::dup2(b, daemon::kListenFd);
  };
  Child worker({program("bpftimed"), "--worker", "--runtime-dir", run, "--idle-seconds", "100"}, options);
  theirs.reset();
  const auto soon = [] { return wire::Deadline::after_ms(20000); };
  const auto say = [&](KeeperMessage message, Bytes body, std::span<const int> fds) {
    return wire::send_message(channel.get(), static_cast<wire::MessageType>(message), 0, body, fds, soon(),
                              kOther)
        .ok();
  };
  // The key, then a map's record as that version may have it.
  const struct {
    uint64_t key;
    uint16_t abi, layout;
    uint32_t kind;
    uint8_t rest[64];
  } record{uint64_t{2} << 32 | 77, kOther, 1, static_cast<uint32_t>(wire::ObjectKind::kMap), {}};
  const Fd memory(::memfd_create("bpftime-map", MFD_CLOEXEC));
  const int fd = memory.get();
  ASSERT_TRUE(say(KeeperMessage::kPut, as_bytes(record), std::span(&fd, 1)));
  ASSERT_TRUE(say(KeeperMessage::kReplayed, {}, {}));
  bool erased = false, ready = false;
  while (!ready) {
    auto heard = wire::receive_message(channel.get(), soon(), wire::Versions::kAny);
    ASSERT_TRUE(heard.ok()) << heard.error().message << worker.error();
    EXPECT_EQ(heard->version, kOther) << "the keeper would not understand";
    const auto type = static_cast<KeeperMessage>(heard->type);
    erased = erased || (type == KeeperMessage::kErase && read_at<uint64_t>(heard->body, 0) == record.key);
    ready = type == KeeperMessage::kReady;
  }
  EXPECT_TRUE(erased);
  EXPECT_TRUE(
      worker.wait_for_error("written by another version of bpftimed (" + std::to_string(kOther) + ".1"))
      << worker.error();
  EXPECT_NE(worker.error().find("start the tool that made it anew"), std::string::npos);
  EXPECT_NE(worker.error().find("the keeper is of version " + std::to_string(kOther)), std::string::npos);
  EXPECT_EQ(bpftime_json({"daemon", "status"})["maps"], 0) << "and it serves";
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
  Conversation target = victim();
  // Long enough for a tool to come, on a slow machine at the second or third try.
  bool held = false;
  for (const int idle : {1, 10, 60}) {
    Child keeper(
        {program("bpftimed"), "--runtime-dir", directory() + "/run", "--idle-seconds", std::to_string(idle)},
        options());
    ASSERT_TRUE(eventually([&] { return worker_pid() > 0 || !keeper.running(); })) << keeper.error();
    attach(target);
    Child tool = stat_tool("count");
    held = processes().keeper == keeper.pid();
    if (!held) {  // it left before the tool came, and another came with the tool
      finish_tool(tool);
      ASSERT_EQ(bpftime({"daemon", "stop"}).code, 0);
      continue;
    }
    // As long as a tool holds something it stays; the target alone does not hold it.
    EXPECT_FALSE(eventually([&] { return !keeper.running(); }, std::chrono::seconds(idle + 2)));
    target.ask("call 3");
    EXPECT_EQ(finish_tool(tool)["calls"], 3);
    EXPECT_EQ(keeper.wait(2 * kPatience), 0);
    break;
  }
  EXPECT_TRUE(held) << "the daemon never stayed long enough for a tool to come";
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

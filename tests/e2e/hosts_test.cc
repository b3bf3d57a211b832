// Hosts that make it difficult: signals, filters, other roots and users, forks of all kinds, ways out of a function that are
// not its return.
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "conversation.h"

namespace bpftime::e2e {
namespace {

class Hosts : public VictimTest {
 protected:
  static std::set<std::string> entries(pid_t pid, const char* what) {
    std::set<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/" + what))
      out.insert(entry.path().filename());
    return out;
  }
  static size_t count(const std::string& text, const std::string& what) {
    size_t out = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++out;
    return out;
  }
  static std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
  }
  // Why the first probe of a process is not in place.
  std::string reason(pid_t pid) {
    const auto list = bpftime_json({"list"});
    for (const auto& target : list["targets"])
      if (target["pid"] == pid && !target["probes"].empty()) return target["probes"][0].value("reason", "");
    return "not listed";
  }
  // What a bad pointer's events say, and that the host goes on.
  void expect_harmless(Conversation& target) {
    Child tool = stat_tool("ring");
    EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
    EXPECT_EQ(target.ask("bad 5"), "wrong 0\n");
    EXPECT_EQ(target.ask("call 2"), "wrong 0\n");
    finish_tool(tool);
    EXPECT_EQ(count(tool.output(), "argument=16 "), 5u) << tool.output();
    EXPECT_EQ(count(tool.output(), "length=-14 text=\n"), 5u) << tool.output();
    EXPECT_EQ(count(tool.output(), "length=6 text=hello\n"), 2u) << tool.output();
    EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
  }
  void detach_and_attach_under_load(int rounds) {
    Conversation target = victim();
    attach(target);
    Child tool = stat_tool("latency");
    Child through = stat_tool("latency", "victim_through");
    target.ask("hammer 4");
    const std::string pid = std::to_string(target.pid());
    for (int round = 0; round < rounds; ++round) {
      const Finished detached = bpftime({"detach", pid});
      EXPECT_EQ(detached.code, 0) << detached.error;
      EXPECT_TRUE(restored(target.pid()));
      const Finished attached = bpftime({"attach", pid});
      EXPECT_EQ(attached.code, 0) << attached.error;
      EXPECT_FALSE(restored(target.pid()));
      ASSERT_TRUE(target.child().running()) << "round " << round << ": ended with " << *target.child().wait();
    }
    const std::string hammered = target.ask("hammer_stop");
    EXPECT_NE(hammered.find(" wrong 0\n"), std::string::npos) << hammered;
    EXPECT_EQ(bpftime({"detach", pid}).code, 0);
    EXPECT_TRUE(restored(target.pid()));
    finish_tool(tool);
    finish_tool(through);
    EXPECT_EQ(target.child().error().find("Sanitizer"), std::string::npos) << target.child().error();
  }
};

TEST_F(Hosts, BadPointersWithSignalsBlocked) {
  for (const char* block : {"threads 2", "block_segv", "block_all"}) {
    SCOPED_TRACE(block);
    Conversation target = victim();
    target.ask(block);
    const std::string before = target.ask("mask");
    attach(target);
    {
      Child tool = stat_tool("ring");
      EXPECT_EQ(target.ask("mask"), before) << "with the guard in place";
      tool.signal(SIGKILL);
    }
    ASSERT_TRUE(becomes_restored(target.pid(), "the tool's end"));
    EXPECT_EQ(target.ask("mask"), before) << "after the guard";
    expect_harmless(target);
    EXPECT_EQ(target.ask("mask"), before);
    target.ask("unblock_all");
    EXPECT_EQ(target.ask("mask"), "masked segv 0 bus 0 usr1 0\n");
  }
}

// A host that blocks the guard's signals, or takes its handlers away, without asking libc.
TEST_F(Hosts, SignalsTakenAwayPastLibc) {
  for (bool started : {true, false})
    for (const std::string how : {"raw_block", "raw_default"}) {
      SCOPED_TRACE(how + (started ? " started" : " attached"));
      Conversation target = started ? victim_started() : victim();
      if (!started) attach(target);
      target.ask("own_handler");
      Child tool = stat_tool("ring");
      EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
      EXPECT_EQ(target.ask("bad 2"), "wrong 0\n");
      EXPECT_EQ(target.ask(how), "raw 0\n");
      const std::string mask = target.ask("mask"), handler = target.ask("handler");
      EXPECT_EQ(mask, how == "raw_block" ? "masked segv 1 bus 1 usr1 1\n" : "masked segv 0 bus 0 usr1 0\n");
      EXPECT_EQ(handler.find(how == "raw_block" ? "handler own" : "handler default"), 0u) << handler;
      EXPECT_EQ(target.ask("bad 3"), "wrong 0\n");
      EXPECT_EQ(target.ask("call 2"), "wrong 0\n");
      finish_tool(tool);
      EXPECT_EQ(count(tool.output(), "length=-14 text=\n"), 5u) << tool.output();
      EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
      EXPECT_EQ(target.ask("mask"), mask);
      EXPECT_EQ(target.ask("handler"), handler);
    }
}

// Handlers that interrupt a call with a mask of its own run under that mask.
TEST_F(Hosts, WaitsUnderMasksOfTheirOwn) {
  const std::string alone = victim().ask("waits"), alone_cancelled = victim().ask("cancel_waits");
  const size_t ways = count(alone, " handled 1 wrong 0 ");
  ASSERT_GE(ways, 10u) << alone;
  for (const bool started : {true, false}) {
    SCOPED_TRACE(started ? "started" : "attached");
    Conversation target = started ? victim_started() : victim();
    if (!started) attach(target);
    Child tool = stat_tool("ring");
    EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
    EXPECT_EQ(target.ask("waits"), alone);
    EXPECT_EQ(target.ask("cancel_waits"), alone_cancelled);
    EXPECT_EQ(target.ask("mask"), "masked segv 0 bus 0 usr1 0\n");
    finish_tool(tool);
    EXPECT_EQ(count(tool.output(), "length=-14 text=\n"), ways);
    EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
    EXPECT_EQ(target.ask("waits"), alone);
  }
}

// Such a call has been under way since before the guard came, and goes on when it has gone.
TEST_F(Hosts, WaitsUnderWay) {
  for (const std::string way : {"sigsuspend", "ppoll", "pselect", "epoll_pwait", "epoll_pwait2", "raw ppoll",
                                "io_pgetevents", "io_uring_enter", "io_uring_enter ext"}) {
    SCOPED_TRACE(way);
    Conversation target = victim();
    const std::string pid = std::to_string(target.pid());
    const auto wait = [&] {
      target.send("wait " + way);
      ASSERT_TRUE(eventually([&] {
        const std::string now = first_line("/proc/" + pid + "/syscall");
        return now != "running" && now.substr(0, 2) != "0 " && !now.empty();
      }));
    };
    wait();
    attach(target);
    Child tool = stat_tool("ring");
    EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
    ::kill(target.pid(), SIGUSR1);
    EXPECT_EQ(target.answer(), way + ": -4 handled 1 wrong 0 before 10\n");
    wait();
    finish_tool(tool);
    EXPECT_EQ(count(tool.output(), "length=-14 text=\n"), 1u);
    EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
    ::kill(target.pid(), SIGUSR1);
    EXPECT_EQ(target.answer(), way + ": -4 handled 1 wrong 0 before 10\n");
    EXPECT_EQ(target.ask("mask"), "masked segv 0 bus 0 usr1 0\n");
  }
}

// What a handler returns to may have signals blocked: since before the guard came, or because the handler says so.
TEST_F(Hosts, FramesWithSignalsBlocked) {
  for (const std::string mask : {"0", "1"}) {
    SCOPED_TRACE("the handler's mask: " + mask);
    Conversation target = victim();
    if (mask == "0") target.ask("block_segv");
    const std::string before = target.ask("mask");
    target.ask("stay_in_handler " + mask);
    attach(target);
    Child tool = stat_tool("ring");
    EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
    EXPECT_EQ(target.ask("bad 1"), "wrong 0\n");
    EXPECT_EQ(target.ask("leave"), "left\n");
    EXPECT_EQ(target.ask("bad 1"), "wrong 0\n");
    EXPECT_EQ(target.ask("mask"), before);
    finish_tool(tool);
    EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
    EXPECT_EQ(target.ask("mask"), before);
  }
  for (const int signal : {SIGUSR1, SIGSEGV}) {
    SCOPED_TRACE("by a handler of signal " + std::to_string(signal));
    Conversation target = victim();
    attach(target);
    Child tool = stat_tool("ring");
    target.ask("block_by_frame " + std::to_string(signal));
    EXPECT_EQ(target.ask("bad 1"), "wrong 0\n");
    EXPECT_EQ(target.ask("mask"), "masked segv 1 bus 1 usr1 0\n");
    target.ask("unblock_all");
    EXPECT_EQ(target.ask("mask"), "masked segv 0 bus 0 usr1 0\n");
    EXPECT_EQ(target.ask("bad 1"), "wrong 0\n");
    finish_tool(tool);
  }
}

// A program goes on where a handler has interrupted it, and may be about to read what faults.
TEST_F(Hosts, GuardStaysForProgramsThatHandlersInterrupt) {
  Conversation target = victim();
  const std::string pid = std::to_string(target.pid());
  Child tool = stat_tool("ring");
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    attach(target);
    EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
    target.ask("interrupt_probes");
    const auto refused = bpftime({"detach", pid});
    EXPECT_NE(refused.code, 0);
    EXPECT_NE(refused.error.find("thread " + pid + " runs a program"), std::string::npos) << refused.error;
    EXPECT_FALSE(restored(target.pid()));
    EXPECT_EQ(target.ask("leave"), "left\n");
    EXPECT_TRUE(becomes_restored(target.pid(), "the program's end"));
  }
}

// Calls whose number only the caller knows are made beside their trampolines when their end is traced, and may wait there for hours.
TEST_F(Hosts, CallsUnderWayWaitAtTheirOwnPlace) {
  Child tool = bpftime_child(load({"/usr/sbin/syscount"}));
  ASSERT_TRUE(eventually([&] {
    return bpftime_json({"link", "show"}).dump().find("sys_exit") != std::string::npos;
  }));
  Conversation target = victim();
  const std::string pid = std::to_string(target.pid()), waits = "raw ppoll: -4 handled 1 wrong 0 before 10\n";
  for (const bool ends : {false, true}) {
    SCOPED_TRACE(ends ? "the tool ends" : "the process is detached");
    attach(target);
    target.send("wait raw ppoll");
    const auto waiting = [&] { return first_line("/proc/" + pid + "/syscall").starts_with("271 "); };
    ASSERT_TRUE(eventually(waiting));
    EXPECT_FALSE(restored(target.pid()));
    if (ends) {
      tool.signal(SIGINT);
      tool.wait();
      EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
    } else {
      const auto detached = bpftime({"detach", pid});
      EXPECT_EQ(detached.code, 0) << detached.error;
      EXPECT_TRUE(restored(target.pid()));
    }
    EXPECT_TRUE(eventually(waiting));
    ::kill(target.pid(), SIGUSR1);
    EXPECT_EQ(target.answer(), waits);
  }
  // Libc's system calls were all patched when the process was attached for the second time.
  std::ifstream log(directory() + "/run/daemon.log");
  const std::string said(std::istreambuf_iterator<char>(log), {});
  EXPECT_EQ(said.find("not seen"), std::string::npos) << said;
}

// Functions libc calls with all signals blocked (around pthread_create, in the child of posix_spawn) are no exception.
TEST_F(Hosts, FunctionsOfLibcChangeWhileTheHostRuns) {
  Conversation target = victim();
  attach(target);
  Child first = stat_tool("count");
  target.ask("hammer 2");
  const auto stops = [&] {
    return bpftime_json({"daemon", "status"})["changes"]["stopping"].get<uint64_t>();
  };
  ASSERT_EQ(bpftime({"attach", std::to_string(target.pid())}).code, 0);  // seen with the guard in place
  const uint64_t before = stops();
  for (const char* function : {"close", "execve", "dup2", "raise", "sched_yield"}) {
    SCOPED_TRACE(function);
    Child tool = load_tool({program("uprobe_stat"), "ring", "/lib/x86_64-linux-gnu/libc.so.6", function});
    EXPECT_EQ(active_probes(target.pid()), 2u) << reason(target.pid());
    EXPECT_NE(target.ask("vfork").find("ended 0"), std::string::npos);
    EXPECT_EQ(target.ask("threads 2"), "");
    finish_tool(tool);
  }
  EXPECT_EQ(stops(), before);
  const std::string hammered = target.ask("hammer_stop");
  EXPECT_NE(hammered.find(" wrong 0\n"), std::string::npos) << hammered;
  finish_tool(first);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tools' end"));
}

TEST_F(Hosts, BlockedSignalArrivesWhenUnblockedAlsoAcrossTheGuard) {
  Conversation target = victim();
  target.ask("own_handler");
  target.ask("block_segv");
  attach(target);
  {
    Child tool = stat_tool("ring");
    EXPECT_EQ(target.ask("raise"), "handled 0\n");
    finish_tool(tool);
  }
  ASSERT_TRUE(becomes_restored(target.pid(), "the tool's end"));
  EXPECT_EQ(target.ask("raise"), "handled 0\n");
  target.ask("unblock_all");
  EXPECT_EQ(target.ask("raise"), "handled 2\n");  // pending ones are one
}

TEST_F(Hosts, OwnHandlerBeforeAndAfter) {
  for (const char* handler : {"own_handler", "own_handler_on_stack"})
    for (bool before : {true, false}) {
      SCOPED_TRACE(std::string(handler) + (before ? " before" : " after"));
      Conversation target = victim();
      if (before) target.ask(handler);
      attach(target);
      Child tool = stat_tool("ring");
      if (!before) target.ask(handler);
      const std::string seen = target.ask("handler");
      EXPECT_EQ(seen.find("handler own"), 0u) << seen;
      EXPECT_EQ(target.ask("bad 3"), "wrong 0\n");
      EXPECT_EQ(target.ask("fault"), "handled 1\n");
      EXPECT_EQ(target.ask("bad 3"), "wrong 0\n");
      finish_tool(tool);
      EXPECT_EQ(count(tool.output(), "length=-14"), 6u);
      ASSERT_TRUE(becomes_restored(target.pid(), "the tool's end"));
      EXPECT_EQ(target.ask("handler"), seen);
      EXPECT_EQ(target.ask("fault"), "handled 2\n");
    }
}

TEST_F(Hosts, SeccompFilter) {
  Conversation target = victim();
  target.ask("confine");
  const Finished attached = bpftime({"attach", std::to_string(target.pid())});
  ASSERT_TRUE(target.child().running());
  if (::geteuid() != 0) {
    EXPECT_NE(attached.code, 0);
    EXPECT_NE(attached.error.find("seccomp"), std::string::npos) << attached.error;
    return;
  }
  ASSERT_EQ(attached.code, 0) << attached.error;
  // It would be killed for asking who it is.
  Child tool = stat_tool("ring");
  EXPECT_EQ(active_probes(target.pid()), 0u);
  EXPECT_NE(reason(target.pid()).find("seccomp"), std::string::npos) << reason(target.pid());
  EXPECT_EQ(target.ask("call 7"), "wrong 0\n");
  finish_tool(tool);
  // Counting needs nobody's permission.
  Child counter = stat_tool("count");
  EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
  EXPECT_EQ(target.ask("call 7"), "wrong 0\n");
  EXPECT_EQ(finish_tool(counter)["calls"], 7);
}

TEST_F(Hosts, OtherRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  Conversation target = victim();
  ASSERT_EQ(target.ask("chroot " + directory()), "chroot 0\n");
  attach(target);
  {
    Child tool = stat_tool("count");
    EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
    target.ask("call 9");
    EXPECT_EQ(finish_tool(tool)["calls"], 9);
  }
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
  // The agent cannot be opened from in there, not even by descriptor without /proc: said, not suffered.
  Child tool = stat_tool("ring");
  EXPECT_EQ(active_probes(target.pid()), 0u);
  EXPECT_NE(reason(target.pid()).find("the agent could not be loaded"), std::string::npos)
      << reason(target.pid());
  EXPECT_EQ(target.ask("bad 9"), "wrong 0\n");
}

TEST_F(Hosts, ClosedDescriptors) {
  Conversation target = victim();
  attach(target);
  EXPECT_EQ(target.ask("closefrom"), "");
  expect_harmless(target);
  target.ask("closefrom");
  Child tool = stat_tool("latency");
  target.ask("call 9");
  EXPECT_EQ(finish_tool(tool)["timed"], 9);
}

TEST_F(Hosts, NewUserIsSeenAtOnce) {
  if (::geteuid() != 0) GTEST_SKIP() << "set*id needs root";
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("ring");
  target.ask("call 1");
  EXPECT_EQ(target.ask("setuid 1234"), "setuid 0\n");
  target.ask("call 1");
  finish_tool(tool);
  EXPECT_EQ(count(tool.output(), "uid=0 "), 1u) << tool.output();
  EXPECT_EQ(count(tool.output(), "uid=1234 "), 1u) << tool.output();
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
}

TEST_F(Hosts, ChildrenOfAllKinds) {
  Conversation target = victim_started();
  Child tool = stat_tool("count");
  const auto count_of = [](const nlohmann::json& seen, long pid) {
    return seen["by_tgid"].value(std::to_string(pid), 0);
  };
  target.ask("call 1");
  const long forked = target.number("fork 5", "child");
  const long cloned = target.number("raw_clone 6", "child");
  const std::string other = target.ask("vfork");
  EXPECT_NE(other.find("ended 0"), std::string::npos) << other;
  target.ask("call 1");
  // Another program in our place is followed: its probes are there before main.
  target.send("exec");
  ASSERT_TRUE(target.child().wait_for_output("again\n")) << target.child().error();
  EXPECT_TRUE(eventually([&] { return active_probes(target.pid()) == 1; }));
  target.ready();
  Conversation second = std::move(target);
  EXPECT_EQ(second.ask("call 10").find("wrong 0\n") == std::string::npos, false);
  const auto seen = finish_tool(tool);
  EXPECT_EQ(count_of(seen, forked), 5);
  EXPECT_EQ(count_of(seen, cloned), 6);
  EXPECT_EQ(count_of(seen, second.pid()), 12);
  EXPECT_TRUE(becomes_restored(second.pid(), "the tool's end"));
}

// It runs in its parent's memory, with its parent's thread structure, where programs learn ids.
TEST_F(Hosts, VforkedChildrenHaveIdsOfTheirOwn) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("ring");
  ASSERT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
  EXPECT_EQ(target.ask("call 1"), "wrong 0\n");
  const std::string child = std::to_string(target.number("vfork_call 2", "child"));
  EXPECT_EQ(target.ask("call 1"), "wrong 0\n");
  finish_tool(tool);
  const std::string parent = std::to_string(target.pid());
  EXPECT_EQ(count(tool.output(), "event tgid=" + child + " tid=" + child + " "), 2u) << tool.output();
  EXPECT_EQ(count(tool.output(), "event tgid=" + parent + " tid=" + parent + " "), 2u) << tool.output();
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
}

TEST_F(Hosts, Daemonising) {
  Conversation target = victim_started();
  Child tool = stat_tool("count");
  const long daemon = target.number("daemonize", "daemon");
  target.ask("call 4");
  EXPECT_TRUE(eventually([&] { return active_probes(daemon) == 1; }));
  EXPECT_EQ(finish_tool(tool)["by_tgid"].value(std::to_string(daemon), 0), 4);
  EXPECT_TRUE(becomes_restored(daemon, "the tool's end"));
  ::kill(daemon, SIGKILL);
}

TEST_F(Hosts, LooksLikeAPlainProcess) {
  Conversation plain = victim(), attached = victim(), started = victim_started();
  attach(attached);
  Child tool = stat_tool("ring");
  Child returns = stat_tool("latency");
  for (Conversation* target : {&attached, &started}) {
    target->ask("bad 3");
    // Their numbers depend on ours at the time.
    EXPECT_EQ(entries(target->pid(), "fd").size(), entries(plain.pid(), "fd").size());
    EXPECT_EQ(entries(target->pid(), "task").size(), entries(plain.pid(), "task").size());
  }
}

// The kernel sends a thread it interrupts there elsewhere, by its program counter: such code is not moved.
TEST_F(Hosts, RestartableSequencesAreRefused) {
  Conversation target = victim();
  attach(target);
  {
    Child tool = stat_tool("count", "victim_restartable_part");
    EXPECT_EQ(active_probes(target.pid()), 0u);
    EXPECT_NE(reason(target.pid()).find("restartable sequence (rseq)"), std::string::npos)
        << reason(target.pid());
    EXPECT_EQ(target.ask("restartable 200000"), "counted 200000\n");
    EXPECT_EQ(finish_tool(tool)["calls"], 0);
  }
  Child tool = stat_tool("count", "victim_restartable");
  EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
  EXPECT_EQ(target.ask("restartable 200000"), "counted 200000\n");
  EXPECT_EQ(finish_tool(tool)["calls"], 200000);
}

// Go moves its stacks, and makes them no larger than its own functions say they need.
TEST_F(Hosts, OfGoOnlyFunctionsThatLeaveRoomAreProbed) {
  const std::string host = program("go_host");
  if (!std::filesystem::exists(host)) GTEST_SKIP() << "Go is not installed";
  Conversation target({program("bpftime"), "start", host}, options());
  const auto probed = [&](const Arguments& command, const std::string& why) {
    SCOPED_TRACE(why);
    Child tool = bpftime_child(load(command));
    EXPECT_TRUE(tool.wait_for_output("ready")) << tool.error();
    EXPECT_EQ(active_probes(target.pid()), why.empty() ? 1u : 0u) << reason(target.pid());
    EXPECT_NE(reason(target.pid()).find(why), std::string::npos) << reason(target.pid());
    EXPECT_EQ(target.ask("700"), "result 0\n");
    return finish_tool(tool);
  };
  const std::string stat = program("uprobe_stat"), small = program("probes");
  ASSERT_TRUE(target.ready());
  // A call that finds too little stack gets more and begins anew: seen twice, as on Linux.
  EXPECT_GE(probed({small, "argument_percpu", "-1", host, "main.looksForStack"}, "")["events"], 700);
  probed({small, "argument_percpu", "-1", host, "main.needsNone"}, "does not look how much stack is left");
  probed({small, "count_return", "-1", host, "main.looksForStack"}, "Go moves its stacks");
  probed({stat, "count", host, "main.looksForStack"}, "bytes of stack, of which a Go function may have");
}

TEST_F(Hosts, StoppedStaysStopped) {
  Conversation target = victim();
  target.send("stop");
  const auto state = [&] {
    std::string text;
    std::getline(std::ifstream("/proc/" + std::to_string(target.pid()) + "/stat"), text);
    return text[text.rfind(") ") + 2];
  };
  ASSERT_TRUE(eventually([&] { return state() == 'T'; }));
  attach(target);
  Child tool = stat_tool("count");
  EXPECT_EQ(active_probes(target.pid()), 1u);
  EXPECT_EQ(state(), 'T');
  ::kill(target.pid(), SIGCONT);
  target.answer();
  target.ask("call 3");
  EXPECT_EQ(finish_tool(tool)["calls"], 3);
}

TEST_F(Hosts, WaysOutOfProbedFunctions) {
  Conversation plain = victim();
  const std::string expected = plain.ask("ways_out");
  EXPECT_NE(expected.find("after 42 0"), std::string::npos) << expected;
  for (bool started : {true, false}) {
    SCOPED_TRACE(started);
    Conversation target = started ? victim_started() : victim();
    if (!started) attach(target);
    for (const char* mode : {"count", "latency"}) {
      SCOPED_TRACE(mode);
      Child tool = stat_tool(mode, "victim_through");
      EXPECT_EQ(target.ask("ways_out"), expected);
      EXPECT_EQ(target.ask("ways_out"), expected);
      finish_tool(tool);
    }
    EXPECT_TRUE(becomes_restored(target.pid(), "the tools' end"));
    EXPECT_EQ(target.ask("ways_out"), expected);
  }
}

// Functions that return twice, or somewhere else, or want to know who called them.
TEST_F(Hosts, ReturnsThatCannotBeProbedSayWhy) {
  const std::string libc = "/lib/x86_64-linux-gnu/libc.so.6";
  Conversation target = victim();
  attach(target);
  const std::string expected = target.ask("ways_out");
  for (const char* function : {"vfork", "_setjmp", "__sigsetjmp", "longjmp", "getcontext"}) {
    SCOPED_TRACE(function);
    Child tool = load_tool({program("uprobe_stat"), "latency", libc, function});
    EXPECT_EQ(active_probes(target.pid()), 0u);
    EXPECT_NE(reason(target.pid()).find("it returns twice, on another stack, or looks at its caller"),
              std::string::npos)
        << reason(target.pid());
    EXPECT_NE(target.ask("vfork").find("ended 0"), std::string::npos);
    EXPECT_EQ(target.ask("ways_out"), expected);
    finish_tool(tool);
  }
  Child tool = load_tool({program("uprobe_stat"), "count", libc, "vfork"});  // its beginning
  EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
  EXPECT_NE(target.ask("vfork").find("ended 0"), std::string::npos);
  EXPECT_EQ(finish_tool(tool)["calls"], 1);
}

TEST_F(Hosts, DetachedAndAttachedUnderLoad) { detach_and_attach_under_load(100); }

// What a process keeps for itself is not taken from it.
TEST_F(Hosts, ReservedAddresses) {
  Conversation target = victim();
  ASSERT_EQ(target.ask("reserve"), "reserved 1\n");
  const Finished refused = bpftime({"attach", std::to_string(target.pid())});
  EXPECT_NE(refused.code, 0);
  EXPECT_NE(refused.error.find("the process uses these addresses itself"), std::string::npos)
      << refused.error;
  EXPECT_EQ(target.ask("call 10"), "wrong 0\n");
  std::ifstream maps("/proc/" + std::to_string(target.pid()) + "/maps");
  const std::string all(std::istreambuf_iterator<char>(maps), {});
  EXPECT_NE(all.find("400000000000-4ffffffff000 ---p"), std::string::npos) << all;
}

// Processes built with a sanitizer, whose shadow memory takes most of the address space: probed like others, and what the
// sanitizer watches over is as it was.
class SanitizedHosts : public Hosts, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    victim_path = program("victim_" + std::string(GetParam()) + "_sanitizer");
    if (!std::filesystem::exists(victim_path))
      GTEST_SKIP() << "the compiler has no runtime for -fsanitize=" << GetParam();
    Hosts::SetUp();
  }
  void TearDown() override {
    if (!IsSkipped()) Hosts::TearDown();
  }
  void expect_no_report(Conversation& target) {
    EXPECT_EQ(target.child().error().find("Sanitizer"), std::string::npos) << target.child().error();
  }
};

TEST_P(SanitizedHosts, DetachedAndAttachedUnderLoad) { detach_and_attach_under_load(10); }

TEST_P(SanitizedHosts, WaysOutOfProbedFunctions) {
  Conversation plain = victim(), target = victim();
  const std::string expected = plain.ask("ways_out");
  EXPECT_NE(expected.find("after 42 0"), std::string::npos) << expected;
  attach(target);
  Child tool = stat_tool("latency", "victim_through");
  EXPECT_EQ(active_probes(target.pid()), 1u) << reason(target.pid());
  EXPECT_EQ(target.ask("ways_out"), expected);
  EXPECT_EQ(target.ask("ways_out"), expected);
  EXPECT_EQ(count(target.ask("fork 100"), " ended 0\n"), 1u);
  finish_tool(tool);
  EXPECT_TRUE(becomes_restored(target.pid(), "the tool's end"));
  EXPECT_EQ(target.ask("ways_out"), expected);
  expect_no_report(target);
}

TEST_P(SanitizedHosts, BadPointers) {
  Conversation target = victim();
  attach(target);
  expect_harmless(target);
  expect_no_report(target);
}

INSTANTIATE_TEST_SUITE_P(All, SanitizedHosts, ::testing::Values("thread", "address"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace bpftime::e2e

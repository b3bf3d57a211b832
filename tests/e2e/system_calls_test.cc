// System calls as events: Debian's tools (libbpf-tools) on the kernel and under `bpftime load` print the same of the same
// program, and the program notices nothing.
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

struct Tool {
  const char* name;
  Arguments arguments;                                        // the program and its options
  const char* ready;                                          // what it prints when it traces
  const char* line;                                           // of its lines, those that must be equal
  std::vector<std::pair<const char*, const char*>> variable;  // what differs from run to run
  Arguments traced = {"system_caller", "few"};
};

// Debian's statsnoop asks for events/syscalls/statfs instead of sys_enter_statfs, so it loads none of its programs anywhere. A copy
// that asks right is compared, too.
constexpr char kMendedStatsnoop[] = "statsnoop_mended";
bool mend_statsnoop(const std::string& path) {
  const std::string wrong = "/sys/kernel/debug/tracing/events/%s/%s/format";
  std::string right = "/sys/kernel/tracing/events/%s/sys_enter_%s";
  right.resize(wrong.size(), '\0');
  std::ifstream in("/usr/sbin/statsnoop", std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  std::string program = bytes.str();
  const size_t at = program.find(wrong);
  if (at == std::string::npos) return false;
  std::ofstream(path, std::ios::binary) << program.replace(at, wrong.size(), right);
  return ::chmod(path.c_str(), 0755) == 0;
}

const Tool kTools[] = {
    {"opensnoop",
     {"/usr/sbin/opensnoop"},
     "PATH",
     "system_caller .*(/nowhere/|/dev/null)",
     {{"^[0-9]+ +", ""}}},
    {"execsnoop",
     {"/usr/sbin/execsnoop"},
     "ARGS",
     "system_caller_execs",
     {{" +[0-9]+ +[0-9]+ ", " PID PPID "}}},
    {"execsnoop_failed",
     {"/usr/sbin/execsnoop", "-x"},
     "ARGS",
     "system_caller .* -2 ",
     {{" +[0-9]+ +[0-9]+ ", " PID PPID "}}},
    {"execsnoop_of_python",
     {"/usr/sbin/execsnoop"},
     "ARGS",
     "^(true|sh) .*python_execs",
     {{" +[0-9]+ +[0-9]+ ", " PID PPID "}},
     {"/usr/bin/python3", "-c",
      "import os, subprocess; subprocess.run(['/bin/true', 'python_execs_by_subprocess'], check=True); "
      "subprocess.run('exec /bin/true python_execs_by_shell', shell=True, check=True); "
      "os.waitpid(os.posix_spawn('/bin/true', ['true', 'python_execs_by_spawn'], os.environ), 0)"}},
    // libc sends a thread that is cancelled a signal (32) only when it finds it inside a call that blocks: chance.
    {"sigsnoop",
     {"/usr/sbin/sigsnoop", "-k"},
     "RESULT",
     "system_caller +(0|10) ",
     {{"^[0-9:]+ +[0-9]+ ", ""}, {" [0-9]{3,} +", " TPID "}}},
    // Without -k: signal:signal_generate, of which signals from the kernel itself (SIGCHLD) are not seen here.
    {"sigsnoop_generated",
     {"/usr/sbin/sigsnoop"},
     "RESULT",
     "system_caller +10 ",
     {{"^[0-9:]+ +[0-9]+ ", ""}, {" [0-9]{3,} +", " TPID "}}},
    {"sigsnoop_generated_of_python",
     {"/usr/sbin/sigsnoop"},
     "RESULT",
     "python3 +(10|12|15|34) ",
     {{"^[0-9:]+ +[0-9]+ ", ""}, {" [0-9]{3,} +", " TPID "}},
     {"/usr/bin/python3", "-c",
      "import ctypes, os, signal, subprocess, threading\n"
      "for number in (10, 12, 34): signal.signal(number, lambda *_: None)\n"
      "child = subprocess.Popen(['/bin/sleep', '100'])\n"
      "os.kill(child.pid, 15); child.wait()\n"
      "os.kill(os.getpid(), 0); os.kill(os.getpid(), 10)\n"
      "signal.raise_signal(12); signal.pthread_kill(threading.get_ident(), 34)\n"
      "ctypes.CDLL(None).sigqueue(os.getpid(), 34, 7)\n"
      "ctypes.CDLL(None).syscall(200, os.getpid(), 10)\n"
      "for bad in (65, -1): ctypes.CDLL(None).kill(os.getpid(), bad)\n"
      "try: os.kill(child.pid, 15)\n"
      "except ProcessLookupError: pass\n"}},
    {"statsnoop", {"/usr/sbin/statsnoop"}, "PATH", ".", {}},
    {"statsnoop_mended",
     {kMendedStatsnoop},
     "PATH",
     "system_caller .*(/nowhere/|/dev/null)",
     {{"^[0-9]+ +", ""}}},
};

// Those of the program `pid` and its children: another one may run on this machine at the same time.
std::vector<std::string> comparable(const Tool& tool, pid_t pid, const std::string& output) {
  std::vector<std::string> out;
  std::istringstream lines(output);
  const std::regex wanted(tool.line), ours("(^| )" + std::to_string(pid) + " ");
  for (std::string line; std::getline(lines, line);) {
    if (!std::regex_search(line, wanted) || (!tool.variable.empty() && !std::regex_search(line, ours)))
      continue;
    for (const auto& [pattern, instead] : tool.variable)
      line = std::regex_replace(line, std::regex(pattern), instead);
    out.push_back(
        std::regex_replace(line, std::regex(" +"), " "));  // how wide columns are depends on the numbers
  }
  std::sort(out.begin(), out.end());  // threads, and buffers of several CPUs
  return out;
}

class SystemCalls : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (::access("/usr/sbin/opensnoop", X_OK) != 0) GTEST_SKIP() << "libbpf-tools is not installed";
  }
  // Output goes through no buffer of libc's, so that "ready" is seen.
  static Arguments unbuffered(Arguments command) {
    command.insert(command.begin(), {"stdbuf", "-oL"});
    return command;
  }
  // On the kernel, whose tracefs need not be mounted here: in a mount namespace of the tool's own.
  static Arguments on_kernel(const Arguments& tool) {
    Arguments out = {"unshare", "-m", "sh", "-c",
                     "mount -t tracefs none /sys/kernel/tracing; mount -t debugfs none /sys/kernel/debug; "
                     "ls /sys/kernel/debug/tracing/events >/dev/null; exec stdbuf -oL \"$0\" \"$@\""};
    out.insert(out.end(), tool.begin(), tool.end());
    return out;
  }
  // Its number, and arguments.
  static std::string system_call_of(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/syscall");
    std::string line;
    std::getline(file, line);
    return line;
  }
  static bool waits_for_events(pid_t pid) {
    const std::string call = system_call_of(pid);
    return call.starts_with(std::to_string(SYS_epoll_wait) + " ") ||
           call.starts_with(std::to_string(SYS_epoll_pwait) + " ");
  }
  std::string end_of(Child& tool) {
    tool.signal(SIGINT);
    EXPECT_TRUE(tool.wait());
    return tool.output();
  }
};

class Tools : public SystemCalls, public ::testing::WithParamInterface<Tool> {};
INSTANTIATE_TEST_SUITE_P(LibbpfTools, Tools, ::testing::ValuesIn(kTools),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Tools, PrintWhatTheyPrintOnTheKernel) {
  Tool tool = GetParam();
  if (::geteuid() != 0) GTEST_SKIP() << "comparing with the kernel needs root";
  if (tool.arguments[0] == kMendedStatsnoop) {
    tool.arguments[0] = directory() + "/" + kMendedStatsnoop;
    if (!mend_statsnoop(tool.arguments[0])) GTEST_SKIP() << "another statsnoop than Debian 12's";
  }
  // Some print their heading before they open the buffers, so that what happens in between is lost, on the kernel as here.
  // Who sleeps in epoll_wait has opened them.
  const auto trace = [&](Child& child, const Arguments& start, const auto& complete) {
    EXPECT_TRUE(child.wait_for_output(tool.ready)) << child.error();
    EXPECT_TRUE(eventually([&] {
      (void)child.output();  // what fills its pipe would keep it from waiting
      return waits_for_events(child.pid());
    })) << system_call_of(child.pid());
    Child program(start, options());
    EXPECT_EQ(program.wait(), 0) << program.output() << program.error();
    (void)eventually([&] { return complete(comparable(tool, program.pid(), child.output())); });
    return comparable(tool, program.pid(), end_of(child));
  };
  Arguments traced = tool.traced;
  if (traced[0].find('/') == std::string::npos) traced[0] = program(traced[0]);
  std::vector<std::string> kernel, ours;
  {
    Child child(on_kernel(tool.arguments), options());
    // The kernel's events are all in the buffers when the program has ended: complete when the tool has long been waiting
    // for more.
    size_t before = 0;
    int looks = 0;
    kernel = trace(child, traced, [&](const auto& lines) {
      looks = lines.size() != before ? 0 : looks + waits_for_events(child.pid());
      before = lines.size();
      ::usleep(10000);
      return looks > 10;
    });
  }
  {
    Child child = bpftime_child(load(unbuffered(tool.arguments)));
    traced.insert(traced.begin(), {program("bpftime"), "start"});
    ours = trace(child, traced, [&](const auto& lines) { return lines.size() >= kernel.size(); });
  }
  EXPECT_FALSE(kernel.empty());
  EXPECT_EQ(kernel, ours);
}

TEST_F(SystemCalls, AreCounted) {
  Child tool = bpftime_child(load({"/usr/sbin/syscount"}));
  ASSERT_TRUE(eventually([&] {
    return bpftime_json({"link", "show"}).dump().find("sys_exit") != std::string::npos;
  }));
  const Finished done = run({program("bpftime"), "start", program("system_caller")}, options());
  EXPECT_EQ(done.code, 0) << done.output << done.error;
  const std::string counts = end_of(tool);
  std::smatch found;
  // Four threads × 200 × 4 files, and what libc opens.
  ASSERT_TRUE(std::regex_search(counts, found, std::regex("openat +([0-9]+)"))) << counts;
  EXPECT_GE(std::stoul(found[1]), 3200u);
  EXPECT_LE(std::stoul(found[1]), 3400u);
  EXPECT_FALSE(std::regex_search(counts, std::regex("\\ntime +[0-9]"))) << "by the vsyscall page: " << counts;
}

// Into a process that runs, that goes on with its calls.
TEST_F(SystemCalls, OfARunningProcessStayRight) {
  Child target({program("system_caller"), "wait"}, options());
  ASSERT_TRUE(target.wait_for_output("waiting\n"));
  Child tool = bpftime_child(load({"/usr/sbin/syscount"}));
  ASSERT_TRUE(eventually([&] {
    return bpftime_json({"link", "show"}).dump().find("sys_exit") != std::string::npos;
  }));
  const Finished attached = bpftime({"attach", std::to_string(target.pid())});
  ASSERT_EQ(attached.code, 0) << attached.error;
  target.signal(SIGUSR2);
  EXPECT_EQ(target.wait(), 0) << target.output();
  EXPECT_NE(end_of(tool).find("openat"), std::string::npos);
}

// Into a process that runs, and out again.
TEST_F(SystemCalls, OfARunningProcessAreSeenAndItsTextRestored) {
  Child target({"sh", "-c", "exec " + program("system_caller") + " wait"}, options());
  ASSERT_TRUE(target.wait_for_output("waiting\n"));
  {
    Child tool = bpftime_child(load({"/usr/sbin/syscount"}));
    ASSERT_TRUE(eventually([&] {
      return bpftime_json({"link", "show"}).dump().find("sys_exit") != std::string::npos;
    }));
    const Finished attached = bpftime({"attach", std::to_string(target.pid())});
    ASSERT_EQ(attached.code, 0) << attached.error;
    const auto list = bpftime_json({"list"});
    EXPECT_GT(list["targets"][0]["probes"][0]["sites"], 400);
    EXPECT_FALSE(text_differences(target.pid()).empty());
    tool.signal(SIGINT);
    tool.wait();
  }
  EXPECT_TRUE(eventually([&] { return text_differences(target.pid()).empty(); }));
  target.signal(SIGUSR2);
  EXPECT_EQ(target.wait(), 0) << target.output();
}

// `list --hits`, of a system call: its beginning and its end run as often as it was made.
TEST_F(SystemCalls, HitsAreCounted) {
  Child tool = bpftime_child(load(unbuffered({"/usr/sbin/opensnoop"})));
  ASSERT_TRUE(tool.wait_for_output("PATH")) << tool.error();
  const std::string go = directory() + "/go";
  // Waiting opens nothing.
  Child target = bpftime_child({"start", "sh", "-c",
                                "echo waiting; while [ ! -e " + go +
                                    " ]; do :; done; i=0; while [ $i -lt 50 ]; do : "
                                    "</dev/null; i=$((i+1)); done; echo done; while [ -e " +
                                    go + " ]; do :; done"});
  ASSERT_TRUE(target.wait_for_output("waiting\n")) << target.error();
  Child list = bpftime_child({"list", "--hits", "--for", "600", "--json"});
  ASSERT_TRUE(eventually([&] { return bpftime_json({"list"})["counting"] == true; })) << list.error();
  std::ofstream(go) << "go";
  ASSERT_TRUE(target.wait_for_output("done\n"));
  list.signal(SIGINT);
  ASSERT_EQ(list.wait(), 0) << list.error();
  ::unlink(go.c_str());
  EXPECT_EQ(target.wait(), 0);
  const auto answer = nlohmann::json::parse(list.output(), nullptr, false);
  std::map<std::string, uint64_t> hits;
  for (const auto& probe : answer["targets"][0]["probes"])
    for (const auto& program : probe["programs"]) {
      ASSERT_TRUE(program.contains("hits")) << probe;
      hits[probe["path"]] += program["hits"].get<uint64_t>();
    }
  EXPECT_EQ(hits["syscalls:sys_enter_openat"], 50u) << answer;
  EXPECT_EQ(hits["syscalls:sys_exit_openat"], 50u) << answer;
  EXPECT_EQ(hits["syscalls:sys_enter_open"], 0u);
}

// `list` names the ways a target may make system calls that no event shows; where there is none it says nothing.
TEST_F(SystemCalls, WhatIsNotSeenIsListed) {
  if (::access("/usr/bin/python3", X_OK) != 0) GTEST_SKIP() << "python3 is not installed";
  Child tool = bpftime_child(load(unbuffered({"/usr/sbin/opensnoop"})));
  ASSERT_TRUE(tool.wait_for_output("PATH")) << tool.error();
  bool done = true;
  const auto listed = [&](const std::string& protection, const std::string& also = "True") {
    Child target = bpftime_child(
        {"start", "/usr/bin/python3", "-c",
         "import ctypes, mmap, signal; m = mmap.mmap(-1, 4096, prot=" + protection + "); done = " + also +
             "; print('ready' if done else 'not ready', flush=True); signal.pause()"});
    EXPECT_TRUE(target.wait_for_output("ready\n")) << target.error();
    done = target.output().find("not ready") == std::string::npos;
    // What a process maps by itself is seen at the next change: counting is one.
    EXPECT_EQ(bpftime({"list", "--hits", "--for", "0"}).code, 0);
    return std::pair(bpftime({"list"}).output, bpftime_json({"list"})["targets"][0]["not_seen"]);
  };
  const auto [text, reasons] = listed("7");
  EXPECT_NE(text.find("    not seen: system calls of code made at run time (1 mapping)\n"), std::string::npos)
      << text;
  EXPECT_NE(reasons.dump().find("made at run time (1 mapping)"), std::string::npos);
  const auto [plain, none] = listed("3");
  EXPECT_EQ(plain.find("made at run time"), std::string::npos) << plain;
  EXPECT_EQ(none.dump().find("made at run time"), std::string::npos);
  EXPECT_EQ(none.dump().find("io_uring"), std::string::npos);
  // io_uring_setup of four entries.
  const auto [ring, of_ring] = listed("3", "ctypes.CDLL(None).syscall(425, 4, bytes(120)) >= 0");
  if (!done) GTEST_SKIP() << "no io_uring here";
  EXPECT_NE(ring.find("not seen: what the kernel does on the process's behalf through io_uring\n"),
            std::string::npos)
      << ring;
}

}  // namespace
}  // namespace bpftime::e2e

// Tools as Debian ships them, unmodified: each runs on the kernel and under `bpftime load` over the same workload, and what
// both print is compared, less what no two runs have in common (times, process ids).
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

bool installed(const std::string& path) { return ::access(path.c_str(), X_OK) == 0; }

// An interactive program on a terminal of its own.
class Terminal {
 public:
  Terminal(const Arguments& arguments, const Child::Options& options) {
    pid_ = ::forkpty(&fd_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::setenv("PS1", "ready$ ", 1);
    std::vector<char*> argv;
    for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ~Terminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (fd_ >= 0) ::close(fd_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Waits for the prompt, then types.
  bool type(const std::string& line) {
    ++prompts_;
    const bool prompted = eventually([&] {
      read_available();
      size_t count = 0;
      for (size_t at = text_.find("ready$ "); at != std::string::npos; at = text_.find("ready$ ", at + 1))
        ++count;
      return count >= prompts_;
    });
    return prompted && ::write(fd_, (line + "\n").data(), line.size() + 1) > 0;
  }
  bool ended() {
    return eventually([&] {
      read_available();
      if (::waitpid(pid_, nullptr, WNOHANG) != pid_) return false;
      pid_ = -1;
      return true;
    });
  }
  const std::string& text() const { return text_; }

 private:
  pid_t pid_ = -1;
  int fd_ = -1;
  size_t prompts_ = 0;
  std::string text_;

  void read_available() {
    ::fcntl(fd_, F_SETFL, O_NONBLOCK);
    char buffer[4096];
    for (ssize_t got; (got = ::read(fd_, buffer, sizeof buffer)) > 0;) text_.append(buffer, got);
  }
};

class Clients : public EndToEnd {
 protected:
  Child talker(bool ours, int threads, int calls) {
    const Arguments command = {program("talker"), std::to_string(threads), std::to_string(calls)};
    Arguments start = {"start"};
    start.insert(start.end(), command.begin(), command.end());
    Child child = ours ? bpftime_child(start) : Child(command, options());
    EXPECT_TRUE(child.wait_for_output("waiting\n")) << child.error();
    return child;
  }
  static void round(Child& talker, int number) {
    talker.signal(SIGUSR1);
    ASSERT_TRUE(talker.wait_for_output("round " + std::to_string(number) + " done\n")) << talker.error();
  }
  // The tool on the kernel or under load; its output comes line by line.
  Child tool(bool ours, Arguments arguments) {
    arguments.insert(arguments.begin(), {"/usr/bin/stdbuf", "-oL"});
    if (!ours) return Child(arguments, options());
    return bpftime_child(load(arguments));
  }
  // The kernel's objects of this test. Nothing is compared where it refuses us.
  bool kernel_works() { return run({program("bpf_probe")}).code == 0 || ::geteuid() == 0; }
};

// ---- trace_pipe ----

TEST_F(Clients, TracePipeIsReadByCatThroughBothPaths) {
  Child one = bpftime_child(load({"cat", "/sys/kernel/tracing/trace_pipe"}));
  Child two = bpftime_child(load({"cat", "/sys/kernel/debug/tracing/trace_pipe"}));
  // Who opens it later does not get what was read before.
  for (Child* reader : {&one, &two})
    ASSERT_TRUE(eventually([&] {
      std::error_code none;
      size_t pipes = 0;
      for (const auto& fd :
           std::filesystem::directory_iterator("/proc/" + std::to_string(reader->pid()) + "/fd", none))
        pipes += fd.path().filename().string() > "2" &&
                 std::filesystem::read_symlink(fd.path(), none).string().starts_with("pipe:");
      return pipes != 0;
    }));
  Child tool = load_tool({program("features"), "trace", program("talker"), "talk"});
  Child target = talker(true, 1, 3);
  round(target, 1);
  for (Child* reader : {&one, &two}) {
    ASSERT_TRUE(reader->wait_for_output(" says t0 c2\n")) << reader->output() << reader->error();
    const std::regex line(
        "^ *talker-0-[0-9]+ +\\[[0-9]{3}\\] [^ ]{5} +[0-9]+\\.[0-9]{6}: bpf_trace_printk: "
        "tgid [0-9]+ says t0 c[0-2]$");
    std::istringstream lines(reader->output());
    int count = 0;
    for (std::string text; std::getline(lines, text); ++count)
      EXPECT_TRUE(std::regex_match(text, line)) << text;
    EXPECT_EQ(count, 3);
    EXPECT_TRUE(reader->running()) << "there may be more to come";
  }
}

// Waiting and not waiting, by what python offers: the descriptor is the kernel's to wait for.
TEST_F(Clients, TracePipeCanBeWaitedFor) {
  if (!installed("/usr/bin/python3")) GTEST_SKIP() << "python3 is not installed";
  std::ofstream(directory() + "/reader.py") << R"(import os, select, sys
fd = os.open("/sys/kernel/tracing/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
try:
    os.read(fd, 4096)
    print("read something")
except BlockingIOError:
    print("EAGAIN")
print("select", select.select([fd], [], [], 0)[0])
poll = select.poll(); poll.register(fd, select.POLLIN)
print("poll", poll.poll(0))
epoll = select.epoll(); epoll.register(fd, select.EPOLLIN)
print("waiting", flush=True)
print("epoll", epoll.poll(30)[0][1] == select.EPOLLIN, len(poll.poll(0)), len(select.select([fd], [], [], 0)[0]))
text = b""
while text.count(b"\n") < 3:
    epoll.poll(30)
    text += os.read(fd, 4096)
print("lines", text.count(b" says t0 c"))
os.close(fd)
print("again", open("/sys/kernel/tracing/trace").read().count(" says "), flush=True)
)";
  Child reader = bpftime_child(load({"/usr/bin/python3", directory() + "/reader.py"}));
  ASSERT_TRUE(reader.wait_for_output("waiting\n")) << reader.output() << reader.error();
  Child tool = load_tool({program("features"), "trace", program("talker"), "talk"});
  Child target = talker(true, 1, 3);
  round(target, 1);
  EXPECT_EQ(reader.wait(), 0) << reader.error();
  EXPECT_EQ(reader.output(), "EAGAIN\nselect []\npoll []\nwaiting\nepoll True 1 1\nlines 3\nagain 0\n")
      << reader.error();
  // `trace` reads nothing away, and is emptied by who opens it to truncate it.
  round(target, 2);
  const auto lines = [&] {
    const Finished seen = bpftime(load({"/bin/sh", "-c", "grep -c says /sys/kernel/tracing/trace"}));
    return seen.output;
  };
  EXPECT_EQ(lines(), "3\n");
  EXPECT_EQ(lines(), "3\n");
  EXPECT_EQ(bpftime(load({"/bin/sh", "-c", "echo > /sys/kernel/tracing/trace"})).code, 0);
  EXPECT_EQ(lines(), "0\n");
}

// ---- somebody who is not root ----

// Where the kernel's cannot be read.
TEST_F(Clients, TracefsCanBeListed) {
  if (::access("/sys/kernel/tracing/events/syscalls", R_OK) == 0) GTEST_SKIP() << "the kernel's own is there";
  const auto list = [&](const std::string& inside) {
    return bpftime(load({"ls", "/sys/kernel/tracing" + inside})).output;
  };
  EXPECT_EQ(list(""), "available_events\nevents\n");
  EXPECT_EQ(list("/events/"), "raw_syscalls\nsignal\nsyscalls\n");
  EXPECT_EQ(list("/events/syscalls/sys_enter_openat"), "format\nid\n");
  EXPECT_NE(bpftime(load({"ls", "/sys/kernel/tracing/events/sched"})).code, 0);
  EXPECT_EQ(bpftime(load({"test", "-d", "/sys/kernel/tracing/events/signal/signal_generate"})).code, 0);
  EXPECT_NE(bpftime(load({"test", "-d", "/sys/kernel/tracing/events/signal/signal_deliver"})).code, 0);
}

// A run that takes long is its caller's business.
TEST_F(Clients, OthersAreServedWhileAProgramRuns) {
  ASSERT_EQ(::mkdir((directory() + "/run").c_str(), 0700), 0);
  Child daemon({program("bpftimed"), "--runtime-dir", directory() + "/run", "--run-seconds", "600"},
               options());
  ASSERT_TRUE(eventually([&] { return worker_pid() > 0; })) << daemon.error();
  const Finished quick = bpftime(load({program("endless"), "answers"}));
  EXPECT_EQ(quick.output, "running\n0 42\n") << quick.error;
  Child endless = bpftime_child(load({program("endless"), "endless"}));
  ASSERT_TRUE(endless.wait_for_output("running")) << endless.error();
  const auto runner_pid = [&] {
    const Finished found = run({"pgrep", "-f", "-P", std::to_string(worker_pid()), "bpftime-runner"});
    return found.code == 0 ? std::stoi(found.output) : 0;
  };
  // While it runs for somebody it has that one's name.
  const auto busy = [&] {
    std::ifstream in("/proc/" + std::to_string(runner_pid()) + "/comm");
    std::string name;
    return std::getline(in, name) && name == "endless";
  };
  ASSERT_TRUE(eventually(busy));
  Child behind = bpftime_child(load({program("endless"), "answers"}));
  ASSERT_TRUE(behind.wait_for_output("running")) << behind.error();
  EXPECT_EQ(bpftime({"list"}).code, 0);
  EXPECT_EQ(endless.output(), "running\n");
  EXPECT_EQ(behind.output(), "running\n") << "programs run one after the other";
  // Its end is that of the runner; who waited behind it gets a new one.
  ASSERT_EQ(::kill(runner_pid(), SIGKILL), 0);
  EXPECT_TRUE(endless.wait_for_output("-5 0")) << endless.output() << endless.error();
  EXPECT_TRUE(behind.wait_for_output("0 42")) << behind.output() << behind.error();
}

TEST_F(Clients, NobodyIsToldWhatLetsEbpfToolsGoOn) {
  std::string reason;
  const Child::Options as_nobody = options_of_nobody(&reason);
  if (!as_nobody.before_exec) GTEST_SKIP() << reason;
  const auto bpftime_as_nobody = [&](Arguments arguments) {
    arguments.insert(arguments.begin(), program("bpftime"));
    return run(arguments, as_nobody);
  };
  const auto id = [&](Arguments arguments) {
    arguments.insert(arguments.end(), {"id", "-u"});
    return bpftime_as_nobody(arguments).output;
  };
  EXPECT_EQ(id({"load"}), "65534\n") << "a program that is no eBPF tool is told the truth";
  EXPECT_EQ(id({"load", "--pretend-root"}), "0\n");
  // No right comes with the answer.
  EXPECT_NE(bpftime_as_nobody({"load", "--pretend-root", "cat", "/etc/shadow"}).code, 0);
  if (installed("/usr/bin/bpftrace")) {
    const Finished told = bpftime_as_nobody({"load", "bpftrace", "-l", "uprobe:/bin/bash:readline"});
    EXPECT_EQ(told.error.find("only supports running as the root user"), std::string::npos) << told.error;
  }
  const Finished limit = bpftime_as_nobody({"load", "/bin/sh", "-c", "ulimit -l unlimited && echo raised"});
  EXPECT_EQ(limit.output, "raised\n") << limit.error;
  if (installed("/usr/sbin/bpftool")) {
    const Finished made =
        bpftime_as_nobody({"load", "/usr/sbin/bpftool", "map", "create", "/sys/fs/bpf/m", "type", "hash",
                           "key", "4", "value", "4", "entries", "1", "name", "nobodys"});
    EXPECT_EQ(made.code, 0) << made.output << made.error;
  }
}

TEST_F(Clients, VerboseLoadSaysWhichCallFailed) {
  const Finished loud = bpftime({"load", "-v", program("hostile_calls"), "/bin/true"});
  EXPECT_NE(loud.error.find("bpf(MAP_CREATE): EINVAL: create map"), std::string::npos) << loud.error;
  EXPECT_NE(loud.error.find("bpf(PROG_LOAD): "), std::string::npos) << loud.error;
  EXPECT_NE(loud.error.find("perf_event_open(type "), std::string::npos) << loud.error;
  const Finished quiet = bpftime({"load", program("hostile_calls"), "/bin/true"});
  EXPECT_EQ(quiet.error, "");
}

// ---- bashreadline ----

// "HH:MM:SS  PID  line" to the lines.
std::vector<std::string> commands_of(const std::string& output) {
  std::vector<std::string> out;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    std::smatch parts;
    out.push_back(std::regex_match(line, parts, std::regex("^[0-9:]{8} +[0-9]+ +(.*)$")) ? parts[1].str()
                                                                                         : line);
  }
  return out;
}

TEST_F(Clients, Bashreadline) {
  if (!installed("/usr/sbin/bashreadline")) GTEST_SKIP() << "libbpf-tools is not installed";
  const auto lines = [&](bool ours) {
    Child reader = tool(ours, {"/usr/sbin/bashreadline"});
    EXPECT_TRUE(reader.wait_for_output("COMMAND\n")) << reader.error();
    Arguments shell = {"/bin/bash", "--norc", "-i"};
    if (ours) shell.insert(shell.begin(), {program("bpftime"), "start", "-q"});
    Terminal terminal(shell, options());
    EXPECT_TRUE(terminal.type("echo one")) << terminal.text();
    EXPECT_TRUE(terminal.type("true two  three"));
    EXPECT_TRUE(terminal.type("exit"));
    EXPECT_TRUE(terminal.ended());
    EXPECT_TRUE(reader.wait_for_output("exit\n")) << reader.output() << reader.error();
    return commands_of(reader.output());
  };
  const auto seen = lines(true);
  const std::vector<std::string> expected = {"TIME      PID     COMMAND", "echo one", "true two  three",
                                             "exit"};
  EXPECT_EQ(seen, expected);
  if (::geteuid() != 0) GTEST_SKIP() << "the kernel's side needs root";
  EXPECT_EQ(lines(false), seen);
}

// ---- funclatency ----

// Calls counted in the histogram.
uint64_t histogram_total(const std::string& output) {
  uint64_t total = 0;
  std::istringstream lines(output);
  const std::regex bucket("^ *[0-9]+ -> [0-9]+ +: ([0-9]+) +\\|.*$");
  for (std::string line; std::getline(lines, line);)
    if (std::smatch parts; std::regex_match(line, parts, bucket)) total += std::stoull(parts[1]);
  return total;
}

class Funclatency : public Clients {
 protected:
  uint64_t measure(bool ours, const Arguments& more, const std::function<void(pid_t)>& place = {}) {
    Child target = talker(ours, 2, 50);
    if (place) place(target.pid());
    Arguments command = {"/usr/sbin/funclatency"};
    command.insert(command.end(), more.begin(), more.end());
    command.push_back(program("talker") + ":talk");
    Child reader = tool(ours, command);
    EXPECT_TRUE(reader.wait_for_output("Hit Ctrl-C to exit\n")) << reader.error();
    if (ours) {
      EXPECT_TRUE(eventually([&] { return active_probes(target.pid()) > 0; }));
    }
    round(target, 1);
    reader.signal(SIGINT);
    EXPECT_EQ(reader.wait(), 0) << reader.error();
    return histogram_total(reader.output());
  }
};

TEST_F(Funclatency, CountsEveryCall) {
  if (!installed("/usr/sbin/funclatency")) GTEST_SKIP() << "libbpf-tools is not installed";
  EXPECT_EQ(measure(true, {}), 100u);
  if (::geteuid() != 0) GTEST_SKIP() << "the kernel's side needs root";
  EXPECT_EQ(measure(false, {}), 100u);
}

// -c: bpf_current_task_under_cgroup, with groups inside, outside and above.
TEST_F(Funclatency, CountsOnlyWhatRunsInAControlGroup) {
  if (!installed("/usr/sbin/funclatency")) GTEST_SKIP() << "libbpf-tools is not installed";
  std::string root;
  for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"})
    if (::access((std::string(mount) + "/cgroup.procs").c_str(), W_OK) == 0) root = mount;
  if (root.empty() || ::geteuid() != 0) GTEST_SKIP() << "no control group (version 2) that we may change";
  const std::string outer = root + "/bpftime-e2e-" + std::to_string(::getpid()), inner = outer + "/inner",
                    other = outer + "-other";
  for (const auto& group : {outer, inner, other})
    if (::mkdir(group.c_str(), 0755) != 0) GTEST_SKIP() << "cannot make " << group;
  const auto into = [](const std::string& group) {
    return [group](pid_t pid) { std::ofstream(group + "/cgroup.procs") << pid << std::flush; };
  };
  for (const bool ours : {true, false}) {
    SCOPED_TRACE(ours ? "bpftime" : "kernel");
    EXPECT_EQ(measure(ours, {"-c", inner}, into(inner)), 100u);
    EXPECT_EQ(measure(ours, {"-c", outer}, into(inner)), 100u) << "a group holds what is in those below";
    EXPECT_EQ(measure(ours, {"-c", other}, into(inner)), 0u);
    EXPECT_EQ(measure(ours, {"-c", inner}, into(outer)), 0u);
    EXPECT_EQ(measure(ours, {"-c", root}, into(inner)), 100u);
  }
  for (const auto& group : {inner, outer, other})
    EXPECT_TRUE(eventually([&] { return ::rmdir(group.c_str()) == 0; })) << group;
}

// ---- gethostlatency ----

TEST_F(Clients, Gethostlatency) {
  if (!installed("/usr/sbin/gethostlatency")) GTEST_SKIP() << "libbpf-tools is not installed";
  const auto rows = [&](bool ours) {
    Child reader = tool(ours, {"/usr/sbin/gethostlatency"});
    EXPECT_TRUE(reader.wait_for_output("HOST\n")) << reader.error();
    const Arguments look_up = {"/usr/bin/getent", "ahosts", "localhost"};
    Arguments started = {"start", "-q"};
    started.insert(started.end(), look_up.begin(), look_up.end());
    EXPECT_EQ((ours ? bpftime(started) : run(look_up)).code, 0);
    EXPECT_TRUE(eventually([&] {
      return std::regex_search(reader.output(), std::regex("getent .*localhost\n"));
    })) << reader.output()
        << reader.error();
    // Others on this machine may look something up, too.
    std::string text, line;
    for (std::istringstream lines(reader.output()); std::getline(lines, line);)
      if (line.find("HOST") != std::string::npos || line.find("getent") != std::string::npos)
        text += line + "\n";
    return std::regex_replace(text, std::regex("[0-9:]{8} [0-9]+ +getent +[0-9.]+ +"), "getent ");
  };
  const std::string seen = rows(true);
  EXPECT_EQ(seen, "TIME     PID     COMM             LATms      HOST\ngetent localhost\n");
  if (::geteuid() != 0) GTEST_SKIP() << "the kernel's side needs root";
  EXPECT_EQ(rows(false), seen);
}

// ---- bpftool ----

// The same commands on both sides: what they say and how they end.
class Bpftool : public Clients {
 protected:
  static std::string script() {
    return R"(PATH=$PATH:/usr/sbin
D=/sys/fs/bpf/$NAME
t() { echo "+ $*"; "$@" 2>&1; echo "= $?"; }
m() { local name=$1; shift; t bpftool map create $D/$name "$@" name $name; }
mkdir $D
m hash type hash key 4 value 8 entries 8
m array type array key 4 value 4 entries 3
m percpu type percpu_array key 4 value 8 entries 2
m queue type queue value 4 entries 3
m stack type stack value 4 entries 3
m trie type lpm_trie key 8 value 4 entries 3 flags 1
m outer type hash_of_maps key 4 value 4 entries 3 inner_map pinned $D/hash
m ring type ringbuf entries 4096
m bad type hash key 0 value 8 entries 8
m bad type array key 4 value 8 entries 8 flags 0x800000
m bad type ringbuf entries 5000
t bpftool map update pinned $D/hash key 1 0 0 0 value 1 2 3 4 5 6 7 8
t bpftool map update pinned $D/hash key hex 02 0 0 0 value hex ff 0 0 0 0 0 0 0 noexist
t bpftool map update pinned $D/hash key 1 0 0 0 value 1 2 3 4 5 6 7 8 noexist
t bpftool map update pinned $D/hash key 9 0 0 0 value 1 2 3 4 5 6 7 8 exist
t bpftool map lookup pinned $D/hash key 1 0 0 0
t bpftool map lookup pinned $D/hash key 7 0 0 0
t bpftool -j map lookup pinned $D/hash key 1 0 0 0
t bpftool map getnext pinned $D/array key 0 0 0 0
t bpftool map getnext pinned $D/array key 2 0 0 0
t bpftool map dump pinned $D/array
t bpftool -j map dump pinned $D/array
t bpftool map dump pinned $D/percpu
t bpftool map delete pinned $D/hash key 2 0 0 0
t bpftool map delete pinned $D/hash key 2 0 0 0
t bpftool map dump pinned $D/hash
t bpftool map enqueue pinned $D/queue value 1 0 0 0
t bpftool map enqueue pinned $D/queue value 2 0 0 0
t bpftool map peek pinned $D/queue
t bpftool map dequeue pinned $D/queue
t bpftool map dequeue pinned $D/queue
t bpftool map dequeue pinned $D/queue
t bpftool map push pinned $D/stack value 1 0 0 0
t bpftool map push pinned $D/stack value 2 0 0 0
t bpftool map pop pinned $D/stack
t bpftool map update pinned $D/trie key 16 0 0 0 10 1 0 0 value 7 0 0 0
t bpftool map lookup pinned $D/trie key 32 0 0 0 10 1 2 3
t bpftool map lookup pinned $D/trie key 32 0 0 0 10 2 2 3
t bpftool map update pinned $D/outer key 1 0 0 0 value pinned $D/hash
t bpftool map update pinned $D/outer key 2 0 0 0 value pinned $D/array
t bpftool map freeze pinned $D/array
t bpftool map update pinned $D/array key 1 0 0 0 value 1 2 3 4
t bpftool map show pinned $D/hash
t bpftool map show pinned $D/trie
t bpftool map show id 99999999
t bpftool map event_pipe pinned $D/hash
t bpftool prog show id 99999999
t bpftool link show id 99999999
rm -r $D
)";
  }
  // Without ids and with what only the kernel can tell: how much memory it locked, where in its text a helper is.
  static std::string normalised(std::string text) {
    text = std::regex_replace(text, std::regex("(^|\n)[0-9]+: "), "$1N: ");
    text = std::regex_replace(text, std::regex("  memlock [0-9]+B"), "");
    return std::regex_replace(text, std::regex("inner_map_id:? *[0-9]+"), "inner_map_id");
  }
};

TEST_F(Bpftool, SaysOfMapsWhatItSaysOnTheKernel) {
  if (!installed("/usr/sbin/bpftool")) GTEST_SKIP() << "bpftool is not installed";
  if (::geteuid() != 0) GTEST_SKIP() << "the kernel's side needs root";
  Child::Options named = options();
  named.environment["NAME"] = "bpftime-e2e-" + std::to_string(::getpid());
  const Finished kernel = run({"/bin/bash", "-c", script()}, named);
  if (kernel.error.find("mkdir") != std::string::npos) GTEST_SKIP() << "no bpf file system: " << kernel.error;
  const Finished ours = run({program("bpftime"), "load", "/bin/bash", "-c", script()}, named);
  EXPECT_EQ(normalised(ours.output), normalised(kernel.output));
  EXPECT_EQ(ours.error, kernel.error);
  EXPECT_EQ(ours.code, kernel.code);
  EXPECT_GT(ours.output.size(), 2000u);
}

TEST_F(Bpftool, DumpsProgramsWithTheirMaps) {
  if (!installed("/usr/sbin/bpftool")) GTEST_SKIP() << "bpftool is not installed";
  Child tool = load_tool({program("features"), "counters", program("talker"), "talk"});
  const Finished maps = bpftime(load({"/usr/sbin/bpftool", "--json", "map", "list"}));
  std::set<int> ids;
  for (const auto& map : nlohmann::json::parse(maps.output)) ids.insert(map["id"].get<int>());
  const Finished dump = bpftime(load({"/usr/sbin/bpftool", "prog", "dump", "xlated", "name", "on_counters"}));
  ASSERT_EQ(dump.code, 0) << dump.error;
  const std::regex reference("map\\[id:([0-9]+)\\]");
  size_t count = 0;
  for (std::sregex_iterator at(dump.output.begin(), dump.output.end(), reference), end; at != end;
       ++at, ++count)
    EXPECT_TRUE(ids.contains(std::stoi((*at)[1]))) << (*at)[0];
  EXPECT_GT(count, 0u) << dump.output;
}

}  // namespace
}  // namespace bpftime::e2e

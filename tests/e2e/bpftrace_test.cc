// Debian's bpftrace, unmodified: each script runs twice against the same workload, on the kernel and under `bpftime load`, and
// must print the same. Pids, addresses and the order of lines (maps have none) are left out of the comparison.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <regex>
#include <sstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

constexpr char kBpftrace[] = "/usr/bin/bpftrace";
constexpr char kTracefs[] = "/sys/kernel/tracing";

// bpftrace attaches the first probe of a script last: once this one has ticked, all are in place.
constexpr char kReady[] = "interval:ms:50 { if (!@ready) { printf(\"READY\\n\"); @ready = 1; } } ";

struct Script {
  std::string name, text;
  bool waits = true;  // for the workload; else it ends by itself
  // What it prints meanwhile, so often: what bpftrace has not read yet when it gets its SIGINT it throws away, on the kernel as
  // here.
  std::string prints;
  size_t times = 0;
  // The talker's threads speak one after the other. bpftrace 0.17 looks a number up, adds to it and stores the sum: in that order,
  // with nothing that keeps another thread from doing the same in between. Where that is not undone by us (support-matrix.md) it
  // is the scheduler's choice whether a number is one too low, here and on the kernel. What the scripts show does not depend on it.
  bool in_turn = false;
};
Script in_turn(Script script) {
  script.in_turn = true;
  return script;
}

void PrintTo(const Script& script, std::ostream* out) { *out << script.name; }

// In a mount namespace of its own: this machine may not have tracefs mounted, and is not ours to change. Where it is there
// already it cannot be mounted once more (EBUSY).
void mount_tracefs() {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      (::mount("tracefs", kTracefs, "tracefs", 0, nullptr) != 0 && errno != EBUSY))
    ::_exit(125);
}

std::string normalized(const std::string& output, pid_t target) {
  std::string text = std::regex_replace(output, std::regex("0x[0-9a-f]+"), "ADDRESS");
  text = std::regex_replace(text, std::regex("tid [0-9]+"), "tid N");
  text = std::regex_replace(text, std::regex("\\b" + std::to_string(target) + "\\b"), "TARGET");
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  std::string out;
  for (const auto& line : lines) out += line + "\n";
  return out;
}

size_t count_of(const std::string& what, const std::string& text) {
  size_t count = 0;
  for (size_t at = text.find(what); !what.empty() && at != std::string::npos; at = text.find(what, at + 1))
    ++count;
  return count;
}

class Bpftrace : public EndToEnd, public ::testing::WithParamInterface<Script> {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (::access(kBpftrace, X_OK) != 0) GTEST_SKIP() << "bpftrace is not installed";
    if (::geteuid() != 0) GTEST_SKIP() << "bpftrace runs as root only";
  }

  enum class Side { kKernel, kOurs, kNobodys };
  // What the script prints while two threads of a talker talk three times each, twice.
  std::string output_of(const Script& script, Side side, const Child::Options& user) {
    const bool on_kernel = side == Side::kKernel;
    const Arguments talk = {program("talker"), "2", "3", script.in_turn ? "in-turn" : "at-once"};
    const auto under = [&](Arguments verb, const Arguments& command) {
      verb.insert(verb.begin(), program("bpftime"));
      verb.insert(verb.end(), command.begin(), command.end());
      return Child(verb, user);
    };
    Child target = on_kernel ? Child(talk, options()) : under({"start"}, talk);
    EXPECT_TRUE(target.wait_for_output("waiting")) << target.error();
    std::string text = (script.waits ? kReady : "") + script.text;
    const auto replace = [&](const std::string& from, const std::string& to) {
      for (size_t at; (at = text.find(from)) != std::string::npos;) text.replace(at, from.size(), to);
    };
    const pid_t pid = pid_of_talker(target);
    replace("TALKER", program("talker"));
    replace("PID", std::to_string(pid));
    const Arguments command = {kBpftrace, "-e", text};
    Child::Options on_its_own = options();
    on_its_own.before_exec = mount_tracefs;
    Child tool = on_kernel ? Child(command, on_its_own) : under({"load"}, command);
    if (script.waits) {
      if (!tool.wait_for_output("READY")) {
        ADD_FAILURE() << (on_kernel ? "kernel: " : "bpftime: ") << tool.output() << tool.error();
        return "";
      }
      for (const char* done : {"round 1 done", "round 2 done"}) {
        ::kill(pid, SIGUSR1);
        EXPECT_TRUE(target.wait_for_output(done));
      }
      EXPECT_TRUE(eventually([&] { return count_of(script.prints, tool.output()) >= script.times; }));
      tool.signal(SIGINT);
    }
    const auto code = tool.wait();
    EXPECT_EQ(code, 0) << tool.output() << tool.error();
    if (code == 125) return "";
    ::kill(pid, SIGTERM);
    return normalized(tool.output(), pid);
  }
  // Why the kernel cannot run bpftrace here; empty: it can.
  std::string kernel_unusable() {
    Child::Options on_its_own = options();
    on_its_own.before_exec = mount_tracefs;
    const Finished probe = run({kBpftrace, "-e", "BEGIN { exit(); }"}, on_its_own);
    return probe.code == 0 ? "" : "the kernel cannot be compared with: " + probe.error;
  }

 private:
  // `bpftime start` stays in front of its program.
  static pid_t pid_of_talker(const Child& child) {
    const Finished found = run({"pgrep", "-P", std::to_string(child.pid()), "-x", "talker"});
    return found.code == 0 ? std::stoi(found.output) : child.pid();
  }
};

// As root, and as somebody to whom the kernel gives nothing of this.
TEST_P(Bpftrace, PrintsWhatItPrintsOnTheKernel) {
  const std::string ours = output_of(GetParam(), Side::kOurs, options());
  EXPECT_NE(ours, "");
  std::string reason;
  if (const Child::Options nobody = options_of_nobody(&reason); !nobody.before_exec)
    std::cerr << "not as nobody: " << reason << "\n";
  else
    EXPECT_EQ(output_of(GetParam(), Side::kNobodys, nobody),
              std::regex_replace(ours, std::regex("uid 0\\b"), "uid 65534"));
  if (reason = kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
  EXPECT_EQ(ours, output_of(GetParam(), Side::kKernel, options()));
}

INSTANTIATE_TEST_SUITE_P(
    Scripts, Bpftrace,
    ::testing::Values(
        Script{"BeginEnd",
               "BEGIN { printf(\"%s %d uid %d\\n\", comm, pid == tid, uid); @x = 3; exit(); } END { @x++; }",
               false},
        Script{"Interval", "interval:ms:20 /@n < 5/ { @ticks = count(); if (++@n == 5) { exit(); } }", false},
        Script{"Clear",
               "BEGIN { @a[1] = 2; @b = count(); print(@a); clear(@a); zero(@b); print(@b); exit(); }",
               false},
        Script{"Profile", "profile:hz:50 { @hit = 1; } interval:ms:300 { exit(); }", false},
        Script{"Printf", "uprobe:TALKER:talk { printf(\"%s %s %d\\n\", comm, str(arg0), pid); }", true,
               "talker-", 12},
        in_turn({"CountByName", "uprobe:TALKER:talk { @[comm] = count(); @text[str(arg0, 3)] = count(); }"}),
        in_turn({"Statistics",
                 "uretprobe:TALKER:talk { $v = retval % 100; @avg = avg($v); @sum = sum($v); @min = min($v); "
                 "@max = "
                 "max($v); @stats = stats($v); @hist = hist($v); @lhist = lhist($v, 0, 100, 10); }"}),
        in_turn({"Latency",
                 "uprobe:TALKER:talk { @start[tid] = nsecs; } uretprobe:TALKER:talk /@start[tid]/ { "
                 "@less_than_1s = "
                 "sum(nsecs - @start[tid] < 1000000000); delete(@start[tid]); }"}),
        in_turn({"Stacks",
                 "uprobe:TALKER:talk { @[ustack(3), comm] = count(); @at[usym(reg(\"ip\"))] = count(); }"}),
        Script{
            "Loops",
            "uprobe:TALKER:talk /comm == \"talker-1\"/ { $i = 0; while ($i < 3) { @w[$i] = sum($i); $i++; } "
            "unroll(2) { @u++; } if (str(arg0) == \"t1 c1\") { @equal = count(); } @first[*uptr(arg0) & "
            "0xff] = "
            "count(); }"},
        in_turn({"SystemCalls",
                 // Sums, not counts: lines of two threads may leave in one write.
                 "tracepoint:syscalls:sys_enter_write /pid == PID/ { @bytes = sum(args->count); "
                 "printf(\"%s\", str(args->buf, args->count)); } tracepoint:syscalls:sys_exit_write /pid == "
                 "PID/ { @written = sum(args->ret); }",
                 true, "round 2 done", 1})),
    [](const auto& script) { return script.param.name; });

// ---- scripts as they come with bpftrace ----

struct Shipped {
  std::string name, line;  // of the lines, those that must be equal
  size_t count;            // of those
  std::vector<std::pair<const char*, const char*>> variable;
};

void PrintTo(const Shipped& script, std::ostream* out) { *out << script.name; }

// What they look for, each a few times.
constexpr char kWorkload[] = R"(
import ctypes, mmap, os, socket, ssl, subprocess, tempfile
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(512)
for i in range(3):
    try: os.open(b"/nowhere/script_%d" % i, os.O_RDONLY)
    except OSError: pass
    libc.syscall(4, b"/nowhere/script_%d" % i, buffer)    # stat
    libc.syscall(137, b"/nowhere/script_%d" % i, buffer)  # statfs
os.kill(os.getpid(), 0)
try: os.kill(2147483646, 7)
except ProcessLookupError: pass
subprocess.run(["/bin/true", "script_execs", "a  b"], check=True)
libc.syscall(35, (ctypes.c_long * 2)(0, 2000000), None)   # nanosleep
os.setuid(os.getuid())
os.setresuid(-1, -1, -1)
with tempfile.TemporaryFile() as file:
    os.fsync(file.fileno()); os.fdatasync(file.fileno())
mmap.mmap(-1, 4096).flush()
try: ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="host").do_handshake()
except ssl.SSLWantReadError: pass
socket.getaddrinfo("localhost", 80)
)";

constexpr std::pair<const char*, const char*> kTimeAndPid = {"^[0-9:.]+ +[0-9]+ +", ""};

class BpftraceScripts : public EndToEnd, public ::testing::WithParamInterface<Shipped> {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (::access(kBpftrace, X_OK) != 0) GTEST_SKIP() << "bpftrace is not installed";
    if (::geteuid() != 0) GTEST_SKIP() << "comparing with the kernel needs root";
  }
  // As shipped, with one probe more that says when others are in place.
  std::string script() {
    std::ifstream in("/usr/sbin/" + GetParam().name + ".bt");
    const std::string path = directory() + "/script.bt";
    std::string text{std::istreambuf_iterator<char>(in), {}};
    if (text.empty()) return "";
    const size_t begin = text.find("\nBEGIN");
    std::ofstream(path) << (begin == std::string::npos ? "" : text.insert(begin + 1, kReady));
    return path;
  }
  // The wanted lines of one process and those it started, sorted.
  std::vector<std::string> lines_of(const std::string& output) {
    std::vector<std::string> out;
    std::istringstream lines(output);
    const std::regex wanted(GetParam().line);
    for (std::string line; std::getline(lines, line);) {
      if (!std::regex_search(line, wanted)) continue;
      for (const auto& [pattern, instead] : GetParam().variable)
        line = std::regex_replace(line, std::regex(pattern), instead);
      out.push_back(std::regex_replace(line, std::regex(" +"), " "));
    }
    std::sort(out.begin(), out.end());
    return out;
  }
  std::vector<std::string> trace(const std::string& path, bool on_kernel) {
    Child::Options on_its_own = options();
    on_its_own.before_exec = mount_tracefs;
    Arguments workload = {"/usr/bin/python3", "-c", kWorkload};
    Child tool = on_kernel ? Child({kBpftrace, path}, on_its_own) : bpftime_child(load({kBpftrace, path}));
    if (!tool.wait_for_output("READY")) {
      ADD_FAILURE() << (on_kernel ? "kernel: " : "bpftime: ") << tool.output() << tool.error();
      return {};
    }
    // The name is only this workload's: others run python on this machine, too.
    const std::string python = directory() + "/bpftrace_work";
    (void)::symlink("/usr/bin/python3", python.c_str());
    workload[0] = python;
    if (!on_kernel) workload.insert(workload.begin(), {program("bpftime"), "start"});
    const Finished done = run(workload, options());
    EXPECT_EQ(done.code, 0) << done.error;
    (void)eventually([&] { return lines_of(tool.output()).size() >= GetParam().count; });
    tool.signal(SIGINT);
    EXPECT_EQ(tool.wait(), 0) << tool.error();
    return lines_of(tool.output());
  }
};

TEST_P(BpftraceScripts, PrintWhatTheyPrintOnTheKernel) {
  const std::string path = script();
  if (path.empty()) GTEST_SKIP() << "bpftrace was installed without its scripts";
  if (::access("/usr/bin/python3", X_OK) != 0) GTEST_SKIP() << "python3 is not installed";
  const auto kernel = trace(path, /*on_kernel=*/true);
  EXPECT_EQ(kernel.size(), GetParam().count);
  EXPECT_EQ(trace(path, /*on_kernel=*/false), kernel);
}

INSTANTIATE_TEST_SUITE_P(
    Shipped, BpftraceScripts,
    ::testing::Values(
        Shipped{"opensnoop", "bpftrace_work .*/nowhere/script", 3, {{"^[0-9]+ +", ""}}},
        Shipped{"statsnoop", "bpftrace_work .*/nowhere/script", 6, {{"^[0-9]+ +", ""}}},
        Shipped{"killsnoop", "bpftrace_work +(0|7) ", 2, {kTimeAndPid, {" 0 +[0-9]+ +0$", " 0 TPID 0"}}},
        Shipped{"execsnoop", "true script_execs", 1, {kTimeAndPid}},
        Shipped{"naptime", "bpftrace_work +0.002", 1, {{"^.*bpftrace_work", ""}}},
        Shipped{"setuids", "bpftrace_work ", 2, {kTimeAndPid}},
        Shipped{"syncsnoop", "bpftrace_work .*sync", 3, {kTimeAndPid}},
        Shipped{"sslsnoop",
                "bpftrace_work? +[0-9]+ .*SSL_do_handshake",
                1,
                {{"^[0-9]+ +[0-9]+ +bpftrace_work? +[0-9]+ ", ""}}},
        Shipped{"gethostlatency",
                "bpftrace_work .*localhost",
                1,
                {kTimeAndPid, {" [0-9]+ localhost", " localhost"}}}),
    [](const auto& script) { return script.param.name; });

// What a profile would show, nobody samples: refused, with the reason, rather than answered wrongly.
class BpftraceRefusal : public EndToEnd {};
TEST_F(BpftraceRefusal, ProfileOfWhatRuns) {
  if (::access(kBpftrace, X_OK) != 0) GTEST_SKIP() << "bpftrace is not installed";
  if (::geteuid() != 0) GTEST_SKIP() << "bpftrace runs as root only";
  const Finished tool = bpftime({"load", "-v", kBpftrace, "-e", "profile:hz:50 { @[comm] = count(); }"});
  EXPECT_NE(tool.code, 0);
  EXPECT_NE(tool.error.find("Operation not supported"), std::string::npos) << tool.error;
}

}  // namespace
}  // namespace bpftime::e2e

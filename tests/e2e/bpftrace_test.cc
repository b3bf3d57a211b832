// Debian's bpftrace, unmodified: each script runs twice against the same workload, on the kernel and under `bpftime load`, and
// must print the same. Pids, addresses and the order of lines (maps have none) are left out of the comparison.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
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
};

void PrintTo(const Script& script, std::ostream* out) { *out << script.name; }

// In a mount namespace of its own: this machine may not have tracefs mounted, and is not ours to change.
void mount_tracefs() {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tracefs", kTracefs, "tracefs", 0, nullptr) != 0)
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

class Bpftrace : public EndToEnd, public ::testing::WithParamInterface<Script> {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (::access(kBpftrace, X_OK) != 0) GTEST_SKIP() << "bpftrace is not installed";
    if (::geteuid() != 0) GTEST_SKIP() << "bpftrace runs as root only";
  }

  // What the script prints while two threads of a talker talk three times each, twice.
  std::string output_of(const Script& script, bool on_kernel) {
    const Arguments talk = {program("talker"), "2", "3"};
    Child target = on_kernel ? Child(talk, options()) : bpftime_child({"start", talk[0], talk[1], talk[2]});
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
    Child tool = on_kernel ? Child(command, on_its_own) : bpftime_child(load(command));
    if (script.waits) {
      if (!tool.wait_for_output("READY")) {
        ADD_FAILURE() << (on_kernel ? "kernel: " : "bpftime: ") << tool.output() << tool.error();
        return "";
      }
      for (const char* done : {"round 1 done", "round 2 done"}) {
        ::kill(pid, SIGUSR1);
        EXPECT_TRUE(target.wait_for_output(done));
      }
      tool.signal(SIGINT);
    }
    const auto code = tool.wait();
    EXPECT_EQ(code, 0) << tool.output() << tool.error();
    if (code == 125) return "";
    ::kill(pid, SIGTERM);
    return normalized(tool.output(), pid);
  }

 private:
  // `bpftime start` stays in front of its program.
  static pid_t pid_of_talker(const Child& child) {
    const Finished found = run({"pgrep", "-P", std::to_string(child.pid()), "-x", "talker"});
    return found.code == 0 ? std::stoi(found.output) : child.pid();
  }
};

TEST_P(Bpftrace, PrintsWhatItPrintsOnTheKernel) {
  const Finished probe = [&] {
    Child::Options on_its_own = options();
    on_its_own.before_exec = mount_tracefs;
    return run({kBpftrace, "-e", "BEGIN { exit(); }"}, on_its_own);
  }();
  const std::string ours = output_of(GetParam(), /*on_kernel=*/false);
  EXPECT_NE(ours, "");
  if (probe.code != 0) GTEST_SKIP() << "the kernel cannot be compared with: " << probe.error;
  EXPECT_EQ(ours, output_of(GetParam(), /*on_kernel=*/true));
}

INSTANTIATE_TEST_SUITE_P(
    Scripts, Bpftrace,
    ::testing::Values(
        Script{"BeginEnd",
               "BEGIN { printf(\"%s %d %d\\n\", comm, pid == tid, uid); @x = 3; exit(); } END { @x++; }",
               false},
        Script{"Interval", "interval:ms:20 { @ticks = count(); if (++@n == 5) { exit(); } }", false},
        Script{"Clear",
               "BEGIN { @a[1] = 2; @b = count(); print(@a); clear(@a); zero(@b); print(@b); exit(); }",
               false},
        Script{"Profile", "profile:hz:50 { @hit = 1; } interval:ms:300 { exit(); }", false},
        Script{"Printf", "uprobe:TALKER:talk { printf(\"%s %s %d\\n\", comm, str(arg0), pid); }"},
        Script{"CountByName", "uprobe:TALKER:talk { @[comm] = count(); @text[str(arg0, 3)] = count(); }"},
        Script{"Statistics",
               "uretprobe:TALKER:talk { $v = retval % 100; @avg = avg($v); @sum = sum($v); @min = min($v); "
               "@max = "
               "max($v); @stats = stats($v); @hist = hist($v); @lhist = lhist($v, 0, 100, 10); }"},
        Script{"Latency",
               "uprobe:TALKER:talk { @start[tid] = nsecs; } uretprobe:TALKER:talk /@start[tid]/ { "
               "@less_than_1s = "
               "sum(nsecs - @start[tid] < 1000000000); delete(@start[tid]); }"},
        Script{"Stacks",
               "uprobe:TALKER:talk { @[ustack(3), comm] = count(); @at[usym(reg(\"ip\"))] = count(); }"},
        Script{
            "Loops",
            "uprobe:TALKER:talk /comm == \"talker-1\"/ { $i = 0; while ($i < 3) { @w[$i] = sum($i); $i++; } "
            "unroll(2) { @u++; } if (str(arg0) == \"t1 c1\") { @equal = count(); } @first[*uptr(arg0) & "
            "0xff] = "
            "count(); }"},
        Script{"SystemCalls",
               // Sums, not counts: lines of two threads may leave in one write.
               "tracepoint:syscalls:sys_enter_write /pid == PID/ { @bytes = sum(args->count); "
               "printf(\"%s\", str(args->buf, args->count)); } tracepoint:syscalls:sys_exit_write /pid == "
               "PID/ { @written = sum(args->ret); }"}),
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

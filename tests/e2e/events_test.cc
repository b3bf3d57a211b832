// Events from targets to tools: ring buffers, perf buffers and bpf_trace_printk, with stock libbpf on the tool's side.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "harness.h"

namespace bpftime::e2e {
namespace {

using Fields = std::map<std::string, std::string>;

// "event a=1 b=2 text=the rest" as fields.
Fields fields_of(const std::string& line) {
  Fields out;
  const size_t text = line.find(" text=");
  std::istringstream words(line.substr(0, text));
  for (std::string word; words >> word;)
    if (const size_t equals = word.find('='); equals != std::string::npos)
      out[word.substr(0, equals)] = word.substr(equals + 1);
  if (text != std::string::npos) out["text"] = line.substr(text + 6);
  return out;
}

std::vector<Fields> lines_starting(const std::string& output, const std::string& prefix) {
  std::vector<Fields> out;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(prefix)) out.push_back(fields_of(line));
  return out;
}

uint64_t lost_count(const std::string& output) {
  uint64_t total = 0;
  for (const auto& line : lines_starting(output, "lost ")) total += std::stoull(line.at("count"));
  return total;
}

std::string status_field(pid_t pid, const std::string& name) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name + ":")) return line.substr(name.size() + 1);
  return "";
}

// CPU time and switches of all threads of a process: does not change while it sleeps.
std::string activity(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  std::string word, times;
  for (int i = 0; rest >> word; ++i)
    if (i == 11 || i == 12) times += word + " ";
  return times + status_field(pid, "voluntary_ctxt_switches") +
         status_field(pid, "nonvoluntary_ctxt_switches");
}

void stay_on_one_cpu() {
  cpu_set_t all, one;
  sched_getaffinity(0, sizeof all, &all);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &all)) {
      CPU_SET(cpu, &one);
      break;
    }
  sched_setaffinity(0, sizeof one, &one);
}

class Events : public EndToEnd {
 protected:
  Child talker(int threads, int calls, Child::Options options = {}) {
    Child child = bpftime_child({"start", program("talker"), std::to_string(threads), std::to_string(calls)},
                                std::move(options));
    EXPECT_TRUE(child.wait_for_output("waiting\n")) << child.error();
    return child;
  }
  // One more round of calls, to its end. `bpftime start` becomes the program or passes signals on.
  static void round(Child& talker, int number) {
    talker.signal(SIGUSR1);
    ASSERT_TRUE(talker.wait_for_output("round " + std::to_string(number) + " done\n")) << talker.error();
  }
};

struct Tool {
  const char* name;
  const char* mode;
};

class EveryBuffer : public Events, public ::testing::WithParamInterface<Tool> {
 protected:
  void SetUp() override {
    Events::SetUp();
    if (::access(program(GetParam().name).c_str(), X_OK) != 0)
      GTEST_SKIP() << GetParam().name << " is not built: no Go with cilium/ebpf";
  }
  Arguments tool() const {
    return {program(GetParam().name), GetParam().mode, program("talker"), "talk", "-1", "4711"};
  }
};
INSTANTIATE_TEST_SUITE_P(
    Libbpf, EveryBuffer,
    ::testing::Values(Tool{"uprobe_stat", "ring"}, Tool{"uprobe_stat", "perf"},
                      Tool{"uprobe_stat_static", "ring"}, Tool{"uprobe_stat_static", "perf"},
                      Tool{"uprobe_stat_alone", "ring"}, Tool{"uprobe_stat_alone", "perf"},
                      Tool{"uprobe_stat_go", "ring"}, Tool{"uprobe_stat_go", "perf"},
                      Tool{"uprobe_stat_go_dynamic", "ring"}),
    [](const auto& info) { return std::string(info.param.name) + "_" + info.param.mode; });

TEST_P(EveryBuffer, DeliversEveryEventInOrderWithItsFacts) {
  constexpr int kThreads = 4, kCalls = 400;
  Child tool = load_tool(this->tool());
  Child target = talker(kThreads, kCalls);
  round(target, 1);
  EXPECT_TRUE(eventually([&] { return lines_starting(tool.output(), "event ").size() == kThreads * kCalls; }))
      << lines_starting(tool.output(), "event ").size() << tool.error();
  const auto summary = finish_tool(tool);
  EXPECT_EQ(summary["events"], kThreads * kCalls);

  std::map<std::string, std::string> thread_of_tid;
  std::istringstream said(target.output());
  for (std::string word, thread, tid; said >> word;)
    if (word == "thread" && said >> thread >> word >> tid) thread_of_tid[tid] = thread;
  ASSERT_EQ(thread_of_tid.size(), static_cast<size_t>(kThreads));

  std::map<std::string, int> next;
  std::set<std::string> tgids;
  auto events = lines_starting(tool.output(), "event ");
  // A perf buffer is one ring per CPU, read one after the other: the events of a thread that moved come out of order, as
  // they do from Linux. One ring buffer keeps the order.
  if (std::string(GetParam().mode) == "perf") {
    const auto call_number = [](auto& event) {
      return std::stoi(event.at("text").substr(event.at("text").find(" c") + 2));
    };
    std::stable_sort(events.begin(), events.end(),
                     [&](auto& a, auto& b) { return call_number(a) < call_number(b); });
  }
  for (const auto& event : events) {
    ASSERT_TRUE(thread_of_tid.contains(event.at("tid"))) << event.at("tid");
    const std::string thread = thread_of_tid[event.at("tid")];
    const std::string text = "t" + thread + " c" + std::to_string(next[thread]++);
    ASSERT_EQ(event.at("text"), text);
    EXPECT_EQ(event.at("length"), std::to_string(text.size() + 1));
    EXPECT_EQ(event.at("comm"), "talker-" + thread);
    EXPECT_EQ(event.at("uid"), std::to_string(::getuid()));
    EXPECT_EQ(event.at("cookie"), "4711");
    EXPECT_NE(event.at("argument"), "0");
    tgids.insert(event.at("tgid"));
  }
  ASSERT_EQ(tgids.size(), 1u);
  const pid_t tgid = std::stoi(*tgids.begin());
  std::ifstream comm("/proc/" + std::to_string(tgid) + "/comm");
  std::string name;
  EXPECT_TRUE(std::getline(comm, name)) << "the tgid is no process";
  EXPECT_EQ(name, "talker");
}

TEST_P(EveryBuffer, SleepsUntilAnEventWakesIt) {
  Child tool = load_tool(this->tool());
  Child target = talker(1, 1);
  // Asleep: two looks with time between them see the same CPU time and the same number of switches. The pause is what is
  // measured, not a wait for something.
  ASSERT_TRUE(eventually([&] {
    const std::string before = activity(tool.pid());
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    return activity(tool.pid()) == before &&
           status_field(tool.pid(), "State").find("S (") != std::string::npos;
  })) << activity(tool.pid());
  for (int i = 1; i <= 20; ++i) {
    round(target, i);
    ASSERT_TRUE(eventually([&] {
      return lines_starting(tool.output(), "event ").size() == static_cast<size_t>(i);
    })) << "event "
        << i << " did not wake the tool";
  }
  EXPECT_EQ(finish_tool(tool)["events"], 20);  // SIGTERM ends the blocked wait
}

// More than fits while nobody reads: what is kept and what is dropped is a matter of sizes, the same as in the kernel.
TEST_P(EveryBuffer, DropsWhatDoesNotFitAndGoesOn) {
  constexpr int kCalls = 20000;
  const bool ring = std::string(GetParam().mode) == "ring";
  Child tool = load_tool(this->tool());
  Child::Options options;
  options.before_exec = stay_on_one_cpu;  // one perf buffer: its lost records come with its next record
  Child target = talker(1, kCalls, options);
  tool.signal(SIGSTOP);
  ASSERT_TRUE(eventually([&] { return status_field(tool.pid(), "State").find("T (") != std::string::npos; }));
  round(target, 1);
  bpftime_json(
      {"daemon",
       "status"});  // after which the daemon has moved all there was: the tool must not make room meanwhile
  tool.signal(SIGCONT);
  // Ring: 1 MiB of records of 8 + 104 bytes, the last position stays free. Perf: 64 pages of records of 8 + 4 + 108.
  const size_t fit = ring ? ((1u << 20) - 1) / 112 : (64u << 12) / 120;
  EXPECT_TRUE(eventually([&] { return lines_starting(tool.output(), "event ").size() >= fit; }))
      << lines_starting(tool.output(), "event ").size();
  // Still alive: the next round's first events arrive, and perf tells how many it lost.
  Child one = talker(1, 1, options);
  round(one, 1);
  if (!ring) {
    EXPECT_TRUE(eventually([&] { return lost_count(tool.output()) == kCalls - fit; }))
        << lost_count(tool.output());
  }
  EXPECT_TRUE(eventually([&] { return lines_starting(tool.output(), "event ").size() == fit + 1; }))
      << lines_starting(tool.output(), "event ").size() << " of " << fit + 1;
  EXPECT_EQ(finish_tool(tool)["events"], fit + 1);
}

TEST_F(Events, ATargetThatIsNotProbedSendsNothing) {
  Child tool = load_tool({program("uprobe_stat"), "ring", program("talker"), "talk"});
  Child target({program("talker"), "2", "50"}, options());  // not started under us
  ASSERT_TRUE(target.wait_for_output("waiting\n"));
  round(target, 1);
  EXPECT_EQ(finish_tool(tool)["events"], 0);
}

class Rings : public Events, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Libbpf, Rings, ::testing::Values("features", "features_static", "features_alone"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Rings, TwoInOneEpollSet) {
  Child tool = load_tool({program(GetParam()), "rings", program("talker"), "talk"});
  Child target = talker(2, 100);
  round(target, 1);
  round(target, 2);
  const auto seen = finish_tool(tool);
  EXPECT_EQ(seen["first"], 200);
  EXPECT_EQ(seen["second"], 200);
}

TEST_P(Rings, ConsumedWithoutWaiting) {
  Child tool = load_tool({program(GetParam()), "consume", program("talker"), "talk"});
  Child target = talker(1, 64);
  round(target, 1);
  tool.signal(SIGUSR1);
  ASSERT_TRUE(tool.wait_for_output("}\n"));
  EXPECT_NE(tool.output().find("\"first\": 32, \"second\": 32, \"disorder\": 0"), std::string::npos)
      << tool.output();
  round(target, 2);
  const auto seen = finish_tool(tool);
  EXPECT_EQ(seen["first"], 64);
  EXPECT_EQ(seen["second"], 64);
  EXPECT_EQ(seen["disorder"], 0);
}

TEST_F(Events, TraceShowsLinesOfSeveralTargets) {
  Child tool = load_tool({program("features"), "trace", program("talker"), "talk"});
  Child trace = bpftime_child({"trace"});
  Child a = talker(1, 3), b = talker(1, 3);
  round(a, 1);
  round(b, 1);
  EXPECT_TRUE(eventually([&] {
    size_t lines = 0;
    for (size_t at = trace.output().find(" says t0 c"); at != std::string::npos;
         at = trace.output().find(" says t0 c", at + 1))
      ++lines;
    return lines >= 6;
  })) << trace.output()
      << trace.error();
  std::set<std::string> tgids;
  for (size_t at = trace.output().find("tgid "); at != std::string::npos;
       at = trace.output().find("tgid ", at + 1))
    tgids.insert(trace.output().substr(at, trace.output().find(" says", at) - at));
  EXPECT_EQ(tgids.size(), 2u) << trace.output();
  trace.signal(SIGINT);
  EXPECT_TRUE(trace.wait().has_value());
}

// A per-CPU value is added to without atomics: a thread that moves between reading the CPU's number and the store can undo
// another's addition. Never more than the calls; what is lost is printed, not asserted (docs/support-matrix.md).
TEST_F(Events, PerCpuCountsAreNeverTooHigh) {
  constexpr uint64_t kThreads = 4, kCalls = 500000;
  Child tool = load_tool({program("uprobe_stat"), "count", program("talker"), "talk"});
  Child target = talker(kThreads, kCalls);
  target.signal(SIGUSR1);
  ASSERT_TRUE(target.wait_for_output("round 1 done\n", 2 * kPatience));
  const auto seen = finish_tool(tool);
  EXPECT_EQ(seen["calls"], kThreads * kCalls);
  EXPECT_EQ(seen["bss"], kThreads * kCalls);
  const auto per_cpu = seen["per_cpu"].get<uint64_t>();
  EXPECT_LE(per_cpu, kThreads * kCalls);
  std::cerr << "per-CPU counts lost: " << kThreads * kCalls - per_cpu << " of " << kThreads * kCalls << "\n";
  RecordProperty("per_cpu_lost", std::to_string(kThreads * kCalls - per_cpu));
}

}  // namespace
}  // namespace bpftime::e2e

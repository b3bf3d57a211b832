// The same stock program on the kernel and under `bpftime load` must print the same. Where it does not, the difference
// stands in a table here, with its reason, and in docs/support-matrix.md.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <regex>
#include <set>
#include <sstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) out.push_back(line);
  return out;
}

class Parity : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    if (::geteuid() != 0) GTEST_SKIP() << "comparing with the kernel needs root";
    if (::access("/sys/bus/event_source/devices/uprobe/type", R_OK) != 0)
      GTEST_SKIP() << "this kernel has no uprobes";
    if (run({program("bpf_probe"), "/bin/true", "0"}, options()).output.find("prog trivial fd") ==
        std::string::npos)
      GTEST_SKIP() << "bpf(2) is not permitted here";
  }
  // File offset of talker's `talk`: its address, as the linker lays small executables out.
  std::string talk_offset() const {
    const std::string symbols = run({"nm", program("talker")}).output;
    std::smatch found;
    return std::regex_search(symbols, found, std::regex("([0-9a-f]+) T talk\n")) ? "0x" + found[1].str() : "";
  }
};

// Linux's answer and ours, for lines whose name matches.
struct Difference {
  const char* name;
  const char* kernel;
  const char* ours;
  const char* reason;
};
constexpr Difference kDifferences[] = {
    {"map with BTF of (no type|another size)", "-1 EINVAL", "fd 0",
     "a map's BTF is not compared with its key and value"},
    {"perf array takes no uprobe", "0 0", "-1 EINVAL",
     "perf event arrays take output events only: no program could use another"},
    {"freeze with a mapping made read-only", "-1 EBUSY", "0 0",
     "a mapping is judged by its present protection"},
    {"freeze with a read-only mapping", "0 0", "-1 EPERM", "follows from the one above: frozen already"},
    {"epoll (hash|array|perf array)", "0 0", "-1 EPERM",
     "only descriptors that can have data go into an epoll set"},
    {"epoll (hash|array|perf array) again", "-1 EEXIST", "-1 EPERM", "as above"},
    {"epoll wait with (hash|array|perf array)", "1 0", "0 0", "as above: Linux reports EPOLLERR for ever"},
    {"epoll modify (hash|array|perf array)", "0 0", "-1 EPERM", "as above"},
    {"epoll delete (hash|array|perf array)", "0 0", "-1 EPERM", "as above"},
    {"epoll delete (hash|array|perf array) again", "-1 ENOENT", "-1 EPERM", "as above"},
    {"epoll wait with output event", "1 0", "0 0",
     "an event without a ring is not ready; Linux reports EPOLLHUP"},
    {"read (hash|array|perf array|ringbuf)", "-1 EINVAL", "0 0",
     "descriptors are memory files: read, write and lseek work on them; a map's is behind its end"},
    {"write (hash|array|perf array|ringbuf)", "-1 EINVAL", "-1 EPERM", "as above"},
    {"read output", "8 0", "64 0", "as above"},
    {"read uprobe, small", "-1 ENOSPC", "4 0", "as above"},
    {"lseek event", "-1 ESPIPE", "0 0", "as above"},
    {"mmap uprobe", "0 0", "-1 EINVAL", "uprobe events have no ring"},
    {"  log says \"program of this type cannot use helper\"", "= 1", "= 0",
     "helpers that do not exist here are unknown functions, whatever the program's type"},
};

bool is_known(const std::string& kernel, const std::string& ours) {
  for (const Difference& known : kDifferences) {
    const std::regex expected_kernel(std::string(known.name) + " " + known.kernel);
    const std::regex expected_ours(std::string(known.name) + " " + known.ours);
    if (std::regex_match(kernel, expected_kernel) && std::regex_match(ours, expected_ours)) return true;
  }
  return false;
}

TEST_F(Parity, SystemCallsAnswerAsTheKernels) {
  const std::string offset = talk_offset();
  ASSERT_FALSE(offset.empty());
  const Arguments tool = {program("bpf_probe"), program("talker"), offset};
  const Finished kernel = run(tool, options());
  ASSERT_EQ(kernel.code, 0) << kernel.error;
  const Finished here = bpftime(load(tool));
  ASSERT_EQ(here.code, 0) << here.error;
  const auto theirs = lines_of(kernel.output), ours = lines_of(here.output);
  ASSERT_GT(theirs.size(), 600u);
  ASSERT_EQ(theirs.size(), ours.size());
  size_t known = 0;
  for (size_t i = 0; i < theirs.size(); ++i) {
    if (theirs[i] == ours[i]) continue;
    if (is_known(theirs[i], ours[i]))
      ++known;
    else
      ADD_FAILURE() << "line " << i + 1 << "\n  kernel: " << theirs[i] << "\n  ours:   " << ours[i];
  }
  std::cerr << theirs.size() << " answers compared, " << known << " known differences\n";
  EXPECT_LE(known, 40u);
}

// Batches, maps of maps, user rings, values with locks: type by type.
TEST_F(Parity, MapsAnswerAsTheKernels) {
  const Arguments tool = {program("map_probe")};
  const Finished kernel = run(tool, options());
  ASSERT_EQ(kernel.code, 0) << kernel.error;
  const Finished here = bpftime(load(tool));
  ASSERT_EQ(here.code, 0) << here.error;
  const auto theirs = lines_of(kernel.output), ours = lines_of(here.output);
  ASSERT_GT(theirs.size(), 1000u);
  ASSERT_EQ(theirs.size(), ours.size());
  for (size_t i = 0; i < theirs.size(); ++i)
    EXPECT_EQ(theirs[i], ours[i]) << "line " << i + 1 << ": the kernel's, ours";
}

// Each way a call can be bad: descriptors, lengths, stray bytes, flags, sizes, pointers, modes.
TEST_F(Parity, BadCallsAreRefusedAsByTheKernel) {
  const Arguments tool = {program("call_sweep")};
  const Finished kernel = run(tool, options());
  ASSERT_EQ(kernel.code, 0) << kernel.error;
  const Finished here = bpftime(load(tool));
  ASSERT_EQ(here.code, 0) << here.error;
  const auto theirs = lines_of(kernel.output), ours = lines_of(here.output);
  ASSERT_GT(theirs.size(), 20000u);
  ASSERT_EQ(theirs.size(), ours.size());
  // Samples of what is not recorded here are refused; the kernel has them.
  const std::regex samples("event: sample type [0-9a-f]+: EOPNOTSUPP");
  for (size_t i = 0; i < theirs.size(); ++i)
    if (!std::regex_match(ours[i], samples)) {
      EXPECT_EQ(theirs[i], ours[i]) << "line " << i + 1 << ": the kernel's, ours";
    }
  EXPECT_GT(worker_pid(), 0);
  // What lies in a circle goes with the next sweep, which a busy daemon may put off.
  for (const char* kind : {"map", "prog"})
    EXPECT_TRUE(eventually([&] { return bpftime_json({kind, "show"}).empty(); })) << kind;
}

// Files of uprobes are called what the tool called them, whatever that means to others.
TEST_F(Parity, FilesHaveTheNamesTheToolGaveThem) {
  const std::string directory = this->directory() + "/named";
  ASSERT_EQ(::mkdir(directory.c_str(), 0755), 0);
  ASSERT_EQ(::symlink(program("victim").c_str(), (directory + "/link").c_str()), 0);
  Child::Options inside = options();
  inside.directory = directory;
  for (const std::string& name :
       Arguments{"link", "./../named/link", directory + "/link", program("victim"), "/proc/self/cwd/link"}) {
    const std::string script =
        "printf '1 attach 7 -1 entry\\n2 names 0\\n3 quit\\n' | \"$0\" \"$1\" victim_call";
    const Arguments shell = {"/bin/sh", "-c", script, program("link_tool"), name};
    const Finished kernel = run(shell, inside);
    ASSERT_NE(kernel.output.find("link 0 " + name + " "), std::string::npos) << kernel.output << kernel.error;
    Arguments loaded = load(shell);
    loaded.insert(loaded.begin(), program("bpftime"));
    EXPECT_EQ(run(loaded, inside).output, kernel.output);
  }
}

// uprobe_stat's events without what differs from process to process.
std::vector<std::string> comparable_events(const std::string& output) {
  std::vector<std::string> out;
  for (const std::string& line : lines_of(output))
    if (line.starts_with("event "))
      out.push_back(std::regex_replace(line, std::regex("(tgid|tid|argument)=[0-9]+"), "$1=N"));
  return out;
}

class ParityOfEvents : public Parity, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Buffers, ParityOfEvents, ::testing::Values("ring", "perf"));

TEST_P(ParityOfEvents, AreTheKernels) {
  const Arguments tool = {program("uprobe_stat"), GetParam(), program("talker"), "talk", "-1", "99"};
  const auto events_of = [&](Child& stat, Child& target) {
    EXPECT_TRUE(target.wait_for_output("waiting\n")) << target.error();
    target.signal(SIGUSR1);
    EXPECT_TRUE(target.wait_for_output("round 1 done\n"));
    EXPECT_TRUE(eventually([&] { return comparable_events(stat.output()).size() >= 50; }));
    EXPECT_EQ(finish_tool(stat)["events"], 50);
    return comparable_events(stat.output());
  };
  std::vector<std::string> kernel, ours;
  {
    Child stat(tool, options());
    ASSERT_TRUE(stat.wait_for_output("ready\n")) << stat.error();
    Child target({program("talker"), "1", "50"}, options());
    kernel = events_of(stat, target);
  }
  {
    Child stat = load_tool(tool);
    Child target = bpftime_child({"start", program("talker"), "1", "50"});
    ours = events_of(stat, target);
  }
  EXPECT_EQ(kernel, ours);
}

// Counts and constants of everything libbpf and compilers do beyond plain programs.
TEST_F(Parity, CountersAreTheKernels) {
  const Arguments tool = {program("features"), "counters", program("talker"), "talk"};
  const auto state_of = [&](Child& features, Child& target) {
    EXPECT_TRUE(target.wait_for_output("waiting\n")) << target.error();
    target.signal(SIGUSR1);
    EXPECT_TRUE(target.wait_for_output("round 1 done\n"));
    auto state = finish_tool(features);
    state.erase("who");
    return state;
  };
  nlohmann::json kernel, ours;
  {
    Child features(tool, options());
    ASSERT_TRUE(features.wait_for_output("ready\n")) << features.error();
    Child target({program("talker"), "4", "250"}, options());
    kernel = state_of(features, target);
  }
  {
    Child features = load_tool(tool);
    Child target = bpftime_child({"start", program("talker"), "4", "250"});
    ours = state_of(features, target);
  }
  EXPECT_EQ(kernel["fetched"], 1000);
  // Which of two threads loses a race is chance, on either side; how often a swap had to be tried again shows nowhere.
  EXPECT_EQ(kernel, ours);
}

// A tool that is told to take its steps, one after each of the target's rounds but the last.
class ParityOfSteps : public Parity {
 protected:
  using AfterRound = std::function<void(Child& tool, Child& target, int step)>;
  // What the tool counted on the kernel and here.
  std::pair<nlohmann::json, nlohmann::json> both(const std::string& name, int rounds,
                                                 const std::string& calls, const AfterRound& step) {
    const Arguments tool = {program(name), program("talker"), "talk"};
    const auto state_of = [&](Child& running, Child& target) {
      EXPECT_TRUE(target.wait_for_output("waiting\n")) << target.error();
      for (int round = 1; round <= rounds; ++round) {
        target.signal(SIGUSR1);
        EXPECT_TRUE(target.wait_for_output("round " + std::to_string(round) + " done\n"));
        if (round == rounds) break;
        running.signal(SIGUSR1);
        step(running, target, round);
      }
      return finish_tool(running);
    };
    std::pair<nlohmann::json, nlohmann::json> out;
    {
      Child running(tool, options());
      EXPECT_TRUE(running.wait_for_output("ready\n")) << running.error();
      Child target({program("talker"), "1", calls}, options());
      out.first = state_of(running, target);
    }
    {
      Child running = load_tool(tool);
      Child target = bpftime_child({"start", program("talker"), "1", calls});
      out.second = state_of(running, target);
    }
    return out;
  }
  static void expect_output(Child& tool, const std::string& text) {
    EXPECT_TRUE(tool.wait_for_output(text)) << tool.output() << tool.error();
  }
};

// Maps inside maps, changed while the programs that look them up run.
TEST_F(ParityOfSteps, NestedMapsAreTheKernels) {
  const auto [kernel, ours] = both("nested_maps", 4, "1000", [](Child& tool, Child&, int step) {
    expect_output(tool, "step " + std::to_string(step) + ": 0\n");
  });
  EXPECT_EQ(kernel["events"], 4000);
  EXPECT_EQ(kernel["id"], true);
  EXPECT_EQ(kernel, ours);
}

// Programs that go on in others: round and round, through a gap, into one that came later.
TEST_F(ParityOfSteps, TailCallsAreTheKernels) {
  const auto [kernel, ours] = both("tail_calls", 3, "100", [](Child& tool, Child&, int step) {
    expect_output(tool, "step " + std::to_string(step) + ": 0\n");
  });
  EXPECT_EQ(kernel["lates"], 100);
  EXPECT_EQ(kernel["fell_through"], 50);
  EXPECT_EQ(kernel["lasts"], 150);
  EXPECT_EQ(kernel["rounds"], 100 * 33) << "the program's own call is one of the 33";
  EXPECT_EQ(kernel, ours);
}

// Rings inside a map of maps, full ones too, and a ring that the tool fills until it has to wait for the programs.
TEST_F(ParityOfSteps, RingsAreTheKernels) {
  const auto [kernel, ours] = both("rings", 4, "200", [](Child& tool, Child&, int step) {
    if (step == 1) expect_output(tool, "too large: -7\nstep 1\n");
    if (step == 2) expect_output(tool, "full: -28\nnot at once: -28\n");
    if (step == 3) expect_output(tool, "goes on: 0\nstep 2\nstep 3\n");
  });
  EXPECT_GT(kernel["full"], 0);
  EXPECT_EQ(kernel["unread"], 1);
  for (const auto& counts : {kernel["ring 0"], kernel["ring 1"]})
    for (const auto& count : counts) EXPECT_GT(count, 0);
  EXPECT_EQ(kernel, ours);
}

// The current task, the call stack at entry and return, the stack map: as the kernel has them, or as /proc says.
TEST_F(Parity, TasksAndStacksAreTheKernels) {
  const Arguments tool = {program("task_stat"), program("caller"), "callee"};
  const auto reports_of = [&](Child& stat, Child& target) {
    EXPECT_TRUE(target.wait_for_output("waiting\n")) << target.error();
    target.signal(SIGUSR1);
    EXPECT_TRUE(target.wait_for_output("called\n")) << target.error();
    EXPECT_TRUE(stat.wait_for_output("return\n")) << stat.error();
    EXPECT_TRUE(eventually([&] {
      size_t stored = 0;
      for (const auto& line : lines_of(stat.output())) stored += line.starts_with("  stored without");
      return stored == 2;
    })) << stat.output();
    stat.signal(SIGTERM);
    stat.wait();
    return lines_of(stat.output());
  };
  std::vector<std::string> kernel, ours;
  {
    Child stat(tool, options());
    ASSERT_TRUE(stat.wait_for_output("ready\n")) << stat.error();
    Child target({program("caller")}, options());
    kernel = reports_of(stat, target);
  }
  {
    Child stat = load_tool(tool);
    Child target = bpftime_child({"start", program("caller")});
    ours = reports_of(stat, target);
  }
  for (const auto& line : kernel) std::cerr << line << "\n";
  EXPECT_EQ(kernel, ours);
}

}  // namespace
}  // namespace bpftime::e2e

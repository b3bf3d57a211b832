// uprobe_multi links, asked for by bpf(2) itself: answers and hits are the kernel's.
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <regex>
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

class UprobeMulti : public EndToEnd {
 protected:
  // File offsets of functions, as the linker lays small executables out: their addresses.
  std::string offset_of(const std::string& file, const std::string& function) const {
    const std::string symbols = run({"nm", program(file)}).output;
    std::smatch found;
    const std::regex pattern("([0-9a-f]+) T " + function + "\n");
    return std::regex_search(symbols, found, pattern) ? "0x" + found[1].str() : "";
  }
  static bool kernel_comparable() {
    return ::geteuid() == 0 && ::access("/sys/bus/event_source/devices/uprobe/type", R_OK) == 0;
  }
  static std::vector<std::string> finish(Child& tool) {
    tool.signal(SIGTERM);
    EXPECT_TRUE(tool.wait_for_output("end\n")) << tool.output() << tool.error();
    tool.wait();
    return lines_of(tool.output());
  }
};

TEST_F(UprobeMulti, AnswersAndHitsAreTheKernels) {
  const std::string talk = offset_of("talker", "talk"), other = offset_of("talker", "main");
  ASSERT_FALSE(talk.empty() || other.empty());
  const Arguments tool = {program("multi_probe"), program("talker"), talk, other};
  const auto answers_of = [&](Child& probe, Child& target) {
    EXPECT_TRUE(target.wait_for_output("waiting\n")) << target.error();
    target.signal(SIGUSR1);
    EXPECT_TRUE(target.wait_for_output("round 1 done\n"));
    return finish(probe);
  };
  std::vector<std::string> kernel, ours;
  if (kernel_comparable()) {
    // Its questions about tracepoints need tracefs, which need not be mounted here: in a mount namespace of its own.
    Arguments on_kernel = {"unshare", "-m", "sh", "-c",
                           "mount -t tracefs none /sys/kernel/tracing; exec \"$0\" \"$@\""};
    on_kernel.insert(on_kernel.end(), tool.begin(), tool.end());
    Child probe(on_kernel, options());
    ASSERT_TRUE(probe.wait_for_output("ready\n")) << probe.error();
    Child target({program("talker"), "1", "50"}, options());
    kernel = answers_of(probe, target);
  }
  {
    Child probe = load_tool(tool);
    Child target = bpftime_child({"start", program("talker"), "1", "50"});
    ours = answers_of(probe, target);
  }
  EXPECT_NE(std::find(ours.begin(), ours.end(), "cookie 1: 100"), ours.end());
  if (kernel.empty()) GTEST_SKIP() << "not compared with the kernel: needs root and a kernel with uprobes";
  ASSERT_EQ(kernel.size(), ours.size());
  for (size_t i = 0; i < kernel.size(); ++i)
    EXPECT_EQ(kernel[i], ours[i]) << "line " << i + 1 << ", after " << (i > 0 ? kernel[i - 1] : "");
}

TEST_F(UprobeMulti, OfOneProcessLeavesOthersAlone) {
  const std::string talk = offset_of("talker", "talk");
  Child target({program("talker"), "1", "50"}, options()), other({program("talker"), "1", "50"}, options());
  for (Child* each : {&target, &other}) {
    ASSERT_TRUE(each->wait_for_output("waiting\n"));
    ASSERT_EQ(bpftime({"attach", std::to_string(each->pid())}).code, 0);
  }
  Child probe =
      load_tool({program("multi_probe"), program("talker"), talk, "-", std::to_string(target.pid())});
  for (Child* each : {&target, &other}) {
    each->signal(SIGUSR1);
    ASSERT_TRUE(each->wait_for_output("round 1 done\n"));
  }
  const auto lines = finish(probe);
  EXPECT_NE(std::find(lines.begin(), lines.end(), "cookie 1: 100"), lines.end());
}

TEST_F(UprobeMulti, SurvivesTheWorker) {
  const std::string talk = offset_of("talker", "talk");
  Child probe = load_tool({program("multi_probe"), program("talker"), talk});
  Child target = bpftime_child({"start", program("talker"), "1", "50"});
  ASSERT_TRUE(target.wait_for_output("waiting\n")) << target.error();
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"], worker = worker_pid();
  ::kill(worker, SIGKILL);
  ASSERT_TRUE(eventually([&] { return worker_pid() != worker && worker_pid() != 0; }));
  EXPECT_EQ(active_probes(pid), 1u);
  ::kill(pid, SIGUSR1);
  ASSERT_TRUE(target.wait_for_output("round 1 done\n"));
  const auto lines = finish(probe);
  EXPECT_NE(std::find(lines.begin(), lines.end(), "cookie 1: 100"), lines.end());
  EXPECT_TRUE(eventually([&] { return text_differences(pid).empty(); }));
}

// A thousand functions of libc at once: those that cannot be probed are named, the host runs on.
TEST_F(UprobeMulti, OfManyPlaces) {
  const std::string libc = "/lib/x86_64-linux-gnu/libc.so.6";
  if (::access(libc.c_str(), R_OK) != 0) GTEST_SKIP() << libc << " is not there";
  const std::string symbols = run({"nm", "-D", "--defined-only", libc}).output;
  std::vector<std::string> offsets;
  const std::regex function("([0-9a-f]+) T ");
  for (std::sregex_iterator at(symbols.begin(), symbols.end(), function), end;
       at != end && offsets.size() < 1000; ++at)
    offsets.push_back("0x" + (*at)[1].str());
  std::sort(offsets.begin(), offsets.end());
  offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
  ASSERT_GT(offsets.size(), 400u);
  Arguments tool = {program("multi_probe"), libc};
  tool.insert(tool.end(), offsets.begin(), offsets.end());
  Child probe = load_tool(tool);
  Child target = bpftime_child({"start", program("talker"), "2", "50"});
  ASSERT_TRUE(target.wait_for_output("waiting\n")) << target.error();
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"];
  std::cerr << active_probes(pid) << " of " << offsets.size() << " places probed\n";
  EXPECT_GT(active_probes(pid), offsets.size() / 2);
  ::kill(pid, SIGUSR1);
  EXPECT_TRUE(target.wait_for_output("round 1 done\n")) << target.output() << target.error();
  (void)finish(probe);
  EXPECT_TRUE(eventually([&] { return text_differences(pid).empty(); }));
}

// KiB of address space, and of memory in use.
std::pair<long, long> memory_of(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  long mapped = 0, resident = 0;
  for (std::string line; std::getline(status, line);) {
    std::sscanf(line.c_str(), "VmSize: %ld", &mapped);
    std::sscanf(line.c_str(), "VmRSS: %ld", &resident);
  }
  return {mapped, resident};
}

// A thousand links of one program, made and let go one by one: every one counts, every byte comes back, the target grows by
// little, and what was compiled once is not compiled again.
TEST_F(UprobeMulti, AThousandLinksOneByOne) {
  constexpr long kGrowthMaxKib = 8 * 1024;
  const std::string symbols = run({"nm", program("many_functions")}).output, list = directory() + "/offsets";
  {
    std::ofstream offsets(list);
    const std::regex function("([0-9a-f]+) T many_");
    for (std::sregex_iterator at(symbols.begin(), symbols.end(), function), end; at != end; ++at)
      offsets << (*at)[1].str() << "\n";
  }
  Child target({program("many_functions")}, options());
  ASSERT_TRUE(target.wait_for_output("waiting\n"));
  const auto before = memory_of(target.pid());
  ASSERT_EQ(bpftime({"attach", std::to_string(target.pid())}).code, 0);
  const auto limit = std::chrono::seconds(200);
  Child tool = bpftime_child(load({"sh", "-c", "exec \"$0\" \"$1\" -1 < \"$2\"", program("many_probes"),
                                   program("many_functions"), list}));
  ASSERT_TRUE(tool.wait_for_output("ready\n", limit)) << tool.output() << tool.error();
  const auto round = [&](int number) {
    target.signal(SIGUSR1);
    EXPECT_TRUE(target.wait_for_output("round " + std::to_string(number) + " done, 0 wrong\n"))
        << target.output();
    tool.signal(SIGUSR1);
    const std::string all = std::to_string(number);
    EXPECT_TRUE(tool.wait_for_output("hits: " + all + " to " + all + "\n")) << tool.output();
  };
  round(1);
  EXPECT_EQ(active_probes(target.pid()), 1000u);
  const auto with = memory_of(target.pid());
  EXPECT_LT(with.first - before.first, kGrowthMaxKib) << "address space";
  EXPECT_LT(with.second - before.second, kGrowthMaxKib) << "resident";
  const auto compiled = [&] { return bpftime_json({"daemon", "status"})["programs_compiled"]; };
  const auto once = compiled();
  ASSERT_TRUE(once.is_number());
  EXPECT_GE(once, 1);
  tool.signal(SIGUSR2);
  ASSERT_TRUE(tool.wait_for_output("let go 1000", limit)) << tool.output() << tool.error();
  ASSERT_TRUE(tool.wait_for_output("us\nattached 1000", limit)) << tool.output() << tool.error();
  ASSERT_TRUE(eventually([&] { return active_probes(target.pid()) == 1000u; }, limit));
  round(2);
  EXPECT_EQ(compiled(), once);
  tool.signal(SIGTERM);
  EXPECT_EQ(tool.wait(limit), 0);
  EXPECT_TRUE(eventually([&] { return text_differences(target.pid()).empty(); }, limit));
}

}  // namespace
}  // namespace bpftime::e2e

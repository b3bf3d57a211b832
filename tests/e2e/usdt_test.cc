// USDT probes by a stock libbpf tool, on the kernel and here: the same counts, arguments and semaphores.
#include <signal.h>
#include <unistd.h>

#include <regex>
#include <sstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

// What the probe printed, in order, with the values that differ from process to process (addresses) named instead.
std::vector<std::string> firings(const std::string& output) {
  std::vector<std::string> out;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("usdt "))
      out.push_back(std::regex_replace(line, std::regex("[0-9]{13,}"), "ADDRESS"));
  return out;
}

class Usdt : public EndToEnd {
 protected:
  static bool kernel_comparable() {
    return ::geteuid() == 0 && ::access("/sys/bus/event_source/devices/uprobe/type", R_OK) == 0;
  }
  Arguments stat(const std::string& file, const std::string& provider, const std::string& name) const {
    return {program("usdt_stat"), file, provider, name, "-1", "77"};
  }
};

struct Case {
  const char* name;
  size_t per_round;
  const char* semaphores;  // while it is probed
};

class UsdtProbe : public Usdt, public ::testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(Kinds, UsdtProbe,
                         ::testing::Values(Case{"request", 1, "1 0 0"}, Case{"plain", 1, "0 1 0"},
                                           Case{"twice", 2, "0 0 2"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(UsdtProbe, FiresWithTheKernelsArguments) {
  const Case& probe = GetParam();
  const size_t expected = 10 * probe.per_round;
  const Arguments tool = stat(program("usdt_host"), "sample", probe.name);
  const std::string raised = std::string("waiting: semaphores ") + probe.semaphores;
  const auto fire = [&](Child& counter, Child& host, pid_t pid) {
    ::kill(pid, SIGUSR1);
    EXPECT_TRUE(host.wait_for_output("fired\nwaiting: semaphores")) << host.output() << host.error();
    EXPECT_TRUE(eventually([&] { return firings(counter.output()).size() >= expected; })) << counter.output();
    EXPECT_EQ(finish_tool(counter)["events"], expected);
    return firings(counter.output());
  };
  std::vector<std::string> kernel, ours;
  if (kernel_comparable()) {
    Child counter(tool, options());
    ASSERT_TRUE(counter.wait_for_output("ready\n")) << counter.error();
    Child host({program("usdt_host"), "10"}, options());
    ASSERT_TRUE(host.wait_for_output(raised)) << host.output();
    kernel = fire(counter, host, host.pid());
  }
  {
    Child counter = load_tool(tool);
    Child host = bpftime_child({"start", program("usdt_host"), "10"});
    ASSERT_TRUE(host.wait_for_output(raised)) << host.output() << host.error();
    const auto list = bpftime_json({"list"});
    ASSERT_EQ(list["targets"].size(), 1u) << list.dump();
    ours = fire(counter, host, list["targets"][0]["pid"]);
    // The tool is gone: the semaphore stands as before, and so does every byte.
    const pid_t pid = list["targets"][0]["pid"];
    EXPECT_TRUE(eventually([&] {
      ::kill(pid, SIGUSR1);
      return host.wait_for_output("fired\nwaiting: semaphores 0 0 0", std::chrono::seconds(1));
    })) << host.output();
    EXPECT_TRUE(eventually([&] { return text_differences(pid).empty(); }));
  }
  EXPECT_EQ(ours.size(), expected);
  if (kernel.empty()) {
    std::cerr << "not compared with the kernel: needs root and a kernel with uprobes\n";
    return;
  }
  EXPECT_EQ(kernel, ours);
}

TEST_F(Usdt, OfAProcessEnteredWhileItRuns) {
  Child host({program("usdt_host"), "10"}, options());
  ASSERT_TRUE(host.wait_for_output("waiting: semaphores 0 0 0\n"));
  ASSERT_EQ(bpftime({"attach", std::to_string(host.pid())}).code, 0);
  Child counter = load_tool(stat(program("usdt_host"), "sample", "request"));
  host.signal(SIGUSR1);
  ASSERT_TRUE(host.wait_for_output("waiting: semaphores 1 0 0\n")) << host.output();
  EXPECT_EQ(finish_tool(counter)["events"], 10);
  ASSERT_EQ(bpftime({"detach", std::to_string(host.pid())}).code, 0);
  host.signal(SIGUSR1);
  ASSERT_TRUE(host.wait_for_output("fired\nwaiting: semaphores 0 0 0\n")) << host.output();
}

TEST_F(Usdt, SemaphoresSurviveTheDaemon) {
  Child counter = load_tool(stat(program("usdt_host"), "sample", "request"));
  Child host = bpftime_child({"start", program("usdt_host"), "10"});
  ASSERT_TRUE(host.wait_for_output("waiting: semaphores 1 0 0\n")) << host.output() << host.error();
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"];
  const pid_t worker = worker_pid();
  ::kill(worker, SIGKILL);
  ASSERT_TRUE(eventually([&] { return worker_pid() != worker && worker_pid() != 0; }));
  ::kill(pid, SIGUSR1);
  ASSERT_TRUE(host.wait_for_output("fired\nwaiting: semaphores 1 0 0\n")) << host.output();
  EXPECT_EQ(finish_tool(counter)["events"], 10);
  EXPECT_TRUE(eventually([&] {
    ::kill(pid, SIGUSR1);
    return host.wait_for_output("fired\nwaiting: semaphores 0 0 0", std::chrono::seconds(1));
  })) << host.output();
}

// Debian's Python, as it is: function__return says file, function and line. (Its function__entry is seldom, by its own design:
// calls from Python to Python do not enter the interpreter anew.)
class UsdtOfPython : public Usdt, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Probes, UsdtOfPython, ::testing::Values("function__entry", "function__return"));

TEST_P(UsdtOfPython, IsTheKernels) {
  const std::string python = "/usr/bin/python3.11";
  if (::access(python.c_str(), X_OK) != 0) GTEST_SKIP() << python << " is not installed";
  if (!kernel_comparable()) GTEST_SKIP() << "comparing with the kernel needs root and a kernel with uprobes";
  const Arguments script = {python, "-I", "-S", "-c",
                            "def f(n):\n  return -n\nassert sorted(range(100), key=f)[0] == 99\n"};
  const Arguments tool = stat(python, "python", GetParam());
  std::vector<std::string> kernel;
  {
    Child counter(tool, options());
    ASSERT_TRUE(counter.wait_for_output("ready\n")) << counter.error();
    ASSERT_EQ(run(script, options()).code, 0);
    finish_tool(counter);
    kernel = firings(counter.output());
  }
  Child counter = load_tool(tool);
  Arguments start = {"start"};
  start.insert(start.end(), script.begin(), script.end());
  const Finished ran = bpftime(start);
  ASSERT_EQ(ran.code, 0) << ran.error;
  finish_tool(counter);
  const auto ours = firings(counter.output());
  std::cerr << kernel.size() << " firings in the kernel, " << ours.size() << " here\n";
  EXPECT_GE(kernel.size(), 2u);
  EXPECT_EQ(kernel, ours);
}

}  // namespace
}  // namespace bpftime::e2e

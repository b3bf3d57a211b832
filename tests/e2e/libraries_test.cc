// Libraries that a target loads and unloads while it is probed: probes are in place before constructors run, and what is
// unloaded is forgotten before something else lies there.
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "harness.h"

namespace bpftime::e2e {
namespace {

class Libraries : public EndToEnd {
 protected:
  Arguments counter() const { return {program("uprobe_stat"), "count", plugin(), "plugin_work"}; }
  static std::string plugin() { return program("libplugin.so"); }
  Arguments host(const std::string& script) const { return {program("plugin_host"), plugin(), script}; }
};

TEST_F(Libraries, AreProbedBeforeTheirConstructorsRun) {
  Child stat = load_tool(counter());
  const Finished host_run = bpftime({"start", program("plugin_host"), plugin(), "ocxoccxo"});
  EXPECT_EQ(host_run.code, 0) << host_run.error;
  EXPECT_NE(host_run.output.find("done\n"), std::string::npos) << host_run.output;
  EXPECT_EQ(finish_tool(stat)["calls"], 3 + 3);  // three constructors, three calls
  if (::geteuid() != 0 || ::access("/sys/bus/event_source/devices/uprobe/type", R_OK) != 0) return;
  Child kernel(counter(), options());
  ASSERT_TRUE(kernel.wait_for_output("ready\n")) << kernel.error();
  ASSERT_EQ(run(host("ocxoccxo"), options()).code, 0);
  EXPECT_EQ(finish_tool(kernel)["calls"], 3 + 3);
}

TEST_F(Libraries, AreProbedInAProcessThatWasEnteredWhileItRan) {
  Child stat = load_tool(counter());
  Child host_process(host("wocxocw"), options());
  ASSERT_TRUE(host_process.wait_for_output("waiting\n"));
  ASSERT_EQ(bpftime({"attach", std::to_string(host_process.pid())}).code, 0);
  host_process.signal(SIGUSR1);
  ASSERT_TRUE(host_process.wait_for_output("waiting\nwaiting\n")) << host_process.output();
  EXPECT_EQ(active_probes(host_process.pid()), 1u);
  EXPECT_EQ(finish_tool(stat)["calls"], 4);
  // The tool is gone: nothing of ours stays in any text, the dynamic loader's included.
  EXPECT_TRUE(eventually([&] { return text_differences(host_process.pid()).empty(); }));
  host_process.signal(SIGUSR1);
  EXPECT_EQ(host_process.wait(), 0) << host_process.output();
}

TEST_F(Libraries, AreForgottenBeforeTheirAddressesAreUsedAgain) {
  Child stat = load_tool(counter());
  Child host_process = bpftime_child({"start", program("plugin_host"), plugin(), "ocxmwvocw"});
  ASSERT_TRUE(host_process.wait_for_output("waiting\n")) << host_process.output() << host_process.error();
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"];
  EXPECT_EQ(active_probes(pid), 0u);
  ::kill(pid, SIGUSR1);
  ASSERT_TRUE(host_process.wait_for_output("waiting\nwaiting\n")) << host_process.output();
  EXPECT_EQ(active_probes(pid), 1u);
  EXPECT_EQ(finish_tool(stat)["calls"], 4);
  EXPECT_TRUE(eventually([&] { return text_differences(pid).empty(); }));
  ::kill(pid, SIGUSR1);
  EXPECT_EQ(host_process.wait(), 0) << host_process.output();
}

TEST_F(Libraries, OfAForkAreProbedToo) {
  Child stat = load_tool(counter());
  const Finished host_run = bpftime({"start", program("plugin_host"), plugin(), "ocfcxoc"});
  EXPECT_EQ(host_run.code, 0) << host_run.error;
  EXPECT_EQ(finish_tool(stat)["calls"], 2 + 1 + 2);
}

TEST_F(Libraries, LoadWithoutADaemon) {
  Child stat = load_tool(counter());
  Child host_process = bpftime_child({"start", program("plugin_host"), plugin(), "wocxmvocxw"});
  ASSERT_TRUE(host_process.wait_for_output("waiting\n"));
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"];
  const pid_t keeper = keeper_pid(), worker = worker_pid();
  ::kill(keeper, SIGKILL);
  ::kill(worker, SIGKILL);
  ASSERT_TRUE(eventually([&] { return gone(keeper) && gone(worker); }));
  ::kill(pid, SIGUSR1);
  ASSERT_TRUE(host_process.wait_for_output("waiting\nwaiting\n")) << host_process.output();
  ::kill(pid, SIGUSR1);
  EXPECT_TRUE(eventually([&] { return gone(pid); }));
}

TEST_F(Libraries, LoadWhileTheDaemonIsStopped) {
  Child stat = load_tool(counter());
  Child host_process = bpftime_child({"start", program("plugin_host"), plugin(), "wocxw"});
  ASSERT_TRUE(host_process.wait_for_output("waiting\n"));
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"];
  const pid_t worker = worker_pid();
  ::kill(worker, SIGSTOP);
  ::kill(pid, SIGUSR1);
  EXPECT_TRUE(host_process.wait_for_output("waiting\nwaiting\n")) << host_process.output();
  ::kill(worker, SIGCONT);
  ::kill(pid, SIGUSR1);
  EXPECT_EQ(host_process.wait(), 0) << host_process.output();
}

// Who probes only what was there from the start leaves the dynamic loader alone.
TEST_F(Libraries, AreNotWatchedForWhenNothingInThemIsWanted) {
  Child stat = load_tool({program("uprobe_stat"), "count", program("talker"), "talk"});
  Child host_process = bpftime_child({"start", program("talker"), "1", "1"});
  ASSERT_TRUE(host_process.wait_for_output("waiting\n"));
  const pid_t pid = bpftime_json({"list"})["targets"][0]["pid"];
  EXPECT_EQ(active_probes(pid), 1u);
  // What is patched there are calls about signals, which are the guard's: not the empty function that tells debuggers.
  const void* function = ::dlsym(RTLD_DEFAULT, "_dl_debug_state");
  Dl_info loader{};
  if (function == nullptr || ::dladdr(function, &loader) == 0)
    GTEST_SKIP() << "not the dynamic loader of glibc";
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps"),
      memory("/proc/" + std::to_string(pid) + "/mem");
  std::string line;
  while (std::getline(maps, line) && line.find("/ld-linux") == std::string::npos) continue;
  const auto offset = static_cast<const char*>(function) - static_cast<const char*>(loader.dli_fbase);
  char now[5] = {};
  ASSERT_TRUE(memory.seekg(std::stoll(line, nullptr, 16) + offset).read(now, sizeof now)) << line;
  EXPECT_EQ(std::memcmp(now, function, sizeof now), 0);
}

}  // namespace
}  // namespace bpftime::e2e

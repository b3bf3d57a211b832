// Unmodified tools under `bpftime load`: libbpf shared and inside the executable, skeletons, tools that fork.
#include <signal.h>
#include <unistd.h>

#include "harness.h"

namespace bpftime::e2e {
namespace {

class Loaders : public EndToEnd, public ::testing::WithParamInterface<const char*> {
 protected:
  Arguments features(const std::string& mode) const {
    return {program(GetParam()), mode, program("talker"), "talk"};
  }
  Child talker(int threads, int calls) {
    Child child = bpftime_child({"start", program("talker"), std::to_string(threads), std::to_string(calls)});
    EXPECT_TRUE(child.wait_for_output("waiting\n")) << child.error();
    return child;
  }
  static void round(Child& talker, int number) {
    talker.signal(SIGUSR1);
    ASSERT_TRUE(talker.wait_for_output("round " + std::to_string(number) + " done\n")) << talker.error();
  }
};
INSTANTIATE_TEST_SUITE_P(Libbpf, Loaders, ::testing::Values("features", "features_static", "features_alone"),
                         [](const auto& info) { return std::string(info.param); });

void expect_counts(const nlohmann::json& seen, uint64_t calls) {
  EXPECT_EQ(seen["plain"], 3 * calls) << "a .rodata constant is added";
  EXPECT_EQ(seen["fetched"], calls);
  EXPECT_EQ(seen["fetch_sum"], calls * (calls - 1) / 2) << "every value was returned once";
  EXPECT_EQ(seen["swapped"].get<uint64_t>() + seen["lost_swaps"].get<uint64_t>(), calls);
  EXPECT_EQ(seen["exchanged"], 77);
  EXPECT_EQ(seen["bits"], 255);
  EXPECT_EQ(seen["from_data"], 1234) << ".data as the tool set it before loading";
  EXPECT_EQ(seen["kind1"], calls);
  EXPECT_EQ(seen["kind2"], 6 * calls) << "through two functions of the program";
}

// Also loads a program with a call no kernel knows, in a branch that a constant rules out.
TEST_P(Loaders, SkeletonReadsItsMappedVariablesWhileTargetsRun) {
  Child tool = load_tool(features("counters"));
  Child target = talker(4, 1000);
  round(target, 1);
  tool.signal(SIGUSR1);
  ASSERT_TRUE(tool.wait_for_output("}\n"));
  const size_t start = tool.output().rfind("{");
  expect_counts(nlohmann::json::parse(tool.output().substr(start)), 4000);
  round(target, 2);
  expect_counts(finish_tool(tool), 8000);
}

// The child inherits descriptors and mappings; the probe stays as long as it lives.
TEST_P(Loaders, ToolThatGoesIntoTheBackground) {
  Child tool = bpftime_child(load(features("daemon")));
  // Its parent, which is what we started, ends at once: only the output tells.
  const auto said = [&](const char* text) {
    return eventually([&] { return tool.output().find(text) != std::string::npos; });
  };
  ASSERT_TRUE(said("ready\n")) << tool.error();
  Child target = talker(1, 500);
  ASSERT_EQ(active_probes(0), 1u);
  round(target, 1);
  const std::string name = program(GetParam());
  const Finished found = run({"pgrep", "-f", "^" + name + " daemon " + program("talker")});
  const pid_t background = found.output.empty() ? 0 : std::stoi(found.output);
  ASSERT_GT(background, 1);
  ::kill(background, SIGTERM);
  ASSERT_TRUE(said("}\n")) << tool.error();
  const auto seen = nlohmann::json::parse(tool.output().substr(tool.output().rfind("{")));
  EXPECT_EQ(seen["who"], background);
  expect_counts(seen, 500);
  EXPECT_TRUE(eventually([&] { return active_probes(0) == 0; })) << "the probe outlives the tool";
}

TEST_P(Loaders, ToolThatIsKilledLeavesNothing) {
  Child tool = load_tool(features("counters"));
  Child target = talker(1, 10);
  EXPECT_TRUE(eventually([&] { return active_probes(0) == 1; }));
  tool.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return active_probes(0) == 0; }));
  round(target, 1);
}

class Bpftool : public Loaders {};
INSTANTIATE_TEST_SUITE_P(Libbpf, Bpftool, ::testing::Values("features"),
                         [](const auto& info) { return std::string(info.param); });

// Debian's bpftool, itself a libbpf program, sees the daemon's objects.
TEST_P(Bpftool, ListsProgramsAndMaps) {
  if (::access("/usr/sbin/bpftool", X_OK) != 0) GTEST_SKIP() << "bpftool is not installed";
  Child tool = load_tool(features("counters"));
  Child target = talker(1, 7);
  round(target, 1);
  const Finished programs = bpftime(load({"/usr/sbin/bpftool", "--json", "prog", "list"}));
  EXPECT_EQ(programs.code, 0) << programs.error;
  EXPECT_NE(programs.output.find("\"name\":\"on_counters\""), std::string::npos)
      << programs.output << programs.error;
  const Finished maps = bpftime(load({"/usr/sbin/bpftool", "--json", "map", "list"}));
  EXPECT_EQ(maps.code, 0) << maps.error;
  EXPECT_NE(maps.output.find("\"name\":\"by_kind\""), std::string::npos) << maps.output;
  const Finished dump = bpftime(load({"/usr/sbin/bpftool", "--json", "map", "dump", "name", "by_kind"}));
  EXPECT_EQ(dump.code, 0) << dump.error;
  EXPECT_NE(dump.output.find("\"value\":42"), std::string::npos)
      << dump.output << dump.error;  // kind 2: 7 × 6
}

// Names of objects as files: made by one tool, used by others, gone when removed; also where another worker has taken over.
TEST_P(Bpftool, PinsObjectsUnderTheBpfFileSystem) {
  if (::access("/usr/sbin/bpftool", X_OK) != 0) GTEST_SKIP() << "bpftool is not installed";
  const auto shell = [&](const std::string& script) {
    return bpftime(load({"/bin/bash", "-c", "PATH=$PATH:/usr/sbin; " + script}));
  };
  const Finished made = shell(
      "mkdir /sys/fs/bpf/e2e && bpftool map create /sys/fs/bpf/e2e/counts type hash key 4 value 8 entries 4 "
      "name c && "
      "bpftool map update pinned /sys/fs/bpf/e2e/counts key 1 0 0 0 value 7 0 0 0 0 0 0 0 && "
      "stat -f -c %T /sys/fs/bpf/e2e && ls /sys/fs/bpf/e2e");
  EXPECT_EQ(made.code, 0) << made.error;
  EXPECT_EQ(made.output, "bpf_fs\ncounts\n");
  EXPECT_NE(::access("/sys/fs/bpf/e2e", F_OK), 0) << "the machine's own is left alone";
  const pid_t worker = worker_pid();
  ASSERT_GT(worker, 0);
  ::kill(worker, SIGKILL);
  ASSERT_TRUE(eventually([&] { return gone(worker) && worker_pid() > 0; }));
  const Finished read = shell(
      "mv /sys/fs/bpf/e2e/counts /sys/fs/bpf/moved && rmdir /sys/fs/bpf/e2e && "
      "bpftool map lookup pinned /sys/fs/bpf/moved key 1 0 0 0");
  EXPECT_EQ(read.code, 0) << read.error;
  EXPECT_NE(read.output.find("value: 07 00"), std::string::npos) << read.output;
  EXPECT_NE(shell("bpftool map show pinned /sys/fs/bpf/e2e/counts").code, 0);
  EXPECT_EQ(shell("rm /sys/fs/bpf/moved && test ! -e /sys/fs/bpf/moved").code, 0);
  EXPECT_TRUE(
      eventually([&] { return shell("bpftool map list").output.find("name c") == std::string::npos; }));
}

}  // namespace
}  // namespace bpftime::e2e

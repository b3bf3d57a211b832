#include "loader/tracefs.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "program/tracepoints.h"

namespace bpftime::loader {
namespace {

class Tracefs : public ::testing::TestWithParam<const char*> {
 protected:
  std::string path(const std::string& inside) const { return std::string(GetParam()) + "/" + inside; }
  void SetUp() override {
    if (::access(path("events/syscalls").c_str(), R_OK) == 0)
      GTEST_SKIP() << "the kernel's own tracefs can be read";
  }
};
INSTANTIATE_TEST_SUITE_P(Mounts, Tracefs,
                         ::testing::Values("/sys/kernel/tracing", "/sys/kernel/debug/tracing"),
                         [](const auto& info) { return std::string(info.index == 0 ? "tracing" : "debug"); });

TEST_P(Tracefs, DescribesSystemCalls) {
  const auto id = tracefs_file(path("events/syscalls/sys_enter_openat/id"));
  ASSERT_TRUE(id);
  const auto point = program::tracepoint_of_id(std::stoul(*id));
  ASSERT_TRUE(point);
  EXPECT_EQ(point->name(), "sys_enter_openat");
  EXPECT_EQ(daemon_tracepoint_id(point->id()), point->id());
  const auto format = tracefs_file(path("events/raw_syscalls/sys_exit/format"));
  ASSERT_TRUE(format);
  EXPECT_NE(format->find("field:long ret;"), std::string::npos);
  const auto events = tracefs_file(path("available_events"));
  ASSERT_TRUE(events);
  EXPECT_NE(events->find("\nsyscalls:sys_exit_openat\n"), std::string::npos);
  const auto names = tracefs_directory(path("events/syscalls/"));
  ASSERT_TRUE(names);
  EXPECT_GT(names->size(), 700u);
}

TEST_P(Tracefs, DescribesNothingElse) {
  for (const char* name :
       {"events/sched/sched_switch/id", "events/syscalls/sys_enter_nothing/id", "events/syscalls/id",
        "events/syscalls/sys_enter_openat", "events/syscalls/sys_enter_openat/filter", "trace_pipe",
        "events//id", "", "../events/syscalls/sys_enter_openat/id"})
    EXPECT_FALSE(tracefs_file(path(name))) << name;
  EXPECT_FALSE(tracefs_file("/sys/kernel/tracingx/available_events"));
  EXPECT_FALSE(tracefs_directory(path("events/sched")));
  EXPECT_EQ(daemon_tracepoint_id(40000), 40000u);
}

}  // namespace
}  // namespace bpftime::loader

#include "program/tracepoints.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

namespace bpftime::program {
namespace {

TEST(Tracepoints, HaveIdsThatLeadBack) {
  std::set<uint32_t> ids;
  for (const char* category : {"syscalls", "raw_syscalls", "signal"}) {
    for (const Tracepoint& point : tracepoints_of(category)) {
      EXPECT_EQ(point.category(), category);
      EXPECT_EQ(tracepoint_of_id(point.id()), point);
      EXPECT_EQ(find_tracepoint(category, point.name()), point);
      EXPECT_TRUE(ids.insert(point.id()).second) << point.name();
      EXPECT_LT(point.id(), 65536u);
    }
  }
  EXPECT_GT(ids.size(), 700u);
}

TEST(Tracepoints, OfOtherNamesDoNotExist) {
  EXPECT_FALSE(find_tracepoint("syscalls", "sys_enter"));
  EXPECT_FALSE(find_tracepoint("syscalls", "sys_enter_"));
  EXPECT_FALSE(find_tracepoint("syscalls", "sys_enter_nothing"));
  EXPECT_FALSE(find_tracepoint("raw_syscalls", "sys_enter_openat"));
  EXPECT_FALSE(find_tracepoint("sched", "sched_process_exec"));
  EXPECT_FALSE(tracepoint_of_id(0));
  EXPECT_FALSE(tracepoint_of_id(782));
  EXPECT_FALSE(tracepoint_of_id(kFirstTracepointId + 2 * 400));  // a number nobody has
  EXPECT_FALSE(tracepoint_of_id(~uint64_t{0}));
  EXPECT_TRUE(tracepoints_of("sched").empty());
}

TEST(Tracepoints, RecordsEndWithTheirLastArgument) {
  EXPECT_EQ(find_tracepoint("syscalls", "sys_enter_getpid")->record_size(), 16u);
  EXPECT_EQ(find_tracepoint("syscalls", "sys_enter_openat")->record_size(), 48u);
  EXPECT_EQ(find_tracepoint("syscalls", "sys_exit_openat")->record_size(), 24u);
  EXPECT_EQ(find_tracepoint("raw_syscalls", "sys_enter")->record_size(), 64u);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Runs in a mount namespace of its own. Returns the number of differences, 200 and more: could not look.
int compare_with_kernel() {
  char where[] = "/tmp/bpftime-tracefs-XXXXXX";
  if (::mkdtemp(where) == nullptr) return 200;
  const bool mounted = ::unshare(CLONE_NEWNS) == 0 &&
                       ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                       ::mount("none", where, "tracefs", 0, nullptr) == 0;
  int differences = 0, seen = 0, theirs_only = 0;
  for (const char* category : {"syscalls", "raw_syscalls", "signal"}) {
    if (!mounted) break;
    const std::string directory = std::string(where) + "/events/" + category + "/";
    DIR* entries = ::opendir(directory.c_str());
    while (const dirent* entry = entries != nullptr ? ::readdir(entries) : nullptr) {
      const std::string name = entry->d_name;
      if (!name.starts_with("sys_") && name != "signal_generate") continue;
      const auto point = find_tracepoint(category, name);
      if (!point) {
        ++theirs_only;  // of a newer kernel
        std::cerr << name << " is not known here\n";
        continue;
      }
      ++seen;
      const uint32_t id = static_cast<uint32_t>(std::stoul(read_file(directory + name + "/id")));
      const std::string format = read_file(directory + name + "/format");
      if (format == point->format(id)) continue;
      ++differences;
      std::cerr << "kernel:\n" << format << "ours:\n" << point->format(id);
    }
    if (entries != nullptr) ::closedir(entries);
  }
  if (mounted) ::umount(where);
  ::rmdir(where);
  std::cerr << seen << " events compared\n";
  if (!mounted || seen == 0) return 200;
  return std::min(differences + (theirs_only > 40 ? 1 : 0), 199);
}

TEST(Tracepoints, LookLikeTheKernels) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(compare_with_kernel());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 200) GTEST_SKIP() << "tracefs cannot be mounted here (needs root)";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace bpftime::program

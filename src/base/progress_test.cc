#include "base/progress.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace bpftime {
namespace {

TEST(Progress, IsWhatWasSetLast) {
  char name[] = "/tmp/bpftime-progress-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string directory = name;
  set_progress("nobody is told of this");
  EXPECT_FALSE(read_progress(directory)) << "there is no file";
  publish_progress_in(directory);
  EXPECT_FALSE(read_progress(directory)) << "at nothing";
  set_progress("process 7: placing probes", 3, 40);
  const auto progress = read_progress(directory);
  ASSERT_TRUE(progress);
  EXPECT_EQ(progress->what, "process 7: placing probes");
  EXPECT_EQ(progress->done, 3u);
  EXPECT_EQ(progress->all, 40u);
  set_progress(std::string(1000, 'x'));
  ASSERT_TRUE(read_progress(directory));
  EXPECT_LT(read_progress(directory)->what.size(), 200u);
  EXPECT_EQ(read_progress(directory)->all, 0u);
  set_progress("");
  EXPECT_FALSE(read_progress(directory));
  std::filesystem::remove_all(directory);
}

TEST(Progress, WhatIsNoneIsNotRead) {
  char name[] = "/tmp/bpftime-progress-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string directory = name, file = directory + "/progress";
  std::ofstream(file) << "short";
  EXPECT_FALSE(read_progress(directory));
  std::ofstream(file) << std::string(4096, '\x01');  // a version that is being written, for ever
  EXPECT_FALSE(read_progress(directory));
  std::filesystem::remove(file);
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  EXPECT_FALSE(read_progress(directory)) << "must not wait for a writer";
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace bpftime

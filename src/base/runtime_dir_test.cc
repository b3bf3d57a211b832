#include "base/runtime_dir.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>

namespace bpftime {
namespace {

class RuntimeDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bpftime-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    base_ = name;
    save("BPFTIME_RUNTIME_DIR", environment_[0]);
    save("XDG_RUNTIME_DIR", environment_[1]);
  }
  void TearDown() override {
    restore("BPFTIME_RUNTIME_DIR", environment_[0]);
    restore("XDG_RUNTIME_DIR", environment_[1]);
    std::filesystem::remove_all(base_);
  }
  static void save(const char* name, std::optional<std::string>& into) {
    if (const char* value = std::getenv(name)) into = value;
    ::unsetenv(name);
  }
  static void restore(const char* name, const std::optional<std::string>& from) {
    if (from) {
      ::setenv(name, from->c_str(), 1);
    } else {
      ::unsetenv(name);
    }
  }
  std::string base_;
  std::optional<std::string> environment_[2];
};

TEST_F(RuntimeDirTest, CreatesWithMode0700AndTakesItAgain) {
  const std::string path = base_ + "/run";
  const mode_t old_mask = ::umask(0);
  auto directory = open_runtime_directory(path + "/");
  ::umask(old_mask);
  ASSERT_TRUE(directory) << directory.error().message;
  EXPECT_EQ(directory->path, path);
  EXPECT_EQ(directory->socket(), path + "/daemon.sock");
  struct stat st;
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0700u);
  EXPECT_TRUE(open_runtime_directory(path));
}

TEST_F(RuntimeDirTest, RefusesDirectoryOpenToOthers) {
  const std::string path = base_ + "/open";
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0750), 0);
  auto directory = open_runtime_directory(path);
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().code, EPERM);
  EXPECT_NE(directory.error().message.find(path), std::string::npos);
  EXPECT_NE(directory.error().message.find("0750"), std::string::npos);
}

TEST_F(RuntimeDirTest, RefusesSymbolicLinkEvenToGoodDirectory) {
  ASSERT_EQ(::mkdir((base_ + "/real").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("real", (base_ + "/link").c_str()), 0);
  EXPECT_FALSE(open_runtime_directory(base_ + "/link"));
  EXPECT_TRUE(open_runtime_directory(base_ + "/real"));
}

TEST_F(RuntimeDirTest, RefusesForeignOwner) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  const std::string path = base_ + "/foreign";
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);
  auto directory = open_runtime_directory(path);
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().code, EPERM);
  EXPECT_NE(directory.error().message.find("65534"), std::string::npos);
}

TEST_F(RuntimeDirTest, RefusesRelativeLongAndOrphanPaths) {
  EXPECT_EQ(open_runtime_directory("run").error().code, EINVAL);
  EXPECT_EQ(open_runtime_directory("").error().code, EINVAL);
  EXPECT_EQ(open_runtime_directory(base_ + "/" + std::string(100, 'x')).error().code, ENAMETOOLONG);
  EXPECT_EQ(open_runtime_directory(base_ + "/no/such").error().code, ENOENT);
}

TEST_F(RuntimeDirTest, PrefersItsVariableThenTheSession) {
  ASSERT_EQ(::mkdir((base_ + "/session").c_str(), 0700), 0);
  ::setenv("XDG_RUNTIME_DIR", (base_ + "/session").c_str(), 1);
  auto session = find_runtime_directory();
  ASSERT_TRUE(session) << session.error().message;
  EXPECT_EQ(session->path, base_ + "/session/bpftime");
  ::setenv("BPFTIME_RUNTIME_DIR", (base_ + "/own").c_str(), 1);
  auto own = find_runtime_directory();
  ASSERT_TRUE(own) << own.error().message;
  EXPECT_EQ(own->path, base_ + "/own");
}

TEST_F(RuntimeDirTest, IgnoresSessionOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  const std::string session = base_ + "/session";
  ASSERT_EQ(::mkdir(session.c_str(), 0700), 0);
  ASSERT_EQ(::chown(session.c_str(), 65534, 65534), 0);
  ::setenv("XDG_RUNTIME_DIR", session.c_str(), 1);
  auto directory = find_runtime_directory();
  // Whatever it falls back to, nothing may appear in a stranger's directory.
  if (directory) {
    EXPECT_NE(directory->path, session + "/bpftime");
  }
  EXPECT_FALSE(std::filesystem::exists(session + "/bpftime"));
}

}  // namespace
}  // namespace bpftime

#include "base/memfd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bpftime {
namespace {

TEST(Memfd, IsPrivateSizedAndSealed) {
  auto fd = create_memfd("bpf-map", 8192, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  ASSERT_TRUE(fd.ok()) << fd.error().message;
  struct stat st;
  ASSERT_EQ(::fstat(fd->get(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(st.st_size, 8192);
  EXPECT_NE(::ftruncate(fd->get(), 0), 0);
  EXPECT_EQ(errno, EPERM);
}

TEST(Memfd, ReopenSharesTheInode) {
  auto fd = create_memfd("bpf-map", 4096, 0);
  ASSERT_TRUE(fd.ok());
  auto copy = fd->reopen(O_RDONLY);
  ASSERT_TRUE(copy.ok()) << copy.error().message;
  EXPECT_EQ(*inode_of(fd->get()), *inode_of(copy->get()));
  EXPECT_FALSE(inode_of(-1).ok());
}

TEST(Memfd, TooLargeIsAnErrorNotACrash) {
  auto fd = create_memfd("bpf-map", uint64_t{1} << 63, 0);
  ASSERT_FALSE(fd.ok());
  EXPECT_EQ(fd.error().code, ENOMEM);
}

}  // namespace
}  // namespace bpftime

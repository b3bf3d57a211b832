#include "loader/user_memory.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>
#include <optional>
#include <vector>

namespace bpftime::loader {
namespace {

constexpr size_t kPage = 4096;

// Three pages: one to write, one to read, one that nobody may touch.
class UserMemory : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    void* at = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<uint8_t*>(at);
    memset(memory_, 7, 3 * kPage);
    ASSERT_EQ(mprotect(memory_ + kPage, kPage, PROT_READ), 0);
    ASSERT_EQ(mprotect(memory_ + 2 * kPage, kPage, PROT_NONE), 0);
    if (GetParam()) call_.emplace();
  }
  void TearDown() override { munmap(memory_, 3 * kPage); }
  uint64_t at(size_t offset) const { return reinterpret_cast<uint64_t>(memory_) + offset; }

  uint8_t* memory_ = nullptr;
  std::optional<UserMemoryCall> call_;  // pages found good are remembered
};
INSTANTIATE_TEST_SUITE_P(RememberingAndNot, UserMemory, ::testing::Bool());

TEST_P(UserMemory, CopiesWhatIsThere) {
  uint8_t bytes[2 * kPage] = {};
  for (int again = 0; again < 2; ++again) {
    EXPECT_TRUE(read_user(bytes, at(0), sizeof bytes));
    EXPECT_EQ(bytes[0], 7);
    EXPECT_EQ(bytes[2 * kPage - 1], 7);
    bytes[0] = static_cast<uint8_t>(again);
    EXPECT_TRUE(write_user(at(kPage - 1), bytes, 1));
    EXPECT_EQ(memory_[kPage - 1], again);
    EXPECT_EQ(memory_[kPage - 2], 7);
    memory_[kPage - 1] = 7;
  }
  const uint64_t value = 0x0102030405060708;
  EXPECT_TRUE(write_user(at(3), &value, sizeof value));
  EXPECT_EQ(memcmp(memory_ + 3, &value, sizeof value), 0);
  EXPECT_EQ(memory_[2], 7);
  EXPECT_EQ(memory_[11], 7);
  for (const size_t size : {1, 2, 3, 4, 5, 7}) {  // each asked about in another way
    const std::vector<uint8_t> before(memory_ + 100, memory_ + 132);
    EXPECT_TRUE(write_user(at(109), &value, size));
    EXPECT_EQ(memcmp(memory_ + 109, &value, size), 0);
    memcpy(memory_ + 109, before.data() + 9, size);
    EXPECT_EQ(std::vector<uint8_t>(memory_ + 100, memory_ + 132), before) << size;
  }
  EXPECT_TRUE(read_user(bytes, 0, 0));
}

TEST_P(UserMemory, WhatIsNotThereIsAFault) {
  uint8_t bytes[64] = {};
  EXPECT_FALSE(read_user(bytes, at(2 * kPage), 1));
  EXPECT_FALSE(read_user(bytes, at(2 * kPage - 8), 9));
  EXPECT_TRUE(read_user(bytes, at(2 * kPage - 8), 8));
  EXPECT_FALSE(write_user(at(kPage), bytes, 8));
  EXPECT_FALSE(write_user(at(kPage + 5), bytes, 2));
  EXPECT_FALSE(write_user(at(kPage + 5), bytes, 5));
  EXPECT_FALSE(write_user(at(kPage - 8), bytes, 16));
  EXPECT_EQ(memory_[kPage], 7);
  for (const uint64_t nowhere : {uint64_t{0}, uint64_t{8}, uint64_t{kPage - 1}, ~uint64_t{0},
                                 ~uint64_t{0} - 4, uint64_t{1} << 62, uint64_t{1} << 47}) {
    EXPECT_FALSE(read_user(bytes, nowhere, 8)) << std::hex << nowhere;
    EXPECT_FALSE(write_user(nowhere, bytes, 8)) << std::hex << nowhere;
  }
}

// A thread's stack is not asked about: what lies behind it is, and so is a stack that the thread does not know of.
class OwnStack : public ::testing::Test {
 public:
  static constexpr size_t kStack = 64 * kPage;
  void SetUp() override {
    void* at = mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<uint8_t*>(at);
    ASSERT_EQ(mprotect(memory_ + kStack, kPage, PROT_NONE), 0);
    end_ = reinterpret_cast<uint64_t>(memory_) + kStack;
  }
  void TearDown() override { munmap(memory_, kStack + kPage); }

  // Runs on the stack of ours.
  void use() {
    const UserMemoryCall call;
    uint64_t local = 7, copy = 0;
    local_ = read_user(&copy, reinterpret_cast<uint64_t>(&local), sizeof local) && copy == 7 &&
             write_user(reinterpret_cast<uint64_t>(&local), &end_, sizeof local) && local == end_;
    across_ = read_user(&copy, end_ - 4, 8) || write_user(end_ - 4, &copy, 8);
    behind_ = read_user(&copy, end_, 1) || write_user(end_, &copy, 1);
    if (below_ != 0) below_ok_ = read_user(&copy, below_, 1);
  }
  uint8_t* memory_ = nullptr;
  uint64_t end_ = 0, below_ = 0;
  bool local_ = false, across_ = true, behind_ = true, below_ok_ = false;
};

TEST_F(OwnStack, OfAThread) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstack(&attributes, memory_, kStack), 0);
  pthread_t thread;
  const auto run = [](void* test) -> void* {
    static_cast<OwnStack*>(test)->use();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, this), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
  EXPECT_TRUE(local_);
  EXPECT_FALSE(across_ || behind_);
}

// A page in the middle of it goes away: what its frames do not use is asked about.
TEST_F(OwnStack, OfACoroutine) {
  static OwnStack* test;
  test = this;
  below_ = reinterpret_cast<uint64_t>(memory_);
  ucontext_t here, there;
  ASSERT_EQ(getcontext(&there), 0);
  there.uc_stack.ss_sp = memory_;
  there.uc_stack.ss_size = kStack;
  there.uc_link = &here;
  makecontext(
      &there, [] { test->use(); }, 0);
  ASSERT_EQ(mprotect(memory_, kPage, PROT_NONE), 0);
  ASSERT_EQ(swapcontext(&here, &there), 0);
  EXPECT_TRUE(local_);
  EXPECT_FALSE(across_ || behind_ || below_ok_);
}

// After its call nothing is remembered.
TEST(UserMemoryCalls, ForgetAtTheirEnd) {
  auto* page =
      static_cast<uint8_t*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(page, MAP_FAILED);
  uint64_t value = 0;
  const auto address = reinterpret_cast<uint64_t>(page);
  {
    const UserMemoryCall outer;
    const UserMemoryCall inner;
    EXPECT_TRUE(write_user(address, &value, sizeof value));
  }
  ASSERT_EQ(mprotect(page, kPage, PROT_NONE), 0);
  const UserMemoryCall next;
  EXPECT_FALSE(read_user(&value, address, sizeof value));
  EXPECT_FALSE(write_user(address, &value, sizeof value));
  munmap(page, kPage);
}

}  // namespace
}  // namespace bpftime::loader

// The addresses that give jumps bytes that trap.
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <random>

#include "rewrite/relocate.h"
#include "rewrite/rewrite.h"

namespace bpftime::rewrite {
namespace {

bool allowed(const TrampolineRule& rule, uint64_t address) {
  std::vector<uint8_t> jump = {0xe9};
  if (!append_relative(jump, rule.site + 1, address)) return false;
  for (int at = 1; at < 5; ++at)
    if ((rule.boundaries >> at & 1) != 0 && !traps(jump[at])) return false;
  return true;
}

sigjmp_buf back;

__attribute__((noinline)) int signal_of_running(const uint8_t* code) {
  const int signal = sigsetjmp(back, 1);
  if (signal == 0) reinterpret_cast<void (*)()>(reinterpret_cast<uint64_t>(code))();
  return signal;
}

TEST(Traps, ExactlyWhatTheProcessorRefuses) {
  auto* page = static_cast<uint8_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(page, MAP_FAILED);
  struct sigaction action {
  }, before_ill, before_trap;
  action.sa_handler = [](int signal) { siglongjmp(back, signal); };
  ASSERT_EQ(sigaction(SIGILL, &action, &before_ill), 0);
  ASSERT_EQ(sigaction(SIGTRAP, &action, &before_trap), 0);
  for (int opcode = 0; opcode < 256; ++opcode) {
    if (!traps(static_cast<uint8_t>(opcode))) continue;
    // Whatever follows: were it one of an instruction's bytes, a ret would be found.
    for (const uint8_t following : {0x00, 0x24, 0x90, 0xc0, 0xff}) {
      std::fill(page, page + 16, following);
      page[0] = static_cast<uint8_t>(opcode);
      std::fill(page + 16, page + 4096, 0xc3);
      EXPECT_EQ(signal_of_running(page), opcode == 0xcc ? SIGTRAP : SIGILL) << std::hex << opcode;
    }
  }
  sigaction(SIGILL, &before_ill, nullptr);
  sigaction(SIGTRAP, &before_trap, nullptr);
  munmap(page, 4096);
  EXPECT_FALSE(traps(0x90));
  EXPECT_FALSE(traps(0x62)) << "EVEX";
  EXPECT_FALSE(traps(0xd5)) << "REX2";
}

TEST(TrampolineRule, WithoutBoundariesEveryAddressInReach) {
  const TrampolineRule rule{0x555555556000, 0};
  EXPECT_EQ(rule.next(0x555540000000, 0x555550000000), 0x555540000000u);
  EXPECT_EQ(rule.next(0x555555555123, 0x555560000000), 0x555555555123u);
  EXPECT_FALSE(rule.next(0x555655556000, 0x555700000000)) << "more than 2 GiB above";
  EXPECT_EQ(rule.next(0, UINT64_MAX), 0x555555556005u - (uint64_t{1} << 31));
}

TEST(TrampolineRule, FindsTheLowestAddressOfEachKind) {
  constexpr uint32_t kSeed = 20240611;
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 200; ++round) {
    TrampolineRule rule{0x555555550000 + random() % 0x100000, static_cast<uint8_t>(random() % 32 & ~1u)};
    const uint64_t from = rule.site - (uint64_t{1} << 31) + random() % (uint64_t{1} << 32);
    const uint64_t end = from + random() % 20000;
    const auto found = rule.next(from, end);
    uint64_t expected = from;
    while (expected < end && !allowed(rule, expected)) ++expected;
    if (expected == end) {
      ASSERT_FALSE(found) << "seed " << kSeed << " round " << round;
    } else {
      ASSERT_TRUE(found) << "seed " << kSeed << " round " << round;
      ASSERT_EQ(*found, expected) << "seed " << kSeed << " round " << round;
    }
  }
}

TEST(TrampolineRule, EveryKindOfPrologueHasRoomOnBothSides) {
  for (unsigned boundaries = 0; boundaries < 32; boundaries += 2) {
    const TrampolineRule rule{0x555555556123, static_cast<uint8_t>(boundaries)};
    const auto below = rule.next(rule.site - (uint64_t{1} << 31), rule.site);
    const auto above = rule.next(rule.site + 5, UINT64_MAX);
    ASSERT_TRUE(below && above) << boundaries;
    EXPECT_TRUE(allowed(rule, *below) && allowed(rule, *above));
  }
}

}  // namespace
}  // namespace bpftime::rewrite

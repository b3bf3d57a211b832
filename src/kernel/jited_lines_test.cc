#include "kernel/jited_lines.h"

#include <gtest/gtest.h>

namespace bpftime::kernel {
namespace {

using Offsets = std::vector<uint32_t>;
using compiler::CodeLine;

Offsets offsets(const std::vector<uint32_t>& insns, const std::vector<CodeLine>& code, uint32_t size) {
  return jited_line_offsets(insns, code, size);
}

TEST(JitedLines, AreWhereTheCodeIs) {
  EXPECT_EQ(offsets({0, 3, 5}, {{0, 0}, {10, 3}, {14, 4}, {20, 6}}, 30), (Offsets{0, 10, 20}));
}

TEST(JitedLines, TheFirstIsWhereTheFunctionBegins) {
  EXPECT_EQ(offsets({0, 3}, {{8, 0}, {12, 3}}, 30), (Offsets{0, 12}));
}

TEST(JitedLines, AscendWhereCodeHasMovedOrIsMissing) {
  // The second line's code lies before the first's, the fourth has none.
  EXPECT_EQ(offsets({0, 1, 2, 3, 4}, {{0, 0}, {4, 2}, {8, 1}, {12, 4}}, 30), (Offsets{0, 3, 4, 11, 12}));
  // All of them gone: the end of the code.
  EXPECT_EQ(offsets({0, 1, 2}, {{0, 0}}, 30), (Offsets{0, 28, 29}));
}

TEST(JitedLines, LeaveRoomForTheOthers) {
  // Three records without code cannot stand in the two bytes between.
  EXPECT_EQ(offsets({0, 1, 2, 3, 4, 5}, {{0, 0}, {3, 4}, {9, 5}}, 30), (Offsets{0, 5, 6, 7, 8, 9}));
  EXPECT_EQ(offsets({0, 1, 2}, {{0, 0}, {1, 1}}, 2), Offsets{});
  EXPECT_EQ(offsets({0, 1}, {{0, 0}, {1, 1}}, 2), (Offsets{0, 1}));
  EXPECT_EQ(offsets({}, {{0, 0}}, 2), Offsets{});
}

TEST(JitedLines, AlwaysAscendFromZero) {
  uint64_t state = 1;
  const auto random = [&](uint64_t below) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return static_cast<uint32_t>((state >> 33) % below);
  };
  for (int round = 0; round < 2000; ++round) {
    const uint32_t lines = 1 + random(20), size = 1 + random(200);
    std::vector<uint32_t> insns{0};
    while (insns.size() < lines) insns.push_back(insns.back() + 1 + random(3));
    std::vector<CodeLine> code;
    for (uint32_t i = 0; i < random(30); ++i) code.push_back({random(size), random(60)});
    const Offsets out = offsets(insns, code, size);
    if (lines > size) {
      EXPECT_TRUE(out.empty());
      continue;
    }
    ASSERT_EQ(out.size(), lines);
    EXPECT_EQ(out[0], 0u);
    for (size_t i = 1; i < out.size(); ++i) ASSERT_LT(out[i - 1], out[i]) << "round " << round;
    EXPECT_LT(out.back(), size);
  }
}

}  // namespace
}  // namespace bpftime::kernel

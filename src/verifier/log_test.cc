// The log bpf(2) callers read, beside what Linux writes for the same program.
#include "verifier/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <regex>

#include "verifier/kernel_opinion.h"
#include "verifier/testing/requests.h"

namespace bpftime::verifier {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr uint32_t kLarge = 1 << 20;
constexpr char kProcessed[] =
    R"(processed \d+ insns \(limit 1000000\) max_states_per_insn \d+ total_states \d+ peak_states \d+ mark_read \d+)";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

// if (ctx) { r0 = 1 } else { *r4 }: the second path is refused.
Request refused(uint32_t level, uint32_t size = kLarge) {
  Request request = testing::request(
      {testing::mov64_reg(6, 10), testing::load32(6, 1, 0), testing::jump_if_zero(6, 2), testing::mov64(0, 1),
       testing::exit(), testing::mov64(0, 2), testing::load32(3, 4, 0), testing::exit()},
      BPF_PROG_TYPE_SOCKET_FILTER);
  request.log_level = level;
  request.log_size_max = size;
  return request;
}

Request accepted(uint32_t level, uint32_t size = kLarge) {
  Request request = refused(level, size);
  request.program.insns[6] = testing::mov64(3, 0);
  return request;
}

TEST(Log, IsEmptyAtLevel0) {
  const Verdict verdict = verify(refused(0));
  EXPECT_EQ(verdict.error, EACCES);
  EXPECT_EQ(verdict.log, "");
}

TEST(Log, ARefusalEndsInLinuxWords) {
  for (uint32_t level : {1u, 2u, 3u}) {
    const Verdict verdict = verify(refused(level));
    EXPECT_EQ(verdict.error, EACCES);
    const auto lines = lines_of(verdict.log);
    ASSERT_GE(lines.size(), 4u) << verdict.log;
    EXPECT_EQ(lines[lines.size() - 3], "6: (61) r3 = *(u32 *)(r4 +0)") << verdict.log;
    EXPECT_EQ(lines[lines.size() - 2], "R4 !read_ok");
    EXPECT_TRUE(std::regex_match(lines.back(), std::regex(kProcessed))) << lines.back();
    EXPECT_EQ(verdict.log_true_size, verdict.log.size() + 1);
  }
}

TEST(Log, ExplainsBeforeTheEnd) {
  const Verdict verdict = verify(refused(1));
  EXPECT_THAT(verdict.log, HasSubstr("\nerror[TYP001]: `r4` has no value here\n"));
  EXPECT_LT(verdict.log.find("error[TYP001]"),
            verdict.log.find("\n6: (61) r3 = *(u32 *)(r4 +0)\nR4 !read_ok\n"));
}

TEST(Log, Level1HasTheRefusedPathOnly) {
  const std::string log = verify(refused(1)).log;
  EXPECT_THAT(log, StartsWith("0: R1=ctx() R10=fp0\n0: (bf) r6 = r10                      ; R6=fp0\n"));
  EXPECT_THAT(log, Not(HasSubstr("3: (b7) r0 = 1")));
  EXPECT_THAT(log, HasSubstr("from 2 to 5:"));
  EXPECT_THAT(log, HasSubstr("5: (b7) r0 = 2                        ; R0=2\n"));
}

TEST(Log, Level2HasAllPaths) {
  const std::string log = verify(refused(2)).log;
  EXPECT_THAT(log, HasSubstr("3: (b7) r0 = 1                        ; R0=1\n"));
  EXPECT_THAT(log, HasSubstr("\n\nfrom 2 to 5:"));
}

TEST(Log, AnAcceptedProgramAtLevel1HasStatisticsOnly) {
  const Verdict verdict = verify(accepted(1));
  EXPECT_EQ(verdict.error, 0);
  EXPECT_TRUE(std::regex_match(verdict.log, std::regex(std::string(kProcessed) + "\n"))) << verdict.log;
  EXPECT_GT(verdict.log_true_size, verdict.log.size() + 1) << "the longest it has been, as on Linux";
}

TEST(Log, Level4HasStatistics) {
  const std::string log = verify(accepted(4)).log;
  EXPECT_TRUE(std::regex_match(
      log, std::regex("verification time \\d+ usec\nstack depth \\d+\n" + std::string(kProcessed) + "\n")))
      << log;
  EXPECT_THAT(verify(refused(4)).log, Not(HasSubstr("0: (bf)")));
  EXPECT_THAT(verify(refused(4)).log, HasSubstr("R4 !read_ok\nverification time "));
}

TEST(Log, ShowsSourceLinesOnce) {
  Request request = refused(2);
  testing::add_lines(
      request, {{0, "/src/deep/a.c", "\tint x = 1;", 12, 2}, {5, "/src/deep/a.c", "\treturn *y;", 14, 9}});
  const std::string log = verify(request).log;
  EXPECT_THAT(log, HasSubstr("0: R1=ctx() R10=fp0\n; int x = 1; @ a.c:12\n0: (bf) r6 = r10"));
  EXPECT_THAT(log, HasSubstr("; return *y; @ a.c:14\n5: (b7) r0 = 2"));
  EXPECT_EQ(log.find("; int x = 1; @ a.c:12\n"), log.rfind("; int x = 1; @ a.c:12\n"));
}

TEST(Log, FramesAndMapsAreNamedAsOnLinux) {
  Request request = testing::request({testing::mov64(6, 7), testing::load_map(2, 0), testing::second_slot(),
                                      testing::call_local(1), testing::exit(), testing::mov64_reg(0, 1),
                                      testing::load32(0, 9, 0), testing::exit()});
  request.maps.push_back(testing::hash_map("m", 4, 8));
  request.log_level = 1;
  request.log_size_max = kLarge;
  const std::string log = verify(request).log;
  EXPECT_THAT(log, HasSubstr("1: (18) r2 = map[idx:0]               ; R2=map_ptr("));
  EXPECT_THAT(log, HasSubstr("ks=4,vs=8)\n"));
  EXPECT_THAT(log, HasSubstr("\n5: frame1: R1=ctx() "));
  EXPECT_THAT(log, HasSubstr("5: (bf) r0 = r1                       ; frame1: R0=ctx()\n"));
}

TEST(Log, ASmallBufferGetsTheEndAndEnospc) {
  const Verdict whole = verify(refused(2));
  for (uint32_t size : {1u, 2u, 16u, 128u}) {
    const Verdict verdict = verify(refused(2, size));
    EXPECT_EQ(verdict.error, ENOSPC) << size;
    ASSERT_EQ(verdict.log.size(), size - 1);
    EXPECT_THAT(whole.log, EndsWith(verdict.log));
    EXPECT_GT(verdict.log_true_size, size);
  }
}

TEST(Log, TheStartIsKeptWhenAskedFor) {
  const Verdict whole = verify(refused(2 | 8));
  const Verdict verdict = verify(refused(2 | 8, 64));
  EXPECT_EQ(verdict.error, ENOSPC);
  EXPECT_EQ(verdict.log, whole.log.substr(0, 63));
}

TEST(Log, ExactlyTheTrueSizeIsEnough) {
  const Verdict whole = verify(refused(1));
  EXPECT_EQ(verify(refused(1, whole.log_true_size)).error, EACCES);
  // One byte less still has room for Linux's part: the explanation makes way.
  const Verdict without = verify(refused(1, whole.log_true_size - 1));
  EXPECT_EQ(without.error, EACCES);
  EXPECT_THAT(without.log, Not(HasSubstr("error[TYP001]")));
  EXPECT_EQ(verify(refused(1, without.log_true_size)).error, EACCES);
  EXPECT_EQ(verify(refused(1, without.log_true_size - 1)).error, ENOSPC);
}

TEST(Log, WithoutABufferOnlyItsSizeIsTold) {
  const Verdict verdict = verify(refused(1, 0));
  EXPECT_EQ(verdict.error, EACCES);
  EXPECT_EQ(verdict.log, "");
  EXPECT_EQ(verdict.log_true_size, verify(refused(1)).log_true_size);
}

TEST(Log, FailedRelocationsAreFoundByLibbpf) {
  Request request = testing::request({testing::call(0xbad2310), testing::exit()});
  request.log_level = 1;
  request.log_size_max = kLarge;
  // libbpf 1.x: a line with this beginning in the last ten, the instruction's line before it.
  const auto lines = lines_of(verify(request).log);
  ASSERT_GE(lines.size(), 3u);
  EXPECT_EQ(lines[lines.size() - 2], "invalid func unknown#195896080");
  EXPECT_EQ(lines[lines.size() - 3], "0: (85) call unknown#195896080");
}

TEST(Log, AllocationsStayBoundedByTheBuffer) {
  Request request = accepted(2, 256);
  auto& insns = request.program.insns;
  insns.insert(insns.begin(), 5000, testing::mov64(7, 1));
  const Verdict verdict = verify(request);
  EXPECT_EQ(verdict.error, ENOSPC);
  EXPECT_EQ(verdict.log.size(), 255u);
  EXPECT_GT(verdict.log_true_size, 5000u * 10);
}

// ---- beside Linux ----

// Instructions and errors are the same lines in the same order; what else Linux tells (liveness, precision) is its own.
std::vector<std::string> comparable(const std::string& log) {
  static const std::regex instruction(R"((\d+: \([0-9a-f]{2}\) [^;]*?) *(;.*|\d+: .*)?)");
  std::vector<std::string> out;
  std::smatch match;
  for (const std::string& line : lines_of(log))
    if (std::regex_match(line, match, instruction) && line[0] != ' ') out.push_back(match[1]);
  return out;
}

TEST(Log, InstructionsAreThoseLinuxShows) {
  if (!kernel_verifier_usable()) GTEST_SKIP() << "bpf(2) is not permitted here";
  for (uint32_t level : {1u, 2u, 4u}) {
    for (const Request& request : {refused(level), accepted(level)}) {
      const auto linux_says = ask_kernel(request);
      ASSERT_TRUE(linux_says);
      const Verdict ours = verify(request);
      EXPECT_EQ(ours.error, linux_says->error);
      EXPECT_EQ(comparable(ours.log), comparable(linux_says->log)) << ours.log << linux_says->log;
      const auto our_lines = lines_of(ours.log), their_lines = lines_of(linux_says->log);
      if (ours.error != 0) {
        // "R4 !read_ok" stands before the statistics.
        const size_t from_end = level == 4 ? 4 : 2;
        ASSERT_GE(their_lines.size(), from_end);
        EXPECT_EQ(our_lines[our_lines.size() - from_end], their_lines[their_lines.size() - from_end]);
      }
    }
  }
}

}  // namespace
}  // namespace bpftime::verifier

// Our verdicts on the corpora: programs of the kernel's own suites, and small edits of them, with Linux's verdict.
#include "verifier/testing/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "verifier/testing/differential.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {
namespace {

struct Tally {
  size_t rejects = 0, rejects_refused = 0, accepts = 0, accepts_accepted = 0, allowed = 0, not_asked = 0;
  double accepted_percent() const {
    return accepts == 0 ? 100 : 100.0 * static_cast<double>(accepts_accepted) / static_cast<double>(accepts);
  }
};

void print_difference(const Case& test, const Verdict& verdict) {
  std::printf("  %s %s \"%s\": kernel %s, ours %s\n", test.id.c_str(), test.family.c_str(),
              test.title.c_str(), test.accepted ? "accepts" : test.kernel_last_line.c_str(),
              summary(verdict).c_str());
}

// Counts one case; what the running kernel says goes before the recorded label.
void judge(const Case& test, KernelOracle* kernel, Tally& tally, bool print) {
  if (!test.unusable.empty()) {
    ++tally.not_asked;
    return;
  }
  if (kernel != nullptr) {
    const KernelVerdict answer = kernel->ask(test.request);
    if (answer.error == EREMOTEIO || (answer.error == 0) != test.accepted) {
      std::printf("  %s: the running kernel contradicts the label; not counted\n", test.id.c_str());
      ++tally.not_asked;
      return;
    }
  }
  const Verdict verdict = verify(test.request);
  const bool ours = verdict.error == 0;
  (test.accepted ? tally.accepts : tally.rejects)++;
  if (ours == test.accepted) {
    (test.accepted ? tally.accepts_accepted : tally.rejects_refused)++;
    return;
  }
  const Agreement direction = ours ? Agreement::kFalseAccept : Agreement::kFalseRefusal;
  const std::string reason = allowed_reason(direction, test.kernel_last_line, summary(verdict));
  if (!reason.empty()) ++tally.allowed;
  if (ours && !reason.empty()) ++tally.rejects_refused;
  if (print) print_difference(test, verdict);
}

void print(const char* what, const Tally& tally) {
  std::printf(
      "%s: %zu of %zu rejects refused, %zu of %zu accepts accepted (%.1f %%), %zu allowed, %zu not asked\n",
      what, tally.rejects_refused, tally.rejects, tally.accepts_accepted, tally.accepts,
      tally.accepted_percent(), tally.allowed, tally.not_asked);
}

class CorpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (verifier_corpus_directory().empty()) GTEST_SKIP() << "no corpus; BPFTIME_CORPORA names its folder";
    if (const std::string why = KernelOracle::unusable(); !why.empty()) {
      std::printf("only recorded labels are compared: %s\n", why.c_str());
    } else {
      kernel_ = &oracle_;
    }
  }
  KernelOracle oracle_;
  KernelOracle* kernel_ = nullptr;
};

TEST_F(CorpusTest, PortablePairs) {
  const auto pairs = load_pairs();
  ASSERT_TRUE(pairs) << pairs.error().message;
  Tally tally;
  for (const Case& test : *pairs) {
    if (test.portable) judge(test, kernel_, tally, true);
  }
  print("portable pairs", tally);
  EXPECT_GT(tally.rejects + tally.accepts, 200u);
  EXPECT_EQ(tally.rejects_refused, tally.rejects);
  EXPECT_GE(tally.accepted_percent(), 98.0);
}

TEST_F(CorpusTest, Mutants) {
  const auto mutants = load_mutants();
  ASSERT_TRUE(mutants) << mutants.error().message;
  Tally tally;
  for (const Case& test : *mutants) judge(test, kernel_, tally, true);
  print("mutants", tally);
  EXPECT_GT(tally.rejects + tally.accepts, 3000u);
  EXPECT_EQ(tally.rejects_refused, tally.rejects);
  EXPECT_GE(tally.accepted_percent(), 96.0);
}

// Contexts, packets, sockets: complete only for the program types that run here; the others are reported.
TEST_F(CorpusTest, OtherPairsByProgramType) {
  const auto pairs = load_pairs();
  ASSERT_TRUE(pairs) << pairs.error().message;
  std::map<uint32_t, Tally> tallies;
  for (const Case& test : *pairs) {
    if (!test.portable) judge(test, kernel_, tallies[test.request.program.type], false);
  }
  for (const auto& [type, tally] : tallies) print(program_type_name(type).c_str(), tally);
  for (const uint32_t type : {BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_RAW_TRACEPOINT,
                              BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_XDP}) {
    EXPECT_EQ(tallies[type].rejects_refused, tallies[type].rejects) << program_type_name(type);
    EXPECT_EQ(tallies[type].accepts_accepted, tallies[type].accepts) << program_type_name(type);
  }
}

// The same request gets the same verdict on every run, to the word.
TEST_F(CorpusTest, SameVerdictTwice) {
  const auto pairs = load_pairs();
  ASSERT_TRUE(pairs) << pairs.error().message;
  for (const Case& test : *pairs) {
    Request request = test.request;
    request.log_level = 1;
    request.log_size_max = 1 << 20;
    const Verdict first = verify(request), second = verify(request);
    EXPECT_EQ(first.error, second.error) << test.id;
    EXPECT_EQ(first.log, second.log) << test.id;
    EXPECT_EQ(summary(first), summary(second)) << test.id;
    EXPECT_EQ(first.statistics.insns_processed, second.statistics.insns_processed) << test.id;
  }
}

TEST(Mutants, AllowListIsShort) {
  size_t rows = 0;
#define BPFTIME_ALLOWED_DIFFERENCE(direction, kernel, ours, reason) ++rows;
#include "verifier/testing/allowed_differences.def"
#undef BPFTIME_ALLOWED_DIFFERENCE
  EXPECT_LE(rows, 10u);
}

}  // namespace
}  // namespace bpftime::verifier::testing

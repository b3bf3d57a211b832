// Accepted programs run, with random inputs, where every mistake shows; at each step the machine must be in a state that
// the verifier explored.
#include "verifier/testing/containment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "program/program.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/corpus.h"
#include "verifier/testing/generator.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/mutator.h"
#include "verifier/testing/pool.h"

namespace bpftime::verifier::testing {
namespace {

constexpr uint32_t kRounds = 12;

struct Sum {
  size_t programs = 0, accepted = 0, finished = 0, inconclusive = 0, failures = 0;
  uint64_t steps = 0;
  std::map<std::string, size_t> unmodelled;

  void add(const std::string& origin, const Request& request, uint64_t seed, uint32_t rounds) {
    const ContainmentResult result = check_containment(request, seed, rounds);
    ++programs;
    accepted += result.accepted;
    finished += result.finished;
    inconclusive += result.inconclusive;
    steps += result.steps;
    if (!result.first_inconclusive.empty()) ++unmodelled[result.first_inconclusive];
    if (result.failure.empty()) return;
    if (++failures <= 10) {
      ADD_FAILURE() << origin << ": " << result.failure << "\n" << program::disassemble(request.program);
    }
  }
  void print() const {
    std::printf(
        "%zu programs, %zu accepted; %zu runs to the end, %zu inconclusive, %llu steps, %zu failures\n",
        programs, accepted, finished, inconclusive, static_cast<unsigned long long>(steps), failures);
    for (const auto& [why, count] : unmodelled)
      std::printf("  not modelled: %s (%zu programs)\n", why.c_str(), count);
  }
};

uint64_t seed() {
  const uint64_t value = environment_number("BPFTIME_SEED", 1);
  std::printf("seed %llu\n", static_cast<unsigned long long>(value));
  return value;
}

TEST(Containment, CorpusPairs) {
  const std::vector<Seed> seeds = corpus_seeds();
  if (seeds.empty()) GTEST_SKIP() << "no corpus; BPFTIME_CORPORA names its folder";
  Sum sum;
  for (const Seed& one : seeds) sum.add(one.origin, one.request, seed(), kRounds);
  sum.print();
  EXPECT_GT(sum.finished, sum.accepted * kRounds / 2);
}

TEST(Containment, CorpusMutants) {
  const auto mutants = load_mutants();
  if (!mutants) GTEST_SKIP() << mutants.error().message;
  Sum sum;
  for (const Case& test : *mutants) sum.add(test.id, test.request, 1, 4);
  sum.print();
}

TEST(Containment, ConformanceVectors) {
  const std::vector<Seed> seeds = vector_seeds();
  if (seeds.empty()) GTEST_SKIP() << "no vectors found";
  Sum sum;
  for (const Seed& one : seeds) sum.add(one.origin, one.request, 1, 2);
  sum.print();
  // Nearly all of them end by themselves, the project's own few and the standard's hundreds.
  EXPECT_GT(sum.finished, sum.accepted);
  EXPECT_GT(sum.accepted, 10u);
}

TEST(Containment, GeneratedPrograms) {
  const uint64_t count = environment_number("BPFTIME_CONTAINED_PROGRAMS", 3000), first = seed();
  Sum sum;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t one = first * 1'000'003 + i;
    Request request = generate(one);
    Random random(one);
    // An edit may make a program that is accepted for a reason nobody thought of.
    if (random.chance(40)) mutate(request, random);
    sum.add("seed " + std::to_string(one), request, one, kRounds);
  }
  sum.print();
  EXPECT_GT(sum.finished, sum.accepted);
}

// What Linux's run of the same program gave.
TEST(Containment, ResultsAreLinux) {
  const auto pairs = load_pairs();
  if (!pairs) GTEST_SKIP() << pairs.error().message;
  size_t compared = 0;
  for (const Case& test : *pairs) {
    if (!test.retval || !test.request.maps.empty() || !test.portable) continue;
    bool calls = false;
    for (const program::Insn& insn : test.request.program.insns) {
      calls =
          calls || (insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == 0) || BPF_CLASS(insn.code) == BPF_LD;
    }
    if (calls) continue;  // helpers give what they like
    const Verdict verdict = verify(test.request);
    ASSERT_EQ(verdict.error, 0) << test.id;
    CheckedMachine machine(test.request, verdict.facts, 1);
    machine.set_context(test.retval_data);
    const RunResult run = machine.run();
    const bool reads_unwritten =
        std::any_of(verdict.facts.zeroed_bytes.begin(), verdict.facts.zeroed_bytes.end(),
                    [](uint32_t bytes) { return bytes != 0; });
    if (run.kind == RunResult::kInconclusive || run.is_address || reads_unwritten) continue;
    EXPECT_EQ(run.kind, RunResult::kFinished) << test.id << ": " << run.why;
    EXPECT_EQ(static_cast<uint32_t>(run.result), *test.retval) << test.id << " " << test.title;
    ++compared;
  }
  std::printf("%zu results compared\n", compared);
  EXPECT_GT(compared, 20u);
}

// The negative twin: with a rule switched off, the machine traps.
TEST(Containment, CatchesAHoleInTheProof) {
  Builder b;
  b.mov_imm(1, 0);
  b.store(BPF_DW, 10, -8, 1);
  b.mov(2, 10);
  b.alu_imm(BPF_ADD, 2, -8);
  b.load_map(1, 0);
  b.call(BPF_FUNC_map_lookup_elem);
  b.load(BPF_DW, 0, 0, 0);  // not tested for null
  b.exit();
  Request request;
  request.program.type = BPF_PROG_TYPE_KPROBE;
  request.program.insns = b.finish();
  request.license = "GPL";
  request.maps.push_back(*standard_map("map_hash_8b"));
  EXPECT_FALSE(check_containment(request, 1, 20).accepted);
  request.options.disabled_rules.set(static_cast<size_t>(Rule::kNUL001));
  const ContainmentResult result = check_containment(request, 1, 20);
  EXPECT_TRUE(result.accepted);
  EXPECT_NE(result.failure, "");
}

}  // namespace
}  // namespace bpftime::verifier::testing

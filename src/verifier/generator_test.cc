// The generator makes what it promises, and our verdict on its programs is Linux's.
#include "verifier/testing/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bitset>
#include <set>

#include "program/instructions.h"
#include "verifier/testing/differential.h"
#include "verifier/testing/mutator.h"
#include "verifier/testing/pool.h"

namespace bpftime::verifier::testing {
namespace {

constexpr uint64_t kPrograms = 20'000;

// Opcodes of the instruction set that are no encodings of each other, as the generator must write them.
std::vector<uint8_t> valid_opcodes() {
  std::vector<uint8_t> codes;
  for (const uint8_t c : {BPF_ALU, BPF_ALU64}) {
    for (int op = BPF_ADD; op <= BPF_ARSH; op += 0x10) {
      codes.push_back(static_cast<uint8_t>(c | op | BPF_K));
      if (op != BPF_NEG) codes.push_back(static_cast<uint8_t>(c | op | BPF_X));
    }
  }
  for (const uint8_t code :
       {BPF_ALU | BPF_END | BPF_TO_LE, BPF_ALU | BPF_END | BPF_TO_BE, BPF_ALU64 | BPF_END}) {
    codes.push_back(code);
  }
  for (const uint8_t c : {BPF_JMP, BPF_JMP32}) {
    for (const int op : {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
                         BPF_JSLT, BPF_JSLE}) {
      codes.push_back(static_cast<uint8_t>(c | op | BPF_K));
      codes.push_back(static_cast<uint8_t>(c | op | BPF_X));
    }
    codes.push_back(static_cast<uint8_t>(c | BPF_JA));
  }
  for (const uint8_t code : {BPF_JMP | BPF_CALL, BPF_JMP | BPF_EXIT, BPF_LD | BPF_IMM | BPF_DW})
    codes.push_back(code);
  for (const uint8_t size : {BPF_B, BPF_H, BPF_W, BPF_DW}) {
    codes.push_back(BPF_LDX | BPF_MEM | size);
    codes.push_back(BPF_ST | BPF_MEM | size);
    codes.push_back(BPF_STX | BPF_MEM | size);
    if (size == BPF_DW) continue;
    codes.push_back(static_cast<uint8_t>(BPF_LDX | program::kModeMemSx | size));
    codes.push_back(BPF_LD | BPF_ABS | size);
    codes.push_back(BPF_LD | BPF_IND | size);
  }
  codes.push_back(BPF_STX | BPF_ATOMIC | BPF_W);
  codes.push_back(BPF_STX | BPF_ATOMIC | BPF_DW);
  return codes;
}

TEST(Generator, SameSeedSameProgram) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Request first = generate(seed), second = generate(seed);
    ASSERT_EQ(first.program.insns.size(), second.program.insns.size()) << seed;
    EXPECT_EQ(std::memcmp(first.program.insns.data(), second.program.insns.data(),
                          first.program.insns.size() * sizeof(program::Insn)),
              0)
        << seed;
  }
}

// Size, share of accepted programs, opcodes and rules; where bpf(2) may be asked, every verdict is Linux's.
TEST(Generator, ReachesEverythingAndAgreesWithLinux) {
  const uint64_t count = environment_number("BPFTIME_GENERATED_PROGRAMS", kPrograms);
  const uint64_t seed = environment_number("BPFTIME_SEED", 1);
  const bool has_kernel = KernelOracle::unusable().empty();
  if (!has_kernel) std::printf("not compared with Linux: %s\n", KernelOracle::unusable().c_str());
  std::printf("seeds %llu + [0, %llu)\n", static_cast<unsigned long long>(seed * 1'000'003),
              static_cast<unsigned long long>(count));
  KernelOracle kernel;
  Differential differential(kernel);
  std::vector<size_t> lengths;
  std::bitset<256> opcodes;
  std::map<std::string, size_t> rules;
  size_t accepted = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t one = seed * 1'000'003 + i;
    const Request request = generate(one);
    lengths.push_back(request.program.insns.size());
    for (program::InsnCursor cursor(request.program); !cursor.done(); cursor.advance())
      opcodes.set(cursor.insn().code);
    const Verdict verdict = verify(request);
    accepted += verdict.error == 0;
    for (const Diagnosis& diagnosis : verdict.diagnoses) ++rules[std::string(info(diagnosis.rule).id)];
    if (has_kernel) differential.compare(request, verdict, "seed " + std::to_string(one));
  }
  std::sort(lengths.begin(), lengths.end());
  std::printf("%zu of %zu accepted, median %zu instructions, longest %zu\n", accepted, lengths.size(),
              lengths[lengths.size() / 2], lengths.back());
  for (const auto& [rule, hits] : rules) std::printf("  %s %zu\n", rule.c_str(), hits);
  std::string never;
  for (size_t rule = 0; rule < kRuleCount; ++rule) {
    const std::string id(info(static_cast<Rule>(rule)).id);
    if (rules.count(id) == 0) never += " " + id;
  }
  std::printf("rules no program broke (rule_switch_test.cc has one for each):%s\n", never.c_str());
  EXPECT_GE(accepted * 100, lengths.size() * 40);
  EXPECT_GE(lengths[lengths.size() / 2], 25u);
  for (const uint8_t code : valid_opcodes())
    EXPECT_TRUE(opcodes.test(code)) << "opcode " << int{code} << " never written";
  std::printf("%s", differential.table(20, true).c_str());
  EXPECT_EQ(differential.counts[static_cast<size_t>(Agreement::kFalseAccept)] - differential.allowed_accepts,
            0u);
  // Precision: what Linux takes and we refuse.
  const size_t both = differential.counts[static_cast<size_t>(Agreement::kBothAccept)];
  const size_t lost = differential.counts[static_cast<size_t>(Agreement::kFalseRefusal)];
  if (has_kernel) {
    EXPECT_LE(lost * 100, (both + lost) * 2);
  }
}

// Edits of accepted programs, of the corpus and generated ones: no verdict on the unsafe side of Linux's.
TEST(Mutator, AgreesWithLinux) {
  if (const std::string why = KernelOracle::unusable(); !why.empty()) GTEST_SKIP() << why;
  const uint64_t count = environment_number("BPFTIME_MUTANTS", 5000);
  const uint64_t seed = environment_number("BPFTIME_SEED", 1);
  std::vector<Seed> seeds = corpus_seeds();
  for (Seed& vector : vector_seeds()) seeds.push_back(std::move(vector));
  for (uint64_t i = 0; i < 200; ++i) seeds.push_back({"seed " + std::to_string(i), generate(i)});
  std::printf("seed %llu, %zu programs to edit\n", static_cast<unsigned long long>(seed), seeds.size());
  KernelOracle kernel;
  Differential differential(kernel);
  Random random(seed);
  for (uint64_t i = 0; i < count; ++i) {
    Seed start = random.pick(seeds);
    start.origin += " " + mutate(start.request, random);
    differential.compare(start.request, start.origin);
  }
  std::printf("%s", differential.table(20, true).c_str());
  EXPECT_EQ(differential.counts[static_cast<size_t>(Agreement::kFalseAccept)] - differential.allowed_accepts,
            0u);
  const size_t both = differential.counts[static_cast<size_t>(Agreement::kBothAccept)];
  const size_t lost = differential.counts[static_cast<size_t>(Agreement::kFalseRefusal)];
  EXPECT_LE(lost * 100, (both + lost) * 2);
}

}  // namespace
}  // namespace bpftime::verifier::testing

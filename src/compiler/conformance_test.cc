// Every vector the reference interpreter runs, compiled.
#include "program/testing/conformance.h"

#include <gtest/gtest.h>

#include "compiler/testing.h"

namespace bpftime::compiler {
namespace {

namespace vectors = program::testing;

// Vectors call helper 5 as "the identity", one of them by register (opcode 0x8d, which Linux refuses); to us
// it is bpf_ktime_get_ns. Rewritten here to `r0 = r1`.
void replace_identity_helper(program::Program& program) {
  for (program::Insn& insn : program.insns) {
    const bool direct = insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == 0 && insn.imm == 5;
    const bool by_register = insn.code == (BPF_JMP | BPF_CALL | BPF_X);
    if (direct || by_register) insn = testing::mov_reg(0, 1);
  }
}

// What is wrong with the compiled vector; empty: nothing.
std::string run(vectors::Vector vector) {
  replace_identity_helper(vector.program);
  CompileOptions options;
  options.bare = true;
  const auto code = testing::Code::compile(vector.program, {}, options);
  if (!code) return "compiler: " + code.error().message;
  if (const std::string bad = code->forbidden_instruction(); !bad.empty())
    return "forbidden instruction: " + bad;
  std::vector<uint8_t> memory = vector.memory;
  const auto address = memory.empty() ? 0 : reinterpret_cast<uint64_t>(memory.data());
  const uint64_t r0 = code->run(address, memory.size());
  if (!vector.expected || r0 == *vector.expected) return {};
  return "r0 = " + std::to_string(r0) + ", not " + std::to_string(*vector.expected);
}

void expect_all_pass(const std::string& directory) {
  const auto loaded = vectors::load_vectors(directory);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  size_t ran = 0;
  for (const auto& vector : *loaded) {
    ASSERT_EQ(vector.parse_error, "") << vector.name;
    EXPECT_EQ(run(vector), "") << vector.name;
    ran++;
  }
  printf("%zu vectors of %s\n", ran, directory.c_str());
}

TEST(CompiledConformance, OwnVectors) {
  const std::string directory = vectors::own_vectors_directory();
  if (directory.empty()) GTEST_SKIP() << "BPFTIME_SOURCE_DIR does not name the source tree";
  expect_all_pass(directory + "/tests");
}

TEST(CompiledConformance, Corpus) {
  const std::string directory = vectors::corpus_directory();
  if (directory.empty()) GTEST_SKIP() << "no bpf_conformance corpus (BPFTIME_CORPORA)";
  expect_all_pass(directory + "/tests");
}

}  // namespace
}  // namespace bpftime::compiler

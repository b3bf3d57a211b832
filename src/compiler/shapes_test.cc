// Shapes of code that the compiler rewrites, and must not change: trees of comparisons, loops that copy bytes.
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "compiler/testing_target.h"

namespace bpftime::compiler {
namespace {

using namespace testing;
using Insns = std::vector<program::Insn>;

program::Insn jump(int op, int reg, int32_t value, int offset, bool half = false) {
  return raw((half ? BPF_JMP32 : BPF_JMP) | op | BPF_K, reg, 0, offset, value);
}

// A random tree over r1 whose leaves return their own number, and what it means.
struct RandomTree {
  std::mt19937_64 random;
  bool half = false;
  int leaves = 0;

  int32_t constant() {
    static constexpr int32_t kOdd[] = {0, -1, 1, INT32_MIN, INT32_MAX, 255, 256};
    return random() % 8 == 0 ? kOdd[random() % std::size(kOdd)] : static_cast<int32_t>(random() % 40) - 8;
  }
  Insns make(int depth) {
    if (depth == 0) return {mov(0, ++leaves % 5), raw(BPF_ALU64 | BPF_ADD | BPF_X, 0, 3), exit_insn()};
    static constexpr int kTests[] = {BPF_JEQ,  BPF_JNE,  BPF_JGT,  BPF_JGE,  BPF_JLT, BPF_JLE,
                                     BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE, BPF_JEQ, BPF_JEQ};
    const Insns through = make(random() % 6 == 0 ? 0 : depth - 1),
                taken = make(random() % 3 == 0 ? 0 : depth - 1);
    Insns out{
        jump(kTests[random() % std::size(kTests)], 1, constant(), static_cast<int>(through.size()), half)};
    out.insert(out.end(), through.begin(), through.end());
    out.insert(out.end(), taken.begin(), taken.end());
    return out;
  }
};

// What the tree does, instruction by instruction.
uint64_t interpret(const Insns& insns, uint64_t value, uint64_t third, bool half) {
  size_t at = 0;
  uint64_t result = 0;
  for (;;) {
    const auto& insn = insns[at++];
    if (insn.code == (BPF_JMP | BPF_EXIT)) return result;
    if (BPF_CLASS(insn.code) == BPF_ALU64) {
      result = BPF_OP(insn.code) == BPF_MOV ? static_cast<uint64_t>(insn.imm) : result + third;
      continue;
    }
    const auto signed_value = half ? int64_t{static_cast<int32_t>(value)} : static_cast<int64_t>(value);
    const auto u = half ? uint64_t{static_cast<uint32_t>(value)} : value;
    const int64_t c = insn.imm;
    const auto uc = half ? uint64_t{static_cast<uint32_t>(insn.imm)} : static_cast<uint64_t>(c);
    bool taken = false;
    switch (BPF_OP(insn.code)) {
      case BPF_JEQ:
        taken = u == uc;
        break;
      case BPF_JNE:
        taken = u != uc;
        break;
      case BPF_JGT:
        taken = u > uc;
        break;
      case BPF_JGE:
        taken = u >= uc;
        break;
      case BPF_JLT:
        taken = u < uc;
        break;
      case BPF_JLE:
        taken = u <= uc;
        break;
      case BPF_JSGT:
        taken = signed_value > c;
        break;
      case BPF_JSGE:
        taken = signed_value >= c;
        break;
      case BPF_JSLT:
        taken = signed_value < c;
        break;
      case BPF_JSLE:
        taken = signed_value <= c;
        break;
    }
    if (taken) at += static_cast<size_t>(insn.off);
  }
}

TEST(Shapes, TreesOfComparisonsMeanWhatTheyDid) {
  const uint64_t seed = 20240607;
  printf("seed %lu\n", seed);
  std::mt19937_64 seeds(seed);
  for (int round = 0; round < 60; round++) {
    RandomTree tree{std::mt19937_64(seeds())};
    tree.half = round % 3 == 0;
    const Insns body = tree.make(2 + round % 6);
    // The value may be any 64 bits, or only a byte: then every number it can have may be listed.
    Insns insns{mov_reg(3, 2)};
    if (round % 2 != 0) insns.push_back(raw(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 31));
    insns.insert(insns.end(), body.begin(), body.end());
    const auto code = Code::compile_bare(insns);
    ASSERT_TRUE(code.ok()) << code.error().message;
    std::vector<uint64_t> values{0x80000000u,       0xffffffffu,  0x7fffffffu,
                                 uint64_t{1} << 63, ~uint64_t{0}, 0x100000005u};
    for (int64_t v = -12; v < 300; v++) values.push_back(static_cast<uint64_t>(v));
    for (const uint64_t value : values) {
      const uint64_t seen = round % 2 != 0 ? value & 31 : value;
      ASSERT_EQ(code->run(value, 1000), interpret(body, seen, 1000, tree.half))
          << "round " << round << ", value " << value;
    }
  }
}

// Different values meet in one block: each must come from its own case.
TEST(Shapes, CasesThatMeetBringTheirOwnValues) {
  Insns insns{mov(0, 7), raw(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 7)};
  for (int i = 0; i < 6; i++) {  // if (r1 == i) goto end; r0 += 3
    insns.push_back(jump_eq(1, i, (5 - i) * 2 + 1));
    insns.push_back(add(0, 3));
  }
  insns.push_back(exit_insn());
  const auto code = Code::compile_bare(insns);
  ASSERT_TRUE(code.ok()) << code.error().message;
  for (uint64_t i = 0; i < 8; i++) EXPECT_EQ(code->run(i, 0), 7 + 3 * std::min<uint64_t>(i, 6)) << i;
}

TEST(Shapes, ADenseSwitchIsATable) {
  Insns cases, tests;
  constexpr int kCases = 32;
  for (int i = 0; i < kCases; i++) {
    tests.push_back(jump_eq(1, i, (kCases - 1 - i) + 2 + i * 4));
    const Insns one{mov_reg(0, 2), raw(BPF_ALU64 | BPF_MUL | BPF_K, 0, 0, 0, 3 * i + 2),
                    raw(BPF_ALU64 | BPF_XOR | BPF_K, 0, 0, 0, i * i), exit_insn()};
    cases.insert(cases.end(), one.begin(), one.end());
  }
  const auto code = Code::compile_bare(Sequence() << tests << mov(0, 1) << exit_insn() << cases);
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_NE(code->disassembly().find("jmpq\t*"), std::string::npos) << code->disassembly();
  for (uint64_t i = 0; i < kCases; i++) EXPECT_EQ(code->run(i, 11), (11 * (3 * i + 2)) ^ (i * i));
  EXPECT_EQ(code->run(kCases, 11), 1u);
  EXPECT_EQ(code->run(~uint64_t{0}, 11), 1u);
}

// for (r3 = 0; r3 < LENGTH; r3++) r1[r3] = r2[r3]
Insns copy_loop(uint64_t length) {
  Sequence s;
  s << load_imm(5, length) << mov(3, 0) << raw(BPF_JMP | BPF_JGE | BPF_X, 3, 5, 8) << mov_reg(4, 2)
    << raw(BPF_ALU64 | BPF_ADD | BPF_X, 4, 3) << load(BPF_B, 4, 4, 0) << mov_reg(0, 1)
    << raw(BPF_ALU64 | BPF_ADD | BPF_X, 0, 3) << store(BPF_B, 0, 0, 4) << add(3, 1)
    << raw(BPF_JMP | BPF_JA, 0, 0, -9) << mov(0, 0) << exit_insn();
  return s;
}

TEST(Shapes, CopyLoopsCopyByteByByteHoweverTheyOverlap) {
  for (const uint64_t length : {0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 100}) {
    const auto code = Code::compile_bare(copy_loop(length));
    ASSERT_TRUE(code.ok()) << code.error().message;
    for (const int distance :
         {-100, -33, -32, -17, -9, -8, -7, -1, 0, 1, 2, 7, 8, 9, 16, 31, 32, 33, 99, 100, 101}) {
      std::vector<uint8_t> memory(400), expected;
      for (size_t i = 0; i < memory.size(); i++) memory[i] = static_cast<uint8_t>(i * 7 + 1);
      expected = memory;
      const size_t from = 150, to = static_cast<size_t>(150 + distance);
      for (size_t i = 0; i < length; i++) expected[to + i] = expected[from + i];
      code->run(reinterpret_cast<uint64_t>(&memory[to]), reinterpret_cast<uint64_t>(&memory[from]));
      ASSERT_EQ(memory, expected) << "length " << length << ", distance " << distance;
    }
  }
  const auto code = Code::compile_bare(copy_loop(100));
  EXPECT_NE(code->disassembly().find("call"), std::string::npos) << "no copy by words\n"
                                                                 << code->disassembly();
}

// The negative twin: more than a copy is not taken for one.
TEST(Shapes, ALoopThatCountsWhatItCopiesStaysALoop) {
  Insns insns = copy_loop(100);
  insns.insert(insns.end() - 2, raw(0));    // placeholder, replaced below
  insns[insns.size() - 3] = mov_reg(0, 4);  // returns the last byte copied
  insns.erase(insns.end() - 2);
  const auto code = Code::compile_bare(insns);
  ASSERT_TRUE(code.ok()) << code.error().message;
  std::vector<uint8_t> memory(300, 1);
  for (size_t i = 0; i < 100; i++) memory[i] = static_cast<uint8_t>(i + 1);
  EXPECT_EQ(code->run(reinterpret_cast<uint64_t>(&memory[150]), reinterpret_cast<uint64_t>(memory.data())),
            100u);
  EXPECT_EQ(memory[150], 1);
  EXPECT_EQ(memory[249], 100);
}

}  // namespace
}  // namespace bpftime::compiler

// Which instruction each part of the machine code comes from.
#include "compiler/line_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "compiler/testing_target.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

constexpr int32_t kMark = 0x12345600;

// Stores of constants that can be found in the code again, the instructions given between them.
program::Program marked(const std::vector<program::Insn>& between) {
  program::Program program;
  program.name = "marked";
  for (int i = 0; i < 6; ++i) {
    program.insns.push_back(store_imm(BPF_DW, 1, 8 * i, kMark + i));
    program.insns.insert(program.insns.end(), between.begin(), between.end());
  }
  program.insns.push_back(mov(0, 0));
  program.insns.push_back(exit_insn());
  return program;
}

size_t place_of(const std::vector<uint8_t>& image, int32_t constant) {
  uint8_t bytes[sizeof constant];
  std::memcpy(bytes, &constant, sizeof bytes);
  const auto found = std::search(image.begin(), image.end(), std::begin(bytes), std::end(bytes));
  return static_cast<size_t>(found - image.begin());
}

// The instruction that the table gives for the byte at `offset`.
uint32_t insn_at(const std::vector<CodeLine>& table, size_t offset) {
  uint32_t insn = UINT32_MAX;
  for (const CodeLine& line : table)
    if (line.offset <= offset) insn = line.insn;
  return insn;
}

void expect_true_of(const program::Program& program) {
  const CompileOptions options;
  auto code = compile(program, {}, options);
  ASSERT_TRUE(code.ok()) << code.error().message;
  const auto table = line_table(program, {}, options, *code);
  ASSERT_TRUE(table.ok()) << table.error().message;
  ASSERT_FALSE(table->empty());
  for (size_t i = 0; i < table->size(); ++i) {
    EXPECT_LT((*table)[i].offset, code->text_size);
    EXPECT_LT((*table)[i].insn, program.insns.size());
    if (i != 0) {
      EXPECT_LT((*table)[i - 1].offset, (*table)[i].offset);
      EXPECT_NE((*table)[i - 1].insn, (*table)[i].insn) << "told twice";
    }
  }
  for (uint32_t i = 0; i < program.insns.size(); ++i) {
    if (program.insns[i].code != (BPF_ST | BPF_MEM | BPF_DW)) continue;
    const size_t place = place_of(code->image, program.insns[i].imm);
    ASSERT_LT(place, code->image.size()) << "the store of instruction " << i << " is not in the code";
    EXPECT_EQ(insn_at(*table, place), i);
  }
}

TEST(LineTable, NamesTheInstructionOfEachStore) { expect_true_of(marked({})); }

TEST(LineTable, NamesItBetweenJumpsToo) {
  expect_true_of(marked({load(BPF_DW, 2, 1, 48), jump_eq(2, 7, 1), store(BPF_DW, 1, 56, 2)}));
}

TEST(LineTable, NamesItBetweenCalls) {
  // r1 is lost in a call.
  const std::vector<program::Insn> call_and_back = {mov_reg(6, 1), call(BPF_FUNC_get_smp_processor_id),
                                                    mov_reg(1, 6)};
  expect_true_of(marked(call_and_back));
}

TEST(LineTable, SaysNothingOfOtherCode) {
  const CompileOptions options;
  auto code = compile(marked({}), {}, options);
  ASSERT_TRUE(code.ok()) << code.error().message;
  code->image[0] ^= 1;
  const auto table = line_table(marked({}), {}, options, *code);
  ASSERT_FALSE(table.ok());
  EXPECT_EQ(table.error().code, ENODATA);
}

}  // namespace
}  // namespace bpftime::compiler

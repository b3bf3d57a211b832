#include "compiler/compiler.h"

#include <gtest/gtest.h>

#include "compiler/testing.h"

namespace bpftime::compiler {
namespace {

using program::Program;
using testing::add;
using testing::Code;
using testing::exit_insn;
using testing::mov;
using testing::mov_reg;
using testing::raw;

TEST(Compile, ReturnsAConstant) {
  const auto code = Code::compile_bare({mov(0, 42), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(0, 0), 42u);
}

TEST(Compile, PassesBothArguments) {
  const auto code = Code::compile_bare(
      {raw(BPF_ALU64 | BPF_MOV | BPF_X, 0, 1), raw(BPF_ALU64 | BPF_ADD | BPF_X, 0, 2), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(40, 2), 42u);
}

// Runs `insns` as proved: all reached but those of `dead`, the top `zeroed` bytes of the stack to be zero.
Result<Code> compile_proved(std::vector<program::Insn> insns, std::vector<size_t> dead, uint32_t zeroed) {
  verifier::Facts facts;
  facts.insns.resize(insns.size());
  for (auto& insn : facts.insns) insn.reached = true;
  for (const size_t index : dead) facts.insns[index].reached = false;
  facts.zeroed_bytes = {zeroed};
  CompileOptions options;
  options.bare = true;
  options.facts = &facts;
  Program program;
  program.insns = std::move(insns);
  return Code::compile(program, {}, options);
}

// Leaves no zero byte where the next calls' frames will lie.
[[gnu::noinline]] void dirty_the_stack() {
  volatile uint8_t dirt[8192];
  for (auto& byte : dirt) byte = 0xaa;
}

TEST(Compile, ZeroesTheStackThatMayBeReadUnwritten) {
  // The offset is an argument, so that nothing folds.
  const std::vector<program::Insn> read_unwritten = {mov_reg(3, 10), raw(BPF_ALU64 | BPF_ADD | BPF_X, 3, 1),
                                                     raw(BPF_LDX | BPF_MEM | BPF_DW, 0, 3), exit_insn()};
  const auto code = compile_proved(read_unwritten, {}, 64);
  ASSERT_TRUE(code.ok()) << code.error().message;
  for (int64_t offset = -64; offset <= -8; offset += 8) {
    dirty_the_stack();
    EXPECT_EQ(code->run(static_cast<uint64_t>(offset), 0), 0u) << offset;
  }
  dirty_the_stack();
  EXPECT_NE(code->run(static_cast<uint64_t>(-512), 0), 0u);
}

TEST(Compile, LeavesOutWhatIsProvedDead) {
  const std::vector<program::Insn> insns = {mov(0, 1),
                                            raw(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 2, 7),
                                            mov(0, 2),
                                            exit_insn(),
                                            testing::call(0x7ffffff),
                                            exit_insn()};
  const auto code = compile_proved(insns, {4, 5}, 0);
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(0, 0), 2u);
  // Were the proof wrong, the program would end, not run on into other code.
  EXPECT_EQ(code->run(7, 0), 0u);
}

uint32_t slots_read(const std::vector<program::Insn>& insns) {
  const program::Program program{.name = "slots", .type = BPF_PROG_TYPE_KPROBE, .insns = insns};
  auto code = compile(program, {}, {});
  EXPECT_TRUE(code.ok()) << code.error().message;
  return code.ok() ? code->context_slots_read : 0;
}

TEST(Compile, SaysWhichPartOfItsContextAProgramReads) {
  using namespace compiler::testing;
  const program::Insn done = exit_insn();
  EXPECT_EQ(slots_read({mov(0, 0), done}), 0u);
  EXPECT_EQ(slots_read({raw(BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 112), done}), 1u << 14);
  EXPECT_EQ(slots_read({raw(BPF_LDX | BPF_MEM | BPF_B, 0, 1, 107), done}), 1u << 13);
  EXPECT_EQ(slots_read({mov_reg(6, 1), add(6, 8), raw(BPF_LDX | BPF_MEM | BPF_W, 0, 6, 4), done}), 1u << 1);
  // Passed to a function of its own, which reads it.
  EXPECT_EQ(slots_read({raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1), done,
                        raw(BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 80), done}),
            1u << 10);
}

TEST(Compile, AContextThatGoesElsewhereIsNeededWhole) {
  using namespace compiler::testing;
  constexpr uint32_t kAll = ~uint32_t{0};
  const program::Insn done = exit_insn();
  EXPECT_EQ(slots_read({mov_reg(0, 1), done}), kAll);
  // Behind its end, and at an unknown place.
  EXPECT_EQ(slots_read({raw(BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 168), done}), kAll);
  EXPECT_EQ(slots_read({raw(BPF_LDX | BPF_MEM | BPF_DW, 2, 1, 0), raw(BPF_ALU64 | BPF_ADD | BPF_X, 1, 2),
                        raw(BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 0), done}),
            kAll);
  // bpf_probe_read_kernel(stack, 8, &ctx->di): no load of the program's own.
  EXPECT_EQ(slots_read({mov_reg(3, 1), add(3, 112), mov_reg(1, 10), add(1, -8), mov(2, 8),
                        call(BPF_FUNC_probe_read_kernel), mov(0, 0), done}),
            kAll);
}

// An object of many programs that is loaded again compiles none of them.
TEST(Compile, ManyProgramsAreRemembered) {
  constexpr int kPrograms = 200;
  const uint64_t before = programs_compiled();
  for (int round = 0; round < 2; ++round)
    for (int number = 0; number < kPrograms; ++number) {
      const program::Program program{
          .name = "many", .type = BPF_PROG_TYPE_KPROBE, .insns = {mov(0, 100'000 + number), exit_insn()}};
      ASSERT_TRUE(compile(program, {}, {}).ok());
    }
  EXPECT_EQ(programs_compiled(), before + kPrograms);
}

TEST(Compile, TheSameContentIsTheSameCodeAndOtherContentIsNot) {
  program::Program program{.name = "a", .type = BPF_PROG_TYPE_KPROBE, .insns = {mov(0, 4711), exit_insn()}};
  const uint64_t before = programs_compiled();
  auto first = compile(program, {}, {});
  EXPECT_EQ(programs_compiled(), before + 1);
  program.name = "b";
  auto again = compile(program, {}, {});
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(first->image, again->image);
  EXPECT_EQ(programs_compiled(), before + 1);
  program.insns[0] = mov(0, 4712);
  auto other = compile(program, {}, {});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(programs_compiled(), before + 2);
  EXPECT_NE(first->image, other->image);
  // What was proved is part of the content.
  verifier::Facts facts;
  facts.insns.resize(program.insns.size());
  CompileOptions options;
  options.facts = &facts;
  auto dead = compile(program, {}, options);
  ASSERT_TRUE(dead.ok());
  EXPECT_NE(dead->image, other->image);
}

TEST(Compile, RefusesAnEmptyProgram) {
  const auto code = Code::compile_bare({});
  ASSERT_FALSE(code.ok());
  EXPECT_EQ(code.error().code, EINVAL);
}

TEST(Compile, RefusesAJumpOutOfTheProgram) {
  const auto code = Code::compile_bare({raw(BPF_JMP | BPF_JA, 0, 0, 7), exit_insn()});
  ASSERT_FALSE(code.ok());
  EXPECT_NE(code.error().message.find("instruction 0"), std::string::npos) << code.error().message;
}

TEST(Compile, RefusesToFallOffTheEnd) {
  EXPECT_FALSE(Code::compile_bare({mov(0, 1)}).ok());
  EXPECT_FALSE(Code::compile_bare({mov(0, 1), raw(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, -2, 1)}).ok());
}

TEST(Compile, RefusesRecursion) {
  const auto code = Code::compile_bare(
      {raw(BPF_JMP | BPF_CALL, 0, 1, 0, 1), exit_insn(), raw(BPF_JMP | BPF_CALL, 0, 1, 0, -1), exit_insn()});
  ASSERT_FALSE(code.ok());
  EXPECT_NE(code.error().message.find("calls itself"), std::string::npos) << code.error().message;
}

TEST(Compile, RefusesAMapThatIsNotThere) {
  EXPECT_FALSE(Code::compile_bare({raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 0), raw(0, 0, 0),
                                   mov(0, 0), exit_insn()})
                   .ok());
}

TEST(Compile, AnUnknownHelperEndsTheProgramWithZero) {
  for (const uint32_t id : {0xbad2310u, 2001000000u, 169u, 9999u}) {
    const auto code =
        Code::compile_bare({mov(0, 7), raw(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1, 1),
                            raw(BPF_JMP | BPF_CALL, 0, 0, 0, static_cast<int32_t>(id)), exit_insn()});
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(code->run(0, 0), 0u);
    EXPECT_EQ(code->run(1, 0), 7u);  // the branch was dead
  }
}

TEST(Compile, AnEndlessLoopStaysOne) {
  // r0 = 0; loop: if *r1 != 0 goto out; goto loop. With *r1 set it ends; the loop itself must not vanish.
  const auto code = Code::compile_bare(
      {mov(0, 5), raw(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 1, 0), raw(BPF_JMP | BPF_JA, 0, 0, -2), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(1, 0), 5u);
  EXPECT_NE(code->disassembly().find("\t-"), std::string::npos) << "no jump back\n" << code->disassembly();
}

// A chain of `depth` functions, each with 512 bytes of stack that its callee fills, so that none may vanish.
std::vector<program::Insn> nested_functions(int depth) {
  std::vector<program::Insn> insns;
  for (int i = 0; i < depth; i++) {
    insns.push_back(raw(BPF_STX | BPF_MEM | BPF_DW, 10, 1, -512));
    insns.push_back(mov_reg(1, 10));
    insns.push_back(add(1, -512));
    insns.push_back(mov_reg(6, 10));
    if (i + 1 < depth)
      insns.push_back(raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 3));
    else
      insns.push_back(mov(0, 1));
    insns.push_back(raw(BPF_LDX | BPF_MEM | BPF_DW, 1, 6, -512));
    insns.push_back(raw(BPF_ALU64 | BPF_ADD | BPF_X, 0, 1));
    insns.push_back(exit_insn());
  }
  return insns;
}

TEST(Compile, RefusesMoreStackThanAllowed) {
  const auto small = Code::compile_bare(nested_functions(4));
  ASSERT_TRUE(small.ok()) << small.error().message;
  EXPECT_GE(small->machine_code().stack_bytes, 4u * 512);
  const auto large = Code::compile_bare(nested_functions(9));
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, E2BIG);
  EXPECT_NE(large.error().message.find("bytes of stack, at most 4096"), std::string::npos)
      << large.error().message;
}

TEST(Compile, StackNotUsedIsNotTaken) {
  const auto code = Code::compile_bare({raw(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -8, 5), mov_reg(2, 10),
                                        add(2, -8), raw(BPF_LDX | BPF_MEM | BPF_DW, 0, 2, 0), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(0, 0), 5u);
  EXPECT_LE(code->machine_code().stack_bytes, 64u);
}

TEST(Compile, TheImageRunsAnywhere) {
  // A jump table or constant in the image must be reached relative to the code: same bytes, two places.
  std::vector<program::Insn> insns;
  for (int i = 0; i < 24; i++) {
    insns.push_back(raw(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 2, i));
    insns.push_back(mov(0, 1000 + i * i * 7));
    insns.push_back(exit_insn());
  }
  insns.push_back(mov(0, 0));
  insns.push_back(exit_insn());
  const auto one = Code::compile_bare(insns);
  const auto two = Code::compile_bare(insns);
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->machine_code().image, two->machine_code().image);  // and compiling is deterministic
  for (uint64_t i = 0; i < 26; i++) {
    const uint64_t expected = i < 24 ? 1000 + i * i * 7 : 0;
    EXPECT_EQ(one->run(i, 0), expected);
    EXPECT_EQ(two->run(i, 0), expected);
  }
}

TEST(Compile, RefusesTooManyFunctions) {
  std::vector<program::Insn> insns;
  for (int i = 0; i < 300; i++) insns.push_back(raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 300 + i));
  insns.push_back(exit_insn());
  for (int i = 0; i < 300; i++) {
    insns.push_back(mov(0, i));
    insns.push_back(exit_insn());
  }
  const auto code = Code::compile_bare(insns);
  ASSERT_FALSE(code.ok());
  EXPECT_EQ(code.error().code, E2BIG);
}

}  // namespace
}  // namespace bpftime::compiler

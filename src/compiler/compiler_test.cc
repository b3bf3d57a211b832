#include "compiler/compiler.h"

#include <gtest/gtest.h>

#include "compiler/testing.h"

namespace bpftime::compiler {
namespace {

using program::Program;
using testing::Code;
using testing::exit_insn;
using testing::mov;
using testing::raw;

TEST(Compile, ReturnsAConstant) {
  const auto code = Code::compile_bare({mov(0, 42), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(0, 0), 42u);
}

TEST(Compile, PassesBothArguments) {
  const auto code = Code::compile_bare({raw(BPF_ALU64 | BPF_MOV | BPF_X, 0, 1), raw(BPF_ALU64 | BPF_ADD | BPF_X, 0, 2), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(40, 2), 42u);
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
  const auto code = Code::compile_bare({raw(BPF_JMP | BPF_CALL, 0, 1, 0, 1), exit_insn(),
                                        raw(BPF_JMP | BPF_CALL, 0, 1, 0, -1), exit_insn()});
  ASSERT_FALSE(code.ok());
  EXPECT_NE(code.error().message.find("calls itself"), std::string::npos) << code.error().message;
}

TEST(Compile, RefusesAMapThatIsNotThere) {
  EXPECT_FALSE(Code::compile_bare({raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 0), raw(0, 0, 0), mov(0, 0), exit_insn()}).ok());
}

TEST(Compile, AnUnknownHelperEndsTheProgramWithZero) {
  for (const uint32_t id : {0xbad2310u, 2001000000u, 12u, 9999u}) {
    const auto code = Code::compile_bare(
        {mov(0, 7), raw(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1, 1), raw(BPF_JMP | BPF_CALL, 0, 0, 0, static_cast<int32_t>(id)), exit_insn()});
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(code->run(0, 0), 0u);
    EXPECT_EQ(code->run(1, 0), 7u);  // the branch was dead
  }
}

TEST(Compile, AnEndlessLoopStaysOne) {
  // r0 = 0; loop: if *r1 != 0 goto out; goto loop. With *r1 set it ends; the loop itself must not vanish.
  const auto code = Code::compile_bare({mov(0, 5), raw(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 1, 0),
                                        raw(BPF_JMP | BPF_JA, 0, 0, -2), exit_insn()});
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->run(1, 0), 5u);
  EXPECT_NE(code->disassembly().find("jmp"), std::string::npos) << code->disassembly();
}

}  // namespace
}  // namespace bpftime::compiler

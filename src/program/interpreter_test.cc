// What the vectors cannot say: limits, refused accesses, references. Arithmetic is in testing/vectors
// and the corpus.
#include "program/interpreter.h"

#include <gtest/gtest.h>

#include "program/testing/conformance.h"

namespace bpftime::program {
namespace {

Program make(const char* assembly) {
  Program program;
  program.insns = *testing::assemble(assembly);
  EXPECT_TRUE(validate(program).ok()) << assembly;
  return program;
}

TEST(Interpreter, StopsAtTheInstructionLimit) {
  const Program loop = make("mov %r0, 0\nagain:\nja again\nexit");
  InterpreterEnvironment environment;
  environment.insns_max = 1000;
  EXPECT_EQ(interpret(loop, 0, 0, environment).error().code, ELOOP);
  const Program three = make("mov %r0, 0\nmov %r0, 9\nexit");
  environment.insns_max = 3;
  EXPECT_EQ(*interpret(three, 0, 0, environment), 9u);
  environment.insns_max = 2;
  EXPECT_EQ(interpret(three, 0, 0, environment).error().code, ELOOP);
}

TEST(Interpreter, KeepsToItsFrames) {
  InterpreterEnvironment environment;
  EXPECT_TRUE(interpret(make("stdw [%r10-512], 1\nldxdw %r0, [%r10-512]\nexit"), 0, 0, environment).ok());
  EXPECT_EQ(interpret(make("stb [%r10-513], 1\nmov %r0, 0\nexit"), 0, 0, environment).error().code, EFAULT);
  EXPECT_EQ(interpret(make("stdw [%r10-516], 1\nmov %r0, 0\nexit"), 0, 0, environment).error().code, EFAULT);
  EXPECT_EQ(interpret(make("stdw [%r10-4], 1\nmov %r0, 0\nexit"), 0, 0, environment).error().code, EFAULT);
}

TEST(Interpreter, AsksBeforeEveryOtherAccess) {
  uint64_t cell = 5;
  InterpreterEnvironment environment;
  environment.may_access = [&](uint64_t address, uint32_t size, bool write) {
    return address == reinterpret_cast<uint64_t>(&cell) && size == 8 && !write;
  };
  const auto address = reinterpret_cast<uint64_t>(&cell);
  EXPECT_EQ(*interpret(make("ldxdw %r0, [%r1]\nexit"), address, 0, environment), 5u);
  EXPECT_EQ(interpret(make("ldxb %r0, [%r1]\nexit"), address, 0, environment).error().code, EFAULT);
  EXPECT_EQ(interpret(make("mov %r0, 0\nstxdw [%r1], %r0\nexit"), address, 0, environment).error().code,
            EFAULT);
  EXPECT_EQ(interpret(make("ldxdw %r0, [%r1]\nexit"), UINT64_MAX - 3, 0, environment).error().code, EFAULT);
  EXPECT_EQ(cell, 5u);
}

TEST(Interpreter, RefusesMisalignedAtomics) {
  InterpreterEnvironment environment;
  EXPECT_EQ(interpret(make("mov %r0, 1\nlock add [%r10-12], %r0\nexit"), 0, 0, environment).error().code,
            EINVAL);
  EXPECT_TRUE(interpret(make("mov %r0, 1\nlock add32 [%r10-12], %r0\nexit"), 0, 0, environment).ok());
}

TEST(Interpreter, PassesArgumentsToHelpers) {
  InterpreterEnvironment environment;
  environment.helper = [](uint32_t id, const uint64_t args[5]) -> Result<uint64_t> {
    if (id != 77) return Error{ENOENT, "no such helper"};
    return args[0] * 10000 + args[1] * 1000 + args[2] * 100 + args[3] * 10 + args[4];
  };
  EXPECT_EQ(*interpret(make("mov %r3, 3\nmov %r4, 4\nmov %r5, 5\ncall 77\nexit"), 1, 2, environment), 12345u);
  EXPECT_EQ(interpret(make("call 78\nexit"), 0, 0, environment).error().code, ENOENT);
  EXPECT_EQ(interpret(make("call 77\nexit"), 0, 0, {}).error().code, EINVAL);
}

TEST(Interpreter, ResolvesMapReferences) {
  Program program;
  program.insns = {{BPF_LD | BPF_IMM | BPF_DW, 0, BPF_PSEUDO_MAP_VALUE, 0, 3},
                   {0, 0, 0, 0, 16},
                   {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  InterpreterEnvironment environment;
  environment.map_address = [](uint32_t index, uint32_t offset, bool value) -> uint64_t {
    return index * 1000 + offset + (value ? 1 : 0);
  };
  EXPECT_EQ(*interpret(program, 0, 0, environment), 3017u);
  EXPECT_EQ(interpret(program, 0, 0, {}).error().code, EINVAL);
}

TEST(Interpreter, CallsEightFramesDeep) {
  const Program eight = make(
      "call local f1\nexit\nf1:\ncall local f2\nexit\nf2:\ncall local f3\nexit\nf3:\ncall local f4\nexit\n"
      "f4:\ncall local f5\nexit\nf5:\ncall local f6\nexit\nf6:\ncall local f7\nexit\nf7:\nmov %r0, 8\nexit");
  EXPECT_EQ(*interpret(eight, 0, 0, {}), 8u);
  Program nine = eight;
  nine.insns = *testing::assemble(
      "call local f1\nexit\nf1:\ncall local f2\nexit\nf2:\ncall local f3\nexit\nf3:\ncall local "
      "f4\nexit\nf4:\ncall local f5\n"
      "exit\nf5:\ncall local f6\nexit\nf6:\ncall local f7\nexit\nf7:\ncall local f8\nexit\nf8:\nmov %r0, "
      "9\nexit");
  EXPECT_EQ(validate(nine).error().code, E2BIG);
  EXPECT_EQ(interpret(nine, 0, 0, {}).error().code, EINVAL);
  EXPECT_EQ(subprogram_starts(nine).size(), 9u);
}

}  // namespace
}  // namespace bpftime::program

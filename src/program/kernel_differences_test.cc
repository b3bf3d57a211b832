// Our validator against the kernel's: what we refuse the kernel refuses, and what the kernel calls
// malformed we refuse.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "program/instructions.h"
#include "program/testing/conformance.h"
#include "program/testing/kernel.h"

namespace bpftime::program {
namespace {

// Where we refuse on purpose what Linux 6.18 loads. Keep it short.
const char* known_difference(const Insn& insn) {
  const uint8_t code_class = BPF_CLASS(insn.code);
  const bool alu = code_class == BPF_ALU || code_class == BPF_ALU64;
  if (insn.code == (BPF_JMP | BPF_EXIT) && insn.off != 0)
    return "exit with an offset: reserved by RFC 9669, ignored by Linux";
  if (insn.code == (BPF_JMP | 0xe0)) return "may_goto: its budget is the kernel's own";
  if (code_class == BPF_STX && BPF_MODE(insn.code) == BPF_ATOMIC &&
      (insn.imm == 0x100 || insn.imm == 0x110)) {
    return "load-acquire and store-release: after v4";
  }
  if (alu && insn.off < 0) return "negative offset in arithmetic: Linux checks only for more than 1";
  return nullptr;
}

// The kernel's words for what needs no type, map or path to see.
bool is_structural(const testing::KernelAnswer& answer) {
  static const char* const kWords[] = {
      "uses reserved fields",
      "unknown opcode",
      "jump out of range",
      "last insn is not an exit or jmp",
      "invalid bpf_ld_imm64 insn",
      "frame pointer is read only",
      "invalid BPF_ALU opcode",
      "unrecognized bpf_ld_imm64 insn",
      "jump into the middle of ldimm64",
      "call to invalid destination",
      "uses invalid atomic opcode",
      "invalid atomic operand size",
  };
  for (const char* words : kWords) {
    if (answer.log.find(words) != std::string::npos) return true;
  }
  // "R12 is invalid"
  return answer.log.find("\nR1") != std::string::npos &&
         answer.log.find(" is invalid\n") != std::string::npos;
}

using testing::KernelAnswer;

std::string last_line(const std::string& log) {
  std::string line;
  size_t end = log.find_last_not_of('\n');
  while (end != std::string::npos) {
    const size_t begin = log.rfind('\n', end);
    line = log.substr(begin == std::string::npos ? 0 : begin + 1,
                      end - (begin == std::string::npos ? 0 : begin + 1) + 1);
    if (!line.starts_with("processed ") || begin == std::string::npos) break;
    end = begin == 0 ? std::string::npos : begin - 1;
  }
  return line;
}

// Every register is initialised and unknown, r1 points to an initialised part of the stack: most instructions
// are legal here.
const char* const kPrologue = R"(
  call 7
  mov %r6, %r0
  mov %r7, %r0
  mov %r8, %r0
  mov %r9, %r0
  mov %r2, %r0
  mov %r3, %r0
  mov %r4, %r0
  mov %r5, %r0
  stdw [%r10-8], 0
  stdw [%r10-16], 0
  stdw [%r10-24], 0
  mov %r1, %r10
  add %r1, -16
)";
const char* const kEpilogue = R"(
  mov %r0, 0
  mov %r0, 0
  mov %r0, 0
  exit
)";

class Differential : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = testing::kernel_unusable(); !reason.empty()) GTEST_SKIP() << reason;
    const char* seed = std::getenv("BPFTIME_SEED");
    seed_ = seed != nullptr ? std::strtoul(seed, nullptr, 0) : std::random_device()();
    printf("BPFTIME_SEED=%u\n", seed_);
    random_.seed(seed_);
    prologue_ = *testing::assemble(kPrologue);
    epilogue_ = *testing::assemble(kEpilogue);
  }

  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[random_() % choices.size()];
  }

  // Mostly well-formed fields with a wrong one now and then.
  Insn random_insn() {
    Insn insn = {};
    insn.code = static_cast<uint8_t>(random_());
    insn.dst_reg = random_() % 8 == 0 ? random_() % 16 : random_() % 10;
    insn.src_reg = random_() % 8 == 0 ? random_() % 16 : random_() % 2 == 0 ? 0 : random_() % 10;
    insn.off = pick<int16_t>({0, 0, 0, 0, 1, 1, -1, 2, 8, 8, 16, 32, -8, -16, 100, 24});
    insn.imm = pick<int32_t>(
        {0, 0, 0, 1, 1, 5, 7, 16, 32, 64, -1, 0x41, 0x51, 0xa1, 0xe1, 0xf1, 0xe0, 0x100, 0x20, 0x7fffffff});
    // A loop costs the kernel's verifier a million steps: seldom.
    const bool jump = BPF_CLASS(insn.code) == BPF_JMP || BPF_CLASS(insn.code) == BPF_JMP32;
    if (jump && random_() % 256 != 0) {
      insn.off = std::max<int16_t>(insn.off, 0);
      if (insn.code == (BPF_JMP32 | BPF_JA)) insn.imm = std::max(insn.imm, 0);
    }
    return insn;
  }

  void compare(const Program& program, const Insn& mutated) {
    const auto ours = validate(program);
    const KernelAnswer theirs = testing::kernel_load(program);
    ++(ours ? ours_accept_ : ours_refuse_);
    if (theirs.error == 0) ++theirs_accept_;
    const char* known = known_difference(mutated);
    if (!ours && theirs.error == 0) {
      ++differences_[known != nullptr ? known : "unknown"];
      EXPECT_NE(known, nullptr) << "we refuse what Linux loads: " << ours.error().message << "\n"
                                << disassemble(program);
    }
    if (ours && theirs.error != 0 && is_structural(theirs)) {
      ADD_FAILURE() << "we accept what Linux calls malformed: " << last_line(theirs.log) << "\n"
                    << disassemble(program);
    }
    if (!ours && theirs.error != 0) {
      ++both_refuse_;
      if (ours.error().code == theirs.error) ++same_errno_;
    }
  }

  void report() {
    printf("ours: %d accepted, %d refused; Linux: %d accepted; refused by both %d, same errno %d\n",
           ours_accept_, ours_refuse_, theirs_accept_, both_refuse_, same_errno_);
    for (const auto& [why, count] : differences_) printf("difference, %d times: %s\n", count, why.c_str());
  }

  uint32_t seed_ = 0;
  std::mt19937 random_;
  std::vector<Insn> prologue_, epilogue_;
  int ours_accept_ = 0, ours_refuse_ = 0, theirs_accept_ = 0, both_refuse_ = 0, same_errno_ = 0;
  std::map<std::string, int> differences_;
};

TEST_F(Differential, OneRandomInstructionInAProgramThatReachesIt) {
  for (int round = 0; round < 20000 && !HasFailure(); ++round) {
    const Insn insn = random_insn();
    Program program;
    program.insns = prologue_;
    program.insns.push_back(insn);
    if (is_load_imm64(insn)) program.insns.push_back(random_() % 4 == 0 ? random_insn() : Insn{});
    program.insns.insert(program.insns.end(), epilogue_.begin(), epilogue_.end());
    program.type = pick<uint32_t>({BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_KPROBE});
    compare(program, insn);
  }
  report();
  EXPECT_GT(theirs_accept_, 200);
  EXPECT_GT(both_refuse_, 1000);
}

// One field of a valid vector is changed. The vectors are not made for Linux's verifier, so
// mostly both refuse.
TEST_F(Differential, MutatedVectors) {
  std::string directory = testing::own_vectors_directory();
  if (directory.empty()) GTEST_SKIP() << "BPFTIME_SOURCE_DIR does not name the source tree";
  auto vectors = testing::load_vectors(directory + "/tests");
  ASSERT_TRUE(vectors.ok());
  for (int round = 0; round < 5000 && !HasFailure(); ++round) {
    Program program = (*vectors)[random_() % vectors->size()].program;
    const size_t index = random_() % program.insns.size();
    Insn& insn = program.insns[index];
    const Insn other = random_insn();
    switch (random_() % 5) {
      case 0:
        insn.code = other.code;
        break;
      case 1:
        insn.dst_reg = other.dst_reg;
        break;
      case 2:
        insn.src_reg = other.src_reg;
        break;
      case 3:
        insn.off = other.off;
        break;
      default:
        insn.imm = other.imm;
    }
    // Dead code: Linux checks reserved fields only where control comes by. Compare only what it walked over.
    if (testing::kernel_load(program).error == 0 && !validate(program).ok() &&
        known_difference(insn) == nullptr) {
      ++differences_["malformed instruction in code the verifier proved dead"];
      continue;
    }
    compare(program, insn);
  }
  report();
}

struct Case {
  const char* what;
  std::vector<Insn> insns;
};

constexpr Insn kZero = {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0};
constexpr Insn kExit = {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};

TEST_F(Differential, BothRefuseMalformedPrograms) {
  const Case kCases[] = {
      {"no exit", {kZero}},
      {"last is a conditional jump", {kZero, {BPF_JMP | BPF_JEQ | BPF_K, 0, 0, -1, 0}}},
      {"jump past the end", {kZero, {BPF_JMP | BPF_JA, 0, 0, 1, 0}, kExit}},
      {"jump before the start", {kZero, {BPF_JMP | BPF_JA, 0, 0, -3, 0}, kExit}},
      {"gotol past the end", {kZero, {BPF_JMP32 | BPF_JA, 0, 0, 0, 1000}, kExit}},
      {"gotol with offset", {kZero, {BPF_JMP32 | BPF_JA, 0, 0, 1, 0}, kExit}},
      {"goto with immediate", {kZero, {BPF_JMP | BPF_JA, 0, 0, 0, 1}, kExit}},
      {"second slot cut off", {kZero, {BPF_LD | BPF_IMM | BPF_DW, 1, 0, 0, 1}}},
      {"second slot is an instruction", {{BPF_LD | BPF_IMM | BPF_DW, 0, 0, 0, 1}, kZero, kExit}},
      {"jump into the second slot",
       {{BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1, 0},
        {BPF_LD | BPF_IMM | BPF_DW, 0, 0, 0, 1},
        {0, 0, 0, 0, 0},
        kExit}},
      {"call past the end", {{BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 5}, kExit}},
      {"call before the start", {{BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, -9}, kExit}},
      {"call with offset", {{BPF_JMP | BPF_CALL, 0, 0, 1, 7}, kExit}},
      {"call with destination", {{BPF_JMP | BPF_CALL, 1, 0, 0, 7}, kExit}},
      {"call of an unknown kind", {{BPF_JMP | BPF_CALL, 0, 3, 0, 7}, kExit}},
      {"callx", {kZero, {BPF_JMP | BPF_CALL | BPF_X, 0, 0, 0, 0}, kExit}},
      {"jump to another function",
       {{BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 2}, {BPF_JMP | BPF_JA, 0, 0, 1, 0}, kExit, kZero, kExit}},
      {"function falls through", {{BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0}, kZero, kExit}},
      {"recursion",
       {{BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1},
        kExit,
        {BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, -1},
        kExit}},
      {"write to r10", {{BPF_ALU64 | BPF_MOV | BPF_K, 10, 0, 0, 0}, kZero, kExit}},
      {"load into r10", {{BPF_LDX | BPF_MEM | BPF_W, 10, 1, 0, 0}, kZero, kExit}},
      {"r11", {{BPF_ALU64 | BPF_MOV | BPF_K, 11, 0, 0, 0}, kZero, kExit}},
      {"mov from r11", {{BPF_ALU64 | BPF_MOV | BPF_X, 0, 11, 0, 0}, kExit}},
      {"movsx from 24 bits", {{BPF_ALU64 | BPF_MOV | BPF_X, 0, 1, 24, 0}, kExit}},
      {"movsx32 from 32 bits", {kZero, {BPF_ALU | BPF_MOV | BPF_X, 0, 0, 32, 0}, kExit}},
      {"signed add", {kZero, {BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 1, 1}, kExit}},
      {"division kind 2", {kZero, {BPF_ALU64 | BPF_DIV | BPF_K, 0, 0, 2, 1}, kExit}},
      {"bswap 24", {kZero, {BPF_ALU64 | BPF_END, 0, 0, 0, 24}, kExit}},
      {"bswap to big endian", {kZero, {BPF_ALU64 | BPF_END | BPF_TO_BE, 0, 0, 0, 16}, kExit}},
      {"atomic of 16 bits", {kZero, {BPF_STX | BPF_ATOMIC | BPF_H, 10, 0, -8, BPF_ADD}, kExit}},
      {"atomic subtraction", {kZero, {BPF_STX | BPF_ATOMIC | BPF_DW, 10, 0, -8, BPF_SUB}, kExit}},
      {"xchg without fetch", {kZero, {BPF_STX | BPF_ATOMIC | BPF_DW, 10, 0, -8, 0xe0}, kExit}},
      {"memsx of 64 bits", {kZero, {BPF_LDX | kModeMemSx | BPF_DW, 0, 10, -8, 0}, kExit}},
      {"load with immediate", {kZero, {BPF_LDX | BPF_MEM | BPF_DW, 0, 10, -8, 1}, kExit}},
      {"store immediate with source", {kZero, {BPF_ST | BPF_MEM | BPF_DW, 10, 1, -8, 1}, kExit}},
      {"opcode 0", {kZero, {0, 0, 0, 0, 0}, kExit}},
      {"read of an unwritten register", {{BPF_ALU64 | BPF_MOV | BPF_X, 0, 7, 0, 0}, kExit}},
      {"return of an unwritten r0", {kExit}},
      {"packet load in a uprobe",
       {{BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0}, {BPF_LD | BPF_ABS | BPF_B, 0, 0, 0, 0}, kExit}},
  };
  for (const Case& test : kCases) {
    Program program;
    program.type = BPF_PROG_TYPE_KPROBE;
    program.insns = test.insns;
    const auto ours = validate(program);
    const KernelAnswer theirs = testing::kernel_load(program);
    EXPECT_FALSE(ours.ok()) << test.what;
    EXPECT_NE(theirs.error, 0) << test.what;
    if (!ours.ok()) {
      EXPECT_EQ(ours.error().code, theirs.error) << test.what << ": " << last_line(theirs.log);
    }
  }
  Program empty;
  EXPECT_EQ(validate(empty).error().code, E2BIG);
  EXPECT_EQ(testing::kernel_load(empty).error, E2BIG);
}

// The positive twin: legal but unusual programs pass in both.
TEST_F(Differential, BothAcceptUnusualPrograms) {
  const Case kCases[] = {
      {"smallest", {kZero, kExit}},
      {"ends in a jump back",
       {{BPF_JMP | BPF_JA, 0, 0, 2, 0}, kZero, kExit, {BPF_JMP | BPF_JA, 0, 0, -3, 0}}},
      {"gotol", {{BPF_JMP32 | BPF_JA, 0, 0, 0, 0}, kZero, kExit}},
      {"packet load",
       {{BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0}, {BPF_LD | BPF_ABS | BPF_B, 0, 0, 0, 0}, kExit}},
      {"poisoned call in a dead branch",
       {kZero, {BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0}, {BPF_JMP | BPF_CALL, 0, 0, 0, 195896080}, kExit}},
  };
  for (const Case& test : kCases) {
    Program program;
    program.insns = test.insns;
    program.type = BPF_PROG_TYPE_SOCKET_FILTER;
    const auto ours = validate(program);
    EXPECT_TRUE(ours.ok()) << test.what << ": " << ours.error().message;
    const KernelAnswer theirs = testing::kernel_load(program);
    EXPECT_EQ(theirs.error, 0) << test.what << ": " << theirs.log;
  }
}

}  // namespace
}  // namespace bpftime::program

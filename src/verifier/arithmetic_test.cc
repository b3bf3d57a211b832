// Arithmetic, ld_imm64 and conditional jumps through the whole verifier: each program's verdict and reason, compared with the
// running kernel's where that can be asked.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "program/program.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

Insn alu(uint8_t op, uint8_t dst, int32_t imm) {
  return {static_cast<uint8_t>(BPF_ALU64 | op | BPF_K), dst, 0, 0, imm};
}
Insn alu_reg(uint8_t op, uint8_t dst, uint8_t src) {
  return {static_cast<uint8_t>(BPF_ALU64 | op | BPF_X), dst, src, 0, 0};
}
Insn alu32(uint8_t op, uint8_t dst, int32_t imm) {
  return {static_cast<uint8_t>(BPF_ALU | op | BPF_K), dst, 0, 0, imm};
}
Insn alu32_reg(uint8_t op, uint8_t dst, uint8_t src) {
  return {static_cast<uint8_t>(BPF_ALU | op | BPF_X), dst, src, 0, 0};
}
Insn set(uint8_t dst, int32_t imm) { return alu(BPF_MOV, dst, imm); }
Insn move(uint8_t dst, uint8_t src) { return alu_reg(BPF_MOV, dst, src); }
Insn extend(uint8_t dst, uint8_t src, int16_t bits) {
  return {BPF_ALU64 | BPF_MOV | BPF_X, dst, src, bits, 0};
}
Insn jump(uint8_t op, uint8_t dst, int32_t imm, int16_t off) {
  return {static_cast<uint8_t>(BPF_JMP | op | BPF_K), dst, 0, off, imm};
}
Insn jump_reg(uint8_t op, uint8_t dst, uint8_t src, int16_t off) {
  return {static_cast<uint8_t>(BPF_JMP | op | BPF_X), dst, src, off, 0};
}
Insn jump32(uint8_t op, uint8_t dst, int32_t imm, int16_t off) {
  return {static_cast<uint8_t>(BPF_JMP32 | op | BPF_K), dst, 0, off, imm};
}
Insn load(uint8_t size, uint8_t dst, uint8_t src, int16_t off) {
  return {static_cast<uint8_t>(BPF_LDX | BPF_MEM | size), dst, src, off, 0};
}
Insn store(uint8_t size, uint8_t dst, int16_t off, int32_t imm) {
  return {static_cast<uint8_t>(BPF_ST | BPF_MEM | size), dst, 0, off, imm};
}
Insn store_reg(uint8_t size, uint8_t dst, int16_t off, uint8_t src) {
  return {static_cast<uint8_t>(BPF_STX | BPF_MEM | size), dst, src, off, 0};
}
Insn call(int32_t id) { return {BPF_JMP | BPF_CALL, 0, 0, 0, id}; }
const Insn kExit = {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
const Insn kRandom = call(BPF_FUNC_get_prandom_u32);

using Code = std::vector<Insn>;

Code operator+(Code a, const Code& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The maps that every trial has; values of 48 bytes.
constexpr int32_t kArray = 0, kHash = 1;

Code load_map(uint8_t dst, int32_t map, uint8_t source = BPF_PSEUDO_MAP_FD, int32_t offset = 0) {
  return {{BPF_LD | BPF_IMM | BPF_DW, dst, source, 0, map}, {0, 0, 0, 0, offset}};
}

// r0 = bpf_map_lookup_elem(the hash, {0}), which may be null.
Code look_up() {
  return Code{store(BPF_DW, 10, -8, 0), move(2, 10), alu(BPF_ADD, 2, -8)} + load_map(1, kHash) +
         Code{call(BPF_FUNC_map_lookup_elem)};
}

// The same, tested; the value (48 bytes) is in r9.
Code map_value() { return look_up() + Code{jump(BPF_JNE, 0, 0, 1), kExit, move(9, 0)}; }

// r6 = any number.
Code number() { return {kRandom, move(6, 0)}; }

// Reads a byte of the value in r9 at r<reg>: accepted only if the register is proved to be in [0, 47].
Code use_as_index(uint8_t reg) { return {alu_reg(BPF_ADD, 9, reg), load(BPF_B, 0, 9, 0), set(0, 0), kExit}; }

const Code kReturnZero = {set(0, 0), kExit};

struct Trial {
  const char* name;
  Code code;
  int error;               // 0: accepted
  const char* words = "";  // of the kernel's log
  uint32_t type = BPF_PROG_TYPE_SOCKET_FILTER;
};

Request request_of(const Trial& trial) {
  Request request;
  request.program.name = "trial";
  request.program.type = trial.type;
  request.program.insns = trial.code;
  request.license = "GPL";
  request.maps = {*testing::standard_map("map_array_48b"), *testing::standard_map("map_hash_48b")};
  return request;
}

void check(const std::vector<Trial>& trials) {
  const std::string unusable = testing::KernelOracle::unusable();
  testing::KernelOracle kernel;
  for (const Trial& trial : trials) {
    SCOPED_TRACE(trial.name);
    const Request request = request_of(trial);
    const Verdict verdict = verify(request);
    EXPECT_EQ(verdict.error, trial.error) << testing::summary(verdict);
    const std::string words = verdict.diagnoses.empty() ? "" : verdict.diagnoses[0].linux_message;
    EXPECT_EQ(testing::last_line_of(words), trial.words);
    if (!unusable.empty()) continue;
    const testing::KernelVerdict answer = kernel.ask_why(request);
    EXPECT_EQ(answer.error, trial.error) << "of the kernel: " << answer.last_line;
    if (trial.error != 0) {
      EXPECT_EQ(answer.last_line, trial.words) << "of the kernel";
    }
  }
  if (!unusable.empty()) GTEST_SKIP() << "not compared with the kernel: " << unusable;
}

TEST(Arithmetic, Registers) {
  check({
      {"reads what was written", Code{set(1, 2), move(0, 1), kExit}, 0},
      {"nothing written", Code{alu_reg(BPF_ADD, 1, 4), set(0, 0), kExit}, EACCES, "R4 !read_ok"},
      {"destination not written", Code{alu(BPF_ADD, 3, 4), set(0, 0), kExit}, EACCES, "R3 !read_ok"},
      {"source before destination", Code{alu_reg(BPF_ADD, 3, 4), set(0, 0), kExit}, EACCES, "R4 !read_ok"},
      {"jump: destination before source", Code{jump_reg(BPF_JGT, 3, 4, 0), set(0, 0), kExit}, EACCES,
       "R3 !read_ok"},
      {"negation of nothing", Code{alu(BPF_NEG, 5, 0), set(0, 0), kExit}, EACCES, "R5 !read_ok"},
      {"frame pointer", Code{alu(BPF_ADD, 10, 4), set(0, 0), kExit}, EACCES, "frame pointer is read only"},
  });
}

TEST(Arithmetic, ConstantsWithoutMeaning) {
  check({
      {"shift by the width less one", Code{set(0, 1), alu(BPF_LSH, 0, 63), kExit}, 0},
      {"shift by the width", Code{set(0, 1), alu(BPF_LSH, 0, 64), kExit}, EINVAL, "invalid shift 64"},
      {"32-bit shift", Code{set(0, 1), alu32(BPF_ARSH, 0, 31), kExit}, 0},
      {"32-bit shift by the width", Code{set(0, 1), alu32(BPF_ARSH, 0, 32), kExit}, EINVAL,
       "invalid shift 32"},
      {"negative shift", Code{set(0, 1), alu(BPF_RSH, 0, -1), kExit}, EINVAL, "invalid shift -1"},
      {"division", Code{set(0, 1), alu(BPF_DIV, 0, 1), kExit}, 0},
      {"division by zero", Code{set(0, 1), alu(BPF_DIV, 0, 0), kExit}, EINVAL, "div by zero"},
      {"remainder by zero", Code{set(0, 1), alu32(BPF_MOD, 0, 0), kExit}, EINVAL, "div by zero"},
      {"division by a register that is zero", Code{set(0, 1), set(1, 0), alu_reg(BPF_DIV, 0, 1), kExit}, 0},
      {"shift by a register", Code{set(0, 1), set(1, 64), alu_reg(BPF_LSH, 0, 1), kExit}, 0},
  });
}

TEST(Arithmetic, BoundsReachTheIndex) {
  const char* const kOutside = "R9 max value is outside of the allowed memory range";
  const Code start = map_value() + number();
  const auto index = [&](const char* name, const Code& code, bool fits) {
    return Trial{name, start + code + use_as_index(6), fits ? 0 : EACCES, fits ? "" : kOutside};
  };
  std::vector<Trial> trials = {
      index("masked", Code{alu(BPF_AND, 6, 31)}, true),
      index("shifted out", Code{alu(BPF_RSH, 6, 59)}, true),
      index("shifted up and down", Code{alu(BPF_AND, 6, 7), alu(BPF_LSH, 6, 2), alu(BPF_RSH, 6, 1)}, true),
      index("sum", Code{alu(BPF_AND, 6, 31), alu(BPF_ADD, 6, 16)}, true),
      index("product", Code{alu(BPF_AND, 6, 15), alu(BPF_MUL, 6, 3)}, true),
      index("or", Code{alu(BPF_AND, 6, 15), alu(BPF_OR, 6, 32)}, true),
      index("xor", Code{alu(BPF_AND, 6, 15), alu(BPF_XOR, 6, 32)}, true),
      index("32 bits", Code{alu32(BPF_AND, 6, 31)}, true),
      index("32-bit negation twice", Code{alu32(BPF_AND, 6, 31), alu32(BPF_NEG, 6, 0), alu32(BPF_NEG, 6, 0)},
            true),
      index("byte swap of a byte", Code{alu(BPF_AND, 6, 0x0f00), {BPF_ALU64 | BPF_END, 6, 0, 0, 16}}, true),
      index("sign of a byte that has none", Code{alu(BPF_AND, 6, 31), extend(6, 6, 8)}, true),
      index("or of too much", Code{alu(BPF_AND, 6, 63), alu(BPF_OR, 6, 32)}, false),
      index("sum of too much", Code{alu(BPF_AND, 6, 31), alu(BPF_ADD, 6, 17)}, false),
      index("product of too much", Code{alu(BPF_AND, 6, 15), alu(BPF_MUL, 6, 4)}, false),
  };
  // The quotient is unknown to Linux, even of a bounded number.
  trials.push_back({"quotient", start + Code{alu(BPF_AND, 6, 31), alu(BPF_DIV, 6, 2)} + use_as_index(6),
                    EINVAL,
                    "math between map_value pointer and register with unbounded min value is not allowed"});
  trials.push_back({"shift by an unknown count",
                    start + Code{alu(BPF_AND, 6, 1), set(7, 1), alu_reg(BPF_LSH, 7, 6)} + use_as_index(7),
                    EINVAL,
                    "math between map_value pointer and register with unbounded min value is not allowed"});
  check(trials);
}

TEST(Arithmetic, PointersThatMayMove) {
  const Code value = map_value();
  check({
      {"stack plus constant", Code{move(1, 10), alu(BPF_ADD, 1, -8), store(BPF_DW, 1, 0, 0)} + kReturnZero,
       0},
      {"number plus stack", Code{set(1, -8), alu_reg(BPF_ADD, 1, 10), store(BPF_DW, 1, 0, 0)} + kReturnZero,
       0},
      {"stack minus constant", Code{move(1, 10), alu(BPF_SUB, 1, 8)} + kReturnZero, EACCES,
       "R1 subtraction from stack pointer prohibited"},
      {"value minus constant",
       value + Code{alu(BPF_ADD, 9, 8), alu(BPF_SUB, 9, 8), load(BPF_DW, 0, 9, 0)} + kReturnZero, 0},
      {"value before its start", value + Code{alu(BPF_SUB, 9, 8), load(BPF_DW, 0, 9, 0)} + kReturnZero,
       EACCES, "R9 min value is outside of the allowed memory range"},
      {"number minus pointer", Code{set(2, 8), alu_reg(BPF_SUB, 2, 10)} + kReturnZero, EACCES,
       "R2 tried to subtract pointer from scalar"},
      {"map plus zero", load_map(1, kArray) + Code{alu(BPF_ADD, 1, 0)} + kReturnZero, 0},
      {"map plus one", load_map(1, kArray) + Code{alu(BPF_ADD, 1, 1)} + kReturnZero, EACCES,
       "R1 pointer arithmetic on map_ptr prohibited"},
      {"context plus constant", Code{alu(BPF_ADD, 1, 8)} + kReturnZero, 0},
      {"end of packet", Code{load(BPF_W, 2, 1, 4), alu(BPF_ADD, 2, 1), set(0, 1), kExit}, EACCES,
       "R2 pointer arithmetic on pkt_end prohibited", BPF_PROG_TYPE_XDP},
      {"perhaps null", look_up() + Code{alu(BPF_ADD, 0, 4)} + kReturnZero, EACCES,
       "R0 pointer arithmetic on map_value_or_null prohibited, null-check it first"},
      {"and", Code{move(2, 10), alu(BPF_AND, 2, -8)} + kReturnZero, EACCES,
       "R2 bitwise operator &= on pointer prohibited"},
      {"number and pointer", Code{set(2, 8), alu_reg(BPF_OR, 2, 10)} + kReturnZero, EACCES,
       "R2 bitwise operator |= on pointer prohibited"},
      {"times", Code{move(2, 10), alu(BPF_MUL, 2, 1)} + kReturnZero, EACCES,
       "R2 pointer arithmetic with *= operator prohibited"},
      {"shifted", Code{move(2, 10), alu(BPF_LSH, 2, 1)} + kReturnZero, EACCES,
       "R2 pointer arithmetic with <<= operator prohibited"},
  });
}

TEST(Arithmetic, PointersAsNumbers) {
  check({
      {"difference", Code{move(2, 10), alu_reg(BPF_SUB, 2, 10), move(0, 2), kExit}, 0},
      {"sum", Code{move(2, 10), alu_reg(BPF_ADD, 2, 10)} + kReturnZero, EACCES,
       "R2 pointer += pointer prohibited"},
      {"32-bit difference", Code{move(2, 10), alu32(BPF_SUB, 2, 1), move(0, 2), kExit}, 0},
      {"32-bit sum", Code{move(2, 10), alu32(BPF_ADD, 2, 1)} + kReturnZero, EACCES,
       "R2 32-bit pointer arithmetic prohibited"},
      {"low half", Code{alu32_reg(BPF_MOV, 2, 10), move(0, 2), kExit}, 0},
      {"negated", Code{move(2, 10), alu(BPF_NEG, 2, 0), move(0, 2), kExit}, 0},
      {"no pointer any more", Code{move(2, 10), alu(BPF_NEG, 2, 0), load(BPF_DW, 0, 2, 0), kExit}, EACCES,
       "R2 invalid mem access 'scalar'"},
      {"low half is no pointer", Code{alu32_reg(BPF_MOV, 2, 10), load(BPF_DW, 0, 2, -8), kExit}, EACCES,
       "R2 invalid mem access 'scalar'"},
  });
}

TEST(Arithmetic, HowFarPointersMove) {
  check({
      {"by an unknown number", number() + Code{move(1, 10), alu_reg(BPF_ADD, 1, 6)} + kReturnZero, EINVAL,
       "math between fp pointer and register with unbounded min value is not allowed"},
      {"by a lot", Code{move(1, 10), alu(BPF_ADD, 1, (1 << 29) - 1)} + kReturnZero, 0},
      {"by too much", Code{move(1, 10), alu(BPF_ADD, 1, 1 << 29)} + kReturnZero, EINVAL,
       "math between fp pointer and 536870912 is not allowed"},
      {"by too little", Code{move(1, 10), alu(BPF_ADD, 1, -(1 << 29))} + kReturnZero, EINVAL,
       "math between fp pointer and -536870912 is not allowed"},
      {"twice a lot",
       Code{move(1, 10), alu(BPF_ADD, 1, (1 << 29) - 1), alu(BPF_ADD, 1, (1 << 29) - 1)} + kReturnZero,
       EINVAL, "fp pointer offset 1073741822 is not allowed"},
      {"by a range that begins too far",
       number() + Code{alu(BPF_AND, 6, 255), alu(BPF_ADD, 6, 1 << 29), move(1, 10), alu_reg(BPF_ADD, 1, 6)} +
           kReturnZero,
       EINVAL, "value 536870912 makes fp pointer be out of bounds"},
  });
}

TEST(Arithmetic, AddressesInTheProgram) {
  check({
      {"map value", load_map(1, kArray, BPF_PSEUDO_MAP_VALUE) + Code{load(BPF_DW, 0, 1, 40), kExit}, 0},
      {"map value with offset",
       load_map(1, kArray, BPF_PSEUDO_MAP_VALUE, 8) + Code{load(BPF_DW, 0, 1, 32), kExit}, 0},
      {"beyond the value", load_map(1, kArray, BPF_PSEUDO_MAP_VALUE, 8) + Code{load(BPF_DW, 0, 1, 40), kExit},
       EACCES, "R1 min value is outside of the allowed memory range"},
  });
}

// ---- jumps ----

TEST(Branches, NarrowBothOperands) {
  const char* const kNegative =
      "math between map_value pointer and register with unbounded min value is not allowed";
  const Code start = map_value() + number();
  const auto guarded = [&](const char* name, const Code& tests, bool fits) {
    Trial trial{name, start + tests + use_as_index(6), fits ? 0 : EINVAL, fits ? "" : kNegative};
    return trial;
  };
  // Each test skips an exit when it holds.
  check({
      guarded("below", Code{jump(BPF_JLT, 6, 48, 1), kExit}, true),
      guarded("not above", Code{jump(BPF_JLE, 6, 47, 1), kExit}, true),
      guarded("signed, both sides", Code{jump(BPF_JSLT, 6, 48, 1), kExit, jump(BPF_JSGE, 6, 0, 1), kExit},
              true),
      guarded("equal", Code{jump(BPF_JEQ, 6, 47, 1), kExit}, true),
      guarded("no bits above", Code{jump(BPF_JSET, 6, -32, 1), jump(BPF_JA, 0, 0, 1), kExit}, true),
      guarded("below a register", Code{set(7, 48), jump_reg(BPF_JLT, 6, 7, 1), kExit}, true),
      guarded("a register above it", Code{set(7, 48), jump_reg(BPF_JGT, 7, 6, 1), kExit}, true),
      guarded("32 bits, upper half unknown", Code{jump32(BPF_JLT, 6, 48, 1), kExit, alu32_reg(BPF_MOV, 6, 6)},
              true),
      guarded("above", Code{jump(BPF_JGT, 6, 48, 1), kExit}, false),
  });
}

TEST(Branches, CopiesAreNarrowedToo) {
  const char* const kUnbounded = "R9 unbounded memory access, make sure to bounds check any such access";
  const char* const kOutside = "R9 max value is outside of the allowed memory range";
  const char* const kNegative =
      "math between map_value pointer and register with unbounded min value is not allowed";
  const Code start = map_value() + number();
  check({
      {"copy", start + Code{move(7, 6), jump(BPF_JLT, 6, 48, 1), kExit} + use_as_index(7), 0},
      {"copy of the copy",
       start + Code{move(7, 6), move(8, 7), jump(BPF_JLT, 6, 48, 1), kExit} + use_as_index(8), 0},
      {"copy changed since",
       start + Code{move(7, 6), alu(BPF_XOR, 7, 1), jump(BPF_JLT, 6, 48, 1), kExit} + use_as_index(7), EINVAL,
       kNegative},
      {"spilled copy",
       start + Code{store_reg(BPF_DW, 10, -16, 6), jump(BPF_JLT, 6, 48, 1), kExit, load(BPF_DW, 7, 10, -16)} +
           use_as_index(7),
       0},
      {"copy plus constant",
       start + Code{move(7, 6), alu(BPF_ADD, 7, 8), jump(BPF_JLT, 6, 40, 1), kExit} + use_as_index(7), 0},
      {"copy minus constant",
       start + Code{move(7, 6), alu(BPF_SUB, 6, 8), jump(BPF_JLT, 6, 40, 1), kExit} + use_as_index(7), 0},
      {"copy plus constant, too far",
       start + Code{move(7, 6), alu(BPF_ADD, 7, 9), jump(BPF_JLT, 6, 40, 1), kExit} + use_as_index(7), EACCES,
       kOutside},
      {"two constants",
       start + Code{move(7, 6), alu(BPF_ADD, 7, 4), alu(BPF_ADD, 7, 4), jump(BPF_JLT, 6, 40, 1), kExit} +
           use_as_index(7),
       EINVAL, kNegative},
      {"32-bit copy of a 32-bit number",
       start + Code{alu32_reg(BPF_MOV, 6, 6), alu32_reg(BPF_MOV, 7, 6), jump(BPF_JLT, 6, 48, 1), kExit} +
           use_as_index(7),
       0},
      {"32-bit copy of a 64-bit number",
       start + Code{alu32_reg(BPF_MOV, 7, 6), jump(BPF_JLT, 6, 48, 1), kExit} + use_as_index(7), EACCES,
       kUnbounded},
      {"32-bit sum",
       start +
           Code{alu32_reg(BPF_MOV, 6, 6), move(7, 6), alu32(BPF_ADD, 7, 1), jump(BPF_JLT, 6, 47, 1), kExit} +
           use_as_index(7),
       0},
      {"32-bit sum of a 64-bit number",
       start + Code{move(7, 6), alu32(BPF_ADD, 7, 1), jump(BPF_JLT, 6, 47, 1), kExit} + use_as_index(7),
       EACCES, kUnbounded},
  });
}

TEST(Branches, Null) {
  const Code use = {load(BPF_DW, 0, 0, 0)};
  const char* const kMaybe = "R0 invalid mem access 'map_value_or_null'";
  check({
      {"tested", look_up() + Code{jump(BPF_JEQ, 0, 0, 1)} + use + kReturnZero, 0},
      {"the wrong way", look_up() + Code{jump(BPF_JNE, 0, 0, 1)} + use + kReturnZero, EACCES,
       "R0 invalid mem access 'scalar'"},
      {"untested", look_up() + use + kReturnZero, EACCES, kMaybe},
      {"only its low half", look_up() + Code{jump32(BPF_JEQ, 0, 0, 1)} + use + kReturnZero, EACCES, kMaybe},
      {"compared with one", look_up() + Code{jump(BPF_JEQ, 0, 1, 1)} + use + kReturnZero, EACCES, kMaybe},
      {"copy", look_up() + Code{move(7, 0), jump(BPF_JEQ, 7, 0, 1)} + use + kReturnZero, 0},
      {"spilled copy",
       look_up() +
           Code{store_reg(BPF_DW, 10, -16, 0), jump(BPF_JEQ, 0, 0, 2), load(BPF_DW, 7, 10, -16),
                load(BPF_DW, 0, 7, 0)} +
           kReturnZero,
       0},
      {"not null is never null: dead code",
       map_value() + Code{jump(BPF_JNE, 9, 0, 1), load(BPF_DW, 0, 6, 0)} + kReturnZero, 0},
      {"equal to one that is not null",
       map_value() + look_up() + Code{jump_reg(BPF_JNE, 0, 9, 1)} + use + kReturnZero, 0},
      {"different from one that is not null",
       map_value() + look_up() + Code{jump_reg(BPF_JEQ, 0, 9, 1)} + use + kReturnZero, EACCES, kMaybe},
  });
}

TEST(Branches, DeadCodeMayBeAnything) {
  const Code poison = {load(BPF_DW, 0, 6, 0)};  // r6 is never written on these ways
  check({
      {"constant", Code{set(0, 5), jump(BPF_JEQ, 0, 5, 1)} + poison + kReturnZero, 0},
      {"constant, reached", Code{set(0, 5), jump(BPF_JEQ, 0, 6, 1)} + poison + kReturnZero, EACCES,
       "R6 !read_ok"},
      {"range", Code{kRandom, alu(BPF_AND, 0, 7), jump(BPF_JLT, 0, 8, 1)} + poison + kReturnZero, 0},
      {"range, reached", Code{kRandom, alu(BPF_AND, 0, 8), jump(BPF_JLT, 0, 8, 1)} + poison + kReturnZero,
       EACCES, "R6 !read_ok"},
      {"known bit", Code{kRandom, alu(BPF_OR, 0, 8), jump(BPF_JSET, 0, 8, 1)} + poison + kReturnZero, 0},
      {"32 bits", Code{kRandom, alu32(BPF_AND, 0, 7), jump32(BPF_JSGE, 0, 0, 1)} + poison + kReturnZero, 0},
      {"bits that rule each other out",
       Code{kRandom, alu(BPF_OR, 0, 1), jump(BPF_JNE, 0, 2, 1)} + poison + kReturnZero, 0},
  });
}

TEST(Branches, WaysTaken) {
  Trial trial{"",
              Code{kRandom, alu(BPF_AND, 0, 7), jump(BPF_JLT, 0, 8, 1), kExit, jump(BPF_JGT, 0, 3, 1),
                   set(0, 0), kExit},
              0};
  const Verdict verdict = verify(request_of(trial));
  ASSERT_EQ(verdict.error, 0) << testing::summary(verdict);
  EXPECT_TRUE(verdict.facts.insns[2].always_taken());
  EXPECT_FALSE(verdict.facts.insns[2].never_taken());
  EXPECT_FALSE(verdict.facts.insns[3].reached);
  EXPECT_TRUE(verdict.facts.insns[4].reached_taken && verdict.facts.insns[4].reached_through);
}

// ---- packets ----

// r2 = data, r3 = end of an xdp packet; r4 = data + bytes.
Code packet(int32_t bytes) {
  return {load(BPF_W, 2, 1, 0), load(BPF_W, 3, 1, 4), move(4, 2), alu(BPF_ADD, 4, bytes)};
}

TEST(Branches, PacketBounds) {
  const Code leave = {set(0, 1), kExit};
  const auto trial = [&](const char* name, const Code& test, int16_t offset, bool fits) {
    Trial result{name, packet(8) + test + Code{load(BPF_B, 0, 2, offset)} + leave, fits ? 0 : EACCES, "",
                 BPF_PROG_TYPE_XDP};
    return result;
  };
  // Skips the load when the packet may be too short …
  const auto skip = [](uint8_t op, uint8_t a, uint8_t b) { return Code{jump_reg(op, a, b, 1)}; };
  // … or leaves unless it is long enough.
  const auto need = [](uint8_t op, uint8_t a, uint8_t b) {
    return Code{jump_reg(op, a, b, 2), set(0, 1), kExit};
  };
  std::vector<Trial> trials = {
      trial("pointer > end", skip(BPF_JGT, 4, 3), 7, true),
      trial("pointer > end, one more", skip(BPF_JGT, 4, 3), 8, false),
      trial("end < pointer", skip(BPF_JLT, 3, 4), 7, true),
      trial("end < pointer, one more", skip(BPF_JLT, 3, 4), 8, false),
      trial("pointer >= end", skip(BPF_JGE, 4, 3), 8, true),
      trial("pointer >= end, one more", skip(BPF_JGE, 4, 3), 9, false),
      trial("end <= pointer", skip(BPF_JLE, 3, 4), 8, true),
      trial("end <= pointer, one more", skip(BPF_JLE, 3, 4), 9, false),
      trial("pointer <= end", need(BPF_JLE, 4, 3), 7, true),
      trial("pointer <= end, one more", need(BPF_JLE, 4, 3), 8, false),
      trial("end >= pointer", need(BPF_JGE, 3, 4), 7, true),
      trial("end >= pointer, one more", need(BPF_JGE, 3, 4), 8, false),
      trial("pointer < end", need(BPF_JLT, 4, 3), 8, true),
      trial("pointer < end, one more", need(BPF_JLT, 4, 3), 9, false),
      trial("end > pointer", need(BPF_JGT, 3, 4), 8, true),
      trial("end > pointer, one more", need(BPF_JGT, 3, 4), 9, false),
      trial("the wrong way", skip(BPF_JLE, 4, 3), 0, false),
      trial("equal says nothing", skip(BPF_JNE, 4, 3), 0, false),
  };
  const std::string unusable = testing::KernelOracle::unusable();
  testing::KernelOracle kernel;
  for (const Trial& each : trials) {
    SCOPED_TRACE(each.name);
    const Request request = request_of(each);
    const Verdict verdict = verify(request);
    EXPECT_EQ(verdict.error, each.error) << testing::summary(verdict);
    if (unusable.empty()) {
      const testing::KernelVerdict answer = kernel.ask_why(request);
      EXPECT_EQ(answer.error, each.error) << answer.last_line;
      if (each.error != 0 && !verdict.diagnoses.empty()) {
        EXPECT_EQ(testing::last_line_of(verdict.diagnoses[0].linux_message), answer.last_line);
      }
    }
  }
  if (!unusable.empty()) GTEST_SKIP() << "not compared with the kernel: " << unusable;
}

}  // namespace
}  // namespace bpftime::verifier

// Random programs, interpreted and compiled: same r0, same memory. The seed is printed; BPFTIME_SEED repeats a run and
// BPFTIME_DIFFERENTIAL_COUNT sets how many programs it tries.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "compiler/testing_target.h"
#include "program/interpreter.h"

namespace bpftime::compiler {
namespace {

using namespace testing;
using program::Insn;

constexpr int kMemoryBytes = 256;
constexpr int kStackBytes = 64;      // initialised and used, below r10
constexpr int kCounterOffset = -72;  // of the loop
constexpr int kMemoryRegister = 9, kStackRegister = 8, kValueRegisters = 8;  // r0–r7 hold numbers

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  // r1: kMemoryBytes of memory. Every path ends; r0 mixes all registers.
  program::Program make() {
    insns_.clear();
    emit(mov_reg(kMemoryRegister, 1));
    emit(mov_reg(kStackRegister, 10));
    emit(add(kStackRegister, -8 * pick(1, kStackBytes / 8)));
    stack_base_ = insns_.back().imm;
    for (int offset = -kStackBytes; offset < 0; offset += 8) emit(store_imm(BPF_DW, 10, offset, interesting()));
    for (int reg = 0; reg < kValueRegisters; reg++) emit(load_imm(reg, interesting64()));
    const bool loops = pick(0, 2) == 0;
    if (loops) emit(store_imm(BPF_DW, 10, kCounterOffset, pick(1, 5)));
    const auto body = static_cast<int>(insns_.size());
    make_body(pick(5, 50));
    if (loops) {
      emit(load(BPF_DW, 0, 10, kCounterOffset));
      emit(add(0, -1));
      emit(store(BPF_DW, 10, kCounterOffset, 0));
      emit(raw(BPF_JMP | BPF_JNE | BPF_K, 0, 0, body - static_cast<int>(insns_.size()) - 1, 0));
    }
    for (int reg = 1; reg < kValueRegisters; reg++) {
      emit(raw(BPF_ALU64 | BPF_MUL | BPF_K, 0, 0, 0, 31));
      emit(raw(BPF_ALU64 | BPF_XOR | BPF_X, 0, reg));
    }
    emit(exit_insn());
    finish_calls();
    program::Program program;
    program.name = "random";
    program.insns = insns_;
    return program;
  }

 private:
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  int32_t interesting() {
    constexpr int32_t kValues[] = {0, 1, -1, 2, 31, 32, 33, 63, 64, 255, 0x8000, INT32_MIN, INT32_MAX, -2};
    return pick(0, 1) == 0 ? kValues[pick(0, std::size(kValues) - 1)] : static_cast<int32_t>(random_());
  }
  uint64_t interesting64() {
    constexpr uint64_t kValues[] = {0, 1, ~0ull, 1ull << 63, (1ull << 63) - 1, 0xffffffff, 0x100000000, 0x80000000};
    return pick(0, 1) == 0 ? kValues[pick(0, std::size(kValues) - 1)] : random_();
  }
  int value_register() { return pick(0, kValueRegisters - 1); }
  int size() {
    constexpr int kSizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};
    return kSizes[pick(0, 3)];
  }
  static int bytes(int size) { return size == BPF_B ? 1 : size == BPF_H ? 2 : size == BPF_W ? 4 : 8; }

  void emit(const Insn& insn) { insns_.push_back(insn); }
  void emit(const std::vector<Insn>& insns) { insns_.insert(insns_.end(), insns.begin(), insns.end()); }

  // Forward jumps lead at most to the end of the body.
  void make_body(int count) {
    std::vector<size_t> jumps;
    std::vector<size_t> starts;
    for (int i = 0; i < count; i++) {
      starts.push_back(insns_.size());
      const int kind = pick(0, 19);
      if (kind < 9) make_alu();
      else if (kind < 13) make_memory();
      else if (kind < 15) make_atomic();
      else if (kind < 16) make_call();
      else {
        jumps.push_back(insns_.size());
        make_jump();
      }
    }
    starts.push_back(insns_.size());
    for (const size_t jump : jumps) {
      std::vector<size_t> targets;
      for (const size_t start : starts) {
        if (start > jump) targets.push_back(start);
      }
      const auto target = targets[static_cast<size_t>(pick(0, static_cast<int>(targets.size()) - 1))];
      const auto offset = static_cast<int>(target - jump) - 1;
      if (insns_[jump].code == (BPF_JMP32 | BPF_JA)) insns_[jump].imm = offset;
      else insns_[jump].off = static_cast<int16_t>(offset);
    }
  }

  void make_alu() {
    constexpr int kOps[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_MOD, BPF_OR,  BPF_AND,
                            BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH, BPF_MOV, BPF_NEG, BPF_END};
    const int op = kOps[pick(0, std::size(kOps) - 1)];
    const int cls = pick(0, 1) == 0 ? BPF_ALU : BPF_ALU64;
    const int dst = value_register();
    const bool by_register = pick(0, 1) == 0;
    if (op == BPF_NEG) return emit(raw(cls | op, dst));
    if (op == BPF_END) {
      const int width = 16 << pick(0, 2);
      const int order = cls == BPF_ALU && pick(0, 1) == 0 ? BPF_TO_BE : BPF_TO_LE;
      return emit(raw(cls | op | order, dst, 0, 0, width));
    }
    int offset = 0;
    if (op == BPF_DIV || op == BPF_MOD) offset = pick(0, 1);  // 1: signed
    if (op == BPF_MOV && by_register) {
      constexpr int kExtensions[] = {0, 8, 16, 32};
      offset = kExtensions[pick(0, cls == BPF_ALU64 ? 3 : 2)];
    }
    if (by_register) return emit(raw(cls | op | BPF_X, dst, value_register(), offset));
    int32_t imm = interesting();
    if (op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH) imm &= cls == BPF_ALU64 ? 63 : 31;
    if ((op == BPF_DIV || op == BPF_MOD) && imm == 0) imm = 3;
    emit(raw(cls | op | BPF_K, dst, 0, offset, imm));
  }

  // A register and an offset at which `size` bytes may be accessed.
  std::pair<int, int> place(int size, bool aligned) {
    const int step = aligned ? size : 1;
    switch (pick(0, 2)) {
      case 0: return {10, -kStackBytes + step * pick(0, (kStackBytes - size) / step)};
      case 1: return {kStackRegister, -kStackBytes + step * pick(0, (kStackBytes - size) / step) - stack_base_};
      default: return {kMemoryRegister, step * pick(0, (kMemoryBytes - size) / step)};
    }
  }

  void make_memory() {
    const int width = size();
    const auto [base, offset] = place(bytes(width), false);
    switch (pick(0, 3)) {
      case 0: return emit(load(width, value_register(), base, offset));
      case 1:
        if (width == BPF_DW) return emit(load(width, value_register(), base, offset));
        return emit(raw(BPF_LDX | 0x80 | width, value_register(), base, offset));  // sign-extending
      case 2: return emit(store_imm(width, base, offset, interesting()));
      default: return emit(store(width, base, offset, value_register()));
    }
  }

  void make_atomic() {
    constexpr int kOps[] = {BPF_ADD, BPF_OR, BPF_AND, BPF_XOR, BPF_ADD | BPF_FETCH, BPF_OR | BPF_FETCH,
                            BPF_AND | BPF_FETCH, BPF_XOR | BPF_FETCH, BPF_XCHG, BPF_CMPXCHG};
    const int width = pick(0, 1) == 0 ? BPF_W : BPF_DW;
    const auto [base, offset] = place(bytes(width), true);
    emit(raw(BPF_STX | BPF_ATOMIC | width, base, value_register(), offset, kOps[pick(0, std::size(kOps) - 1)]));
  }

  void make_jump() {
    constexpr int kOps[] = {BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE,
                            BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE, BPF_JSET, BPF_JA};
    const int op = kOps[pick(0, std::size(kOps) - 1)];
    const int cls = pick(0, 1) == 0 ? BPF_JMP : BPF_JMP32;
    if (op == BPF_JA) return emit(raw(cls | op));
    if (pick(0, 1) == 0) return emit(raw(cls | op | BPF_X, value_register(), value_register()));
    emit(raw(cls | op | BPF_K, value_register(), 0, 0, interesting()));
  }

  // The callee is appended later; r1–r5 are unreadable afterwards, so they are set anew.
  void make_call() {
    calls_.push_back(insns_.size());
    emit(raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL));
    for (int reg = 1; reg <= 5; reg++) emit(mov(reg, interesting()));
  }

  void finish_calls() {
    for (const size_t call : calls_) {
      insns_[call].imm = static_cast<int32_t>(insns_.size() - call - 1);
      emit(mov(0, interesting()));
      const int offset = -8 * pick(1, 64);
      emit(store(BPF_DW, 10, offset, pick(1, 5)));
      for (int reg = 6; reg < kValueRegisters; reg++) emit(mov(reg, interesting()));  // saved for the caller
      for (int i = pick(1, 10); i > 0; i--) make_alu();
      emit(load(BPF_DW, 1, 10, offset));
      emit(raw(BPF_ALU64 | BPF_XOR | BPF_X, 0, 1));
      emit(exit_insn());
    }
    calls_.clear();
  }

  std::mt19937_64 random_;
  std::vector<Insn> insns_;
  std::vector<size_t> calls_;
  int stack_base_ = 0;
};

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text != nullptr ? strtoull(text, nullptr, 0) : otherwise;
}

TEST(Differential, RandomProgramsDoTheSameCompiled) {
  const uint64_t seed = number_from("BPFTIME_SEED", std::random_device{}());
  const uint64_t count = number_from("BPFTIME_DIFFERENTIAL_COUNT", 300);
  printf("BPFTIME_SEED=%llu, %llu programs\n", static_cast<unsigned long long>(seed), static_cast<unsigned long long>(count));
  alignas(16) static uint8_t memory[kMemoryBytes];
  const auto address = reinterpret_cast<uint64_t>(memory);
  for (uint64_t i = 0; i < count; i++) {
    Generator generator(seed + i);
    const program::Program program = generator.make();
    const auto valid = program::validate(program);
    ASSERT_TRUE(valid.ok()) << "seed " << seed + i << ": " << valid.error().message;
    for (int at = 0; at < kMemoryBytes; at++) memory[at] = static_cast<uint8_t>(at * 37 + 11);
    const std::vector<uint8_t> initial(memory, memory + kMemoryBytes);
    const auto expected = program::interpret(program, address, 0, {});
    ASSERT_TRUE(expected.ok()) << "seed " << seed + i << ": " << expected.error().message;
    const std::vector<uint8_t> expected_memory(memory, memory + kMemoryBytes);

    CompileOptions options;
    options.bare = true;
    const auto code = Code::compile(program, {}, options);
    ASSERT_TRUE(code.ok()) << "seed " << seed + i << ": " << code.error().message;
    ASSERT_EQ(code->forbidden_instruction(), "") << "seed " << seed + i;
    std::copy(initial.begin(), initial.end(), memory);
    ASSERT_EQ(code->run(address, 0), *expected) << "seed " << seed + i << "\n" << program::disassemble(program);
    ASSERT_EQ(std::vector<uint8_t>(memory, memory + kMemoryBytes), expected_memory)
        << "seed " << seed + i << "\n" << program::disassemble(program);
  }
}

// Whatever the validator lets pass, and what it does not: an answer, never an abort.
TEST(Differential, MangledProgramsGetAnAnswer) {
  const uint64_t seed = number_from("BPFTIME_SEED", std::random_device{}());
  printf("BPFTIME_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  int compiled = 0, refused = 0;
  for (uint64_t i = 0; i < 300; i++) {
    program::Program program = Generator(seed + i).make();
    for (int change = 0; change < 3; change++) {
      Insn& insn = program.insns[random() % program.insns.size()];
      switch (random() % 4) {
        case 0: insn.code = static_cast<uint8_t>(random()); break;
        case 1: insn.off = static_cast<int16_t>(random()); break;
        case 2: insn.imm = static_cast<int32_t>(random() % 256); break;
        default: insn.dst_reg = random() & 15; insn.src_reg = random() & 15; break;
      }
    }
    CompileOptions options;
    options.bare = true;
    const auto code = compile(program, {}, options);
    (code.ok() ? compiled : refused)++;
    if (!code.ok()) {
      EXPECT_NE(code.error().code, 0);
      EXPECT_TRUE(code.error().message.starts_with("compile: ")) << code.error().message;
    }
  }
  EXPECT_GT(compiled, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace bpftime::compiler

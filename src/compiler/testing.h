// For tests: programs written as instructions, compiled and run in the test process itself.
#pragma once

#include <string>
#include <vector>

#include "compiler/compiler.h"

namespace bpftime::compiler::testing {

constexpr program::Insn raw(int code, int dst = 0, int src = 0, int off = 0, int32_t imm = 0) {
  program::Insn insn{};
  insn.code = static_cast<uint8_t>(code);
  insn.dst_reg = static_cast<uint8_t>(dst & 15);
  insn.src_reg = static_cast<uint8_t>(src & 15);
  insn.off = static_cast<int16_t>(off);
  insn.imm = imm;
  return insn;
}
constexpr program::Insn mov(int dst, int32_t imm) { return raw(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm); }
constexpr program::Insn mov_reg(int dst, int src) { return raw(BPF_ALU64 | BPF_MOV | BPF_X, dst, src); }
constexpr program::Insn add(int dst, int32_t imm) { return raw(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, imm); }
constexpr program::Insn call(int32_t helper) { return raw(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
constexpr program::Insn exit_insn() { return raw(BPF_JMP | BPF_EXIT); }

// Machine code in executable memory of this process.
class Code {
 public:
  static Result<Code> compile_bare(std::vector<program::Insn> insns);
  static Result<Code> compile(const program::Program& program, std::span<const MapBinding> maps,
                              const CompileOptions& options);

  Code(Code&& other) noexcept;
  Code& operator=(Code&&) = delete;
  ~Code();

  uint64_t run(uint64_t first, uint64_t second) const;
  const MachineCode& machine_code() const { return machine_code_; }
  uint64_t tail_entry() const {  // what a slot of a program array holds
    return reinterpret_cast<uint64_t>(memory_) + machine_code_.tail_entry_offset;
  }
  std::string disassembly() const;  // of the text, one instruction per line
  // The first instruction that names a vector, x87 or mask register, or is a string instruction; empty: none.
  std::string forbidden_instruction() const;

 private:
  Code() = default;
  MachineCode machine_code_;
  void* memory_ = nullptr;
};

}  // namespace bpftime::compiler::testing

// Reading single instructions: what the validator, the interpreter and the disassembler must agree on.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>

#include "program/program.h"

namespace bpftime::program {

inline constexpr uint8_t kRegisters = 11;
inline constexpr uint8_t kFrameRegister = 10;
inline constexpr uint8_t kModeMemSx = 0x80;  // BPF_MEMSX: sign-extending load; not in every linux/bpf.h

inline bool is_load_imm64(const Insn& insn) { return insn.code == (BPF_LD | BPF_IMM | BPF_DW); }

// The 64-bit immediate of a two-slot load.
inline uint64_t imm64(const Insn& first, const Insn& second) {
  return static_cast<uint32_t>(first.imm) | static_cast<uint64_t>(static_cast<uint32_t>(second.imm)) << 32;
}

// How much memory a load, a store or an atomic operation touches.
inline uint32_t access_bytes(const Insn& insn) {
  switch (BPF_SIZE(insn.code)) {
    case BPF_B:
      return 1;
    case BPF_H:
      return 2;
    case BPF_W:
      return 4;
    default:
      return 8;
  }
}

inline bool is_local_call(const Insn& insn) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_CALL;
}

// Where a local call or a function reference at `index` leads; nullopt for every other instruction. May be
// out of range.
inline std::optional<int64_t> call_target(const Insn& insn, size_t index) {
  const bool reference = is_load_imm64(insn) && insn.src_reg == BPF_PSEUDO_FUNC;
  if (!is_local_call(insn) && !reference) return std::nullopt;
  return static_cast<int64_t>(index) + 1 + insn.imm;
}

// Where a jump (conditional or not) at `index` leads; nullopt for every other instruction. May be
// out of range.
inline std::optional<int64_t> jump_target(const Insn& insn, size_t index) {
  const uint8_t code_class = BPF_CLASS(insn.code);
  if (code_class != BPF_JMP && code_class != BPF_JMP32) return std::nullopt;
  if (BPF_OP(insn.code) == BPF_CALL || BPF_OP(insn.code) == BPF_EXIT) return std::nullopt;
  const bool far = insn.code == (BPF_JMP32 | BPF_JA);
  return static_cast<int64_t>(index) + 1 + (far ? insn.imm : insn.off);
}

// Whether control never reaches the following instruction.
inline bool ends_flow(const Insn& insn) {
  return insn.code == (BPF_JMP | BPF_EXIT) || insn.code == (BPF_JMP | BPF_JA) ||
         insn.code == (BPF_JMP32 | BPF_JA);
}

// Registers an instruction reads and writes, as bit masks. Calls read nothing here: their arguments are
// the helper's matter.
struct RegisterUse {
  uint32_t reads = 0;
  uint32_t writes = 0;
};
RegisterUse register_use(const Insn& insn);

// Walks a program instruction by instruction, two-slot loads counting as one. Stops at the end even if the
// last is cut off.
class InsnCursor {
 public:
  explicit InsnCursor(const Program& program) : insns_(program.insns) {}
  bool done() const { return index_ >= insns_.size(); }
  size_t index() const { return index_; }
  size_t next_index() const { return index_ + (is_load_imm64(insns_[index_]) ? 2 : 1); }
  const Insn& insn() const { return insns_[index_]; }
  void advance() { index_ = next_index(); }

 private:
  const std::vector<Insn>& insns_;
  size_t index_ = 0;
};

}  // namespace bpftime::program

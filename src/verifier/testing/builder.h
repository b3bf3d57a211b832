// Writes programs instruction by instruction, with labels. Test-only.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <vector>

#include "program/instructions.h"

namespace bpftime::verifier::testing {

using program::Insn;

inline Insn make_insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  Insn insn;
  insn.code = code;
  insn.dst_reg = dst & 0xf;
  insn.src_reg = src & 0xf;
  insn.off = off;
  insn.imm = imm;
  return insn;
}

class Builder {
 public:
  using Label = uint32_t;

  Label label() {
    targets_.push_back(kUnplaced);
    return static_cast<Label>(targets_.size() - 1);
  }
  void place(Label label) { targets_[label] = insns_.size(); }
  size_t size() const { return insns_.size(); }
  // Instruction a placed label stands at.
  size_t target(Label label) const { return targets_[label]; }

  void raw(const Insn& insn) { insns_.push_back(insn); }
  void mov(uint8_t dst, uint8_t src) { raw(make_insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)); }
  void mov_imm(uint8_t dst, int32_t imm) { raw(make_insn(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm)); }
  void mov32(uint8_t dst, uint8_t src) { raw(make_insn(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0)); }
  void alu(uint8_t op, uint8_t dst, uint8_t src) { raw(make_insn(BPF_ALU64 | op | BPF_X, dst, src, 0, 0)); }
  void alu_imm(uint8_t op, uint8_t dst, int32_t imm) {
    raw(make_insn(BPF_ALU64 | op | BPF_K, dst, 0, 0, imm));
  }
  void alu32_imm(uint8_t op, uint8_t dst, int32_t imm) {
    raw(make_insn(BPF_ALU | op | BPF_K, dst, 0, 0, imm));
  }
  void load(uint8_t size, uint8_t dst, uint8_t src, int16_t off) {
    raw(make_insn(static_cast<uint8_t>(BPF_LDX | BPF_MEM | size), dst, src, off, 0));
  }
  void store(uint8_t size, uint8_t dst, int16_t off, uint8_t src) {
    raw(make_insn(static_cast<uint8_t>(BPF_STX | BPF_MEM | size), dst, src, off, 0));
  }
  void store_imm(uint8_t size, uint8_t dst, int16_t off, int32_t imm) {
    raw(make_insn(static_cast<uint8_t>(BPF_ST | BPF_MEM | size), dst, 0, off, imm));
  }
  void atomic(uint8_t size, uint8_t dst, int16_t off, uint8_t src, int32_t operation) {
    raw(make_insn(static_cast<uint8_t>(BPF_STX | BPF_ATOMIC | size), dst, src, off, operation));
  }
  void call(int32_t helper) { raw(make_insn(BPF_JMP | BPF_CALL, 0, 0, 0, helper)); }
  void exit() { raw(make_insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)); }
  void load_imm64(uint8_t dst, uint64_t value) {
    wide(dst, 0, static_cast<int32_t>(value), static_cast<int32_t>(value >> 32));
  }
  void load_map(uint8_t dst, uint32_t map) { wide(dst, BPF_PSEUDO_MAP_FD, static_cast<int32_t>(map), 0); }
  void load_map_value(uint8_t dst, uint32_t map, int32_t offset) {
    wide(dst, BPF_PSEUDO_MAP_VALUE, static_cast<int32_t>(map), offset);
  }

  void jump(uint8_t op, uint8_t dst, uint8_t src, Label label, bool is64 = true) {
    fix(label, Fix::kOff);
    raw(make_insn(static_cast<uint8_t>((is64 ? BPF_JMP : BPF_JMP32) | op | BPF_X), dst, src, 0, 0));
  }
  void jump_imm(uint8_t op, uint8_t dst, int32_t imm, Label label, bool is64 = true) {
    fix(label, Fix::kOff);
    raw(make_insn(static_cast<uint8_t>((is64 ? BPF_JMP : BPF_JMP32) | op | BPF_K), dst, 0, 0, imm));
  }
  void go(Label label) {
    fix(label, Fix::kOff);
    raw(make_insn(BPF_JMP | BPF_JA, 0, 0, 0, 0));
  }
  void go_far(Label label) {
    fix(label, Fix::kImm);
    raw(make_insn(BPF_JMP32 | BPF_JA, 0, 0, 0, 0));
  }
  void call_local(Label label) {
    fix(label, Fix::kImm);
    raw(make_insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0));
  }
  void load_function(uint8_t dst, Label label) {
    fix(label, Fix::kImm);
    wide(dst, BPF_PSEUDO_FUNC, 0, 0);
  }

  // The program with every jump to a placed label resolved.
  std::vector<Insn> finish() const {
    std::vector<Insn> out = insns_;
    for (const Fix& f : fixes_) {
      const auto distance = static_cast<int64_t>(targets_[f.label]) - static_cast<int64_t>(f.at) - 1;
      if (f.where == Fix::kOff) {
        out[f.at].off = static_cast<int16_t>(distance);
      } else {
        out[f.at].imm = static_cast<int32_t>(distance);
      }
    }
    return out;
  }

 private:
  static constexpr size_t kUnplaced = SIZE_MAX;
  struct Fix {
    size_t at;
    Label label;
    enum Where : uint8_t { kOff, kImm } where;
  };
  void fix(Label label, Fix::Where where) { fixes_.push_back({insns_.size(), label, where}); }
  void wide(uint8_t dst, uint8_t src, int32_t low, int32_t high) {
    raw(make_insn(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, low));
    raw(make_insn(0, 0, 0, 0, high));
  }

  std::vector<Insn> insns_;
  std::vector<size_t> targets_;
  std::vector<Fix> fixes_;
};

}  // namespace bpftime::verifier::testing

#include "program/instructions.h"

namespace bpftime::program {
namespace {

RegisterUse alu_use(const Insn& insn) {
  const uint32_t dst = 1u << insn.dst_reg;
  RegisterUse use{.reads = 0, .writes = dst};
  const uint8_t operation = BPF_OP(insn.code);
  if (operation != BPF_MOV) use.reads |= dst;
  if (BPF_SRC(insn.code) == BPF_X && operation != BPF_END) use.reads |= 1u << insn.src_reg;
  return use;
}

RegisterUse jump_use(const Insn& insn) {
  switch (BPF_OP(insn.code)) {
    case BPF_JA:
      return {};
    case BPF_EXIT:
      return {.reads = 1u << 0};
    case BPF_CALL:
      return {.writes = 1u << 0};
    default: {
      RegisterUse use{.reads = 1u << insn.dst_reg};
      if (BPF_SRC(insn.code) == BPF_X) use.reads |= 1u << insn.src_reg;
      return use;
    }
  }
}

RegisterUse store_use(const Insn& insn) {
  const uint32_t src = 1u << insn.src_reg;
  RegisterUse use{.reads = 1u << insn.dst_reg | src};
  if (BPF_MODE(insn.code) != BPF_ATOMIC) return use;
  if (insn.imm == BPF_CMPXCHG) {
    use.reads |= 1u << 0;
    use.writes |= 1u << 0;
  } else if (insn.imm & BPF_FETCH) {
    use.writes |= src;
  }
  return use;
}

}  // namespace

RegisterUse register_use(const Insn& insn) {
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return alu_use(insn);
    case BPF_JMP:
    case BPF_JMP32:
      return jump_use(insn);
    case BPF_LDX:
      return {.reads = 1u << insn.src_reg, .writes = 1u << insn.dst_reg};
    case BPF_ST:
      return {.reads = 1u << insn.dst_reg};
    case BPF_STX:
      return store_use(insn);
    default:  // BPF_LD
      if (is_load_imm64(insn)) return {.writes = 1u << insn.dst_reg};
      // Packet loads read the sk_buff from r6 and put the value into r0.
      return {.reads = 1u << 6 | (BPF_MODE(insn.code) == BPF_IND ? 1u << insn.src_reg : 0),
              .writes = 1u << 0};
  }
}

}  // namespace bpftime::program

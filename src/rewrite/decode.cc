#include "rewrite/decode.h"

#include <Zydis/Zydis.h>

namespace bpftime::rewrite {
namespace {

const ZydisDecoder& decoder() {
  static const ZydisDecoder instance = [] {
    ZydisDecoder made;
    ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return made;
  }();
  return instance;
}

bool is_relative(const ZydisDecodedInstruction& raw) {
  return (raw.raw.imm[0].size != 0 && raw.raw.imm[0].is_relative) ||
         (raw.raw.imm[1].size != 0 && raw.raw.imm[1].is_relative);
}

Flow flow_of(const ZydisDecodedInstruction& raw) {
  const bool relative = is_relative(raw);
  // AMD cuts rip to 16 bits for branches with an operand-size prefix, Intel ignores it: no
  // compiler makes them.
  if (relative && (raw.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0) return Flow::kUnsupported;
  switch (raw.mnemonic) {
    case ZYDIS_MNEMONIC_INT3:
      return Flow::kBreakpoint;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_HLT:
      return Flow::kReturn;
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
      return Flow::kLoop;
    default:
      break;
  }
  switch (raw.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
      return relative && raw.mnemonic != ZYDIS_MNEMONIC_XBEGIN ? Flow::kBranch : Flow::kUnsupported;
    case ZYDIS_CATEGORY_UNCOND_BR:
      if (raw.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return Flow::kIndirectJump;
      return relative ? Flow::kJump : Flow::kIndirectJump;
    case ZYDIS_CATEGORY_CALL:
      if (raw.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return Flow::kUnsupported;
      return relative ? Flow::kCall : Flow::kIndirectCall;
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSRET:
      return Flow::kReturn;
    default:
      return relative ? Flow::kUnsupported : Flow::kNext;
  }
}

bool mentions_stack_pointer(const ZydisDecodedOperand& operand) {
  const auto is_rsp = [](ZydisRegister reg) {
    return reg == ZYDIS_REGISTER_RSP || reg == ZYDIS_REGISTER_ESP || reg == ZYDIS_REGISTER_SP;
  };
  if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) return is_rsp(operand.reg.value);
  return operand.type == ZYDIS_OPERAND_TYPE_MEMORY && is_rsp(operand.mem.base);
}

}  // namespace

std::optional<Instruction> decode(Bytes code) {
  ZydisDecodedInstruction raw;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder(), code.data(), code.size(), &raw, operands))) {
    return std::nullopt;
  }
  Instruction out;
  out.length = raw.length;
  out.flow = flow_of(raw);
  out.opcode = raw.opcode;
  out.is_nop = raw.mnemonic == ZYDIS_MNEMONIC_NOP;
  if (out.is_relative()) out.target = raw.length + raw.raw.imm[0].value.s;
  out.modrm_offset = raw.raw.modrm.offset;
  for (int i = 0; i < raw.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = operands[i];
    out.uses_stack_pointer |= mentions_stack_pointer(operand);
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || raw.raw.disp.size != 32) continue;
    if (operand.mem.base == ZYDIS_REGISTER_EIP) out.flow = Flow::kUnsupported;
    if (operand.mem.base != ZYDIS_REGISTER_RIP || out.is_nop) continue;
    out.rip_relative = true;
    out.displacement_offset = raw.raw.disp.offset;
    out.displacement = static_cast<int32_t>(raw.raw.disp.value);
  }
  return out;
}

}  // namespace bpftime::rewrite

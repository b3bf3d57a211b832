// Looking at code without moving it: text for people, and the rule programs must keep.
#include <Zydis/Zydis.h>

#include <cstdio>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {
namespace {

bool is_general(ZydisRegister reg) {
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_INVALID:
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_FLAGS:
    case ZYDIS_REGCLASS_IP:
    case ZYDIS_REGCLASS_SEGMENT:
      return true;
    default:
      return false;
  }
}

// Instructions that name no vector register but touch vector or x87 state, or depend on the direction flag.
const char* hidden_state(const ZydisDecodedInstruction& raw) {
  switch (raw.mnemonic) {
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_PAUSE:
      return nullptr;
    default:
      break;
  }
  switch (raw.meta.category) {
    case ZYDIS_CATEGORY_PREFETCH:
      return nullptr;
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_IOSTRINGOP:
      return "string instruction";
    case ZYDIS_CATEGORY_X87_ALU:
      return "x87";
    default:
      break;
  }
  switch (raw.meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
      return "x87";
    case ZYDIS_ISA_EXT_MMX:
      return "MMX";
    case ZYDIS_ISA_EXT_XSAVE:
    case ZYDIS_ISA_EXT_XSAVEC:
    case ZYDIS_ISA_EXT_XSAVEOPT:
    case ZYDIS_ISA_EXT_XSAVES:
      return "xsave";
    case ZYDIS_ISA_EXT_AVX:
      return "AVX";
    default:
      break;
  }
  switch (raw.mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
      return "fxsave";
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
      return "mxcsr";
    default:
      return nullptr;
  }
}

const char* offence(const ZydisDecodedInstruction& raw, const ZydisDecodedOperand* operands) {
  for (int i = 0; i < raw.operand_count; ++i) {
    const ZydisDecodedOperand& operand = operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && !is_general(operand.reg.value)) {
      return ZydisRegisterGetString(operand.reg.value);
    }
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY &&
        (!is_general(operand.mem.base) || !is_general(operand.mem.index))) {
      return "vector index";
    }
  }
  return hidden_state(raw);
}

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

std::string disassemble(Bytes code, uint64_t address) {
  std::string out;
  for (size_t at = 0; at < code.size();) {
    ZydisDisassembledInstruction text;
    const ZyanStatus status = ZydisDisassembleATT(ZYDIS_MACHINE_MODE_LONG_64, address + at, code.data() + at,
                                                  code.size() - at, &text);
    if (ZYAN_SUCCESS(status)) {
      out += text.text;
      at += text.info.length;
    } else {
      out += ".byte " + hex(code[at++]);
    }
    out += '\n';
  }
  return out;
}

Result<void> check_general_registers_only(Bytes code) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  for (size_t at = 0; at < code.size();) {
    ZydisDecodedInstruction raw;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code.data() + at, code.size() - at, &raw, operands))) {
      return Error{EINVAL, "check code: unknown instruction at +" + hex(at)};
    }
    if (const char* what = offence(raw, operands)) {
      return Error{EINVAL, std::string("check code: ") + ZydisMnemonicGetString(raw.mnemonic) + " at +" +
                               hex(at) + " uses " + what + "; programs may use general registers only"};
    }
    at += raw.length;
  }
  return {};
}

}  // namespace bpftime::rewrite

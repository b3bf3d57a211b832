// Looking at code without moving it: text for people, and the rule programs must keep.
#include <Zydis/Zydis.h>

#include <algorithm>
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

namespace {

// Calls `line(offset, text)` for each instruction, or byte that begins none.
template <typename Line>
void each_line(Bytes code, uint64_t address, Line line) {
  for (size_t at = 0; at < code.size();) {
    ZydisDisassembledInstruction text;
    const ZyanStatus status = ZydisDisassembleATT(ZYDIS_MACHINE_MODE_LONG_64, address + at, code.data() + at,
                                                  code.size() - at, &text);
    const bool known = ZYAN_SUCCESS(status);
    line(at, known ? std::string(text.text) : ".byte " + hex(code[at]));
    at += known ? text.info.length : 1;
  }
}

}  // namespace

std::string disassemble(Bytes code, uint64_t address) {
  std::string out;
  each_line(code, address, [&](size_t, const std::string& text) { out += text + '\n'; });
  return out;
}

std::string listing(Bytes code) {
  std::string out;
  each_line(code, 0, [&](size_t at, const std::string& text) {
    char offset[24];
    std::snprintf(offset, sizeof offset, "%4zx:\t", at);
    out += offset + text + '\n';
  });
  return out;
}

namespace {

constexpr CodeUse kWorst{};
constexpr int kInertInstructionsMax = 16;

RegisterSet bit_of(ZydisRegister reg) {
  const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64) return 0;
  return static_cast<RegisterSet>(1u << ZydisRegisterGetId(whole));
}

bool leaves(const ZydisDecodedInstruction& raw, size_t at, size_t size) {
  if (raw.mnemonic == ZYDIS_MNEMONIC_SYSCALL) return false;
  const bool relative = raw.raw.imm[0].size != 0 && raw.raw.imm[0].is_relative;
  switch (raw.meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_COND_BR:
      break;
    case ZYDIS_CATEGORY_INTERRUPT:
      return raw.mnemonic != ZYDIS_MNEMONIC_INT3;  // padding
    default:
      return false;
  }
  if (!relative) return true;
  const int64_t target = static_cast<int64_t>(at) + raw.length + raw.raw.imm[0].value.s;
  return target < 0 || target >= static_cast<int64_t>(size);
}

// `xor %reg,%reg` is how compilers write zero.
bool is_zeroing(const ZydisDecodedInstruction& raw, const ZydisDecodedOperand* operands) {
  return raw.mnemonic == ZYDIS_MNEMONIC_XOR && operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
         operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER && operands[0].reg.value == operands[1].reg.value;
}

void add_use(CodeUse& use, const ZydisDecodedInstruction& raw, const ZydisDecodedOperand* operands) {
  const bool zeroing = is_zeroing(raw, operands);
  for (int i = 0; i < raw.operand_count; ++i) {
    const ZydisDecodedOperand& operand = operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
      use.read |= bit_of(operand.mem.base) | bit_of(operand.mem.index);
    } else if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
      if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0)
        use.clobbered |= bit_of(operand.reg.value);
      if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0 && !zeroing)
        use.read |= bit_of(operand.reg.value);
    }
  }
  if (raw.mnemonic == ZYDIS_MNEMONIC_SYSCALL) use.clobbered |= 1u << 0 | 1u << 1 | 1u << 11;  // rax, rcx, r11
}

// Sets a register to something that depends on no memory.
bool only_sets_registers(const ZydisDecodedInstruction& raw, const ZydisDecodedOperand* operands) {
  if (raw.mnemonic != ZYDIS_MNEMONIC_MOV && !is_zeroing(raw, operands))
    return raw.mnemonic == ZYDIS_MNEMONIC_NOP;
  return operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
         (bit_of(operands[0].reg.value) & kCallerSavedRegisters) != 0 &&
         operands[1].type != ZYDIS_OPERAND_TYPE_MEMORY;
}

bool is_inert(const ZydisDecoder& decoder, Bytes code) {
  for (int i = 0; i < kInertInstructionsMax; ++i) {
    ZydisDecodedInstruction raw;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code.data(), code.size(), &raw, operands)))
      return false;
    if (raw.mnemonic == ZYDIS_MNEMONIC_RET) return true;
    if (!only_sets_registers(raw, operands)) return false;
    code = code.subspan(raw.length);
  }
  return false;
}

}  // namespace

CodeUse code_use(Bytes text, uint32_t entry) {
  if (entry >= text.size()) return kWorst;
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  CodeUse use{0, 0, false};
  for (size_t at = 0; at < text.size();) {
    ZydisDecodedInstruction raw;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, text.data() + at, text.size() - at, &raw, operands)))
      return kWorst;
    if (leaves(raw, at, text.size())) return kWorst;
    add_use(use, raw, operands);
    at += raw.length;
  }
  use.clobbered &= kCallerSavedRegisters;
  use.inert = is_inert(decoder, text.subspan(entry));
  return use;
}

Bytes inlinable_code(Bytes text, uint32_t entry) {
  if (entry >= text.size()) return {};
  const Bytes code = text.subspan(entry);
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  int64_t furthest = 0;  // that a jump leads to
  for (size_t at = 0; at <= kInlinedMax && at < code.size();) {
    ZydisDecodedInstruction raw;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code.data() + at, code.size() - at, &raw, operands)))
      return {};
    if (raw.mnemonic == ZYDIS_MNEMONIC_RET) {
      // A later target: this return is not the only one.
      return furthest <= static_cast<int64_t>(at) ? code.first(at) : Bytes{};
    }
    switch (raw.meta.category) {
      case ZYDIS_CATEGORY_CALL:
      case ZYDIS_CATEGORY_INTERRUPT:
      case ZYDIS_CATEGORY_SYSCALL:
        return {};
      case ZYDIS_CATEGORY_UNCOND_BR:
      case ZYDIS_CATEGORY_COND_BR: {
        if (raw.raw.imm[0].size == 0 || !raw.raw.imm[0].is_relative) return {};
        const int64_t target = static_cast<int64_t>(at) + raw.length + raw.raw.imm[0].value.s;
        if (target < 0) return {};
        furthest = std::max(furthest, target);
        break;
      }
      default:
        for (int i = 0; i < raw.operand_count; ++i)
          if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && operands[i].mem.base == ZYDIS_REGISTER_RIP)
            return {};
    }
    at += raw.length;
  }
  return {};
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

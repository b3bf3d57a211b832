// Text in the notation of `bpftool prog dump xlated` and the verifier's log, so that users compare them by
// eye or by diff.
#include <cstdarg>
#include <cstdio>

#include "program/instructions.h"
#include "program/program.h"

namespace bpftime::program {
namespace {

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char text[128];  // the longest line below is well under this; a longer one would be cut, not overrun
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof(text), pattern, arguments);
  va_end(arguments);
  return text;
}

const char* helper_name(uint32_t id) {
#define BPFTIME_HELPER_NAME(name) "bpf_" #name
  static const char* const kNames[] = {__BPF_FUNC_MAPPER(BPFTIME_HELPER_NAME)};
#undef BPFTIME_HELPER_NAME
  return id < std::size(kNames) ? kNames[id] : "unknown";
}

const char* size_name(uint8_t code, bool is_signed = false) {
  static const char* const kUnsigned[] = {"u32", "u16", "u8", "u64"};  // by BPF_SIZE >> 3
  static const char* const kSigned[] = {"s32", "s16", "s8", "s64"};
  return (is_signed ? kSigned : kUnsigned)[BPF_SIZE(code) >> 3];
}

// "+=", "s/=" …
std::string arithmetic_sign(const Insn& insn) {
  static const char* const kSigns[] = {
      "+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>=", "neg", "%=", "^=", "=", "s>>="};
  const size_t index = BPF_OP(insn.code) >> 4;
  if (index >= std::size(kSigns)) return "?";
  const bool is_signed = insn.off == 1 && (BPF_OP(insn.code) == BPF_DIV || BPF_OP(insn.code) == BPF_MOD);
  return (is_signed ? "s" : "") + std::string(kSigns[index]);
}

std::string alu(const Insn& insn) {
  const bool wide = BPF_CLASS(insn.code) == BPF_ALU64;
  const char prefix = wide ? 'r' : 'w';
  const int dst = insn.dst_reg;
  switch (BPF_OP(insn.code)) {
    case BPF_END: {
      const char* order = wide ? "bswap" : BPF_SRC(insn.code) == BPF_TO_BE ? "be" : "le";
      return format("r%d = %s%d r%d", dst, order, insn.imm, dst);
    }
    case BPF_NEG:
      return format("%c%d = -%c%d", prefix, dst, prefix, dst);
    default:
      break;
  }
  const std::string sign = arithmetic_sign(insn);
  if (BPF_SRC(insn.code) == BPF_K) return format("%c%d %s %d", prefix, dst, sign.c_str(), insn.imm);
  if (BPF_OP(insn.code) == BPF_MOV && insn.off != 0) {
    return format("%c%d = (s%d)%c%d", prefix, dst, insn.off, prefix, insn.src_reg);
  }
  return format("%c%d %s %c%d", prefix, dst, sign.c_str(), prefix, insn.src_reg);
}

std::string atomic(const Insn& insn) {
  const char* size = size_name(insn.code);
  const char* width = BPF_SIZE(insn.code) == BPF_DW ? "64" : "";
  const int dst = insn.dst_reg, src = insn.src_reg, off = insn.off;
  if (insn.imm == BPF_CMPXCHG) {
    return format("r0 = atomic%s_cmpxchg((%s *)(r%d %+d), r0, r%d)", width, size, dst, off, src);
  }
  if (insn.imm == BPF_XCHG)
    return format("r%d = atomic%s_xchg((%s *)(r%d %+d), r%d)", src, width, size, dst, off, src);
  const char* sign = "?";
  const char* name = "?";
  switch (insn.imm & ~BPF_FETCH) {
    case BPF_ADD:
      sign = "+=", name = "add";
      break;
    case BPF_AND:
      sign = "&=", name = "and";
      break;
    case BPF_OR:
      sign = "|=", name = "or";
      break;
    case BPF_XOR:
      sign = "^=", name = "xor";
      break;
  }
  if (insn.imm & BPF_FETCH) {
    return format("r%d = atomic%s_fetch_%s((%s *)(r%d %+d), r%d)", src, width, name, size, dst, off, src);
  }
  return format("lock *(%s *)(r%d %+d) %s r%d", size, dst, off, sign, src);
}

std::string memory(const Insn& insn) {
  const int dst = insn.dst_reg, src = insn.src_reg, off = insn.off;
  switch (BPF_CLASS(insn.code)) {
    case BPF_LDX:
      return format("r%d = *(%s *)(r%d %+d)", dst, size_name(insn.code, BPF_MODE(insn.code) == kModeMemSx),
                    src, off);
    case BPF_ST:
      return format("*(%s *)(r%d %+d) = %d", size_name(insn.code), dst, off, insn.imm);
    default:  // BPF_STX
      if (BPF_MODE(insn.code) == BPF_ATOMIC) return atomic(insn);
      return format("*(%s *)(r%d %+d) = r%d", size_name(insn.code), dst, off, src);
  }
}

std::string call(const Insn& insn) {
  switch (insn.src_reg) {
    case BPF_PSEUDO_CALL:
      return format("call pc%+d", insn.imm);
    case BPF_PSEUDO_KFUNC_CALL:
      return format("call kernel-function#%d", insn.imm);
    default:
      return format("call %s#%u", helper_name(insn.imm), static_cast<uint32_t>(insn.imm));
  }
}

std::string jump(const Insn& insn) {
  static const char* const kSigns[] = {
      "?", "==", ">", ">=", "&", "!=", "s>", "s>=", "?", "?", "<", "<=", "s<", "s<=", "?", "?"};
  const char prefix = BPF_CLASS(insn.code) == BPF_JMP ? 'r' : 'w';
  switch (BPF_OP(insn.code)) {
    case BPF_CALL:
      return call(insn);
    case BPF_EXIT:
      return "exit";
    case BPF_JA:
      return prefix == 'r' ? format("goto pc%+d", insn.off) : format("gotol pc%+d", insn.imm);
    default:
      break;
  }
  const char* sign = kSigns[BPF_OP(insn.code) >> 4];
  if (BPF_SRC(insn.code) == BPF_X) {
    return format("if %c%d %s %c%d goto pc%+d", prefix, insn.dst_reg, sign, prefix, insn.src_reg, insn.off);
  }
  return format("if %c%d %s 0x%x goto pc%+d", prefix, insn.dst_reg, sign, static_cast<uint32_t>(insn.imm),
                insn.off);
}

std::string load_imm64(const Insn& insn, uint32_t upper) {
  const int dst = insn.dst_reg;
  switch (insn.src_reg) {
    case BPF_PSEUDO_MAP_FD:
    case BPF_PSEUDO_MAP_IDX:
      return format("r%d = map[idx:%d]", dst, insn.imm);
    case BPF_PSEUDO_MAP_VALUE:
    case BPF_PSEUDO_MAP_IDX_VALUE:
      return format("r%d = map[idx:%d][0]+%u", dst, insn.imm, upper);
    case BPF_PSEUDO_FUNC:
      return format("r%d = subprog[%+d]", dst, insn.imm);
    default:
      return format("r%d = 0x%llx", dst,
                    static_cast<unsigned long long>(upper) << 32 | static_cast<uint32_t>(insn.imm));
  }
}

std::string line(const Insn& insn, uint32_t upper) {
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return alu(insn);
    case BPF_JMP:
    case BPF_JMP32:
      return jump(insn);
    case BPF_LDX:
    case BPF_ST:
    case BPF_STX:
      return memory(insn);
    default:
      if (is_load_imm64(insn)) return load_imm64(insn, upper);
      if (BPF_MODE(insn.code) == BPF_ABS)
        return format("r0 = *(%s *)skb[%d]", size_name(insn.code), insn.imm);
      return format("r0 = *(%s *)skb[r%d + %d]", size_name(insn.code), insn.src_reg, insn.imm);
  }
}

}  // namespace

std::string disassemble(const Program& program) {
  std::string text;
  for (InsnCursor at(program); !at.done(); at.advance()) {
    const uint32_t upper = at.index() + 1 < program.insns.size() ? program.insns[at.index() + 1].imm : 0;
    text += format("%4zu: (%02x) ", at.index(), at.insn().code) + line(at.insn(), upper) + "\n";
  }
  return text;
}

}  // namespace bpftime::program

// The structural part of what BPF_PROG_LOAD checks, in the kernel's order of ideas: each instruction by
// itself, then where jumps and calls lead. What needs types, maps or path knowledge is the verifier's.
//
// Rules for whoever edits this file:
// 1. Whatever is refused here, Linux must refuse too; the exceptions are listed in
// kernel_differences_test.cc.
// 2. An accepted instruction must have a meaning in the interpreter (legacy packet loads and kernel variables
// excepted).
// 3. Division by an immediate zero and oversized immediate shifts have a meaning (RFC 9669) and are left to
// the verifier.
#include <algorithm>
#include <array>
#include <optional>

#include "program/instructions.h"
#include "program/program.h"

namespace bpftime::program {
namespace {

constexpr uint32_t kCallFramesMax = 8;  // MAX_CALL_FRAMES

// Why an instruction is refused; empty text means it is not.
struct Refusal {
  const char* why = nullptr;
  int code = EINVAL;
};

constexpr Refusal kAccepted{};
constexpr Refusal kReserved{"uses reserved fields"};
constexpr Refusal kUnknownOpcode{"unknown opcode"};
constexpr Refusal kBadRegister{"register above r10"};
constexpr Refusal kFrameReadOnly{"frame pointer is read only", EACCES};

bool refused(const Refusal& refusal) { return refusal.why != nullptr; }

Refusal check_readable(uint8_t reg) { return reg < kRegisters ? kAccepted : kBadRegister; }

Refusal check_writable(uint8_t reg) {
  if (reg >= kRegisters) return kBadRegister;
  return reg == kFrameRegister ? kFrameReadOnly : kAccepted;
}

Refusal first_of(const Refusal& a, const Refusal& b) { return refused(a) ? a : b; }

Refusal check_mov(const Insn& insn) {
  if (BPF_SRC(insn.code) == BPF_K) {
    if (insn.src_reg != 0 || insn.off != 0) return kReserved;
    return check_writable(insn.dst_reg);
  }
  // movsx: the offset is the width that is sign-extended. Offset 1 is addr_space_cast, legal only with
  // an arena map.
  const bool wide = BPF_CLASS(insn.code) == BPF_ALU64;
  const bool known_width = insn.off == 0 || insn.off == 8 || insn.off == 16 || (wide && insn.off == 32);
  if (!known_width || insn.imm != 0) return kReserved;
  return first_of(check_readable(insn.src_reg), check_writable(insn.dst_reg));
}

Refusal check_byte_order(const Insn& insn) {
  const bool known_width = insn.imm == 16 || insn.imm == 32 || insn.imm == 64;
  if (insn.src_reg != 0 || insn.off != 0 || !known_width) return kReserved;
  if (BPF_CLASS(insn.code) == BPF_ALU64 && BPF_SRC(insn.code) != BPF_TO_LE) return kUnknownOpcode;
  return check_writable(insn.dst_reg);
}

Refusal check_alu(const Insn& insn) {
  const uint8_t operation = BPF_OP(insn.code);
  switch (operation) {
    case BPF_MOV:
      return check_mov(insn);
    case BPF_END:
      return check_byte_order(insn);
    case BPF_NEG:
      if (BPF_SRC(insn.code) != BPF_K) return kUnknownOpcode;
      if (insn.src_reg != 0 || insn.off != 0 || insn.imm != 0) return kReserved;
      return check_writable(insn.dst_reg);
    default:
      break;
  }
  if (operation > BPF_END) return kUnknownOpcode;
  const bool may_be_signed = operation == BPF_DIV || operation == BPF_MOD;
  if (insn.off != 0 && !(may_be_signed && insn.off == 1)) return kReserved;
  if (BPF_SRC(insn.code) == BPF_K) {
    if (insn.src_reg != 0) return kReserved;
    return check_writable(insn.dst_reg);
  }
  if (insn.imm != 0) return kReserved;
  return first_of(check_readable(insn.src_reg), check_writable(insn.dst_reg));
}

Refusal check_call(const Insn& insn) {
  // callx (BPF_X) is reserved by the standard and refused by Linux.
  if (insn.code != (BPF_JMP | BPF_CALL)) return kUnknownOpcode;
  if (insn.dst_reg != 0) return kReserved;
  if (insn.src_reg > BPF_PSEUDO_KFUNC_CALL) return kReserved;
  // A kernel function call's offset indexes fd_array; any other call has none.
  if (insn.src_reg != BPF_PSEUDO_KFUNC_CALL && insn.off != 0) return kReserved;
  return kAccepted;
}

Refusal check_jump(const Insn& insn) {
  const uint8_t operation = BPF_OP(insn.code);
  const bool narrow = BPF_CLASS(insn.code) == BPF_JMP32;
  switch (operation) {
    case BPF_CALL:
      return check_call(insn);
    case BPF_EXIT:
      if (insn.code != (BPF_JMP | BPF_EXIT)) return kUnknownOpcode;
      if (insn.dst_reg != 0 || insn.src_reg != 0 || insn.off != 0 || insn.imm != 0) return kReserved;
      return kAccepted;
    case BPF_JA:
      if (BPF_SRC(insn.code) != BPF_K) return kUnknownOpcode;
      // gotol (JMP32) carries its distance in imm, goto in off; the other field is reserved.
      if (insn.dst_reg != 0 || insn.src_reg != 0 || (narrow ? insn.off != 0 : insn.imm != 0))
        return kReserved;
      return kAccepted;
    default:
      break;
  }
  if (operation > BPF_JSLE) return kUnknownOpcode;  // includes may_goto: its budget is the kernel's own
  if (BPF_SRC(insn.code) == BPF_K) {
    if (insn.src_reg != 0) return kReserved;
    return check_readable(insn.dst_reg);
  }
  if (insn.imm != 0) return kReserved;
  return first_of(check_readable(insn.src_reg), check_readable(insn.dst_reg));
}

Refusal check_atomic(const Insn& insn) {
  if (BPF_SIZE(insn.code) != BPF_W && BPF_SIZE(insn.code) != BPF_DW) return kUnknownOpcode;
  const Refusal registers = first_of(check_readable(insn.dst_reg), check_readable(insn.src_reg));
  if (refused(registers)) return registers;
  switch (insn.imm) {
    case BPF_ADD:
    case BPF_AND:
    case BPF_OR:
    case BPF_XOR:
    case BPF_CMPXCHG:  // the old value goes to r0, not to the source
      return kAccepted;
    case BPF_ADD | BPF_FETCH:
    case BPF_AND | BPF_FETCH:
    case BPF_OR | BPF_FETCH:
    case BPF_XOR | BPF_FETCH:
    case BPF_XCHG:
      return check_writable(insn.src_reg);
    default:
      return {"invalid atomic operation"};
  }
}

Refusal check_memory(const Insn& insn) {
  const uint8_t mode = BPF_MODE(insn.code);
  switch (BPF_CLASS(insn.code)) {
    case BPF_LDX:
      if (mode != BPF_MEM && !(mode == kModeMemSx && BPF_SIZE(insn.code) != BPF_DW)) return kUnknownOpcode;
      if (insn.imm != 0) return kReserved;
      return first_of(check_readable(insn.src_reg), check_writable(insn.dst_reg));
    case BPF_ST:
      if (mode != BPF_MEM) return kUnknownOpcode;
      if (insn.src_reg != 0) return kReserved;
      return check_readable(insn.dst_reg);
    default:  // BPF_STX
      if (mode == BPF_ATOMIC) return check_atomic(insn);
      if (mode != BPF_MEM) return kUnknownOpcode;
      if (insn.imm != 0) return kReserved;
      return first_of(check_readable(insn.src_reg), check_readable(insn.dst_reg));
  }
}

// LD_ABS and LD_IND read an sk_buff: only these types have one.
bool has_packet(uint32_t type) {
  return type == BPF_PROG_TYPE_SOCKET_FILTER || type == BPF_PROG_TYPE_SCHED_CLS ||
         type == BPF_PROG_TYPE_SCHED_ACT;
}

Refusal check_packet_load(const Insn& insn, uint32_t type) {
  if (BPF_SIZE(insn.code) == BPF_DW) return kUnknownOpcode;
  if (!has_packet(type)) return {"packet loads are not allowed for this program type"};
  if (insn.dst_reg != 0 || insn.off != 0) return kReserved;
  if (BPF_MODE(insn.code) == BPF_ABS) return insn.src_reg == 0 ? kAccepted : kReserved;
  return check_readable(insn.src_reg);
}

// `next`: the second slot, null at the end of the program.
Refusal check_load_imm64(const Insn& insn, const Insn* next) {
  if (next == nullptr || next->code != 0 || next->dst_reg != 0 || next->src_reg != 0 || next->off != 0) {
    return {"invalid second slot of a 64-bit immediate load"};
  }
  if (insn.off != 0) return kReserved;
  switch (insn.src_reg) {
    case BPF_PSEUDO_MAP_FD:
    case BPF_PSEUDO_MAP_IDX:
      if (next->imm != 0) return kReserved;
      break;
    case 0:
    case BPF_PSEUDO_MAP_VALUE:
    case BPF_PSEUDO_MAP_IDX_VALUE:
    case BPF_PSEUDO_BTF_ID:
    case BPF_PSEUDO_FUNC:
      break;
    default:
      return {"unrecognized source of a 64-bit immediate load"};
  }
  return check_writable(insn.dst_reg);
}

Refusal check_insn(const Insn& insn, const Insn* next, uint32_t type) {
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return check_alu(insn);
    case BPF_JMP:
    case BPF_JMP32:
      return check_jump(insn);
    case BPF_LDX:
    case BPF_ST:
    case BPF_STX:
      return check_memory(insn);
    default:  // BPF_LD
      if (is_load_imm64(insn)) return check_load_imm64(insn, next);
      if (BPF_MODE(insn.code) == BPF_ABS || BPF_MODE(insn.code) == BPF_IND)
        return check_packet_load(insn, type);
      return kUnknownOpcode;
  }
}

Error insn_error(size_t index, const std::string& why, int code = EINVAL) {
  return Error{code, "instruction " + std::to_string(index) + ": " + why};
}

// Arithmetic and jumps, whose reserved fields change nothing about where control goes: Linux looks at them only on a path.
bool may_be_dead(const Insn& insn) {
  const uint8_t code_class = BPF_CLASS(insn.code);
  const bool is_jump = code_class == BPF_JMP || code_class == BPF_JMP32;
  const bool is_arithmetic = code_class == BPF_ALU || code_class == BPF_ALU64;
  return is_arithmetic || (is_jump && BPF_OP(insn.code) != BPF_CALL);
}

// What is left to whoever follows paths: writes to r10, reserved fields of arithmetic and jumps.
bool depends_on_path(const Insn& insn, const Refusal& refusal) {
  if (refusal.code == EACCES) return true;
  return refusal.why == kReserved.why && may_be_dead(insn) && insn.dst_reg < kRegisters &&
         insn.src_reg < kRegisters;
}

// `whole`: also what Linux refuses only where a path leads.
Result<void> check_insns(const Program& program, bool whole) {
  const std::vector<Insn>& insns = program.insns;
  for (size_t i = 0; i < insns.size(); ++i) {
    const Insn* next = i + 1 < insns.size() ? &insns[i + 1] : nullptr;
    const Refusal refusal = check_insn(insns[i], next, program.type);
    if (refused(refusal) && (whole || !depends_on_path(insns[i], refusal))) {
      static const char kHex[] = "0123456789abcdef";
      const std::string opcode = {kHex[insns[i].code >> 4], kHex[insns[i].code & 15]};
      return insn_error(i, std::string(refusal.why) + " (opcode " + opcode + ")", refusal.code);
    }
    if (is_load_imm64(insns[i])) ++i;
  }
  return {};
}

// Every call and function reference must name an instruction; afterwards subprogram_starts() is meaningful.
Result<void> check_call_targets(const Program& program) {
  const auto count = static_cast<int64_t>(program.insns.size());
  for (InsnCursor at(program); !at.done(); at.advance()) {
    const std::optional<int64_t> target = call_target(at.insn(), at.index());
    if (target && (*target < 0 || *target >= count)) {
      return insn_error(at.index(), "call to invalid destination " + std::to_string(*target));
    }
  }
  return {};
}

// Jumps stay inside their subprogram and never enter a second slot; the last instruction of each does
// not fall through.
Result<void> check_flow(const Program& program, const std::vector<uint32_t>& starts) {
  const std::vector<Insn>& insns = program.insns;
  std::vector<bool> second_slot(insns.size(), false);
  for (InsnCursor at(program); !at.done(); at.advance()) {
    if (is_load_imm64(at.insn())) second_slot[at.index() + 1] = true;
  }
  for (const uint32_t start : starts) {
    if (second_slot[start]) return insn_error(start, "call into the middle of a 64-bit immediate load");
  }
  size_t subprogram = 0;
  for (InsnCursor at(program); !at.done(); at.advance()) {
    while (subprogram + 1 < starts.size() && starts[subprogram + 1] <= at.index()) ++subprogram;
    const int64_t begin = starts[subprogram];
    const int64_t end =
        subprogram + 1 < starts.size() ? starts[subprogram + 1] : static_cast<int64_t>(insns.size());
    const std::optional<int64_t> target = jump_target(at.insn(), at.index());
    if (target && (*target < begin || *target >= end)) {
      return insn_error(at.index(), "jump out of range to " + std::to_string(*target));
    }
    if (target && second_slot[*target]) {
      return insn_error(at.index(), "jump into the middle of a 64-bit immediate load");
    }
    if (at.next_index() == static_cast<size_t>(end) && !ends_flow(at.insn())) {
      return insn_error(at.index(), "last instruction of a subprogram is not an exit or a jump");
    }
  }
  return {};
}

// Longest chain of local calls, by depth-first search with memo; recursion has no end and is refused
// as too deep.
class CallDepth {
 public:
  CallDepth(const Program& program, const std::vector<uint32_t>& starts) : callees_(starts.size()) {
    depth_.assign(starts.size(), kUnknown);
    size_t subprogram = 0;
    for (InsnCursor at(program); !at.done(); at.advance()) {
      while (subprogram + 1 < starts.size() && starts[subprogram + 1] <= at.index()) ++subprogram;
      if (!is_local_call(at.insn())) continue;
      const auto target = static_cast<uint32_t>(*call_target(at.insn(), at.index()));
      const auto found = std::lower_bound(starts.begin(), starts.end(), target);
      callees_[subprogram].push_back(static_cast<uint32_t>(found - starts.begin()));
    }
  }

  // Frames needed from `subprogram` on, or kCallFramesMax + 1 when that is too many. Recursion depth here is
  // bounded by `budget`, so a hostile call graph cannot exhaust our own stack.
  uint32_t frames(uint32_t subprogram, uint32_t budget) {
    if (depth_[subprogram] != kUnknown) return depth_[subprogram];
    if (budget == 0) return kCallFramesMax + 1;
    uint32_t deepest = 0;
    for (const uint32_t callee : callees_[subprogram]) {
      deepest = std::max(deepest, frames(callee, budget - 1));
      if (deepest > kCallFramesMax) return kCallFramesMax + 1;
    }
    // Only complete answers are remembered: one cut short by the budget has already returned above.
    return depth_[subprogram] = deepest + 1;
  }

 private:
  static constexpr uint32_t kUnknown = UINT32_MAX;
  std::vector<std::vector<uint32_t>> callees_;
  std::vector<uint32_t> depth_;
};

Result<void> check_call_depth(const Program& program, const std::vector<uint32_t>& starts) {
  CallDepth depth(program, starts);
  for (uint32_t i = 0; i < starts.size(); ++i) {
    if (depth.frames(i, kCallFramesMax) > kCallFramesMax) {
      return insn_error(starts[i],
                        "the call stack from this subprogram is too deep (8 frames at most, no recursion)",
                        E2BIG);
    }
  }
  return {};
}

// In the straight line from the entry, a register nobody wrote must not be read. The verifier proves this for
// all paths; here it is free and catches programs that were assembled wrongly. r1 and r2 hold arguments.
Result<void> check_entry_reads(const Program& program) {
  uint32_t written = 1u << 1 | 1u << 2 | 1u << kFrameRegister;
  for (InsnCursor at(program); !at.done(); at.advance()) {
    const RegisterUse use = register_use(at.insn());
    if (const uint32_t unwritten = use.reads & ~written) {
      return insn_error(at.index(),
                        "reads r" + std::to_string(std::countr_zero(unwritten)) + " before it is written",
                        EACCES);
    }
    written |= use.writes;
    if (BPF_CLASS(at.insn().code) == BPF_JMP || BPF_CLASS(at.insn().code) == BPF_JMP32) break;
  }
  return {};
}

Result<void> check_structure(const Program& program, bool whole) {
  if (program.insns.empty() || program.insns.size() > kInsnsMax) {
    return Error{E2BIG, "program " + program.name + ": " + std::to_string(program.insns.size()) +
                            " instructions; 1 to " + std::to_string(kInsnsMax) + " are allowed"};
  }
  if (auto checked = check_insns(program, whole); !checked) return checked;
  if (auto checked = check_call_targets(program); !checked) return checked;
  return check_flow(program, subprogram_starts(program));
}

}  // namespace

bool uses_reserved_fields(const Insn& insn) {
  return may_be_dead(insn) && check_insn(insn, nullptr, 0).why == kReserved.why;
}

Result<void> validate_structure(const Program& program) { return check_structure(program, false); }

Result<void> validate(const Program& program) {
  if (auto checked = check_structure(program, true); !checked) return checked;
  if (auto checked = check_call_depth(program, subprogram_starts(program)); !checked) return checked;
  return check_entry_reads(program);
}

std::vector<uint32_t> subprogram_starts(const Program& program) {
  std::vector<uint32_t> starts = {0};
  for (InsnCursor at(program); !at.done(); at.advance()) {
    if (const auto target = call_target(at.insn(), at.index()))
      starts.push_back(static_cast<uint32_t>(*target));
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  return starts;
}

}  // namespace bpftime::program

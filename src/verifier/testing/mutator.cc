#include "verifier/testing/mutator.h"

#include <cstring>

#include "program/instructions.h"

namespace bpftime::verifier::testing {
namespace {

using program::Insn;

constexpr uint8_t kJumpAlways = BPF_JMP | BPF_JA;

bool is_alu(const Insn& insn) { return BPF_CLASS(insn.code) == BPF_ALU || BPF_CLASS(insn.code) == BPF_ALU64; }
bool is_memory(const Insn& insn) {
  const uint8_t c = BPF_CLASS(insn.code);
  return c == BPF_LDX || c == BPF_ST || c == BPF_STX;
}
bool is_conditional(const Insn& insn) {
  const uint8_t c = BPF_CLASS(insn.code);
  if (c != BPF_JMP && c != BPF_JMP32) return false;
  const uint8_t op = BPF_OP(insn.code);
  return op != BPF_JA && op != BPF_CALL && op != BPF_EXIT;
}

void set_op(Insn& insn, uint8_t op) { insn.code = static_cast<uint8_t>((insn.code & 0x0f) | op); }

using Edit = bool (*)(Insn&, Random&);  // false: does not apply

bool edit_nop(Insn& insn, Random&) {
  if (program::is_load_imm64(insn)) return false;
  insn = {kJumpAlways, 0, 0, 0, 0};
  return true;
}

bool edit_imm(Insn& insn, Random& random) {
  const bool uses = BPF_CLASS(insn.code) == BPF_ST || program::is_load_imm64(insn) ||
                    ((is_alu(insn) || is_conditional(insn)) && BPF_SRC(insn.code) == BPF_K);
  if (!uses) return false;
  const auto imm = static_cast<uint32_t>(insn.imm);
  switch (random.below(4)) {
    case 0:
      insn.imm = static_cast<int32_t>(imm + 1);
      break;
    case 1:
      insn.imm = static_cast<int32_t>(imm - 1);
      break;
    case 2:
      insn.imm = static_cast<int32_t>(0u - imm);
      break;
    default:
      insn.imm = random.edge_imm();
  }
  return true;
}

bool edit_off(Insn& insn, Random& random) {
  if (!is_memory(insn) && !is_conditional(insn) && insn.code != kJumpAlways) return false;
  const int32_t step =
      is_memory(insn) ? random.pick<int32_t>({-8, -4, -1, 1, 4, 8}) : random.pick<int32_t>({-1, 1});
  insn.off = static_cast<int16_t>(insn.off + step);
  return true;
}

bool edit_condition(Insn& insn, Random& random) {
  if (!is_conditional(insn)) return false;
  set_op(insn, random.pick<uint8_t>({BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSET, BPF_JSGT,
                                     BPF_JSGE, BPF_JSLT, BPF_JSLE}));
  return true;
}

bool edit_sign(Insn& insn, Random&) {
  if (is_conditional(insn)) {
    constexpr uint8_t kPairs[][2] = {
        {BPF_JGT, BPF_JSGT}, {BPF_JGE, BPF_JSGE}, {BPF_JLT, BPF_JSLT}, {BPF_JLE, BPF_JSLE}};
    for (const auto& pair : kPairs) {
      for (int i = 0; i < 2; ++i) {
        if (BPF_OP(insn.code) != pair[i]) continue;
        set_op(insn, pair[1 - i]);
        return true;
      }
    }
    return false;
  }
  if (is_alu(insn) && (BPF_OP(insn.code) == BPF_RSH || BPF_OP(insn.code) == BPF_ARSH)) {
    set_op(insn, BPF_OP(insn.code) == BPF_RSH ? BPF_ARSH : BPF_RSH);
    return true;
  }
  if (is_alu(insn) && (BPF_OP(insn.code) == BPF_DIV || BPF_OP(insn.code) == BPF_MOD)) {
    insn.off = insn.off == 0 ? 1 : 0;
    return true;
  }
  if (BPF_CLASS(insn.code) == BPF_LDX && BPF_SIZE(insn.code) != BPF_DW) {
    insn.code ^= BPF_MEM ^ program::kModeMemSx;
    return true;
  }
  return false;
}

bool edit_operator(Insn& insn, Random& random) {
  if (!is_alu(insn) || BPF_OP(insn.code) == BPF_END || BPF_OP(insn.code) == BPF_NEG) return false;
  set_op(insn, random.pick<uint8_t>({BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH,
                                     BPF_MOD, BPF_XOR, BPF_MOV, BPF_ARSH}));
  return true;
}

bool edit_width(Insn& insn, Random&) {
  if (is_alu(insn)) {
    insn.code ^= BPF_ALU ^ BPF_ALU64;
  } else if (is_conditional(insn)) {
    insn.code ^= BPF_JMP ^ BPF_JMP32;
  } else {
    return false;
  }
  return true;
}

bool edit_size(Insn& insn, Random& random) {
  if (!is_memory(insn)) return false;
  insn.code = static_cast<uint8_t>((insn.code & ~0x18) | random.pick<uint8_t>({BPF_B, BPF_H, BPF_W, BPF_DW}));
  return true;
}

bool edit_dst(Insn& insn, Random& random) {
  if (!is_alu(insn) && !is_memory(insn) && !is_conditional(insn) && !program::is_load_imm64(insn))
    return false;
  insn.dst_reg = random.below(11) & 0xf;
  return true;
}

bool edit_src(Insn& insn, Random& random) {
  const bool uses = ((is_alu(insn) || is_conditional(insn)) && BPF_SRC(insn.code) == BPF_X) ||
                    BPF_CLASS(insn.code) == BPF_LDX || BPF_CLASS(insn.code) == BPF_STX;
  if (!uses) return false;
  insn.src_reg = random.below(11) & 0xf;
  return true;
}

bool edit_exchange(Insn& insn, Random&) {  // source and destination
  if (!is_alu(insn) && !is_memory(insn) && !is_conditional(insn)) return false;
  const uint8_t dst = insn.dst_reg;
  insn.dst_reg = insn.src_reg;
  insn.src_reg = dst & 0xf;
  return true;
}

bool edit_operand(Insn& insn, Random& random) {  // register or immediate
  if (!is_alu(insn) && !is_conditional(insn)) return false;
  if (BPF_OP(insn.code) == BPF_END || BPF_OP(insn.code) == BPF_NEG) return false;
  insn.code ^= BPF_X;
  insn.src_reg = BPF_SRC(insn.code) == BPF_X ? random.below(10) & 0xf : 0;
  insn.imm = BPF_SRC(insn.code) == BPF_X ? 0 : random.edge_imm();
  return true;
}

bool edit_call(Insn& insn, Random& random) {
  if (insn.code != (BPF_JMP | BPF_CALL) || insn.src_reg != 0) return false;
  insn.imm = random.chance(50) ? insn.imm + random.between(-1, 1) : random.between(1, 211);
  return true;
}

bool edit_atomic(Insn& insn, Random& random) {
  if (BPF_CLASS(insn.code) != BPF_STX || BPF_MODE(insn.code) != BPF_ATOMIC) return false;
  insn.imm = random.pick<int32_t>({BPF_ADD, BPF_OR, BPF_AND, BPF_XOR, BPF_ADD | BPF_FETCH, BPF_OR | BPF_FETCH,
                                   BPF_AND | BPF_FETCH, BPF_XOR | BPF_FETCH, BPF_XCHG, BPF_CMPXCHG});
  return true;
}

struct NamedEdit {
  const char* name;
  Edit edit;
};
constexpr NamedEdit kEdits[] = {
    {"nop", edit_nop},   {"imm", edit_imm},        {"off", edit_off},           {"cond", edit_condition},
    {"sign", edit_sign}, {"aluop", edit_operator}, {"width", edit_width},       {"size", edit_size},
    {"dst", edit_dst},   {"src", edit_src},        {"exchange", edit_exchange}, {"operand", edit_operand},
    {"call", edit_call}, {"atomic", edit_atomic},  {"imm", edit_imm},           {"nop", edit_nop},
};

std::string mutate_once(Request& request, Random& random) {
  std::vector<Insn>& insns = request.program.insns;
  for (int attempt = 0; attempt < 64; ++attempt) {
    const uint32_t at = random.below(static_cast<uint32_t>(insns.size()));
    if (at > 0 && program::is_load_imm64(insns[at - 1])) continue;  // a second slot
    const NamedEdit& edit = kEdits[random.below(std::size(kEdits))];
    Insn changed = insns[at];
    if (!edit.edit(changed, random) || std::memcmp(&changed, &insns[at], sizeof(changed)) == 0) continue;
    insns[at] = changed;
    return edit.name + std::string("@") + std::to_string(at);
  }
  return "";
}

}  // namespace

std::string mutate(Request& request, Random& random) {
  if (request.program.insns.empty()) return "";
  std::string edits = mutate_once(request, random);
  if (random.chance(35)) edits += "," + mutate_once(request, random);
  return edits;
}

void neutralise(Request& request, size_t insn) {
  std::vector<Insn>& insns = request.program.insns;
  const size_t slots = program::is_load_imm64(insns[insn]) && insn + 1 < insns.size() ? 2 : 1;
  for (size_t i = 0; i < slots; ++i) insns[insn + i] = {kJumpAlways, 0, 0, 0, 0};
}

bool remove_insn(Request& request, size_t at) {
  std::vector<Insn>& insns = request.program.insns;
  const auto shift = [&](int64_t from, int64_t to) -> int32_t {  // how the distance from → to changes
    const auto gone = static_cast<int64_t>(at);
    if (from < gone && to > gone) return -1;
    if (from > gone && to <= gone) return 1;
    return 0;
  };
  for (size_t i = 0; i < insns.size(); ++i) {
    Insn& insn = insns[i];
    if (i != at) {
      const auto from = static_cast<int64_t>(i);
      if (const auto to = program::jump_target(insn, i)) {
        const bool is_far = insn.code == (BPF_JMP32 | BPF_JA);
        if (is_far) {
          insn.imm += shift(from, *to);
        } else {
          insn.off = static_cast<int16_t>(insn.off + shift(from, *to));
        }
      } else if (const auto callee = program::call_target(insn, i)) {
        insn.imm += shift(from, *callee);
      }
    }
    if (program::is_load_imm64(insn)) ++i;
  }
  const uint32_t record = request.func_info_record_size;
  for (size_t i = 0; record != 0 && i + record <= request.func_info.size(); i += record) {
    uint32_t offset;
    std::memcpy(&offset, request.func_info.data() + i, sizeof(offset));
    if (offset > at) --offset;
    std::memcpy(request.func_info.data() + i, &offset, sizeof(offset));
  }
  insns.erase(insns.begin() + static_cast<std::ptrdiff_t>(at));
  return true;
}

}  // namespace bpftime::verifier::testing

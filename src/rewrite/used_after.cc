#include "rewrite/used_after.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "rewrite/operands.h"
#include "rewrite/system_call.h"

namespace bpftime::rewrite {
namespace {

constexpr size_t kStepsMax = 1024, kInstructionMax = 15;
constexpr int kRegisters[] = {7, 6, 2, 10, 8, 9};  // rdi, rsi, rdx, r10, r8, r9
constexpr uint8_t kFirst = 1 << 0;

constexpr uint8_t kOfInterest = [] {
  uint8_t all = 0;
  for (const GuardedCall& call : kGuardedCalls)
    if (call.mask >= 0) all |= static_cast<uint8_t>(1 << call.mask);
  return all;
}();

uint8_t bit_of(ZydisRegister reg) {
  const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64) return 0;
  for (int i = 0; i < 6; ++i)
    if (kRegisters[i] == ZydisRegisterGetId(whole)) return static_cast<uint8_t>(1 << i);
  return 0;
}

struct Effect {
  Instruction instruction;
  uint8_t reads = 0, writes = 0;  // writes: the whole register, always
  bool checks_stack = false;      // compares with the stack protector's value
};

void note_operand(const ZydisDecodedOperand& operand, Effect& out) {
  if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
    out.reads |= bit_of(operand.mem.base) | bit_of(operand.mem.index);
    constexpr int64_t kProtectorValue = 0x28;
    out.checks_stack |= operand.mem.segment == ZYDIS_REGISTER_FS && operand.mem.disp.value == kProtectorValue;
  }
  if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) return;
  const uint8_t bit = bit_of(operand.reg.value);
  if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0) out.reads |= bit;
  if ((operand.actions & ZYDIS_OPERAND_ACTION_WRITE) == 0) return;
  // A short part written leaves the rest.
  if (operand.size >= 32) {
    out.writes |= bit;
  } else {
    out.reads |= bit;
  }
}

std::optional<Effect> effect_of(Bytes code) {
  const auto decoded = decode_with_operands(code);
  if (!decoded) return std::nullopt;
  const auto& [instruction, raw, operands] = *decoded;
  Effect out;
  out.instruction = instruction;
  for (int i = 0; i < raw.operand_count; ++i) note_operand(operands[i], out);
  const bool clears = (raw.mnemonic == ZYDIS_MNEMONIC_XOR || raw.mnemonic == ZYDIS_MNEMONIC_SUB) &&
                      operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                      operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                      operands[0].reg.value == operands[1].reg.value;
  if (clears && operands[0].size >= 32) out.reads = 0;
  // Of another call's last arguments most are what happens to be there; and a mask that was made for one call does for the next.
  if (raw.mnemonic == ZYDIS_MNEMONIC_SYSCALL) out.reads |= kFirst;
  return out;
}

}  // namespace

uint8_t arguments_used_after(Bytes text, size_t at) {
  struct Place {
    size_t at;
    uint8_t open;  // not written since the call
  };
  std::vector<Place> places = {{at, kOfInterest}};
  std::map<size_t, uint8_t> seen;
  std::set<size_t> behind_checks;
  uint8_t used = 0;
  for (size_t steps = 0; !places.empty(); ++steps) {
    auto [here, open] = places.back();
    places.pop_back();
    open &= static_cast<uint8_t>(~(seen[here] | used));
    if (open == 0) continue;
    seen[here] |= open;
    const auto effect = here < text.size() && steps < kStepsMax
                            ? effect_of(text.subspan(here, std::min(kInstructionMax, text.size() - here)))
                            : std::nullopt;
    if (!effect) {
      used |= open;
      continue;
    }
    used |= open & effect->reads;
    open &= static_cast<uint8_t>(~(effect->reads | effect->writes));
    const Instruction& instruction = effect->instruction;
    const size_t next = here + instruction.length, target = here + static_cast<size_t>(instruction.target);
    switch (instruction.flow) {
      case Flow::kNext:
        if (effect->checks_stack) behind_checks.insert(next);
        places.push_back({next, open});
        break;
      case Flow::kBranch:
      case Flow::kLoop:
        places.push_back({next, open});
        // To where the process ends, and no code follows that belongs to it: __stack_chk_fail.
        if (!behind_checks.contains(here)) places.push_back({target, open});
        break;
      case Flow::kJump:
        places.push_back({target, open});
        break;
      case Flow::kCall:
      case Flow::kIndirectCall:
        used |= open & kFirst;  // of a function's last arguments, too, most are what happens to be there
        places.push_back({next, open});  // compilers know what their own functions leave alone
        break;
      case Flow::kReturn:
      case Flow::kBreakpoint:
        break;
      default:
        used |= open;
    }
  }
  return used;
}

}  // namespace bpftime::rewrite

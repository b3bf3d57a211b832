// Finds system calls and what programs can run around them.
#include "rewrite/system_call.h"

#include <sys/syscall.h>

#include <algorithm>
#include <map>
#include <set>

#include "rewrite/operands.h"
#include "rewrite/relocate.h"
#include "rewrite/used_after.h"
#include "wire/target_context.h"

namespace bpftime::rewrite {
namespace {

constexpr uint32_t kSystemCallSize = 2;  // 0f 05
constexpr int kRax = 0;
constexpr uint32_t kMunmap = 11, kExit = 60;
constexpr size_t kFunctionSizeMax = 1u << 20;

// What finding needs of an instruction beyond rewrite::Instruction.
struct Step {
  uint32_t offset = 0;
  Instruction instruction;
  bool is_system_call = false;
  bool tests_flags = false, sets_flags = false;
  uint16_t writes = 0;             // general registers, by number
  std::optional<int32_t> rax_set;  // to this constant
  int8_t rax_from = -1;            // copied from this register
};

constexpr uint32_t kStatusFlags = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF |
                                  ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF;

int general_register(ZydisRegister reg) {
  const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  return ZydisRegisterGetClass(whole) == ZYDIS_REGCLASS_GPR64 ? ZydisRegisterGetId(whole) : -1;
}

bool is_32_or_64_bits(ZydisRegister reg) {
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  return kind == ZYDIS_REGCLASS_GPR32 || kind == ZYDIS_REGCLASS_GPR64;
}

void note_rax(Step& step, const ZydisDecodedInstruction& raw, const ZydisDecodedOperand* operands) {
  const ZydisDecodedOperand &to = operands[0], &from = operands[1];
  if (raw.operand_count_visible < 2 || to.type != ZYDIS_OPERAND_TYPE_REGISTER ||
      general_register(to.reg.value) != kRax || !is_32_or_64_bits(to.reg.value))
    return;
  const bool copies = raw.mnemonic == ZYDIS_MNEMONIC_MOV;
  if (copies && from.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && from.imm.value.u <= INT32_MAX)
    step.rax_set = static_cast<int32_t>(from.imm.value.u);
  if (raw.mnemonic == ZYDIS_MNEMONIC_XOR && from.type == ZYDIS_OPERAND_TYPE_REGISTER &&
      from.reg.value == to.reg.value)
    step.rax_set = 0;
  if (copies && from.type == ZYDIS_OPERAND_TYPE_REGISTER)
    step.rax_from = static_cast<int8_t>(general_register(from.reg.value));
}

std::optional<Step> decode_step(Bytes code, uint32_t offset) {
  const auto decoded = decode_with_operands(code);
  if (!decoded) return std::nullopt;
  const auto& [instruction, raw, operands] = *decoded;
  Step step;
  step.offset = offset;
  step.instruction = instruction;
  step.is_system_call = raw.mnemonic == ZYDIS_MNEMONIC_SYSCALL && raw.length == kSystemCallSize;
  if (raw.cpu_flags != nullptr) {
    step.tests_flags = (raw.cpu_flags->tested & kStatusFlags) != 0;
    step.sets_flags =
        ((raw.cpu_flags->modified | raw.cpu_flags->set_0 | raw.cpu_flags->set_1 | raw.cpu_flags->undefined) &
         kStatusFlags) != 0;
  }
  for (int i = 0; i < raw.operand_count; ++i)
    if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        (operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0)
      if (const int reg = general_register(operands[i].reg.value); reg >= 0)
        step.writes |= static_cast<uint16_t>(1u << reg);
  note_rax(step, raw, operands);
  return step;
}

// One function, decoded from its start.
class Function {
 public:
  Function(Bytes code, uint64_t size) : code_(code), size_(std::min<uint64_t>(size, code.size())) {
    for (uint32_t at = 0; at < size_;) {
      auto step = decode_step(code.subspan(at, size_ - at), at);
      if (!step) {  // data among code: whatever came before it is not known to run into what comes after
        breaks_.insert(++at);
        continue;
      }
      if (step->instruction.is_relative()) {
        const int64_t target = at + step->instruction.target;
        if (target >= 0 && target <= static_cast<int64_t>(size_))
          targets_.insert(static_cast<uint32_t>(target));
      }
      has_tables_ |= step->instruction.flow == Flow::kIndirectJump;
      at += step->instruction.length;
      steps_.push_back(std::move(*step));
    }
  }

  std::vector<SystemCallSite> sites() const {
    std::vector<SystemCallSite> out;
    for (size_t i = 0; i < steps_.size(); ++i) {
      if (!steps_[i].is_system_call) continue;
      SystemCallSite site;
      site.offset = steps_[i].offset;
      find_number(i, site);
      if (flags_live_after(i)) {
        site.no_enter = site.no_exit = "flags are carried across it";
      } else {
        find_enter(i, site);
        find_exit(i, site);
      }
      out.push_back(std::move(site));
    }
    refuse_stackless(out);
    return out;
  }

 private:
  // Whether step i - 1 always runs directly before step i, and i only after it.
  bool follows_only(size_t i) const {
    const Step& before = steps_[i - 1];
    return before.instruction.flow == Flow::kNext && !before.is_system_call &&
           before.offset + before.instruction.length == steps_[i].offset &&
           !breaks_.contains(steps_[i].offset) && !targets_.contains(steps_[i].offset);
  }

  void find_number(size_t i, SystemCallSite& site) const {
    uint16_t written = 0;
    for (size_t at = i; at > 0 && follows_only(at);) {
      const Step& step = steps_[--at];
      if ((step.writes & 1u << kRax) != 0) {
        if (step.rax_set && *step.rax_set >= 0) site.number = *step.rax_set;
        if (step.rax_from >= 0 && (written & 1u << step.rax_from) == 0 && step.rax_from != 1 &&
            step.rax_from != 4 && step.rax_from != 11)  // rcx and r11 do not survive the call
          site.number_register = step.rax_from;
        return;
      }
      written |= step.writes;
    }
  }

  void find_enter(size_t i, SystemCallSite& site) const {
    for (size_t at = i; at > 0 && follows_only(at);) {
      const Step& step = steps_[--at];
      if (site.offset - step.offset < kJumpSize) continue;
      site.enter_offset = step.offset;
      // A table of jumps may lead anywhere but into an instruction.
      if (has_tables_ && at + 1 != i) site.no_enter = "its function has computed jumps";
      if (site.offset - step.offset > wire::kPatchBytesMax) site.no_enter = "long instructions before it";
      return;
    }
    site.no_enter = targets_.contains(site.offset) ? "a jump leads to it"
                                                   : "less than 5 bytes of straight code before it";
  }

  void find_exit(size_t i, SystemCallSite& site) const {
    const uint32_t after = site.offset + kSystemCallSize;
    if (targets_.contains(after)) {
      site.no_exit = "a jump leads to the instruction after it";
      return;
    }
    if (i + 1 >= steps_.size() || steps_[i + 1].offset != after) {
      site.no_exit = "the function ends with it";
      return;
    }
    const auto displaced = choose_displaced(code_.subspan(after), size_ - after);
    if (!displaced) {
      site.no_exit = displaced.error().message;
      return;
    }
    // The compilers' `cmp $-4095,%rax` stands nowhere but after a system call.
    const bool single = displaced->instructions.size() == 1;
    if (has_tables_ && !(single && code_[after] == 0x48 && code_[after + 1] == 0x3d))
      site.no_exit = "its function has computed jumps";
    for (const auto& [offset, instruction] : displaced->instructions) {
      if (offset != 0 && targets_.contains(after + offset)) site.no_exit = "a jump leads close behind it";
      if (is_system_call(after + offset)) site.no_exit = "another system call follows at once";
    }
    if (displaced->length > wire::kPatchBytesMax) site.no_exit = "long instructions after it";
    site.exit_length = displaced->length;
  }

  bool is_system_call(uint32_t offset) const { return code_[offset] == 0x0f && code_[offset + 1] == 0x05; }

  // The kernel gives flags back as they were; programs do not. Compilers take a system call to change them.
  bool flags_live_after(size_t i) const {
    for (size_t at = i + 1; at < steps_.size(); ++at) {
      if (steps_[at].tests_flags) return true;
      if (steps_[at].sets_flags || steps_[at].instruction.flow != Flow::kNext) return false;
    }
    return false;
  }

  // A thread that unmaps its own stack and then ends has none to run programs on (musl's __unmapself).
  static void refuse_stackless(std::vector<SystemCallSite>& sites) {
    const auto has = [&](uint32_t number) {
      return std::any_of(sites.begin(), sites.end(),
                         [&](const auto& s) { return s.number == static_cast<int32_t>(number); });
    };
    if (!has(kMunmap) || !has(kExit) || sites.size() > 4) return;
    for (auto& site : sites) site.no_enter = site.no_exit = "the thread may have no stack here";
  }

  Bytes code_;
  uint64_t size_;
  std::vector<Step> steps_;
  std::set<uint32_t> targets_, breaks_;
  bool has_tables_ = false;
};

// Direct jumps with 32-bit distances anywhere in `text` whose targets lie strictly inside one of `ranges` (start → end). Looks
// at every byte: finds more than there is, never less.
std::set<uint64_t> jumps_inside(Bytes text, uint64_t address, const std::map<uint64_t, uint64_t>& ranges) {
  std::set<uint64_t> hit;
  for (size_t at = 0; at + kJumpSize <= text.size(); ++at) {
    const bool jump = text[at] == 0xe9 || text[at] == 0xe8;
    const bool branch = (text[at] & 0xf0) == 0x80 && at > 0 && text[at - 1] == 0x0f;
    if (!jump && !branch) continue;
    int32_t distance;
    std::memcpy(&distance, &text[at + 1], sizeof distance);
    const uint64_t target = address + at + kJumpSize + static_cast<uint64_t>(int64_t{distance});
    auto range = ranges.upper_bound(target);
    if (range == ranges.begin()) continue;
    --range;
    if (target > range->first && target < range->second) hit.insert(range->first);
  }
  return hit;
}

}  // namespace

namespace {

// What signal handlers return to, the same bytes in every C library because debuggers look for them:
// mov $15,%rax; syscall. Its unwind table begins a byte early (in the padding), so it gives no bounds to decode from.
constexpr uint8_t kSignalReturn[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

std::optional<TextSystemCall> signal_return_at(Bytes text, uint64_t address, size_t call) {
  constexpr size_t kBefore = sizeof kSignalReturn - kSystemCallSize;
  if (call < kBefore ||
      !std::equal(std::begin(kSignalReturn), std::end(kSignalReturn), text.begin() + (call - kBefore)))
    return std::nullopt;
  TextSystemCall out{address + call - kBefore, sizeof kSignalReturn, {}};
  out.site.offset = kBefore;
  out.site.number = kSignalReturn[3];
  out.site.no_exit = "it does not return";
  return out;
}

// glibc's clone3, which makes threads and processes: its unwind table ends before the call (the child has no caller), and
// nothing exported names it. mov $435,%eax; syscall; test %rax,%rax; jl (an error); je (the child); ret
constexpr uint8_t kClone3[] = {0xb8, 0xb3, 0x01, 0x00, 0x00, 0x0f, 0x05, 0x48,
                               0x85, 0xc0, 0x7c, 0x00, 0x74, 0x00, 0xc3};
constexpr size_t kClone3Distances[] = {11, 13};  // of the branches: any

std::optional<TextSystemCall> clone3_at(Bytes text, uint64_t address, size_t call) {
  constexpr size_t kBefore = 5;
  if (call < kBefore || text.size() - (call - kBefore) < sizeof kClone3) return std::nullopt;
  uint8_t code[sizeof kClone3];
  std::memcpy(code, &text[call - kBefore], sizeof code);
  for (const size_t distance : kClone3Distances) code[distance] = 0;
  if (std::memcmp(code, kClone3, sizeof code) != 0) return std::nullopt;
  auto sites = Function(text.subspan(call - kBefore, sizeof kClone3), sizeof kClone3).sites();
  if (sites.size() != 1) return std::nullopt;
  return TextSystemCall{address + call - kBefore, sizeof kClone3, std::move(sites[0])};
}

// `at`: of the call in `text`.
void note_use_after(Bytes text, size_t at, SystemCallSite& site) {
  const GuardedCall* call = guarded_call(site.number);
  if (site.number < 0 || (call != nullptr && call->mask >= 0))
    site.arguments_used_after = arguments_used_after(text, at + kSystemCallSize);
}

}  // namespace

const GuardedCall* guarded_call(int32_t number) {
  const auto found = std::find_if(std::begin(kGuardedCalls), std::end(kGuardedCalls),
                                  [&](const GuardedCall& call) { return call.number == number; });
  return found == std::end(kGuardedCalls) ? nullptr : found;
}

bool may_change_signals(int32_t number) { return number < 0 || guarded_call(number) != nullptr; }

std::string no_guard_at(const SystemCallSite& site) {
  const GuardedCall* call = guarded_call(site.number);
  if (call == nullptr || call->mask < 0 || (site.arguments_used_after >> call->mask & 1) == 0) return {};
  return "code behind it looks at the register of its signal mask";
}

bool starts_process(int32_t number) {
  return number == SYS_clone || number == SYS_vfork || number == SYS_clone3;
}

std::vector<SystemCallSite> find_system_calls(Bytes code, uint64_t size) {
  if (size > kFunctionSizeMax) return {};
  auto sites = Function(code, size).sites();
  for (SystemCallSite& site : sites) note_use_after(code, site.offset, site);
  return sites;
}

std::vector<TextSystemCall> find_system_calls(Bytes text, uint64_t address,
                                              const FunctionBounds& function_at) {
  constexpr uint64_t kPaddingMax = 32;
  std::vector<TextSystemCall> out;
  uint64_t done = 0;  // addresses below belong to functions looked at
  for (size_t at = 0; at + kSystemCallSize <= text.size(); ++at) {
    if (text[at] != 0x0f || text[at + 1] != 0x05 || address + at < done) continue;
    if (auto found = signal_return_at(text, address, at)) {
      out.push_back(std::move(*found));
      continue;
    }
    if (auto found = clone3_at(text, address, at)) {
      out.push_back(std::move(*found));
      continue;
    }
    const auto function = function_at(address + at);
    if (!function || function->first < address || function->first - address > at) continue;
    const auto [start, size] = *function;
    const uint64_t offset = start - address;
    const Bytes code = text.subspan(offset, std::min<uint64_t>(size + kPaddingMax, text.size() - offset));
    if (size <= kFunctionSizeMax) {
      for (auto& site : Function(code, size).sites()) {
        note_use_after(text, offset + site.offset, site);
        out.push_back({start, size, std::move(site)});
      }
    }
    done = std::max(done, start + size);
  }
  std::map<uint64_t, uint64_t> ranges;  // patches of more than one instruction, or that nothing may jump to
  for (const TextSystemCall& call : out) {
    const uint64_t at = call.function + call.site.offset;
    if (call.site.no_enter.empty()) ranges[call.function + call.site.enter_offset] = at;
    if (call.site.no_exit.empty()) ranges[at + 1] = at + kSystemCallSize + call.site.exit_length;
  }
  const auto hit = jumps_inside(text, address, ranges);
  for (TextSystemCall& call : out) {
    const uint64_t at = call.function + call.site.offset;
    if (hit.contains(call.function + call.site.enter_offset))
      call.site.no_enter = "a jump from elsewhere leads close before it";
    if (hit.contains(at + 1)) call.site.no_exit = "a jump from elsewhere leads close behind it";
  }
  return out;
}

size_t count_old_system_calls(Bytes text, uint64_t address, const FunctionBounds& function_at) {
  size_t count = 0;
  uint64_t done = 0;  // addresses below belong to functions looked at
  for (size_t at = 0; at + 2 <= text.size(); ++at) {
    const bool door =
        (text[at] == 0xcd && text[at + 1] == 0x80) || (text[at] == 0x0f && text[at + 1] == 0x34);
    if (!door || address + at < done) continue;
    const auto function = function_at(address + at);
    if (!function || function->first < address || function->second > kFunctionSizeMax) continue;
    done = function->first + function->second;
    for (uint64_t i = function->first - address; i < text.size() && address + i < done;) {
      const Bytes code = text.subspan(i, std::min<uint64_t>(text.size() - i, done - address - i));
      const auto instruction = decode(code);
      const bool whole = instruction && instruction->length == 2 && code.size() >= 2;
      count += whole && ((code[0] == 0xcd && code[1] == 0x80) || (code[0] == 0x0f && code[1] == 0x34));
      i += instruction ? instruction->length : 1;
    }
  }
  return count;
}

}  // namespace bpftime::rewrite

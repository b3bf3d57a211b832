#include "rewrite/relocate.h"

#include <algorithm>
#include <cstdio>

namespace bpftime::rewrite {
namespace {

constexpr size_t kInstructionBytesMax = 15;

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "+0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string signed_hex(int64_t value) {
  return value >= 0 ? hex(static_cast<uint64_t>(value)) : "-" + hex(static_cast<uint64_t>(-value)).substr(1);
}

std::string too_short(uint64_t size, uint64_t before) {
  if (before != 0)
    return "the function ends " + std::to_string(size) +
           " bytes behind the site and no padding follows, a jump needs " + std::to_string(kJumpSize);
  return "function is " + std::to_string(size) + (size == 1 ? " byte" : " bytes") +
         " and no padding follows, a jump needs " + std::to_string(kJumpSize);
}

// Bytes from `at` on that belong to nobody: whole nop or int3 instructions until kJumpSize bytes are covered.
// Returns the end, or 0 when anything else stands there.
uint32_t cover_with_padding(Bytes code, uint32_t at) {
  while (at < kJumpSize) {
    const auto instruction = decode(code.subspan(at));
    if (!instruction || !(instruction->is_nop || instruction->flow == Flow::kBreakpoint)) return 0;
    at += instruction->length;
  }
  return at;
}

// `needed`: bytes that will be patched; what a call returns to must lie behind them.
Result<void> check_movable(const Instruction& instruction, uint32_t at, uint32_t needed) {
  switch (instruction.flow) {
    case Flow::kBreakpoint:
      return refuse("a breakpoint stands at " + hex(at) + "; is a debugger attached?");
    case Flow::kUnsupported:
      return refuse("instruction at " + hex(at) + " depends on its address in a way that cannot be moved");
    case Flow::kCall:
    case Flow::kIndirectCall:
      if (at + instruction.length < needed) {
        return refuse("a call at " + hex(at) + " returns inside the first 5 bytes");
      }
      // The pushed return address moves rsp before the operand is read.
      if (instruction.flow == Flow::kIndirectCall && instruction.uses_stack_pointer) {
        return refuse("rsp-relative call inside the first 5 bytes at " + hex(at));
      }
      return {};
    default:
      return {};
  }
}

// A jump from anywhere in the function to the middle of the patch would land in the jump's bytes. `at_start`: where `code`
// begins, seen from the site. Linear sweep: what cannot be decoded (data between code) is stepped over byte by byte, which
// can only refuse more.
Result<void> check_no_jump_inside(Bytes code, int64_t at_start, uint32_t length) {
  for (size_t at = 0; at < code.size();) {
    const auto instruction = decode(code.subspan(at));
    if (!instruction) {
      ++at;
      continue;
    }
    if (instruction->is_relative()) {
      const int64_t from = at_start + static_cast<int64_t>(at);
      const int64_t target = from + instruction->target;
      if (target > 0 && target < length) {
        return refuse("a jump at " + signed_hex(from) + " leads into the first " + std::to_string(length) +
                      " bytes");
      }
    }
    at += instruction->length;
  }
  return {};
}

// Whether an instruction begins right behind `before`, which begins with one.
Result<void> check_boundary(Bytes before) {
  size_t at = 0;
  while (at < before.size()) {
    const auto instruction = decode(before.subspan(at));
    if (!instruction && before.size() - at < kInstructionBytesMax)
      return refuse("the site is inside the instruction " + std::to_string(before.size() - at) +
                    " bytes before it");
    at += instruction ? instruction->length : 1;
  }
  return {};
}

uint8_t boundary_bits(const Displaced& displaced) {
  uint8_t bits = 0;
  const auto add = [&](uint32_t at) {
    if (at > 0 && at < kJumpSize) bits |= static_cast<uint8_t>(1u << at);
  };
  for (const auto& [offset, instruction] : displaced.instructions) add(offset);
  return bits;
}

Result<Displaced> choose_one(Bytes code) {
  const auto instruction = decode(code);
  if (!instruction) return refuse("unknown instruction at +0x0");
  if (auto movable = check_movable(*instruction, 0, /*needed=*/1); !movable) return movable.error();
  Displaced out;
  out.instructions.push_back({0, *instruction});
  out.falls_through = !instruction->never_falls_through();
  out.length = 1;
  out.end = instruction->length;
  return out;
}

}  // namespace

Result<Displaced> choose_displaced(Bytes code, uint64_t function_size, const DisplaceRules& rules) {
  const uint64_t end = function_size == 0 ? code.size() : std::min<uint64_t>(function_size, code.size());
  if (auto valid = check_boundary(rules.before); !valid) return valid.error();
  if (rules.trap) return choose_one(code.first(end));
  Displaced out;
  while (out.length < kJumpSize) {
    const uint32_t at = out.length;
    if (at >= end || !out.falls_through) {
      const uint32_t covered = cover_with_padding(code, at);
      if (covered == 0) return refuse(too_short(at, rules.before.size()));
      out.length = covered;
      break;
    }
    const auto instruction = decode(code.subspan(at, end - at));
    if (!instruction) return refuse("unknown instruction at " + hex(at));
    if (auto movable = check_movable(*instruction, at, kJumpSize); !movable) return movable.error();
    out.instructions.push_back({at, *instruction});
    out.falls_through = !instruction->never_falls_through();
    out.length += instruction->length;
  }
  out.end = out.length;
  if (out.length > code.size()) return refuse("code ends inside the first instructions");
  if (rules.room != 0 && out.length > rules.room)
    return refuse("another probe is " + std::to_string(rules.room) + " bytes behind this one");
  out.boundaries = boundary_bits(out);
  if (rules.jumps_may_enter) return out;
  if (auto clear = check_no_jump_inside(code.first(end), 0, out.length); !clear) return clear.error();
  const auto start = -static_cast<int64_t>(rules.before.size());
  if (auto clear = check_no_jump_inside(rules.before, start, out.length); !clear) return clear.error();
  return out;
}

bool append_relative(std::vector<uint8_t>& out, uint64_t at, uint64_t target) {
  const int64_t distance = static_cast<int64_t>(target - (at + 4));
  if (distance != static_cast<int32_t>(distance)) return false;
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<uint8_t>(distance >> shift));
  return true;
}

namespace {

// Writes the moved form of single instructions. `false`: out of reach.
class Mover {
 public:
  Mover(uint64_t site, uint64_t to, std::vector<uint8_t>& out) : site_(site), to_(to), out_(out) {}

  bool move(Bytes bytes, uint32_t offset, const Instruction& instruction) {
    const uint64_t target = site_ + offset + static_cast<uint64_t>(instruction.target);
    const uint64_t next = site_ + offset + instruction.length;
    switch (instruction.flow) {
      case Flow::kBranch:  // 0f 8x rel32: jcc
        put({0x0f, static_cast<uint8_t>(0x80 | (instruction.opcode & 0x0f))});
        return relative(target);
      case Flow::kLoop:  // jrcxz taken; jmp short not_taken; taken: jmp rel32; not_taken:
        out_.insert(out_.end(), bytes.begin(), bytes.end() - 1);
        put({0x02, 0xeb, 0x05});
        return jump(target);
      case Flow::kJump:
        return jump(target);
      case Flow::kCall:
        push_constant(next);
        return jump(target);
      case Flow::kIndirectCall:
        push_constant(next);
        return copy(bytes, next, instruction, /*call_to_jump=*/true);
      default:
        return copy(bytes, next, instruction, /*call_to_jump=*/false);
    }
  }

  bool jump(uint64_t target) {  // e9 rel32
    put({0xe9});
    return relative(target);
  }

 private:
  void put(std::initializer_list<uint8_t> bytes) { out_.insert(out_.end(), bytes); }
  bool relative(uint64_t target) { return append_relative(out_, to_ + out_.size(), target); }

  // lea -8(%rsp),%rsp; movl $low,(%rsp); movl $high,4(%rsp): no flag and no register but rsp changes.
  void push_constant(uint64_t value) {
    put({0x48, 0x8d, 0x64, 0x24, 0xf8, 0xc7, 0x04, 0x24});
    for (int shift = 0; shift < 32; shift += 8) out_.push_back(static_cast<uint8_t>(value >> shift));
    put({0xc7, 0x44, 0x24, 0x04});
    for (int shift = 32; shift < 64; shift += 8) out_.push_back(static_cast<uint8_t>(value >> shift));
  }

  bool copy(Bytes bytes, uint64_t next, const Instruction& instruction, bool call_to_jump) {
    const size_t start = out_.size();
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    if (call_to_jump) {  // ff /2 → ff /4
      uint8_t& modrm = out_[start + instruction.modrm_offset];
      modrm = static_cast<uint8_t>((modrm & ~0x38) | (4 << 3));
    }
    if (!instruction.rip_relative) return true;
    const uint64_t operand = next + static_cast<uint64_t>(int64_t{instruction.displacement});
    const int64_t distance = static_cast<int64_t>(operand - (to_ + out_.size()));
    if (distance != static_cast<int32_t>(distance)) return false;
    for (int i = 0; i < 4; ++i) {
      out_[start + instruction.displacement_offset + i] = static_cast<uint8_t>(distance >> (8 * i));
    }
    return true;
  }

  uint64_t site_, to_;
  std::vector<uint8_t>& out_;
};

}  // namespace

Result<MovedCode> move_code(Bytes code, const Displaced& displaced, uint64_t site, uint64_t to) {
  MovedCode out;
  Mover mover(site, to, out.bytes);
  bool last_was_call = false;
  for (const auto& [offset, instruction] : displaced.instructions) {
    out.instructions.push_back({offset, static_cast<uint32_t>(out.bytes.size())});
    if (!mover.move(code.subspan(offset, instruction.length), offset, instruction)) {
      return refuse("trampoline out of reach of what the instruction at " + hex(offset) + " refers to");
    }
    last_was_call = instruction.flow == Flow::kCall || instruction.flow == Flow::kIndirectCall;
  }
  // A moved call has pushed the way back itself.
  if (displaced.falls_through && !last_was_call && !mover.jump(site + displaced.end)) {
    return refuse("trampoline out of reach");
  }
  return out;
}

}  // namespace bpftime::rewrite

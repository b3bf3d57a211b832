// What is moved out of a function's first bytes, and how.
// Rules for whoever edits this:
//  1. A moved instruction does exactly what it did, flags included: nothing here may change a flag
//     or a register.
//  2. What stands on a stack while the host runs must be an address the host's own unwind tables know: a
//  moved call pushes
//     the original return address, and so must be the last displaced instruction (its return address lies
//     outside the patch).
//  3. Refuse rather than guess; the refusal names the offset.
#pragma once

#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "rewrite/decode.h"

namespace bpftime::rewrite {

inline constexpr uint32_t kJumpSize = 5;  // e9 rel32

inline Error refuse(const std::string& why) { return Error{EOPNOTSUPP, "plan patch: " + why}; }

struct DisplacedInstruction {
  uint32_t offset;  // from the site
  Instruction instruction;
};

// The instructions that a patch at the site overwrites: a 5-byte jump, or an int3 over the first byte of one.
struct Displaced {
  uint32_t length = 0;  // bytes patched; may include padding behind the last instruction
  uint32_t end = 0;     // where the moved code goes on: behind the last instruction and its padding
  std::vector<DisplacedInstruction> instructions;  // without padding
  bool falls_through = true;                       // false: the last one never reaches `end`
  uint8_t boundaries = 0;  // bit k: an instruction begins at byte k of the jump (1 … 4)
};

struct DisplaceRules {
  bool trap = false;             // one instruction, of which one byte is patched
  bool jumps_may_enter = false;  // a jump into the patch meets a byte that traps
  uint32_t room = 0;             // bytes from the site that may be patched; 0: no limit
  Bytes before;                  // the function's bytes up to the site, for sites inside one
};

// Chooses them; `function_size` counts from the site, 0: unknown, all of `code` is searched for jumps into the patch.
Result<Displaced> choose_displaced(Bytes code, uint64_t function_size, const DisplaceRules& rules = {});

struct MovedInstruction {
  uint32_t site_offset;
  uint32_t moved_offset;  // within the moved code
};

struct MovedCode {
  std::vector<uint8_t> bytes;
  std::vector<MovedInstruction> instructions;
};

// The displaced instructions as they read at `to` instead of at `site`, then a jump to site + end.
// Error EOPNOTSUPP: something they refer to is out of reach from there.
Result<MovedCode> move_code(Bytes code, const Displaced& displaced, uint64_t site, uint64_t to);

// Appends the rel32 that leads from the end of those four bytes, which will lie at `at`, to `target`.
bool append_relative(std::vector<uint8_t>& out, uint64_t at, uint64_t target);

}  // namespace bpftime::rewrite

// A BPF program as the rest of the system sees it: decoded, its map references resolved to indexes.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::program {

using Insn = bpf_insn;
static_assert(sizeof(Insn) == 8);

inline constexpr uint32_t kInsnsMax = 1'000'000;  // BPF_COMPLEXITY_LIMIT_INSNS

// One program. ld_imm64 with src_reg BPF_PSEUDO_MAP_FD carries the index into the program's map list in
// `imm`; BPF_PSEUDO_MAP_VALUE the same, with the byte offset into the first value in the second slot's
// `imm`. All other pseudo sources are BPF_PSEUDO_FUNC / BPF_PSEUDO_CALL with instruction-relative offsets,
// as Linux defines them.
struct Program {
  std::string name;
  uint32_t type = 0;  // enum bpf_prog_type
  std::vector<Insn> insns;
};

// Checks everything that needs no map or type knowledge: opcodes (v1–v4), reserved fields, registers, jump
// targets (never into the second slot of an ld_imm64), local call targets and depth (8 frames, no recursion),
// sizes; that control cannot fall off the end of a subprogram; that the straight line from the entry reads no
// register nobody wrote. Helper ids are not checked: a call to an unknown helper in a dead branch is legal
// (CO-RE poison). Division by an immediate zero and oversized immediate shifts pass: they have a meaning,
// though Linux's verifier refuses them. Accepted but executable by no engine here: packet loads (types with a
// packet only), kernel function calls, kernel variables. Errors as Linux gives them: E2BIG for size and call
// depth, EACCES for a write to r10 or an unwritten register, else EINVAL; "instruction N: …".
Result<void> validate(const Program& program);

// The part of validate() that the verifier builds on: all but what it decides itself, path by path and in Linux's order
// (writes to r10, reserved fields of arithmetic and jumps, reads of unwritten registers, the depth of calls).
Result<void> validate_structure(const Program& program);
// Of arithmetic and jumps: whether fields that must be zero are not, or the width is none.
bool uses_reserved_fields(const Insn& insn);

// Disassembly in bpftool's notation, one line per instruction.
std::string disassemble(const Program& program);

// Bounds of subprograms: instruction index of each entry (0 first), ascending. Program must be valid.
std::vector<uint32_t> subprogram_starts(const Program& program);

}  // namespace bpftime::program

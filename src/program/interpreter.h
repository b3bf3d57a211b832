// Reference interpreter: the executable meaning of the instruction set, slow and plain. Used by tests
// (against compiled code and the kernel) and never in a target.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "program/program.h"

namespace bpftime::program {

struct InterpreterEnvironment {
  // Helper call: id and r1..r5; the value becomes r0. Unset: every call is an error.
  std::function<Result<uint64_t>(uint32_t id, const uint64_t args[5])> helper;
  // Value of an ld_imm64 that names a map (index, offset, true when BPF_PSEUDO_MAP_VALUE).
  std::function<uint64_t(uint32_t map_index, uint32_t offset, bool value)> map_address;
  // Called before every access to memory outside the program's stack; false refuses it (EFAULT).
  // Unset: all allowed.
  std::function<bool(uint64_t address, uint32_t size, bool write)> may_access;
  uint64_t insns_max = 1u << 26;  // executed instructions before ELOOP
};

// Runs `program` (must be valid) with r1 = r1, r2 = r2. Returns r0.
// Each of up to 8 frames has 512 bytes of stack, zeroed on entry. A function reference (BPF_PSEUDO_FUNC) is
// the instruction index of its target. Registers no valid program reads (r1–r5 after a call) keep their
// values. callx is executed, with the helper's id in its destination register, although validate() refuses
// it: the standard's vectors use it. Errors: EFAULT for a refused access, ELOOP at the limit, EOPNOTSUPP for
// packet loads, kernel functions and variables, EINVAL for misaligned atomics and missing helpers or maps, a
// helper's own error.
Result<uint64_t> interpret(const Program& program, uint64_t r1, uint64_t r2,
                           const InterpreterEnvironment& environment);

// The meaning of single instructions, for other engines of tests. `operand`: the source register, or the immediate extended
// to 64 bits.
// What BPF_ALU and BPF_ALU64 (byte order included) leave in the destination.
uint64_t execute_arithmetic(const Insn& insn, uint64_t dst, uint64_t operand);
// Whether a conditional jump is taken.
bool execute_comparison(const Insn& insn, uint64_t dst, uint64_t operand);
// What an atomic operation (`imm` of the instruction, not compare-and-exchange) leaves in memory.
uint64_t combine_atomic(int32_t operation, uint64_t old_value, uint64_t operand);

}  // namespace bpftime::program

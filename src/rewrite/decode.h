// One decoded instruction, reduced to what moving code needs to know.
#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.h"

namespace bpftime::rewrite {

// Where control goes after an instruction.
enum class Flow {
  kNext,
  kBranch,        // jcc
  kLoop,          // jrcxz, loop*: only a rel8 form exists
  kJump,          // jmp rel
  kIndirectJump,  // jmp reg/mem
  kCall,          // call rel32
  kIndirectCall,  // call reg/mem
  kReturn,        // ret, and what never goes on: ud2, hlt, iret
  kBreakpoint,    // int3
  kUnsupported,   // relative in a way nothing here can move: xbegin, branches with operand-size prefix, far
                  // transfers
};

struct Instruction {
  uint8_t length = 0;
  Flow flow = Flow::kNext;
  bool is_nop = false;  // any length, endbr64 excluded
  uint8_t opcode = 0;   // last opcode byte
  int64_t target = 0;   // relative flows: destination relative to the start of this instruction
  bool rip_relative = false;
  bool uses_stack_pointer = false;  // an explicit operand reads or addresses through rsp
  uint8_t displacement_offset = 0;  // of disp32 within the instruction, when rip_relative
  uint8_t modrm_offset = 0;
  int32_t displacement = 0;

  bool is_relative() const {
    return flow == Flow::kBranch || flow == Flow::kLoop || flow == Flow::kJump || flow == Flow::kCall;
  }
  bool never_falls_through() const {
    return flow == Flow::kJump || flow == Flow::kIndirectJump || flow == Flow::kReturn;
  }
};

// The instruction at the start of `code`, or nullopt: not an instruction of 64-bit mode, or cut off.
std::optional<Instruction> decode(Bytes code);

}  // namespace bpftime::rewrite

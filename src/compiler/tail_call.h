// How compiled programs hand over to each other (bpf_tail_call). Private to the compiler: who places programs knows only that
// a slot of a program array (maps/prog_array.h) holds an address of a tail entry, MachineCode::tail_entry_offset.
//
//   uint64_t tail_entry(void* ctx, TailState* state)    LLVM's tailcc: rdi and rsi, result in rax, rbx rbp r12–r15 kept
//
//  1. The entry the trampoline calls makes the state, on its own stack, and calls its program. From there on programs jump:
//  what jumps has given its frame back, so 33 tail calls need no more stack than the largest of the programs.
//  2. A tail call in a local function replaces that function only, as Linux's JIT does it: what the program jumped to returns
//  to the function's caller. The frames above stay, and so may add up; kTailDistanceMax bounds them.
//  3. A program may jump to one that was compiled later, by another build of the compiler even: this file is part of
//  wire::kAbiVersion.
#pragma once

#include <cstdint>

#include "wire/invocation.h"

namespace bpftime::compiler {

struct TailState {
  const wire::Invocation* invocation;
  const wire::PtRegs* regs;
  uint64_t stack_top;  // address of the state: what programs use lies below
  uint64_t remaining;  // tail calls that may still be made
};
static_assert(sizeof(TailState) == 32);

inline constexpr uint64_t kTailCallsMax = 33;  // MAX_TAIL_CALL_CNT
// A tail call from a local function fails, as one too many does, when more stack than this is in use. Programs that others
// may jump to get by with the rest of wire::kProgramStackMax.
inline constexpr uint32_t kTailDistanceMax = 1024;

}  // namespace bpftime::compiler

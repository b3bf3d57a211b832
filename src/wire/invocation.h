// The calling convention between a trampoline and a compiled program.
#pragma once

#include "wire/abi.h"

namespace bpftime::wire {

// Constants of one program at one attach point; lies beside the trampoline, read-only.
struct Invocation {
  uint64_t cookie;   // bpf_get_attach_cookie
  uint64_t func_ip;  // bpf_get_func_ip
  uint32_t program_id;
  uint32_t flags;
  // Addresses in this target of the host functions and variables the program's class grants; what
  // verifier::HostFunction::id and HostGlobal::id index. 0: the program uses none.
  uint64_t host_table;
};
static_assert(sizeof(Invocation) == 32);

// Invocation::flags: the probe is at an instruction with which functions begin (push rbp, endbr64), so the return address is
// on top of the stack and rbp still the caller's. Linux's is_uprobe_at_func_entry; not set at returns.
inline constexpr uint32_t kAtFunctionEntry = 1;

// Compiled program: System V ABI, general registers only, at most kProgramStackMax bytes of stack.
//   uint64_t program(void* ctx, const Invocation* invocation);
inline constexpr uint32_t kProgramStackMax = 4096;

// What uprobe programs get as ctx: struct pt_regs of x86-64 Linux (arch/x86/include/asm/ptrace.h), 168 bytes.
struct PtRegs {
  uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
  uint64_t orig_rax, rip, cs, eflags, rsp, ss;
};
static_assert(sizeof(PtRegs) == 168);

// In PtRegs::orig_rax, which is -1 at every probe: a program ends the probed function, PtRegs::rax is its result.
inline constexpr uint64_t kFunctionEnds = ~uint64_t{1};

}  // namespace bpftime::wire

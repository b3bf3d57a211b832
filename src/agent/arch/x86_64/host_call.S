// The bridge: a program calls a function of its host.
//
//   uint64_t bpftime_agent_host_call(uint64_t a1, …, uint64_t a5, void* function, wire::PtRegs* regs)
//
// `regs` is what the trampoline of a function-entry probe made; the program was called with the stack pointer there. The
// function runs on the application's stack, aligned, as from anywhere in the host. Vector, x87 and mask registers, live at a
// function entry and unknown to programs, are saved around it.
//
// Rules for whoever edits this:
//  1. The unwind table leads from here straight to the caller of the probed function: program and trampoline have none, and
//     need none. rbx holds `regs` while the function runs; everything the caller has in registers is there.
//  2. An exception that arrives here ends the program, not the host: the personality (host_call.cc) stops it, .Lcaught
//     destroys it and returns to the trampoline as if the program had returned 0. A longjmp past us needs nothing.
//  3. Forced unwinding (pthread_exit, pthread_cancel) passes through by rule 1.

    .set REGS_R15, 0
    .set REGS_R14, 8
    .set REGS_R13, 16
    .set REGS_R12, 24
    .set REGS_RBP, 32
    .set REGS_RBX, 40
    .set REGS_RSP, 152
    .set SAVED_RBX, -8
    .set STATE_BYTES, 2752        // XSAVE area without AMX: AVX-512 ends at 2688
    .set STATE_HEADER, 512
    .set DW_CFA_def_cfa_expression, 0x0f
    .set DW_CFA_expression, 0x10

    .macro vector_state with_xsave, without   // saves or restores the area at rsp; clobbers eax, edx
    mov bpftime_host_call_state(%rip), %eax
    xor %edx, %edx
    test %eax, %eax
    jz 1f
    \with_xsave (%rsp)
    jmp 2f
1:  \without (%rsp)
2:
    .endm

    .text
    .globl bpftime_agent_host_call
    .type bpftime_agent_host_call, @function
    .p2align 5
bpftime_agent_host_call:
    .cfi_startproc
    .cfi_personality 0x1b, bpftime_host_call_personality   // pc-relative, 4 bytes
    push %rbp
    .cfi_adjust_cfa_offset 8
    mov %rsp, %rbp
    push %rbx
    .cfi_adjust_cfa_offset 8
    mov 16(%rbp), %rbx
    .cfi_remember_state
    .cfi_escape DW_CFA_def_cfa_expression, 6, 0x73, (REGS_RSP & 0x7f) | 0x80, REGS_RSP >> 7, 0x06, 0x23, 8  // [rbx+REGS_RSP]+8
    .cfi_offset rip, -8
    .cfi_escape DW_CFA_expression, 3, 2, 0x73, REGS_RBX
    .cfi_escape DW_CFA_expression, 6, 2, 0x73, REGS_RBP
    .cfi_escape DW_CFA_expression, 12, 2, 0x73, REGS_R12
    .cfi_escape DW_CFA_expression, 13, 2, 0x73, REGS_R13
    .cfi_escape DW_CFA_expression, 14, 2, 0x73, REGS_R14
    .cfi_escape DW_CFA_expression, 15, 2, 0x73, REGS_R15
    sub $STATE_BYTES, %rsp
    and $-64, %rsp
    mov %rdx, %r10                // xsave takes its mask in edx:eax
    xor %eax, %eax
    .set OFFSET, 0
    .rept 8
    mov %rax, STATE_HEADER + OFFSET(%rsp)
    .set OFFSET, OFFSET + 8
    .endr
    vector_state xsave64, fxsave64
    mov %r10, %rdx
    xor %eax, %eax                // no vector arguments
    call *%r9
    mov %rax, %r10
    vector_state xrstor64, fxrstor64
    mov %r10, %rax
    lea SAVED_RBX(%rbp), %rsp
    pop %rbx
    pop %rbp
    .cfi_restore_state
    .cfi_adjust_cfa_offset -16
    ret
    .cfi_adjust_cfa_offset 16

    .globl bpftime_host_call_caught
    .hidden bpftime_host_call_caught
bpftime_host_call_caught:         // rax: the exception; rsp as at the call
    .cfi_escape DW_CFA_def_cfa_expression, 6, 0x73, (REGS_RSP & 0x7f) | 0x80, REGS_RSP >> 7, 0x06, 0x23, 8
    mov %rax, %rdi
    call bpftime_host_call_end_exception
    vector_state xrstor64, fxrstor64
    mov REGS_R15(%rbx), %r15
    mov REGS_R14(%rbx), %r14
    mov REGS_R13(%rbx), %r13
    mov REGS_R12(%rbx), %r12
    mov REGS_RBP(%rbx), %rbp
    lea -8(%rbx), %rsp            // where the trampoline's call put its return address
    mov REGS_RBX(%rbx), %rbx
    xor %eax, %eax
    ret
    .cfi_endproc
    .size bpftime_agent_host_call, . - bpftime_agent_host_call
    .section .note.GNU-stack, "", @progbits

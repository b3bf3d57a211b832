// Where a trampoline goes when neither the thread's usual frame nor the first of its list can be had (rewrite/return_slot.h),
// and an exit handler without programs, for calls that outlive their probe. The rules are in return_slot.S.

    .set FRAME_RETURN_ADDRESS, 0
    .set FRAME_SAVED_RBX, 8
    .set FRAME_STATE, 48
    .set STATE_FREE, 1
    .set SITE_BODY, -8            // before the exit handler
    .set SITE_CLAIMED, -16
    .set COLD_FRAME, 120          // keeps the red zone's saved r10 and r11; rsp ≡ 0 mod 16 after it

    .text
    .globl bpftime_agent_return_cold
    .type bpftime_agent_return_cold, @function
bpftime_agent_return_cold:        // r11 = exit handler, all else but r10 as at function entry
    .cfi_startproc
    lea -COLD_FRAME(%rsp), %rsp
    .cfi_adjust_cfa_offset COLD_FRAME
    mov %rax, 0(%rsp)
    mov %rcx, 8(%rsp)
    mov %rdx, 16(%rsp)
    mov %rsi, 24(%rsp)
    mov %rdi, 32(%rsp)
    mov %r8, 40(%rsp)
    mov %r9, 48(%rsp)
    mov %r11, 56(%rsp)
    lea COLD_FRAME(%rsp), %rdi
    mov %rbx, %rsi
    call bpftime_take_frame
    mov %rax, %r10
    mov 0(%rsp), %rax
    mov 8(%rsp), %rcx
    mov 16(%rsp), %rdx
    mov 24(%rsp), %rsi
    mov 32(%rsp), %rdi
    mov 40(%rsp), %r8
    mov 48(%rsp), %r9
    mov 56(%rsp), %r11
    lea COLD_FRAME(%rsp), %rsp
    .cfi_adjust_cfa_offset -COLD_FRAME
    test %r10, %r10
    jz .Lmissed
    jmp *SITE_CLAIMED(%r11)
.Lmissed:                         // the body runs as if there were no return probe
    jmp *SITE_BODY(%r11)
    .cfi_endproc
    .size bpftime_agent_return_cold, . - bpftime_agent_return_cold

// The frame is put on no list: who finds his empty looks at all frames. Until it is free the slot's address stays where it
// stands, at rsp - 8 (rule 5); what is kept meanwhile lies below that, in the red zone.
    .globl bpftime_return_plainly
    .hidden bpftime_return_plainly
    .type bpftime_return_plainly, @function
bpftime_return_plainly:           // rbx = frame, rsp ≡ 0 mod 16, all else as the body left it
    .cfi_startproc
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x10, 16, 2, 0x73, FRAME_RETURN_ADDRESS  // rip at [rbx + 0]
    .cfi_escape 0x10, 3, 2, 0x73, FRAME_SAVED_RBX        // rbx at [rbx + 8]
    mov %rax, -16(%rsp)
    mov %rcx, -24(%rsp)
    mov FRAME_RETURN_ADDRESS(%rbx), %rax
    mov FRAME_SAVED_RBX(%rbx), %rcx
    .cfi_register rip, rax
    .cfi_register rbx, rcx
    movq $STATE_FREE, FRAME_STATE(%rbx)
    mov %rax, -8(%rsp)
    .cfi_offset rip, -8
    mov %rcx, %rbx
    .cfi_same_value rbx
    mov -16(%rsp), %rax
    mov -24(%rsp), %rcx
    lea -8(%rsp), %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size bpftime_return_plainly, . - bpftime_return_plainly

    .section .note.GNU-stack, "", @progbits

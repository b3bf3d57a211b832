// The return slot: file-backed code that stands on the host's stacks while return-probed functions run, so that
// exceptions, pthread_cancel and debuggers pass through it by the unwind table below, with nothing registered.
//
// Rules for whoever edits this:
//  1. The agreement with trampolines is rewrite/return_slot.h; offsets are repeated here and asserted in return_frames.cc.
//  2. Every register but rsp and rbx reaches the body as the caller left it, al, r10 and r11 included; every register but
//     flags reaches the caller as the body left it. Vector and x87 registers are never touched.
//  3. call and ret stay paired: no mispredictions, and a hardware shadow stack stays right.
//  4. A signal may come between any two instructions, its handler may run all of this, leave by longjmp, or switch stacks.
//     Truth about a frame is its state word alone: bit 0 set: free. It is claimed by one instruction (btr), which a signal
//     cannot split. The per-thread list is only a hint where free frames may be: whoever finds a frame on it that is not
//     free goes the cold way, which rebuilds the list. `next` is written only by whoever holds the frame, and never leads
//     to another thread's frames, which btr could not claim.
//  5. A frame whose state says "in the body" may be reclaimed by others once [stack_pointer] no longer holds our slot's
//     address. So the address is stored there before the state, and the state is cleared before that word can change:
//     after `ret` it lies in the red zone, which signal handlers spare.
//     The exit handler (rewrite/trampoline.cc) gives the frame back: what it costs here is jumps, most of all those between
//     code of ours and text gigabytes away, so the way out takes one of them and not three.
//  6. CFI: our frame must not share its CFA with the body's: libgcc would take it for the handler's frame and abort when the
//     direct caller catches. Hence CFA = rsp + 1, and rsp itself as an expression.

    .set FRAME_RETURN_ADDRESS, 0
    .set FRAME_SAVED_RBX, 8
    .set FRAME_STACK_POINTER, 16
    .set FRAME_EXIT_HANDLER, 24
    .set FRAME_LIST, 32           // thread pointer to the list the frame goes back to
    .set FRAME_OWNER, 40
    .set FRAME_STATE, 48
    .set FRAME_NEXT, 56
    .set SITE_BODY, -8            // before the exit handler
    .set THREAD_FREE_LIST, 0
    .set THREAD_SERIAL, 8
    .set STATE_FREE, 1
    .set STATE_IN_BODY, 2         // plus the serial, a multiple of 4
    // In the red zone of the function entry.
    .set SAVED_R11, -16
    .set SAVED_R10, -24
    .set COLD_FRAME, 120          // keeps the slots above; rsp ≡ 0 mod 16 after it

    .text
    .globl bpftime_agent_return_enter
    .type bpftime_agent_return_enter, @function
    .p2align 6
bpftime_agent_return_enter:       // r11 = exit handler; host's r11 at SAVED_R11(%rsp)
    .cfi_startproc
    mov %r10, SAVED_R10(%rsp)
    mov bpftime_thread@gottpoff(%rip), %r10
    mov %fs:THREAD_FREE_LIST(%r10), %r10
    test %r10, %r10
    jz .Lcold
    btrq $0, FRAME_STATE(%r10)
    jnc .Lcold
    mov %rbx, FRAME_SAVED_RBX(%r10)
    mov %r11, FRAME_EXIT_HANDLER(%r10)
    mov bpftime_thread@gottpoff(%rip), %r11
    mov FRAME_NEXT(%r10), %rbx
    mov %rbx, %fs:THREAD_FREE_LIST(%r11)
.Lhave_frame:                     // r10 = frame, r11 = thread block; rbx is scratch
    addq $4, %fs:THREAD_SERIAL(%r11)          // one instruction: never goes back, whatever a signal handler does
    mov %fs:THREAD_SERIAL(%r11), %r11
    or $STATE_IN_BODY, %r11
    mov %rsp, FRAME_STACK_POINTER(%r10)
    mov (%rsp), %rbx
    mov %rbx, FRAME_RETURN_ADDRESS(%r10)
    lea .Lslot(%rip), %rbx
    mov %rbx, (%rsp)
    mov %r11, FRAME_STATE(%r10)
    mov %r10, %rbx
    mov FRAME_EXIT_HANDLER(%rbx), %r11
    lea 8(%rsp), %rsp                         // the body takes the host's r10 and r11 from the red zone
    .cfi_remember_state
    .cfi_def_cfa rsp, 1
    .cfi_escape 0x16, 7, 2, 0x77, 0           // rsp = rsp + 0
    .cfi_escape 0x10, 16, 2, 0x73, FRAME_RETURN_ADDRESS  // rip at [rbx + 0]
    .cfi_escape 0x10, 3, 2, 0x73, FRAME_SAVED_RBX        // rbx at [rbx + 8]
    call *SITE_BODY(%r11)
.Lslot:
    movq $0, FRAME_STATE(%rbx)
    pushq FRAME_RETURN_ADDRESS(%rbx)          // below us the red zone is dead again
    .cfi_escape 0x16, 7, 2, 0x77, 8           // rsp = rsp + 8
    jmp *FRAME_EXIT_HANDLER(%rbx)             // gives the frame back and returns to the caller
    .cfi_restore_state

.Lcold:
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
    mov %rbx, FRAME_SAVED_RBX(%r10)
    mov %r11, FRAME_EXIT_HANDLER(%r10)
    mov bpftime_thread@gottpoff(%rip), %r11
    jmp .Lhave_frame
.Lmissed:                         // the body runs as if there were no return probe
    jmp *SITE_BODY(%r11)
    .cfi_endproc
    .size bpftime_agent_return_enter, . - bpftime_agent_return_enter

    .section .rodata
    .globl bpftime_return_slot
    .hidden bpftime_return_slot
    .p2align 3
bpftime_return_slot:              // self-relative, so that no relocation is needed
    .quad .Lslot - bpftime_return_slot
    .section .note.GNU-stack, "", @progbits

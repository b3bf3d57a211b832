// The return slots: file-backed code that stands on the host's stacks while return-probed functions run, so that exceptions,
// pthread_cancel and debuggers pass through it by the unwind table below, with nothing registered. The agent has them, and, for
// text far from the agent, a library that is nothing else (libbpftime-near.so): jumps between far places cost more
// (docs/benchmarks.md).
//
// Rules for whoever edits this, return_cold.S, return_frames.cc or what rewrite/trampoline.cc makes of return probes:
//  1. The agreement with trampolines is rewrite/return_slot.h; offsets are repeated here and asserted in return_frames.cc.
//  2. Every register but rsp and rbx reaches the body as the caller left it, al, r10 and r11 included; every register but
//     flags reaches the caller as the body left it. Vector and x87 registers are never touched.
//  3. call and ret stay paired: no mispredictions, and a hardware shadow stack stays right.
//  4. A signal may come between any two instructions, its handler may run all of this, leave by longjmp, or switch stacks.
//     Truth about a frame is its state word alone: bit 0 set: free. It is claimed by one instruction (btr), which a signal
//     cannot split. The thread's usual frame and its list are only hints where free frames may be: whoever finds none there
//     goes the cold way, which rebuilds the list. `next` is written only by whoever holds the frame, and never leads
//     to another thread's frames, which btr could not claim.
//  5. A frame whose state says "in the body" may be reclaimed by others once [stack_pointer] no longer holds a slot's address.
//     So the address is stored there before the state, and the state is changed before that word is: before the call and after
//     `ret` it lies in the red zone, which signal handlers spare. Once free, the frame may be anybody's.
//  6. Neither the usual frame nor the thread's pointer to it is written by calls that do not nest: each call would wait for the
//     last one's stores.
//  7. There are many equal copies, and each trampoline uses one (rewrite::return_slot_for), so that seldom two share one: a jump
//     that has always led to the same place is predicted from less than one that has led to several.
//  8. CFI: our frame must not share its CFA with the body's: libgcc would take it for the handler's frame and abort when the
//     direct caller catches. Hence CFA = rsp + 1, and rsp itself as an expression. One row is right everywhere.

    .set FRAME_RETURN_ADDRESS, 0
    .set FRAME_SAVED_RBX, 8
    .set FRAME_EXIT_HANDLER, 24
    .set SITE_BODY, -8            // before the exit handler
    .set SLOT_STRIDE, 32
    .set SLOT_COPIES, 128

    .text
    .globl bpftime_agent_return_slots
    .type bpftime_agent_return_slots, @function
    .globl bpftime_return_slots   // the same, for the agent itself
    .hidden bpftime_return_slots
    .p2align 12
bpftime_return_slots:
bpftime_agent_return_slots:       // rbx = frame, r11 = exit handler, rsp above where the return address stood
    .cfi_startproc
    .cfi_def_cfa rsp, 1
    .cfi_escape 0x16, 7, 2, 0x77, 0           // rsp = rsp + 0
    .cfi_escape 0x10, 16, 2, 0x73, FRAME_RETURN_ADDRESS  // rip at [rbx + 0]
    .cfi_escape 0x10, 3, 2, 0x73, FRAME_SAVED_RBX        // rbx at [rbx + 8]
    .rept SLOT_COPIES
    call *SITE_BODY(%r11)
    jmp *FRAME_EXIT_HANDLER(%rbx)
    .p2align 5, 0xcc
    .endr
    .cfi_endproc
    .size bpftime_agent_return_slots, SLOT_COPIES * SLOT_STRIDE

    .section .note.GNU-stack, "", @progbits

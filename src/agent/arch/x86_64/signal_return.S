// What our signal handlers return to. Debuggers and unwinders know a signal frame by exactly these bytes:
//   48 c7 c0 0f 00 00 00   mov $15,%rax   (rt_sigreturn)
//   0f 05                  syscall
// There is no CFI here on purpose: they fall back to the pattern, as with libc's own.
    .text
    .globl bpftime_signal_return
    .hidden bpftime_signal_return
    .type bpftime_signal_return, @function
    .p2align 4
    nop                           // unwinders look up pc - 1
bpftime_signal_return:
    .byte 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00
    syscall
    .size bpftime_signal_return, . - bpftime_signal_return

// Here the daemon makes system calls of a thread that it holds (src/target/memory.h): libc's own may all be patched.
    .globl bpftime_system_call_return
    .hidden bpftime_system_call_return
    .type bpftime_system_call_return, @function
bpftime_system_call_return:
    .cfi_startproc
    syscall
    ret
    .cfi_endproc
    .size bpftime_system_call_return, . - bpftime_system_call_return
    .section .note.GNU-stack, "", @progbits

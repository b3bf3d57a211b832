// Where the end of a successful execve is seen: the kernel returns from it into a new program, before any of our patches is
// there. The agent calls this once, before main, when the daemon has put probes in place; the daemon patches it as it patches
// what follows a system call (rewrite/system_call.h), so exit programs find number 59 and result 0.
    .text
    .globl bpftime_agent_exec_return
    .type bpftime_agent_exec_return, @function
    .p2align 4
bpftime_agent_exec_return:
    .cfi_startproc
    xor %eax, %eax                // 2 bytes, in the place of `syscall`
    cmp $-4096, %rax              // 6 bytes, which the patch replaces
    ret
    .cfi_endproc
    .size bpftime_agent_exec_return, . - bpftime_agent_exec_return
    .section .note.GNU-stack, "", @progbits

// What compilers may call for copies and clears of structures, as even freestanding code must provide. Hidden: the host's
// own are not replaced.
    .text
    .globl memcpy, memset
    .hidden memcpy, memset
    .type memcpy, @function
memcpy:
    .cfi_startproc
    mov %rdi, %rax
    mov %rdx, %rcx
    rep movsb
    ret
    .cfi_endproc
    .size memcpy, . - memcpy
    .type memset, @function
memset:
    .cfi_startproc
    mov %rdi, %r8
    mov %esi, %eax
    mov %rdx, %rcx
    rep stosb
    mov %r8, %rax
    ret
    .cfi_endproc
    .size memset, . - memset
    .section .note.GNU-stack, "", @progbits

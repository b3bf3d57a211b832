// Reads that may fault. A fault between bpftime_safe_begin and bpftime_safe_end is repaired by the fault handler
// (fault.cc), which goes on at bpftime_safe_fixup: so nothing in between may move rsp or use a callee-saved register.
// The direction flag is clear: programs run at function entries and returns (System V ABI), and the kernel clears it for
// signal handlers.

    .set EFAULT, 14
    .set MANY, 256                // from here on rep movsb is faster than a loop

    .text
    .globl bpftime_safe_begin, bpftime_safe_end, bpftime_safe_fixup
    .hidden bpftime_safe_begin, bpftime_safe_end, bpftime_safe_fixup

    // long bpftime_agent_safe_copy(void* dst, const void* src, uint64_t len): 0 or -EFAULT; bytes before the fault are copied
    .globl bpftime_agent_safe_copy
    .type bpftime_agent_safe_copy, @function
    .p2align 5
bpftime_safe_begin:
bpftime_agent_safe_copy:
    .cfi_startproc
    cmp $8, %rdx
    ja .Llong
    je .Leight
    cmp $4, %rdx
    je .Lfour
.Ltail:                           // rdx < 8 left
    test $4, %dl
    jz 1f
    mov (%rsi), %eax
    mov %eax, (%rdi)
    add $4, %rsi
    add $4, %rdi
1:  test $2, %dl
    jz 1f
    movzwl (%rsi), %eax
    mov %ax, (%rdi)
    add $2, %rsi
    add $2, %rdi
1:  test $1, %dl
    jz .Ldone
    movzbl (%rsi), %eax
    mov %al, (%rdi)
.Ldone:
    xor %eax, %eax
    ret
.Leight:
    mov (%rsi), %rax
    mov %rax, (%rdi)
    xor %eax, %eax
    ret
.Lfour:
    mov (%rsi), %eax
    mov %eax, (%rdi)
    xor %eax, %eax
    ret
.Llong:
    cmp $MANY, %rdx
    jae .Lmany
1:  mov (%rsi), %rax
    mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    sub $8, %rdx
    cmp $8, %rdx
    jae 1b
    jmp .Ltail
.Lmany:
    mov %rdx, %rcx
    rep movsb
    xor %eax, %eax
    ret
    .cfi_endproc
    .size bpftime_agent_safe_copy, . - bpftime_agent_safe_copy

    // long bpftime_agent_safe_copy_string(char* dst, const void* src, uint64_t size): bytes with NUL (cut to size), or -EFAULT
    .globl bpftime_agent_safe_copy_string
    .type bpftime_agent_safe_copy_string, @function
    .p2align 5
bpftime_agent_safe_copy_string:
    .cfi_startproc
    xor %eax, %eax
    test %rdx, %rdx
    jz 2f
1:  movzbl (%rsi,%rax), %ecx
    mov %cl, (%rdi,%rax)
    inc %rax
    test %cl, %cl
    jz 2f
    cmp %rdx, %rax
    jb 1b
    movb $0, -1(%rdi,%rax)
2:  ret
    .cfi_endproc
    .size bpftime_agent_safe_copy_string, . - bpftime_agent_safe_copy_string
bpftime_safe_end:

    .type bpftime_safe_fixup, @function
bpftime_safe_fixup:
    .cfi_startproc
    mov $-EFAULT, %rax
    ret
    .cfi_endproc
    .size bpftime_safe_fixup, . - bpftime_safe_fixup
    .section .note.GNU-stack, "", @progbits

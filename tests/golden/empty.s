# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
# the program, which nobody calls
xor %eax, %eax
ret

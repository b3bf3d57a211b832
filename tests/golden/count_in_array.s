# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
sub $0xA8, %rsp
mov %rax, 0x50(%rsp)
mov $0x200000100000, %rax
lock inc (%rax)
xor %eax, %eax
mov 0x50(%rsp), %rax
add $0xA8, %rsp
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
# the program, which stands in the trampoline
mov $0x200000100000, %rax
lock inc (%rax)
xor %eax, %eax
ret

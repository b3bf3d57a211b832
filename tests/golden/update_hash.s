# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
sub $0xA8, %rsp
mov %r11, 0x30(%rsp)
mov %r10, 0x38(%rsp)
mov %r9, 0x40(%rsp)
mov %r8, 0x48(%rsp)
mov %rax, 0x50(%rsp)
mov %rcx, 0x58(%rsp)
mov %rdx, 0x60(%rsp)
mov %rsi, 0x68(%rsp)
mov %rdi, 0x70(%rsp)
mov %rsp, %rdi
lea 0x0000000000500088, %rsi
call 0x0000000000510000
mov 0x30(%rsp), %r11
mov 0x38(%rsp), %r10
mov 0x40(%rsp), %r9
mov 0x48(%rsp), %r8
mov 0x50(%rsp), %rax
mov 0x58(%rsp), %rcx
mov 0x60(%rsp), %rdx
mov 0x68(%rsp), %rsi
mov 0x70(%rsp), %rdi
add $0xA8, %rsp
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
# the program
sub $0x18, %rsp
mov 0x70(%rdi), %rax
mov %rax, (%rsp)
and $0x3FF, %eax
lea 0x0C(%rsp), %rsi
mov %eax, 0x0C(%rsp)
lea 0x0000000000511820, %rdi
mov %rsp, %rdx
xor %ecx, %ecx
call 0x0000000000510040
xor %eax, %eax
add $0x18, %rsp
ret

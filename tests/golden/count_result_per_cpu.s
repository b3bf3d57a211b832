# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
mov %r11, -0x10(%rsp)
lea 0x0000000000500070, %r11
jmp *0x0000000000500080
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
nop
nop
sub $0xA8, %rsp
mov %rax, 0x50(%rsp)
mov %rcx, 0x58(%rsp)
mov %rdx, 0x60(%rsp)
mov %rsi, 0x68(%rsp)
mov %rdi, 0x70(%rsp)
mov %rsp, %rdi
lea 0x0000000000500088, %rsi
call 0x0000000000510000
mov 0x50(%rsp), %rax
mov 0x58(%rsp), %rcx
mov 0x60(%rsp), %rdx
mov 0x68(%rsp), %rsi
mov 0x70(%rsp), %rdi
add $0xA8, %rsp
ret
# the program
mov $0x200000000020, %rax
mov 0x50(%rdi), %rcx
mov (%rax), %rdx
test %rdx, %rdx
jz 0x0000000000510025
add $0x04, %rdx
mov %fs:(%rdx), %edx
cmp $0x2000, %edx
jb 0x0000000000510035
mov $0x7B, %esi
xor %edx, %edx
lsl %esi, %edx
and $0xFFF, %edx
mov %edx, %esi
shl $0x07, %esi
xor %edi, %edi
cmp $0x04, %edx
cmovnb %edi, %esi
add %rsi, %rax
and $0x0F, %ecx
inc 0xFFFE0(%rax,%rcx,8)
xor %eax, %eax
ret

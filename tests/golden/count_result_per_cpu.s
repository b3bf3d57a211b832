# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
mov %r11, -0x10(%rsp)
lea 0x0000000000500040, %r11
jmp *0x0000000000500120
mov -0x10(%rsp), %r11
mov -0x18(%rsp), %r10
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
# its exit handler
sub $0xA8, %rsp
mov %rax, 0x50(%rsp)
mov %rcx, 0x58(%rsp)
mov %rdx, 0x60(%rsp)
mov %rsi, 0x68(%rsp)
mov %rdi, 0x70(%rsp)
mov %rsp, %rdi
lea 0x0000000000500128, %rsi
mov 0x50(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x000000000050008D
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x000000000050009D
mov $0x7B, %edx
xor %ecx, %ecx
lsl %edx, %ecx
and $0xFFF, %ecx
mov %ecx, %edx
shl $0x07, %edx
xor %esi, %esi
cmp $0x04, %ecx
cmovnb %esi, %edx
and $0x0F, %eax
lea (%rdx,%rax,8), %eax
mov $0x200000100000, %rcx
inc (%rax,%rcx,1)
xor %eax, %eax
mov %fs:0x0000000000000000, %rax
mov 0x20(%rbx), %rcx
cmp 0x28(%rbx), %rax
jnz 0x00000000005000E9
mov %fs:(%rcx), %rax
cmp 0x38(%rbx), %rax
jnz 0x0000000000500119
mov %rbx, %fs:(%rcx)
mov %rbx, %rcx
mov 0x08(%rbx), %rbx
movq $0x01, 0x30(%rcx)
mov 0x50(%rsp), %rax
mov 0x58(%rsp), %rcx
mov 0x60(%rsp), %rdx
mov 0x68(%rsp), %rsi
mov 0x70(%rsp), %rdi
add $0xA8, %rsp
ret
# the program, which stands in the trampoline
mov 0x50(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x0000000000510023
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x0000000000510033
mov $0x7B, %edx
xor %ecx, %ecx
lsl %edx, %ecx
and $0xFFF, %ecx
mov %ecx, %edx
shl $0x07, %edx
xor %esi, %esi
cmp $0x04, %ecx
cmovnb %esi, %edx
and $0x0F, %eax
lea (%rdx,%rax,8), %eax
mov $0x200000100000, %rcx
inc (%rax,%rcx,1)
xor %eax, %eax
ret

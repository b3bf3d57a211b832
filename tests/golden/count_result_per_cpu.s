# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
mov %r11, -0x10(%rsp)
mov %r10, -0x18(%rsp)
mov %fs:0xFFFFFFFFFFFFFFD0, %r10
test %r10, %r10
jz 0x00000000005001BE
btrq $0x00, 0x30(%r10)
jnb 0x000000000050018E
mov %rbx, 0x08(%r10)
addq $0x04, %fs:0xFFFFFFFFFFFFFFC8
mov %fs:0xFFFFFFFFFFFFFFC8, %rbx
or $0x02, %rbx
mov %rsp, 0x10(%r10)
pop (%r10)
mov $0x600004, %r11
mov %r11, -0x08(%rsp)
mov %rbx, 0x30(%r10)
lea 0x00000000005000A0, %r11
mov %r11, 0x18(%r10)
mov %r10, %rbx
jmp 0x0000000000600000
mov -0x10(%rsp), %r11
mov -0x18(%rsp), %r10
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
# its exit handler
sub $0xB0, %rsp
mov %rax, 0x50(%rsp)
mov %rcx, 0x58(%rsp)
mov %rdx, 0x60(%rsp)
mov %rsi, 0x68(%rsp)
mov %rdi, 0x70(%rsp)
cmpq $0x00, 0x20(%rbx)
jnz 0x0000000000500166
mov (%rbx), %rcx
mov 0x08(%rbx), %rax
movq $0x01, 0x30(%rbx)
mov %rcx, 0xA8(%rsp)
mov %rax, %rbx
mov %rsp, %rdi
lea 0x00000000005001D8, %rsi
mov 0x50(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x0000000000500112
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x0000000000500122
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

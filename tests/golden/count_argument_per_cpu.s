# the site
jmp 0x0000000000500000
int3
int3
# the trampoline
sub $0xA8, %rsp
mov %rax, 0x50(%rsp)
mov %rcx, 0x58(%rsp)
mov %rdx, 0x60(%rsp)
mov %rsi, 0x68(%rsp)
mov %rdi, 0x70(%rsp)
mov %rsp, %rdi
lea 0x00000000005000B0, %rsi
mov 0x70(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x000000000050004D
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x000000000050005D
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
push %rbp
mov %rsp, %rbp
movsxb (%rsi), %eax
jmp 0x0000000000401007
# the program, which stands in the trampoline
mov 0x70(%rdi), %rax
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

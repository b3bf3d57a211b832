# the site
jmp 0x0000000000500000
# the trampoline
mov $0x101, %eax
mov %rsp, %rcx
lea -0x130(%rsp), %rsp
and $-0x10, %rsp
mov %rcx, 0xA8(%rsp)
mov %rdi, 0x10(%rsp)
mov %rsi, 0x18(%rsp)
mov %rdx, 0x20(%rsp)
mov %rsp, %rdi
lea 0x0000000000500060, %rsi
call 0x0000000000510000
mov 0x10(%rsp), %rdi
mov 0x18(%rsp), %rsi
mov 0x20(%rsp), %rdx
mov $0x101, %eax
mov 0xA8(%rsp), %rsp
jmp 0x0000000000401005
# the program
mov 0x10(%rdi), %rax
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

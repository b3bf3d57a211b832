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
push %rbx
mov $0x200000131040, %rbx
mov (%rbx), %r9
mov 0x08(%rbx), %r8
mov 0x10(%rbx), %rcx
mov 0x18(%rbx), %rsi
mov 0x20(%rbx), %rdi
rdtsc
mov (%rbx), %r10
xor %r9, %r10
and $0x01, %r9d
or %r9, %r10
jnz 0x0000000000510099
shl $0x20, %rdx
mov %eax, %eax
sub %r8, %rax
add %rdx, %rax
cmp %rdi, %rax
jnb 0x0000000000510099
imul %rsi, %rax
shr $0x20, %rax
add %rcx, %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x000000000051006A
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x000000000051007A
mov $0x7B, %edx
xor %ecx, %ecx
lsl %edx, %ecx
and $0xFFF, %ecx
mov %ecx, %edx
shl $0x07, %edx
xor %esi, %esi
cmp $0x04, %ecx
cmovnb %esi, %edx
add %rdx, %rbx
and $0x0F, %eax
inc -0x31040(%rbx,%rax,8)
xor %eax, %eax
pop %rbx
ret
mov $0x01, %edi
call 0x00000000005100B0
jmp 0x000000000051004B

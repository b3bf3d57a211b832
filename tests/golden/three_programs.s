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
lea 0x0000000000500148, %rsi
mov 0x70(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x0000000000500061
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x0000000000500071
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
mov %rsp, %rdi
lea 0x0000000000500168, %rsi
call 0x0000000000520000
mov %rsp, %rdi
lea 0x0000000000500188, %rsi
mov 0x70(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x00000000005000D0
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x00000000005000E0
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
# the program
push %rbp
push %r15
push %r14
push %r12
push %rbx
sub $0x10, %rsp
mov $0x200000100040, %rcx
mov 0x70(%rdi), %rdx
mov %rdx, (%rsp)
and $0x3FF, %edx
lea 0x0C(%rsp), %rsi
mov %edx, 0x0C(%rsp)
mov $-0x5F89E29B87429BD5, %rax
xor %rdx, %rax
mov $-0x18FC812E5F4BD725, %rdx
mul %rdx
xor %rax, %rdx
mov %rdx, %rax
shr $0x20, %rax
xor %edx, %eax
mov %eax, %edi
and $0xFFF, %edi
lea (%rcx,%rdi,8), %rdx
mov (%rcx,%rdi,8), %r11
or $-0x80000000, %edi
mov $-0x12100, %r8d
xor %r9d, %r9d
mov %rdx, %r14
mov %r11, %rbx
jmp 0x00000000005200A1
nop %ax, (%rax,%rax,1)
mov (%r14), %r10
cmp %r11, %r10
jz 0x000000000052019C
mov (%rdx), %rbx
mov %rbx, %r11
mov %rdx, %r10
mov %r10, %r14
inc %r8d
jz 0x000000000052019C
lea -0x01(%rbx), %r10d
cmp $0x840, %r10d
jnb 0x0000000000520100
mov %r10d, %r15d
shl $0x06, %r15
lea (%rcx,%r15,1), %r10
add $0x8140, %r10
mov 0x8140(%rcx,%r15,1), %rbx
mov 0x8148(%rcx,%r15,1), %ebp
cmp %eax, %ebp
jnz 0x0000000000520120
mov 0x20(%r10), %r15
mov 0x0C(%rsp), %r12d
cmp %r12, %r15
mov $0x00, %ebp
sbb %ebp, %ebp
or $0x01, %ebp
cmp %r12, %r15
cmovz %r9d, %ebp
jmp 0x000000000052012A
nop %ax, (%rax,%rax,1)
cmp %ebx, %edi
jz 0x0000000000520080
test %ebx, %ebx
jnz 0x000000000052008C
cmp %r14, %rdx
jz 0x0000000000520080
jmp 0x000000000052008C
nop %ax, (%rax,%rax,1)
mov $0x00, %ebp
sbb %ebp, %ebp
or $0x01, %ebp
mov (%r14), %r15
cmp %r11, %r15
jnz 0x000000000052008C
test %rbx, %rbx
js 0x000000000052014A
test %ebp, %ebp
jz 0x0000000000520152
mov %rbx, %r11
jle 0x0000000000520095
jmp 0x000000000052019C
mov %r14, %r10
jmp 0x0000000000520095
mov 0x10(%r10), %rbx
mov 0x18(%r10), %rdx
cmp $-0x01, %ebx
jnz 0x000000000052019C
mov 0x20(%r10), %rax
mov 0x0C(%rsp), %ecx
cmp %rcx, %rax
jnz 0x000000000052019C
mov $0x3F, %edi
mov (%rsp), %rcx
nop %ax, (%rax,%rax,1)
mov %rbx, %rax
lock cmpxchg16b 0x10(%r10)
jz 0x00000000005201AD
sub $0x01, %edi
setb %r8b
cmp %rbx, %rax
jnz 0x000000000052019C
test %r8b, %r8b
jz 0x0000000000520180
lea 0x0000000000522650, %rdi
mov %rsp, %rdx
xor %ecx, %ecx
call 0x00000000005201C0
xor %eax, %eax
add $0x10, %rsp
pop %rbx
pop %r12
pop %r14
pop %r15
pop %rbp
ret
# the program, which stands in the trampoline
mov 0x70(%rdi), %rax
mov $0x200000000000, %rcx
mov 0x20(%rcx), %rcx
test %rcx, %rcx
jz 0x0000000000530023
mov %fs:0x04(%rcx), %ecx
cmp $0x2000, %ecx
jb 0x0000000000530033
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

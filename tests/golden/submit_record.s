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
push %r15
push %r14
push %rbx
mov $0x200000101000, %r14
mov 0x70(%rdi), %r15
cmpl $0x00, 0x30004(%r14)
jnz 0x00000000005100CC
mov 0x30000(%r14), %eax
test %rax, %rax
jz 0x00000000005100CC
mov 0x40(%r14), %rsi
mov 0x48(%r14), %rdx
mov %rsi, %rcx
and $-0x08, %rcx
lea 0x10(%rcx), %rbx
mov 0x50(%r14), %rdi
mov %rbx, %r8
sub %rdi, %r8
cmp $0x3FFFFF, %r8
jnbe 0x00000000005100CC
mov (%r14), %rdi
cmp %rcx, %rdi
jnz 0x00000000005100CC
mov %edx, %edi
and $0x7FFF, %edi
inc %edi
and $0x3FFFFF, %eax
shl $0x0F, %rax
mov %edi, %r8d
and $0x7FFF, %r8d
or %rax, %r8
mov $0x4000000000, %rcx
or %r8, %rcx
mov $0x200000101040, %r8
mov %rsi, %rax
lock cmpxchg16b (%r8)
jnz 0x00000000005100CC
and $0x3FFFF8, %esi
and $0xFFF, %edi
shl $0x20, %rdi
mov $-0x7FFFFFF8, %eax
or %rdi, %rax
mov %rax, 0x1000(%r14,%rsi,1)
lea (%r14,%rsi,1), %rax
add $0x1008, %rax
jmp 0x00000000005100DF
lea 0x0000000000510A40, %rdi
mov $0x08, %esi
xor %edx, %edx
call 0x0000000000510190
test %rax, %rax
jz 0x0000000000510171
mov $-0x200000913000, %rdx
mov %r15, (%rax)
lea (%rax,%rdx,1), %rcx
cmp $-0x813000, %rcx
jb 0x0000000000510171
mov -0x08(%rax), %r8
mov %r8d, %ecx
and $0x3FFFFFFF, %ecx
mov %rcx, -0x08(%rax)
lea (%rdx,%rax,1), %rsi
add $0x810FF8, %rsi
mov (%r14), %rdx
mov %edx, %eax
and $0x3FFFFF, %eax
cmp %rsi, %rax
jnz 0x0000000000510179
add $0x0F, %ecx
and $-0x08, %ecx
add %rdx, %rcx
mov %rdx, %rax
lock cmpxchg %rcx, (%r14)
jnz 0x0000000000510179
mov 0x80(%r14), %rax
mov 0x40(%r14), %rsi
cmp %rcx, %rsi
jnz 0x000000000051015F
mov $-0x7FFFFFFFFFFFFFFF, %rsi
and %rsi, %rax
jz 0x0000000000510171
shr $0x20, %r8
lea 0x0000000000510A40, %rdi
xor %esi, %esi
call 0x0000000000510510
xor %eax, %eax
pop %rbx
pop %r14
pop %r15
ret
sub %edx, %esi
and $0x3FFFFF, %esi
add %rsi, %rdx
mov %rdx, %rcx
jmp 0x000000000051015F

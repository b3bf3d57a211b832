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
lea 0x0000000000500060, %rsi
call 0x0000000000510000
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
mov $0x200000000040, %rax
mov 0x68(%rdi), %rdx
mov $0x7FFFFFFFEFFF, %rcx
cmp %rcx, %rdx
jnbe 0x0000000000510088
cmpq $0x00, (%rax)
jz 0x0000000000510088
xor %ecx, %ecx
mov $-0x0E, %rsi
nop %eax, 0x66706205(%rax)
mov (%rdx), %rcx
xor %esi, %esi
shl $0x03, %ecx
and $0x78, %ecx
mov $0x200000000000, %rdx
mov 0x20(%rdx), %rdx
test %rdx, %rdx
jz 0x000000000051005D
mov %fs:0x04(%rdx), %edx
cmp $0x2000, %edx
jb 0x000000000051006D
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
inc 0xFFFC0(%rcx,%rax,1)
xor %eax, %eax
ret
xor %ecx, %ecx
jmp 0x000000000051003E

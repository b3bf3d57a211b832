# The bitcode file's path comes from CMake.
        .section .rodata
        .balign 16
        .global bpftime_runtime_bitcode_begin
bpftime_runtime_bitcode_begin:
        .incbin BPFTIME_RUNTIME_BITCODE
        .global bpftime_runtime_bitcode_end
bpftime_runtime_bitcode_end:
        .section .note.GNU-stack, "", @progbits

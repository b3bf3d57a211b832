# The files' paths come from CMake.
        .section .rodata
        .global bpftime_inlined_begin, bpftime_inlined_end, bpftime_called_begin, bpftime_called_end
        .balign 16
bpftime_inlined_begin:
        .incbin BPFTIME_INLINED
bpftime_inlined_end:
        .balign 16
bpftime_called_begin:
        .incbin BPFTIME_CALLED
bpftime_called_end:
        .section .note.GNU-stack, "", @progbits

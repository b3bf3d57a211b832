# docs/verifier-rules.md; its path comes from CMake.
        .section .rodata
        .global bpftime_verifier_rules_begin, bpftime_verifier_rules_end
bpftime_verifier_rules_begin:
        .incbin BPFTIME_VERIFIER_RULES
bpftime_verifier_rules_end:
        .section .note.GNU-stack, "", @progbits

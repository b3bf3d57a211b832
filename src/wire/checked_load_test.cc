// The loads a fault of which reads zero: what the assembler makes of every form, and that nothing else is taken for one.
#include "wire/checked_load.h"

#include <gtest/gtest.h>

#include <cstring>

namespace bpftime::wire {
namespace {

struct Form {
  const uint8_t *begin, *end;
  uint64_t target;
};
extern "C" const Form kForms[], kFormsEnd[];

// Each register as target and as base, each displacement, each size; with an index, without a base, relative to rip.
asm(R"(
    .pushsection .data.rel.ro
    .balign 8
kForms:
    .macro form target, text:vararg
      .pushsection .rodata
771:  .byte 0x2e, 0x3e
      \text
772:  .byte 0xff, 0xff, 0xff, 0xff
      .popsection
      .quad 771b, 772b, \target
    .endm
    .macro forms target, register, narrow
      .irp base, %rax, %rcx, %rdx, %rbx, %rsp, %rbp, %rsi, %rdi, %r8, %r9, %r10, %r11, %r12, %r13, %r14, %r15
        .irp distance, 0, 1, -0x80, 0x80, 0x12345678
          form \target, movzbl \distance(\base), \narrow
          form \target, movzwl \distance(\base), \narrow
          form \target, movl \distance(\base), \narrow
          form \target, movq \distance(\base), \register
          form \target, movzbl \distance(\base, %r12, 4), \narrow
          form \target, movq \distance(\base, %rcx), \register
        .endr
      .endr
      form \target, movzbl 0x7000(, %rbx, 8), \narrow
      form \target, movq 0x7000, \register
      form \target, movl 0x7000(%rip), \narrow
    .endm
    forms 0, %rax, %eax
    forms 1, %rcx, %ecx
    forms 2, %rdx, %edx
    forms 3, %rbx, %ebx
    forms 5, %rbp, %ebp
    forms 6, %rsi, %esi
    forms 7, %rdi, %edi
    forms 8, %r8, %r8d
    forms 9, %r9, %r9d
    forms 10, %r10, %r10d
    forms 11, %r11, %r11d
    forms 12, %r12, %r12d
    forms 13, %r13, %r13d
    forms 14, %r14, %r14d
    forms 15, %r15, %r15d
kFormsEnd:
    .popsection
)");

TEST(ZeroLoad, IsKnownInEveryForm) {
  size_t forms = 0;
  for (const Form* form = kForms; form != kFormsEnd; ++form, ++forms) {
    const ZeroLoad load = zero_load_at(form->begin);
    ASSERT_EQ(load.bytes, form->end - form->begin) << "form " << forms;
    ASSERT_EQ(load.target, form->target) << "form " << forms;
  }
  EXPECT_EQ(forms, 15u * (16 * 5 * 6 + 3));
}

TEST(ZeroLoad, IsNothingElse) {
  const uint8_t none[][12] = {
      {0x8b, 0x07},                    // mov (%rdi), %eax, no prefix
      {0x3e, 0x2e, 0x8b, 0x07},        // the other order
      {0x2e, 0x8b, 0x07},              // one of them
      {0x2e, 0x3e, 0x8b, 0xc7},        // of a register
      {0x2e, 0x3e, 0x89, 0x07},        // a store
      {0x2e, 0x3e, 0x0f, 0xbe, 0x07},  // movsbl
      {0x2e, 0x3e, 0x0f, 0x1f, 0x07},  // nopl
      {0x2e, 0x3e, 0x66, 0x8b, 0x07},  // of 2 bytes, which would leave the rest of the register
  };
  for (const auto& bytes : none)
    EXPECT_EQ(zero_load_at(bytes).bytes, 0) << int{bytes[0]} << ' ' << int{bytes[2]};
}

TEST(CheckedLoad, IsRepairedInTheSignalsRegisters) {
  // nop; movzbl 8(%r9), %r12d
  const uint8_t code[] = {0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x2e, 0x3e, 0x45, 0x0f, 0xb6, 0x61, 0x08};
  uint64_t registers[17], expected[17];
  std::memset(registers, 0x5a, sizeof registers);
  const auto start = reinterpret_cast<uint64_t>(code + 7);
  registers[kSignalRip] = start;
  std::memcpy(expected, registers, sizeof registers);
  expected[4] = 0;  // r12
  expected[kSignalRip] = start + 7;
  EXPECT_TRUE(repair_checked_load(registers));
  EXPECT_EQ(std::memcmp(registers, expected, sizeof registers), 0);
  registers[kSignalRip] = start + 2;  // behind the prefixes: a plain load
  EXPECT_FALSE(repair_checked_load(registers));
  EXPECT_EQ(registers[kSignalRip], start + 2);
}

}  // namespace
}  // namespace bpftime::wire

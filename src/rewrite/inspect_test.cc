#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {
namespace {

using ::testing::HasSubstr;

std::string offence(const std::vector<uint8_t>& code) {
  auto result = check_general_registers_only(code);
  return result.ok() ? "" : result.error().message;
}

TEST(Disassemble, ShowsUndecodableBytes) {
  EXPECT_EQ(disassemble(std::vector<uint8_t>{0x55, 0x06, 0xc3}, 0), "push %rbp\n.byte 0x6\nret\n");
}

TEST(CheckGeneralRegistersOnly, AllowsWhatProgramsUse) {
  EXPECT_EQ(offence({0x55, 0x48, 0x89, 0xe5, 0xc3}), "");              // push; mov; ret
  EXPECT_EQ(offence({0xf0, 0x48, 0x0f, 0xc1, 0x07}), "");              // lock xadd %rax,(%rdi)
  EXPECT_EQ(offence({0x0f, 0x31, 0x0f, 0xae, 0xe8}), "");              // rdtsc; lfence
  EXPECT_EQ(offence({0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}), "");  // mov %fs:0,%rax
  EXPECT_EQ(offence({0xc4, 0xe2, 0xf0, 0xf7, 0xc0}), "");  // a BMI shift: VEX, but general registers
  EXPECT_EQ(offence({0x0f, 0x05, 0xf3, 0x90}), "");        // syscall; pause
}

TEST(CheckGeneralRegistersOnly, NamesTheFirstOffender) {
  EXPECT_THAT(offence({0x90, 0x0f, 0x28, 0xc1}), HasSubstr("movaps at +0x1 uses xmm"));
  EXPECT_THAT(offence({0xc5, 0xfc, 0x28, 0xc1}), HasSubstr("uses ymm"));
  EXPECT_THAT(offence({0xd9, 0xe8}), HasSubstr("uses st0"));             // fld1
  EXPECT_THAT(offence({0xf3, 0xa4}), HasSubstr("string instruction"));   // rep movsb
  EXPECT_THAT(offence({0x48, 0xab}), HasSubstr("string instruction"));   // stosq
  EXPECT_THAT(offence({0xc5, 0xf8, 0x77}), HasSubstr("AVX"));            // vzeroupper
  EXPECT_THAT(offence({0x0f, 0x77}), HasSubstr("MMX"));                  // emms
  EXPECT_THAT(offence({0x0f, 0xae, 0x10}), HasSubstr("mxcsr"));          // ldmxcsr
  EXPECT_THAT(offence({0xc5, 0xf8, 0x92, 0xc8}), HasSubstr("uses k1"));  // kmovw
  EXPECT_THAT(offence({0x06}), HasSubstr("unknown instruction at +0x0"));
}

CodeUse use_of(const std::vector<uint8_t>& code) { return code_use(code, 0); }
constexpr RegisterSet kRax = 1, kRcx = 2, kRdx = 4, kRsi = 64, kRdi = 128, kR11 = 2048;

TEST(CodeUse, NamesWhatIsWrittenAndWhatIsRead) {
  CodeUse use = use_of({0x8b, 0x47, 0x70, 0x31, 0xc9, 0xc3});  // mov 0x70(%rdi),%eax; xor %ecx,%ecx; ret
  EXPECT_EQ(use.clobbered, kRax | kRcx);
  EXPECT_EQ(use.read & (kRdi | kRsi | kRcx), kRdi);
  EXPECT_FALSE(use.inert);
  use = use_of(
      {0x53, 0xb3, 0x01, 0x5b, 0x88, 0xf2, 0xc3});  // push %rbx; mov $1,%bl; pop %rbx; mov %dh,%dl; ret
  EXPECT_EQ(use.clobbered, kRdx) << "callee-saved registers are the program's to keep";
  use = use_of({0xf0, 0x48, 0x0f, 0xb1, 0x0f, 0xc3});  // lock cmpxchg %rcx,(%rdi)
  EXPECT_EQ(use.clobbered, kRax);
  use = use_of({0x0f, 0x31, 0xc3});  // rdtsc
  EXPECT_EQ(use.clobbered, kRax | kRdx);
  use = use_of({0x0f, 0x05, 0xc3});  // syscall
  EXPECT_EQ(use.clobbered, kRax | kRcx | kR11);
  use = use_of({0x48, 0xf7, 0xe1, 0xc3});  // mul %rcx
  EXPECT_EQ(use.clobbered, kRax | kRdx);
}

TEST(CodeUse, TakesTheWorstForWhatItCannotFollow) {
  for (const std::vector<uint8_t>& code : {std::vector<uint8_t>{0xff, 0xd0, 0xc3},  // call *%rax
                                           {0xff, 0xe0},                            // jmp *%rax
                                           {0xff, 0x10, 0xc3},                      // call *(%rax)
                                           {0xe8, 0, 1, 0, 0, 0xc3},                // call out of the code
                                           {0xe9, 0xf0, 0xff, 0xff, 0xff},          // jmp in front of it
                                           {0x06, 0xc3},                            // no instruction
                                           {}}) {
    const CodeUse use = use_of(code);
    EXPECT_EQ(use.clobbered, kCallerSavedRegisters);
    EXPECT_EQ(use.read, 0xffff);
    EXPECT_FALSE(use.inert);
  }
  EXPECT_EQ(use_of({0xe8, 0, 0, 0, 0, 0xc3}).clobbered, 0) << "a call within the code is no riddle";
}

size_t inlined_bytes(const std::vector<uint8_t>& code) { return inlinable_code(code, 0).size(); }

TEST(InlinableCode, IsWhatCanStandAnywhereElse) {
  EXPECT_EQ(inlined_bytes({0x48, 0x8b, 0x07, 0xc3}), 3u);  // mov (%rdi),%rax; ret
  EXPECT_EQ(inlined_bytes({0x74, 0x03, 0x48, 0xff, 0x07, 0xc3}), 5u) << "je to the return: behind the copy";
  EXPECT_EQ(inlined_bytes({0xff, 0xcf, 0x75, 0xfc, 0xc3}), 4u) << "a loop";
  EXPECT_EQ(inlinable_code(std::vector<uint8_t>{0xcc, 0x31, 0xc0, 0xc3}, 1).size(), 2u) << "from the entry";
  std::vector<uint8_t> longest(kInlinedMax, 0x90);
  longest.push_back(0xc3);
  EXPECT_EQ(inlined_bytes(longest), kInlinedMax);
  longest.insert(longest.begin(), 0x90);
  EXPECT_EQ(inlined_bytes(longest), 0u) << "too long";
  for (const std::vector<uint8_t>& code : {std::vector<uint8_t>{0x74, 0x01, 0xc3, 0x90, 0xc3},  // two returns
                                           {0xe8, 0, 0, 0, 0, 0xc3},                            // call
                                           {0xff, 0xe0},                                        // jmp *%rax
                                           {0xeb, 0x10, 0xc3},                    // jmp behind it
                                           {0xeb, 0xf0, 0xc3},                    // jmp in front of it
                                           {0x48, 0xff, 0x05, 0, 0, 0, 0, 0xc3},  // incq 0(%rip)
                                           {0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3},  // lea 0(%rip),%rax
                                           {0x0f, 0x05, 0xc3},                    // syscall
                                           {0x31, 0xc0},                          // no return
                                           {0x06, 0xc3},                          // no instruction
                                           {}})
    EXPECT_EQ(inlined_bytes(code), 0u) << (code.empty() ? 0 : code[0]);
}

TEST(CodeUse, InertMeansReturningAtOnce) {
  EXPECT_TRUE(use_of({0x31, 0xc0, 0xc3}).inert);         // xor %eax,%eax; ret
  EXPECT_TRUE(use_of({0xb8, 1, 0, 0, 0, 0xc3}).inert);   // mov $1,%eax; ret
  EXPECT_FALSE(use_of({0x48, 0x8b, 0x07, 0xc3}).inert);  // mov (%rdi),%rax
  EXPECT_FALSE(use_of({0x48, 0x89, 0x07, 0xc3}).inert);  // mov %rax,(%rdi)
  EXPECT_FALSE(use_of({0x0f, 0x0b}).inert);              // ud2
  EXPECT_FALSE(use_of({0x31, 0xc0, 0xeb, 0xfc}).inert);  // runs for ever
  EXPECT_FALSE(use_of({0x31, 0xc0}).inert);              // does not return
  EXPECT_TRUE(code_use(std::vector<uint8_t>{0xcc, 0x31, 0xc0, 0xc3}, 1).inert) << "counted from the entry";
}

}  // namespace
}  // namespace bpftime::rewrite

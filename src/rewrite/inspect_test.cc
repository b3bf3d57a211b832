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

}  // namespace
}  // namespace bpftime::rewrite

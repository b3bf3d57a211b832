// What is planned and what is refused, byte for byte.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kSite = 0x401000;
constexpr uint64_t kTrampoline = 0x500000;

SiteRequest request_for(const std::vector<uint8_t>& code, uint64_t function_size = 0) {
  SiteRequest request;
  request.address = kSite;
  request.code = code;
  request.function_size = function_size;
  request.trampoline_address = kTrampoline;
  return request;
}

std::string refusal(const std::vector<uint8_t>& code, uint64_t function_size = 0) {
  auto plan = plan_probe(request_for(code, function_size));
  if (plan.ok()) return "planned";
  EXPECT_EQ(plan.error().code, EOPNOTSUPP);
  return plan.error().message;
}

std::string text(const SitePlan& plan, size_t size = SIZE_MAX) {
  return disassemble(Bytes(plan.trampoline).first(std::min(size, plan.trampoline.size())), kTrampoline);
}

TEST(PlanProbe, WithoutProgramsOnlyMovesTheCode) {
  const std::vector<uint8_t> code = {0x0f, 0xbe, 0x06,  // movsbl (%rsi),%eax
                                     0x01, 0xf8,        // add %edi,%eax
                                     0xc3};             // ret
  auto plan = plan_probe(request_for(code));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_THAT(plan->original, ElementsAre(0x0f, 0xbe, 0x06, 0x01, 0xf8));
  EXPECT_THAT(plan->patched, ElementsAre(0xe9, 0xfb, 0xef, 0x0f, 0x00));
  EXPECT_EQ(text(*plan, 10), "movsxb (%rsi), %eax\nadd %edi, %eax\njmp 0x0000000000401005\n");
  ASSERT_EQ(plan->fixups.size(), 1u);
  EXPECT_EQ(plan->fixups[0].site_offset, 3u);
  EXPECT_EQ(plan->fixups[0].trampoline_offset, 3u);
}

TEST(PlanProbe, GoldenEntryTrampoline) {
  const std::vector<uint8_t> code = {0x55, 0x48, 0x89,
                                     0xe5, 0x53, 0xc3};  // push %rbp; mov %rsp,%rbp; push %rbx; ret
  SiteRequest request = request_for(code);
  request.identity_address = 0x100000001000;
  request.on_entry = {{0x600000, {7, kSite, 3, 0, 0}, 1234}};
  auto plan = plan_probe(request);
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  const std::string golden =
      "sub $0xA8, %rsp\n"
      "mov %r15, (%rsp)\n"
      "mov %r14, 0x08(%rsp)\n"
      "mov %r13, 0x10(%rsp)\n"
      "mov %r12, 0x18(%rsp)\n"
      "mov %rbp, 0x20(%rsp)\n"
      "mov %r11, 0x30(%rsp)\n"
      "mov %r10, 0x38(%rsp)\n"
      "mov %r9, 0x40(%rsp)\n"
      "mov %r8, 0x48(%rsp)\n"
      "mov %rax, 0x50(%rsp)\n"
      "mov %rcx, 0x58(%rsp)\n"
      "mov %rdx, 0x60(%rsp)\n"
      "mov %rsi, 0x68(%rsp)\n"
      "mov %rdi, 0x70(%rsp)\n"
      "movq $-0x01, 0x78(%rsp)\n"
      "movq $0x33, 0x88(%rsp)\n"
      "movq $0x202, 0x90(%rsp)\n"
      "movq $0x2B, 0xA0(%rsp)\n"
      "mov %rbx, 0x28(%rsp)\n"
      "mov $0x401000, %r11\n"
      "mov %r11, 0x80(%rsp)\n"
      "lea 0xA8(%rsp), %r11\n"
      "mov %r11, 0x98(%rsp)\n"
      "mov $0x100000001000, %r11\n"
      "cmpl $0x4D2, (%r11)\n"
      "jnz ";
  EXPECT_EQ(text(*plan).substr(0, golden.size()), golden) << text(*plan);
  EXPECT_THAT(text(*plan), HasSubstr("mov %rsp, %rdi\n"));
  EXPECT_THAT(text(*plan), HasSubstr("call 0x0000000000600000\n"));
  EXPECT_THAT(text(*plan), HasSubstr("add $0xA8, %rsp\npush %rbp\nmov %rsp, %rbp\npush %rbx\n"
                                     "jmp 0x0000000000401005\n"));
  EXPECT_EQ(plan->trampoline, plan_probe(request)->trampoline) << "same request, same bytes";
}

TEST(PlanProbe, RelocatesRipRelativeOperands) {
  const std::vector<uint8_t> code = {0x48, 0x8b, 0x05, 0x10,
                                     0x00, 0x00, 0x00, 0xc3};  // mov 0x10(%rip),%rax; ret
  auto plan = plan_probe(request_for(code));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(text(*plan, 7), "mov 0x0000000000401017, %rax\n");
}

TEST(PlanProbe, ExpandsShortBranches) {
  const std::vector<uint8_t> code = {0x85, 0xff,  // test %edi,%edi
                                     0x74, 0x10,  // je +0x14
                                     0xe3, 0x20,  // jrcxz +0x26
                                     0xc3};
  auto plan = plan_probe(request_for(code));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(text(*plan, 22),
            "test %edi, %edi\n"
            "jz 0x0000000000401014\n"
            "jrcxz 0x000000000050000C\n"
            "jmp 0x0000000000500011\n"
            "jmp 0x0000000000401026\n"
            "jmp 0x0000000000401006\n");
}

TEST(PlanProbe, CallPushesTheOriginalReturnAddress) {
  const std::vector<uint8_t> code = {0xe8, 0xfb, 0x00, 0x00, 0x00, 0xc3};  // call +0x100; ret
  auto plan = plan_probe(request_for(code));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(
      text(*plan, 25),
      "lea -0x08(%rsp), %rsp\nmovl $0x401005, (%rsp)\nmovl $0x00, 0x04(%rsp)\njmp 0x0000000000401100\n");
}

TEST(PlanProbe, UsesPaddingBehindShortFunctions) {
  // xor %eax,%eax; ret; then nopl
  EXPECT_EQ(refusal({0x31, 0xc0, 0xc3, 0x0f, 0x1f, 0x00}, 3), "planned");
  EXPECT_EQ(refusal({0x31, 0xc0, 0xc3, 0xcc, 0xcc, 0xcc}, 3), "planned");
  EXPECT_EQ(refusal({0xc3, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, 1), "planned");
  EXPECT_THAT(refusal({0x31, 0xc0, 0xc3, 0x31, 0xc0, 0xc3}, 3), HasSubstr("function is 3 bytes"));
  EXPECT_THAT(refusal({0x31, 0xc0, 0xc3}, 3), HasSubstr("function is 3 bytes"));
  EXPECT_THAT(refusal({0x31, 0xc0, 0xc3, 0x00, 0x00, 0x00}, 3), HasSubstr("a jump needs 5"));
  // The same without a known size: never past a ret.
  EXPECT_EQ(refusal({0x31, 0xc0, 0xc3, 0x0f, 0x1f, 0x00}), "planned");
  EXPECT_THAT(refusal({0x31, 0xc0, 0xc3, 0x31, 0xc0, 0xc3}), HasSubstr("function is 3 bytes"));
}

TEST(PlanProbe, DoesNotRunPastTheEndOfTheFunction) {
  auto plan = plan_probe(request_for({0x31, 0xc0, 0xc3, 0x0f, 0x1f, 0x00}, 3));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(text(*plan, 3), "xor %eax, %eax\nret\n");
  EXPECT_THAT(plan->patched, ::testing::SizeIs(6));
}

TEST(PlanProbe, RefusesJumpsIntoThePatch) {
  // inc %edi; dec %esi; jne 1…: a loop onto +2
  EXPECT_THAT(refusal({0xff, 0xc7, 0xff, 0xce, 0x31, 0xc0, 0x75, 0xfa, 0xc3}),
              HasSubstr("a jump at +0x6 leads into the first 6 bytes"));
  // the same onto +0 fires the probe again, as in the kernel
  EXPECT_EQ(refusal({0xff, 0xc7, 0xff, 0xce, 0x31, 0xc0, 0x75, 0xf8, 0xc3}), "planned");
}

TEST(PlanProbe, RefusesWhatCannotBeMoved) {
  EXPECT_THAT(refusal({0xff, 0xd0, 0x31, 0xc0, 0x31, 0xc9, 0xc3}),
              HasSubstr("a call at +0x0 returns inside"));
  EXPECT_THAT(refusal({0x31, 0xc0, 0xff, 0x54, 0x24, 0x08, 0xc3}), HasSubstr("rsp-relative call"));
  EXPECT_EQ(refusal({0x31, 0xc0, 0x90, 0xff, 0xd0, 0xc3}), "planned") << "an indirect call at the end";
  EXPECT_THAT(refusal({0xc7, 0xf8, 0, 0, 0, 0, 0xc3}), HasSubstr("cannot be moved")) << "xbegin";
  EXPECT_THAT(refusal({0x31, 0xc0, 0x06, 0x90, 0x90, 0x90}), HasSubstr("unknown instruction at +0x2"));
  EXPECT_THAT(refusal({0xcc, 0x90, 0x90, 0x90, 0x90, 0xc3}), HasSubstr("a breakpoint stands at +0x0"));
}

TEST(PlanProbe, RefusesWhatIsOutOfReach) {
  const std::vector<uint8_t> code = {0x0f, 0xbe, 0x06, 0x01, 0xf8, 0xc3};
  SiteRequest request = request_for(code);
  request.trampoline_address = 0x700000000000;
  EXPECT_THAT(plan_probe(request).error().message, HasSubstr("out of reach"));
  request = request_for(code);
  request.on_entry = {{0x700000000000, {}, 0}};
  EXPECT_THAT(plan_probe(request).error().message, HasSubstr("program out of reach"));
  request = request_for(code);
  request.on_return = {{0x600000, {}, 0}};
  EXPECT_THAT(plan_probe(request).error().message, HasSubstr("need the agent"));
}

TEST(PlanProbe, KeepsLandingPadAndPatchableNops) {
  EXPECT_EQ(refusal({0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3}), "planned") << "endbr64; push %rbp";
  auto plan = plan_probe(request_for({0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3}));  // nop5
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->fixups.empty());
}

TEST(PlanRedirect, LeadsToTheReplacementAndKeepsTheOriginal) {
  const std::vector<uint8_t> code = {0x8d, 0x47, 0xff, 0x83, 0xf8, 0x3f, 0xc3};
  auto plan = plan_redirect(request_for(code), 0x7f0000001234);
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(text(plan->site).substr(0, 4), "jmp ");
  const Bytes original = Bytes(plan->site.trampoline).subspan(plan->original_entry, 11);
  EXPECT_EQ(disassemble(original, kTrampoline + plan->original_entry),
            "lea -0x01(%rdi), %eax\ncmp $0x3F, %eax\njmp 0x0000000000401006\n");
}

}  // namespace
}  // namespace bpftime::rewrite

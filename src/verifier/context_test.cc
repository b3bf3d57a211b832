#include <linux/bpf.h>

#include <iostream>

#include "program/testing/kernel.h"
#include "verifier/kernel_opinion.h"
#include "verifier/testing/verdicts.h"

namespace bpftime::verifier {
namespace {

using program::Insn;
using testing::expect_verdict;
using testing::first_message;
using testing::request_of;
using testing::VerdictCase;

struct Type {
  uint32_t type;
  const char* name;
};
constexpr Type kTypes[] = {
    {BPF_PROG_TYPE_KPROBE, "kprobe"},
    {BPF_PROG_TYPE_TRACEPOINT, "tracepoint"},
    {BPF_PROG_TYPE_RAW_TRACEPOINT, "raw_tp"},
    {BPF_PROG_TYPE_PERF_EVENT, "perf_event"},
    {BPF_PROG_TYPE_SOCKET_FILTER, "socket"},
    {BPF_PROG_TYPE_SCHED_CLS, "sched_cls"},
    {BPF_PROG_TYPE_XDP, "xdp"},
};

uint8_t size_bits(uint32_t size) {
  return size == 1 ? BPF_B : size == 2 ? BPF_H : size == 4 ? BPF_W : BPF_DW;
}

enum class Form { kLoad, kStoreRegister, kStoreConstant };

Request access(uint32_t type, int16_t offset, uint32_t size, Form form) {
  Request request = request_of("mov %r0, 0\nexit", type);
  const uint8_t bits = size_bits(size);
  Insn insn{};
  if (form == Form::kLoad) insn = {static_cast<uint8_t>(BPF_LDX | BPF_MEM | bits), 0, 1, offset, 0};
  if (form == Form::kStoreRegister) insn = {static_cast<uint8_t>(BPF_STX | BPF_MEM | bits), 1, 0, offset, 0};
  if (form == Form::kStoreConstant) insn = {static_cast<uint8_t>(BPF_ST | BPF_MEM | bits), 1, 0, offset, 7};
  const Insn set{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0};
  request.program.insns.insert(request.program.insns.begin(), {set, insn});
  request.log_level = 0;
  return request;
}

// Every offset, size and direction of every type, ours against the kernel's.
TEST(Context, FieldsAreThoseOfTheKernel) {
  if (!kernel_verifier_usable())
    GTEST_SKIP() << "bpf(2) loads nothing here: not root, or the kernel has none";
  uint32_t accepted = 0, asked = 0;
  for (const Type& type : kTypes) {
    for (const uint32_t size : {1u, 2u, 4u, 8u}) {
      for (const Form form : {Form::kLoad, Form::kStoreRegister, Form::kStoreConstant}) {
        for (int16_t offset = -8; offset < 256; ++offset) {
          // Linux lets tracepoints read before their record (it compares the offset as unsigned with the start, as signed
          // with the end). That is no place to follow.
          if (type.type == BPF_PROG_TYPE_TRACEPOINT && offset < 0) continue;
          const Request request = access(type.type, offset, size, form);
          const Verdict ours = verify(request);
          const program::testing::KernelAnswer kernel = program::testing::kernel_load(request.program, false);
          ++asked;
          accepted += ours.error == 0;
          ASSERT_EQ(ours.error, kernel.error)
              << type.name << " offset " << offset << " size " << size << " form " << static_cast<int>(form)
              << ": " << first_message(ours);
        }
      }
    }
  }
  std::printf("%u accesses asked, %u accepted by both\n", asked, accepted);
}

TEST(Context, EndOfTheTracepointRecord) {
  EXPECT_EQ(verify(access(BPF_PROG_TYPE_TRACEPOINT, 8184, 8, Form::kLoad)).error, 0);
  EXPECT_EQ(verify(access(BPF_PROG_TYPE_TRACEPOINT, 8192, 8, Form::kLoad)).error, EACCES);
  EXPECT_EQ(verify(access(BPF_PROG_TYPE_TRACEPOINT, -8, 8, Form::kLoad)).error, EACCES);
  EXPECT_EQ(verify(access(BPF_PROG_TYPE_TRACEPOINT, 0, 8, Form::kLoad)).error, EACCES);
}

TEST(Context, PointerMustBeUnchanged) {
  const VerdictCase cases[] = {
      {"plain", "ldxdw %r0, [%r1+8]\nmov %r0, 0\nexit"},
      {"moved by a constant", "add %r1, 8\nldxdw %r0, [%r1]\nmov %r0, 0\nexit", EACCES,
       "dereference of modified ctx ptr R1 off=8 disallowed"},
      {"moved back", "add %r1, -8\nldxdw %r0, [%r1+8]\nmov %r0, 0\nexit", EACCES,
       "negative offset ctx ptr R1 off=-8 disallowed"},
      {"moved by a number", "ldxdw %r2, [%r1]\nand %r2, 8\nadd %r1, %r2\nldxdw %r0, [%r1]\nmov %r0, 0\nexit",
       EACCES, "variable ctx access var_off=(0x0; 0x8) disallowed"},
      {"there and back", "add %r1, 8\nadd %r1, -8\nldxdw %r0, [%r1]\nmov %r0, 0\nexit"},
      {"beyond", "ldxdw %r0, [%r1+168]\nmov %r0, 0\nexit", EACCES,
       "invalid bpf_context access off=168 size=8"},
      {"misaligned", "ldxdw %r0, [%r1+4]\nmov %r0, 0\nexit", EACCES,
       "invalid bpf_context access off=4 size=8"},
      {"written", "stdw [%r1+8], 0\nmov %r0, 0\nexit", EACCES, "invalid bpf_context access off=8 size=8"},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
}

TEST(Context, OneInstructionOneKindOfMemory) {
  const VerdictCase mixed = {
      "context or stack",
      "mov %r6, %r1\nldxdw %r0, [%r1]\nstdw [%r10-8], 0\njeq %r0, 0, here\nmov %r6, %r10\nadd %r6, -8\n"
      "here:\nldxdw %r0, [%r6]\nmov %r0, 0\nexit",
      EACCES, ""};
  // Which of the two Linux meets first decides between the modified context pointer and the mismatch; here it is the latter.
  Request request = request_of(mixed.assembly);
  const Verdict verdict = verify(request);
  EXPECT_EQ(verdict.error, EINVAL);
  EXPECT_NE(first_message(verdict).find("same insn cannot be used with different pointers"),
            std::string::npos);
  if (kernel_verifier_usable()) {
    EXPECT_EQ(ask_kernel(request)->error, EINVAL);
  }
}

TEST(Context, FactsNameTheSlotsRead) {
  const Verdict verdict =
      verify(request_of("ldxdw %r2, [%r1+16]\nldxw %r3, [%r1+4]\nldxb %r4, [%r1+47]\nmov %r0, 0\nexit"));
  EXPECT_EQ(verdict.error, 0);
  EXPECT_EQ(verdict.facts.context_slots_read, 1u << 2 | 1u << 0 | 1u << 5);
  EXPECT_FALSE(verdict.facts.context_escapes);
}

// ---- typed entries ----

Argument number(uint32_t bytes, bool is_signed) {
  Argument argument;
  argument.name = "n";
  argument.bytes = bytes;
  argument.is_signed = is_signed;
  return argument;
}

Verdict verify_typed(const char* assembly, std::vector<Argument> entry) {
  Constraints constraints;
  constraints.typed_entry = true;
  constraints.entry = std::move(entry);
  Request request = request_of(assembly);
  request.constraints = &constraints;
  request.options.zero_stack = false;
  request.options.allow_pointer_leaks = false;
  return verify(request);
}

Rule rule_of(const Verdict& verdict) {
  return verdict.diagnoses.empty() ? Rule::kCount : verdict.diagnoses.front().rule;
}

TEST(TypedEntry, NumbersComeWithTheRangeOfTheirType) {
  // Dead code that would be refused: only reached if the range were not known.
  const char* bounded =
      "ldxdw %r2, [%r1+8]\njgt %r2, 255, bad\nmov %r0, 0\nexit\nbad:\nldxdw %r0, [%r0]\nexit";
  EXPECT_EQ(verify_typed(bounded, {number(4, true), number(1, false)}).error, 0);
  EXPECT_NE(verify_typed(bounded, {number(4, true), number(2, false)}).error, 0);
  EXPECT_NE(verify_typed(bounded, {number(4, true), number(1, true)}).error, 0);
}

TEST(TypedEntry, SlotsAreReadWhole) {
  Argument object;
  object.kind = Argument::Kind::kObject;
  const auto rule = [&](const char* assembly) {
    return rule_of(verify_typed(assembly, {number(8, false), object}));
  };
  EXPECT_EQ(rule("ldxdw %r2, [%r1]\nmov %r0, 0\nexit"), Rule::kCount);
  EXPECT_EQ(rule("ldxw %r2, [%r1]\nmov %r0, 0\nexit"), Rule::kCount);  // (int)ctx[0]
  EXPECT_EQ(rule("ldxw %r2, [%r1+4]\nmov %r0, 0\nexit"), Rule::kEIM009);
  EXPECT_EQ(rule("ldxw %r2, [%r1+8]\nmov %r0, 0\nexit"), Rule::kEIM009);
  EXPECT_EQ(rule("ldxdw %r2, [%r1+4]\nmov %r0, 0\nexit"), Rule::kEIM009);
  EXPECT_EQ(rule("ldxdw %r2, [%r1+16]\nmov %r0, 0\nexit"), Rule::kCTX001);
  EXPECT_EQ(rule("stdw [%r1], 0\nmov %r0, 0\nexit"), Rule::kCTX001);
}

TEST(TypedEntry, ATestedPointerStaysTested) {
  Argument object;
  object.kind = Argument::Kind::kObject;
  object.view = 0;
  const auto rule = [&](const char* assembly) {
    Constraints constraints;
    constraints.views.push_back({"thing", 16, {{.name = "a", .offset = 0, .size = 8, .read = true}}});
    constraints.typed_entry = true;
    constraints.entry = {object};
    Request request = request_of(assembly);
    request.constraints = &constraints;
    return rule_of(verify(request));
  };
  EXPECT_EQ(rule("ldxdw %r2, [%r1]\nldxdw %r0, [%r2]\nexit"), Rule::kNUL001);
  EXPECT_EQ(rule("ldxdw %r2, [%r1]\njeq %r2, 0, out\nldxdw %r3, [%r1]\nldxdw %r0, [%r3]\nexit\nout:\nmov "
                 "%r0, 0\nexit"),
            Rule::kCount);
}

TEST(Return, RangesByType) {
  const VerdictCase cases[] = {{"any number", "ldxdw %r0, [%r1]\nexit"},
                               {"a pointer", "mov %r0, %r10\nexit"},
                               {"nothing", "exit", EACCES, "R0 !read_ok"}};
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
  // What extensions return must be a number.
  EXPECT_EQ(rule_of(verify_typed("mov %r0, %r10\nexit", {})), Rule::kTYP006);
}

// Every attach type of every program type that needs no device, function or privilege beyond loading.
TEST(Context, ReturnValuesAreThoseOfTheKernel) {
  if (const std::string why = program::testing::kernel_unusable(); !why.empty()) GTEST_SKIP() << why;
  constexpr uint32_t kTypesAsked[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,
                                      14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 30, 32};
  uint32_t asked = 0;
  for (const uint32_t type : kTypesAsked) {
    for (uint32_t attach_type = 0; attach_type < 62; ++attach_type) {
      for (const int32_t value : {-1, 0, 1, 2, 3, 4, 77}) {
        Request request;
        request.program.type = type;
        request.program.insns = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, value},
                                 {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
        request.expected_attach_type = attach_type;
        request.license = "GPL";
        const auto kernel = ask_kernel(request);
        ASSERT_TRUE(kernel.ok()) << kernel.error().message;
        EXPECT_EQ(verify(request).error, kernel->error)
            << "type " << type << ", attach type " << attach_type << ", result " << value;
        ++asked;
      }
    }
  }
  std::cout << asked << " programs asked of the kernel\n";
}

}  // namespace
}  // namespace bpftime::verifier

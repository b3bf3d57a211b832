#include "verifier/testing/verdicts.h"

namespace bpftime::verifier {
namespace {

using testing::expect_verdict;
using testing::first_message;
using testing::request_of;
using testing::VerdictCase;

// A number in r2 from the context, [0, mask]; r0 = 0 and the end.
#define INDEX(mask) "ldxdw %r2, [%r1]\nand %r2, " #mask "\n"
#define END "\nmov %r0, 0\nexit"
// Reached only if r3 may differ from the value: dereferences a number.
#define R3_IS(value) "\njeq %r3, " #value ", good\nldxdw %r0, [%r3]\ngood:\nmov %r0, 0\nexit"

TEST(Stack, SpillsAndFills) {
  const VerdictCase cases[] = {
      {"pointer whole", "stxdw [%r10-8], %r1\nldxdw %r2, [%r10-8]\nldxdw %r3, [%r2]" END},
      {"half a pointer stored", "stxw [%r10-8], %r1" END, EACCES, "invalid size of register spill"},
      {"half a pointer loaded", "stxdw [%r10-8], %r1\nldxw %r2, [%r10-8]" END, EACCES,
       "invalid size of register fill"},
      {"its upper half", "stxdw [%r10-8], %r1\nldxw %r2, [%r10-4]" END, EACCES,
       "invalid size of register fill"},
      {"overwritten pointer is a number",
       "stxdw [%r10-8], %r1\nstb [%r10-5], 1\nldxdw %r2, [%r10-8]\nldxdw %r3, [%r2]" END, EACCES,
       "R2 invalid mem access 'scalar'"},
      {"constant", "stdw [%r10-8], 77\nldxdw %r3, [%r10-8]" R3_IS(77)},
      {"low half of a constant", "stdw [%r10-8], 77\nldxw %r3, [%r10-8]" R3_IS(77)},
      {"low byte", "stdw [%r10-8], 0x14d\nldxb %r3, [%r10-8]" R3_IS(77)},
      {"upper half is unknown", "stdw [%r10-8], 77\nldxw %r3, [%r10-4]" R3_IS(0), EACCES,
       "invalid mem access 'scalar'"},
      {"upper half of zero is zero", "stdw [%r10-8], 0\nldxw %r3, [%r10-4]" R3_IS(0)},
      {"narrow spill", "mov %r2, 77\nstxw [%r10-8], %r2\nldxw %r3, [%r10-8]" R3_IS(77)},
      {"narrow spill read wide",
       "stdw [%r10-8], 0\nmov %r2, 77\nstxw [%r10-8], %r2\nldxdw %r3, [%r10-8]" R3_IS(77), EACCES,
       "invalid mem access 'scalar'"},
      {"truncating spill", "lddw %r2, 0x10000004d\nstxw [%r10-8], %r2\nldxw %r3, [%r10-8]" R3_IS(77)},
      {"unaligned within the slot: zero", "stw [%r10-4], 0\nldxw %r3, [%r10-4]" R3_IS(0)},
      {"unaligned within the slot: other", "stw [%r10-4], 77\nldxw %r3, [%r10-4]" R3_IS(77), EACCES,
       "invalid mem access 'scalar'"},
      {"bytes of zero make zero",
       "stw [%r10-4], 0\nstb [%r10-8], 0\nldxh %r3, [%r10-6]\nldxh %r3, [%r10-4]" R3_IS(0)},
      {"but not with a spilled zero", "stw [%r10-4], 0\nstw [%r10-8], 0\nldxdw %r3, [%r10-8]" R3_IS(0),
       EACCES, "invalid mem access 'scalar'"},
      {"link through the stack",
       INDEX(0xff) "stxdw [%r10-8], %r2\njgt %r2, 3, out\nldxdw %r3, [%r10-8]\nmov %r4, %r10\n"
                   "add %r4, -16\nadd %r4, %r3\nstb [%r4], 1\nout:" END},
      {"no link through a truncating spill",
       "ldxdw %r2, [%r1]\nstxw [%r10-8], %r2\njgt %r2, 3, out\nldxw %r3, [%r10-8]\nmov %r4, %r10\n"
       "add %r4, -16\nadd %r4, %r3\nstb [%r4], 1\nout:" END,
       EACCES, "stack R4"},
      {"sign-extending fill", "mov %r2, -1\nstxdw [%r10-8], %r2\nldxsw %r3, [%r10-8]\nadd %r3, 1" R3_IS(0)},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
}

TEST(Stack, Bounds) {
  const VerdictCase cases[] = {
      {"lowest", "stdw [%r10-512], 0" END},
      {"below", "stdw [%r10-520], 0" END, EACCES, "invalid write to stack R10 off=-520 size=8"},
      {"top", "stdw [%r10+0], 0" END, EACCES, "invalid write to stack R10 off=0 size=8"},
      {"read above", "ldxdw %r2, [%r10+8]" END, EACCES, "invalid read from stack R10 off=8 size=8"},
      {"across the top", "mov %r2, %r10\nadd %r2, -4\nldxdw %r3, [%r2]" END, EACCES,
       "misaligned stack access off"},
      {"misaligned", "stw [%r10-7], 0" END, EACCES, "misaligned stack access off 0+0+-7 size 4"},
      {"unbounded", "ldxdw %r2, [%r1]\nmov %r3, %r10\nadd %r3, %r2\nldxb %r4, [%r3-1]" END, EINVAL,
       "math between fp pointer and register with unbounded min value is not allowed"},
      {"number at the end", "mov %r2, %r10\nadd %r2, -512\nstb [%r2], 0\nldxb %r3, [%r2]" END},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
}

TEST(Stack, VariableOffsets) {
  const VerdictCase cases[] = {
      {"read of zeroes",
       INDEX(3) "stw [%r10-4], 0\nmov %r3, %r10\nadd %r3, -4\nadd %r3, %r2\nldxb %r3, [%r3]" R3_IS(0)},
      {"read of a spilled zero",
       INDEX(7) "stdw [%r10-8], 0\nmov %r3, %r10\nadd %r3, -8\nadd %r3, %r2\nldxb %r3, [%r3]" R3_IS(0),
       EACCES, "R3 invalid mem access 'scalar'"},
      {"read of one byte too many",
       INDEX(8) "stdw [%r10-8], 0\nmov %r3, %r10\nadd %r3, -8\nadd %r3, %r2\nldxb %r3, [%r3]" END, EINVAL,
       "invalid variable-offset read from stack R3 var_off=(0x0; 0x8) off=-8 size=1"},
      {"below the frame", INDEX(8) "mov %r3, %r10\nadd %r3, -520\nadd %r3, %r2\nldxdw %r3, [%r3]" END, EACCES,
       "invalid variable-offset read from stack R3 var_off=(0x0; 0x8) off=-520 size=8"},
      {"write keeps zero", INDEX(7) "stdw [%r10-8], 0\nmov %r3, %r10\nadd %r3, -8\nadd %r3, %r2\nstb [%r3], "
                                    "0\nldxdw %r3, [%r10-8]" R3_IS(0)},
      {"write makes unknown",
       INDEX(7) "stdw [%r10-8], 0\nmov %r3, %r10\nadd %r3, -8\nadd %r3, %r2\nstb [%r3], 1\nldxdw %r3, "
                "[%r10-8]" R3_IS(0),
       EACCES, "R3 invalid mem access 'scalar'"},
      {"write destroys pointers",
       INDEX(8) "stxdw [%r10-16], %r1\nmov %r3, %r10\nadd %r3, -16\nadd %r3, %r2\nstdw [%r3], 1\nldxdw %r4, "
                "[%r10-16]\n"
                "ldxdw %r5, [%r4]" END,
       EACCES, "R4 invalid mem access 'scalar'"},
      {"write misaligned", INDEX(7) "mov %r3, %r10\nadd %r3, -16\nadd %r3, %r2\nstdw [%r3], 1" END, EACCES,
       "misaligned stack access off (0x0; 0x7)+-16+0 size 8"},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
}

TEST(Stack, FramesOfCallers) {
  const VerdictCase cases[] = {
      {"callee writes into the caller's frame",
       "mov %r1, %r10\nadd %r1, -8\ncall local f\nldxdw %r3, [%r10-8]" R3_IS(77) "\nf:\nstdw [%r1], 77" END},
      {"callee leaves its own address there",
       "mov %r1, %r10\nadd %r1, -8\ncall local f\nmov %r0, 0\nexit\nf:\nstxdw [%r1], %r10" END, EINVAL,
       "cannot spill pointers to stack into stack frame of the caller"},
      {"callee spills the caller's pointer at home",
       "mov %r1, %r10\nadd %r1, -8\ncall local f\nmov %r0, 0\nexit\nf:\nstxdw [%r10-8], %r1" END},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
}

TEST(Stack, UninitialisedBytesAreZeroedOrRefused) {
  const char* assembly = "ldxdw %r2, [%r10-24]\nmov %r0, 0\nexit";
  const VerdictCase accepted = {"read of nothing", assembly};
  expect_verdict(request_of(assembly), accepted);
  const Verdict zeroed = verify(request_of(assembly));
  EXPECT_EQ(zeroed.facts.zeroed_bytes.at(0), 24u);
  EXPECT_EQ(zeroed.facts.stack_bytes.at(0), 24u);

  Request strict = request_of(assembly);
  strict.options.zero_stack = false;
  const Verdict refused = verify(strict);
  ASSERT_EQ(refused.error, EACCES);
  EXPECT_EQ(refused.diagnoses[0].rule, Rule::kSTK001);

  const Verdict written = verify(request_of("stdw [%r10-24], 1\nldxdw %r2, [%r10-24]\nmov %r0, 0\nexit"));
  EXPECT_EQ(written.facts.zeroed_bytes.at(0), 0u);
  EXPECT_EQ(written.facts.stack_bytes.at(0), 24u);

  // What a write at a variable place may have missed still has to be zeroed.
  const Verdict variable = verify(request_of(INDEX(
      7) "mov %r3, %r10\nadd %r3, -16\nadd %r3, %r2\nstb [%r3], 1\nldxdw %r2, [%r10-16]\nmov %r0, 0\nexit"));
  EXPECT_EQ(variable.error, 0);
  EXPECT_EQ(variable.facts.zeroed_bytes.at(0), 16u);
}

// bpf_probe_read_kernel(dst, size, src) is 113, bpf_map_update_elem-like reads are in memory_test.cc.
TEST(Stack, HelperBuffers) {
  const char* probe_read = "mov %r1, %r10\nadd %r1, -16\nmov %r2, 8\nmov %r3, 0\ncall 113\n";
  const VerdictCase cases[] = {
      {"written buffer is unknown",
       "stdw [%r10-16], 77\nmov %r1, %r10\nadd %r1, -16\nmov %r2, 8\nmov %r3, 0\ncall 113\n"
       "ldxdw %r3, [%r10-16]" R3_IS(77),
       EACCES, "R3 invalid mem access 'scalar'"},
      {"bytes beside it are kept",
       "stdw [%r10-8], 77\nmov %r1, %r10\nadd %r1, -16\nmov %r2, 8\nmov %r3, 0\ncall 113\n"
       "ldxdw %r3, [%r10-8]" R3_IS(77)},
      {"too long", "mov %r1, %r10\nadd %r1, -16\nmov %r2, 17\nmov %r3, 0\ncall 113" END, EINVAL,
       "invalid write to stack R1 off=-16 size=17"},
      {"variable length", INDEX(7) "mov %r1, %r10\nadd %r1, -16\nmov %r3, 0\ncall 113" END},
      {"variable length too long", INDEX(31) "mov %r1, %r10\nadd %r1, -16\nmov %r3, 0\ncall 113" END, EINVAL,
       "invalid write to stack R1 off=-16 size=31"},
  };
  for (const VerdictCase& one : cases) expect_verdict(request_of(one.assembly), one);
  EXPECT_EQ(verify(request_of(std::string(probe_read) + "mov %r0, 0\nexit")).facts.zeroed_bytes.at(0), 0u);
}

// Each rule can be switched off; what then goes on must stay inside the verifier's own memory (the sanitizer preset watches).
TEST(Stack, RulesSwitchedOffLeaveTheVerifierWhole) {
  const char* programs[] = {
      "stdw [%r10-4], 1\nldxdw %r2, [%r10-4]" END,
      "stdw [%r10-513], 1\nldxdw %r2, [%r10-513]" END,
      "stdw [%r10+0], 1\nldxdw %r2, [%r10+16]" END,
      "stxdw [%r10-8], %r10\nldxw %r2, [%r10-8]\nstxw [%r10-8], %r10\nldxdw %r2, [%r10-10]" END,
      INDEX(0xffff) "mov %r3, %r10\nadd %r3, -8\nadd %r3, %r2\nstdw [%r3], 1\nldxdw %r3, [%r3]" END,
      "mov %r1, %r10\nadd %r1, -600\nmov %r2, 4096\nmov %r3, 0\ncall 113" END,
      "mov %r1, %r10\nadd %r1, -4\nmov %r2, 4\nlock fetch add [%r1], %r2\nldxdw %r4, [%r7]" END,
  };
  RuleSet all;
  all.set();
  for (const char* assembly : programs) {
    for (size_t rule = 0; rule <= kRuleCount; ++rule) {
      Request request = request_of(assembly);
      if (rule < kRuleCount) request.options.disabled_rules.set(rule);
      if (rule == kRuleCount) request.options.disabled_rules = all;
      for (const bool strict : {false, true}) {
        request.options.zero_stack = request.options.allow_pointer_leaks = !strict;
        verify(request);
      }
    }
  }
}

}  // namespace
}  // namespace bpftime::verifier

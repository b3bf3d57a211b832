// Code for extensions: typed entries, host functions and variables, loads that may fault, ending the function.
#include <gtest/gtest.h>

#include "compiler/testing_target.h"

namespace bpftime::compiler {
namespace {

using namespace testing;
using program::Insn;
using verifier::Argument;

struct Call {
  uint64_t arguments[5];
  void* regs;
};
Call last_call;

uint64_t host_sum(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) { return a + b + c + d + e; }

// In place of the agent's bridge.
uint64_t bridge(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void* function, void* regs) {
  last_call = {{a, b, c, d, e}, regs};
  return reinterpret_cast<uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t)>(function)(a, b, c,
                                                                                                    d, e);
}

constexpr uint32_t kFunction = 1, kGlobal = 0;

class Host : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!target_.ok()) GTEST_SKIP() << "the window is taken in this process";
    target_.context()->host_call = reinterpret_cast<uint64_t>(&bridge);
    verifier::HostFunction function;
    function.id = kFunction;
    function.result.bytes = 8;
    constraints_.functions = {function};
    verifier::HostGlobal global;
    global.id = kGlobal;
    constraints_.globals = {global};
    table_[kFunction] = reinterpret_cast<uint64_t>(&host_sum);
    table_[kGlobal] = reinterpret_cast<uint64_t>(&global_);
  }

  Result<Code> compile(std::vector<Insn> insns) {
    program::Program program;
    program.name = "test";
    program.insns = std::move(insns);
    facts_.insns.resize(program.insns.size());
    for (auto& insn : facts_.insns) insn.reached = true;
    CompileOptions options;
    options.context_address = target_.address();
    options.facts = &facts_;
    options.constraints = &constraints_;
    if (check_promises_) {
      options.check_promises = true;
      options.run_counter_address = reinterpret_cast<uint64_t>(counters_);
      options.run_counters = 1;
    }
    return Code::compile(program, {}, options);
  }
  uint64_t run(const Code& code) {
    const wire::Invocation invocation{0, 0, 0, 0, reinterpret_cast<uint64_t>(table_)};
    return code.run(reinterpret_cast<uint64_t>(&regs_), reinterpret_cast<uint64_t>(&invocation));
  }

  Target target_;
  verifier::Constraints constraints_;
  verifier::Facts facts_;
  bool check_promises_ = false;
  alignas(64) uint64_t counters_[kRunCounterStride / 8] = {};
  uint64_t table_[2] = {};
  uint64_t global_ = 4711;
  wire::PtRegs regs_{};
};

Insn call_host(uint32_t id) {
  return raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, static_cast<int32_t>(id));
}

TEST_F(Host, CallsAFunctionOfTheHost) {
  const auto code = compile(Sequence() << mov(1, 1) << mov(2, 20) << mov(3, 300) << mov(4, 4000)
                                       << mov(5, 50000) << call_host(kFunction) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_TRUE(code->machine_code().calls_host);
  EXPECT_EQ(run(*code), 54321u);
  EXPECT_EQ(last_call.arguments[4], 50000u);
  EXPECT_EQ(last_call.regs, &regs_);
}

// (A broken one leaves by the trampoline's stack: e2e_extend_test.)
TEST_F(Host, PromisesAreLookedAtWhenAskedFor) {
  check_promises_ = true;
  constraints_.functions[0].result.bytes = 4;
  constraints_.functions[0].result.is_signed = true;
  constraints_.functions[0].result.number.smin = -10;
  constraints_.functions[0].result.number.smax = 100;
  for (const int32_t sum : {-10, 0, 100}) {
    const auto code = compile(Sequence() << mov(1, sum) << mov(2, 0) << mov(3, 0) << mov(4, 0) << mov(5, 0)
                                         << call_host(kFunction) << exit_insn());
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(run(*code), static_cast<uint64_t>(int64_t{sum}));
    EXPECT_EQ(counters_[kBrokenPromisesOffset / 8], 0u);
  }
  EXPECT_EQ(counters_[0], 3u) << "runs";
}

TEST_F(Host, CallsFromLocalFunctionsKnowTheRegistersToo) {
  const auto code = compile(Sequence() << mov(1, 7) << raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1)
                                       << exit_insn() << mov(2, 0) << mov(3, 0) << mov(4, 0) << mov(5, 0)
                                       << call_host(kFunction) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  last_call = {};
  EXPECT_EQ(run(*code), 7u);
  EXPECT_EQ(last_call.regs, &regs_);
}

TEST_F(Host, NarrowResultsAreWidenedAsTheirTypeSays) {
  constraints_.functions[0].result.bytes = 4;
  for (const bool is_signed : {true, false}) {
    constraints_.functions[0].result.is_signed = is_signed;
    const auto code = compile(Sequence() << load_imm(1, 0x1234'ffff'fffe) << mov(2, 0) << mov(3, 0)
                                         << mov(4, 0) << mov(5, 0) << call_host(kFunction) << exit_insn());
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(run(*code), is_signed ? ~uint64_t{1} : 0xffff'fffeu);
  }
}

// What the trampoline need not fill in for the bridge is most of wire::PtRegs.
TEST_F(Host, ACallNeedsTheRegistersThatFunctionsPreserve) {
  const auto code = compile(Sequence() << mov(1, 0) << mov(2, 0) << mov(3, 0) << mov(4, 0) << mov(5, 0)
                                       << call_host(kFunction) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  uint32_t expected = 0;
  for (const size_t offset :
       {offsetof(wire::PtRegs, r15), offsetof(wire::PtRegs, r14), offsetof(wire::PtRegs, r13),
        offsetof(wire::PtRegs, r12), offsetof(wire::PtRegs, rbp), offsetof(wire::PtRegs, rbx),
        offsetof(wire::PtRegs, rsp)})
    expected |= 1u << offset / 8;
  EXPECT_EQ(code->machine_code().context_slots_read, expected);
}

TEST_F(Host, ReadsAndWritesAVariableOfTheHost) {
  const std::vector<Insn> address = {raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_BTF_ID, 0, kGlobal),
                                     raw(0)};
  const auto code =
      compile(Sequence() << address << load(BPF_DW, 0, 1, 0) << store_imm(BPF_DW, 1, 0, 5) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(run(*code), 4711u);
  EXPECT_EQ(global_, 5u);
}

TEST_F(Host, RefusesWhatTheClassDoesNotName) {
  EXPECT_FALSE(compile(Sequence() << call_host(9) << exit_insn()).ok());
  EXPECT_FALSE(
      compile({raw(BPF_LD | BPF_IMM | BPF_DW, 0, BPF_PSEUDO_BTF_ID, 0, 9), raw(0), exit_insn()}).ok());
}

TEST_F(Host, ATypedEntrySeesItsArgumentsWidened) {
  uint64_t stack[3] = {0xdead, 77, 88};  // return address, seventh and eighth argument
  regs_.rdi = 0xffff'ffff'0000'0005;
  regs_.rsi = 0xffff'ffff'ffff'ff80;
  regs_.r9 = 9;
  regs_.rsp = reinterpret_cast<uint64_t>(stack);
  constraints_.typed_entry = true;
  constraints_.entry.resize(8);
  constraints_.entry[0].bytes = 4;
  constraints_.entry[1].bytes = 1;
  constraints_.entry[1].is_signed = true;
  const auto slot = [&](int index) {
    const auto code = compile({load(BPF_DW, 0, 1, index * 8), exit_insn()});
    EXPECT_TRUE(code.ok());
    return run(*code);
  };
  EXPECT_EQ(slot(0), 5u);
  EXPECT_EQ(slot(1), ~uint64_t{0x7f});
  EXPECT_EQ(slot(5), 9u);
  EXPECT_EQ(slot(6), 77u);
  EXPECT_EQ(slot(7), 88u);
}

TEST_F(Host, LoadsThatMayFaultGiveZero) {
  const uint64_t value = 0x1122334455667788;
  for (const int size : {BPF_B, BPF_H, BPF_W, BPF_DW}) {
    for (const void* place : {static_cast<const void*>(&value), reinterpret_cast<const void*>(16)}) {
      const std::vector<Insn> insns = Sequence() << load_imm(1, reinterpret_cast<uint64_t>(place) - 8)
                                                 << load(size, 0, 1, 8) << exit_insn();
      facts_.insns.assign(insns.size(), {});
      facts_.insns[2].needs_fault_table = true;
      const auto code = compile(insns);
      ASSERT_TRUE(code.ok()) << code.error().message;
      EXPECT_TRUE(code->machine_code().repairs_faults);
      const uint64_t mask = size == BPF_B   ? 0xff
                            : size == BPF_H ? 0xffff
                            : size == BPF_W ? 0xffffffff
                                            : ~uint64_t{0};
      EXPECT_EQ(run(*code), place == &value ? value & mask : 0);
    }
  }
}

TEST_F(Host, AProgramEndsTheFunctionThroughTheRegisters) {
  constraints_.typed_entry = true;  // the context is a copy then
  constraints_.entry.resize(1);
  regs_.orig_rax = ~uint64_t{0};
  const auto code =
      compile(Sequence() << mov(2, 403) << call(BPF_FUNC_override_return) << mov(0, 0) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_TRUE(code->machine_code().ends_function);
  EXPECT_EQ(run(*code), 0u);
  EXPECT_EQ(regs_.rax, 403u);
  EXPECT_EQ(regs_.orig_rax, wire::kFunctionEnds);
}

}  // namespace
}  // namespace bpftime::compiler

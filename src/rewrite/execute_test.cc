// Moved code does what it did: patches real functions of this process and compares results before and after.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdarg>
#include <random>

#include "rewrite/test_patch.h"
#include "wire/target_context.h"

// Functions whose first instructions need each kind of relocation. Sizes by their end labels.
asm(R"(
    .data
    .align 8
execute_word: .quad 0x1234567
    .text
    .macro function name
    .align 16
    .globl \name
    .type \name,@function
\name:
    .endm
    .macro done name
    .globl \name\()_end
\name\()_end:
    .size \name, . - \name
    .endm

    function execute_call_with        # (function, a, b, c): every other argument register is set, too
    mov %rdi, %r11
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov $0x1111, %ecx
    mov $0x2222, %r8d
    mov $0x3333, %r9d
    mov $0x4444, %r10d
    mov $8, %eax
    jmp *%r11
    done execute_call_with

    function execute_rip              # RIP-relative load
    mov execute_word(%rip), %rax
    add %rdi, %rax
    ret
    done execute_rip

    function execute_branch           # short jcc out of the patch
    test %rdi, %rdi
    je 1f
    lea 1(%rdi,%rsi), %rax
    ret
1:  mov $77, %eax
    ret
    done execute_branch

    function execute_jrcxz
    mov %rsi, %rcx
    jrcxz 1f
    lea (%rdi,%rcx,2), %rax
    ret
1:  lea 5(%rdi), %rax
    ret
    done execute_jrcxz

    function execute_loop             # a loop inside, back to the very first byte
    dec %rcx
    inc %rdi
    test %rsi, %rsi
    je 1f
    dec %rsi
    jmp execute_loop
1:  mov %rdi, %rax
    ret
    done execute_loop

    function execute_call             # call first: return address is the original one
    call 1f
    add %rdi, %rax
    ret
1:  mov (%rsp), %rax
    lea execute_call(%rip), %rcx
    sub %rcx, %rax
    ret
    done execute_call

    function execute_tail             # jmp rel32 within the patch
    inc %rdi
    jmp 1f
    nop
    nop
1:  lea 3(%rdi,%rsi), %rax
    ret
    done execute_tail

    function execute_short            # 3 bytes and padding
    xor %eax, %eax
    ret
    done execute_short
    .align 16
    .byte 0xc3

    function execute_indirect         # call *reg as the last displaced instruction
    sub $8, %rsp
    call *%rdx
    add $8, %rsp
    ret
    done execute_indirect

# Programs that clobber few registers, each all it may of those it names; event count in execute_runs.
    .macro program_clobbering name, registers:vararg
    function \name
    .irp register, \registers
    mov $-0x77, %\register
    .endr
    incq execute_runs(%rip)
    ret
    done \name
    .endm
    function count_anywhere           # can be inlined: takes the counter's address from the invocation's cookie
    mov (%rsi), %rcx
    test %rcx, %rcx
    jz 1f
    incq (%rcx)
1:  mov $-0x77, %rsi
    ret
    done count_anywhere
    program_clobbering clobber_rax, rax
    program_clobbering clobber_arguments, rdi, rsi
    program_clobbering clobber_r10_r11, r10, r11
    program_clobbering clobber_rcx_rdx_r8_r9, rcx, rdx, r8, r9
    function program_inert
    xor %eax, %eax
    ret
    done program_inert
    .data
    .globl execute_runs
    .align 8
execute_runs: .quad 0
    .text

    function execute_registers        # everything a callee may see, folded into one value
    lea (%rdi,%rsi,2), %r11
    lea (%r11,%rdx,4), %r11
    lea (%r11,%rcx,8), %r11
    xor %r8, %r11
    rol $7, %r11
    xor %r9, %r11
    rol $7, %r11
    xor %r10, %r11
    movzbl %al, %eax
    lea (%r11,%rax), %rax
    ret
    done execute_registers
)");

#define FUNCTION(name)           \
  extern "C" uint64_t name(...); \
  extern "C" char name##_end[];
FUNCTION(execute_rip)
FUNCTION(execute_branch)
FUNCTION(execute_jrcxz)
FUNCTION(execute_loop)
FUNCTION(execute_call)
FUNCTION(execute_tail)
FUNCTION(execute_short)
FUNCTION(execute_indirect)
FUNCTION(execute_registers)
FUNCTION(clobber_rax)
FUNCTION(clobber_arguments)
FUNCTION(clobber_r10_r11)
FUNCTION(clobber_rcx_rdx_r8_r9)
FUNCTION(count_anywhere)
FUNCTION(program_inert)
#undef FUNCTION

extern "C" uint64_t execute_runs;
extern "C" uint64_t execute_call_with(uint64_t (*function)(uint64_t, uint64_t, void*), uint64_t a, uint64_t b,
                                      void* c);

namespace bpftime::rewrite {
namespace {

using Function = uint64_t (*)(uint64_t, uint64_t, void*);

extern "C" uint64_t execute_helper() { return 4711; }

struct Event {
  wire::PtRegs regs;
  wire::Invocation invocation;
  uint64_t count;
  bool aligned;
};
Event last_event;

// Destroys every register a program may, so that a missing restore shows.
extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t record_program(
    void* ctx, const wire::Invocation* invocation) {
  last_event.regs = *static_cast<wire::PtRegs*>(ctx);
  last_event.invocation = *invocation;
  last_event.aligned = reinterpret_cast<uint64_t>(__builtin_frame_address(0)) % 16 == 0;
  ++last_event.count;
  asm volatile(
      "mov $-1, %%rax; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi; mov %%rax, %%rdi;"
      "mov %%rax, %%r8; mov %%rax, %%r9; mov %%rax, %%r10; mov %%rax, %%r11" ::
          : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
  return 0;
}

struct Case {
  const char* name;
  Function function;
  const char* end;
};

const Case kCases[] = {
#define CASE(name) \
  { #name, reinterpret_cast < Function>(name), name##_end }
    CASE(execute_rip),   CASE(execute_branch),   CASE(execute_jrcxz),
    CASE(execute_loop),  CASE(execute_call),     CASE(execute_tail),
    CASE(execute_short), CASE(execute_indirect), CASE(execute_registers),
#undef CASE
};

class Execute : public ::testing::TestWithParam<Case> {
 protected:
  Execute() : arena_(reinterpret_cast<void*>(GetParam().function)) {}

  // execute_short has its padding counted in: planning needs to see it.
  std::unique_ptr<LivePatch> patch(const std::vector<ProgramCall>& on_entry) {
    const Case& test = GetParam();
    const auto* start = reinterpret_cast<const uint8_t*>(test.function);
    SiteRequest request;
    request.address = reinterpret_cast<uint64_t>(start);
    request.function_size = reinterpret_cast<const uint8_t*>(test.end) - start;
    request.code = Bytes(start, request.function_size + 16);
    request.trampoline_address = arena_.next();
    request.identity_address = reinterpret_cast<uint64_t>(&identity_);
    request.on_entry = on_entry;
    auto plan = plan_probe(request);
    EXPECT_TRUE(plan.ok()) << plan.error().message;
    if (!plan.ok()) return nullptr;
    return std::make_unique<LivePatch>(arena_, request.address, std::move(*plan));
  }

  uint64_t call(uint64_t a, uint64_t b) {
    return execute_call_with(GetParam().function, a, b, reinterpret_cast<void*>(execute_helper));
  }

  void compare(const std::vector<ProgramCall>& on_entry) {
    const uint32_t seed = std::random_device{}();
    RecordProperty("seed", std::to_string(seed));
    std::mt19937_64 random(seed);
    for (int i = 0; i < 200; ++i) {
      const uint64_t a = random() % 5 == 0 ? 0 : random();
      const uint64_t b = random() % 16;  // execute_loop counts it down
      const uint64_t plain = call(a, b);
      uint64_t probed = 0;
      {
        auto live = patch(on_entry);
        ASSERT_NE(live, nullptr);
        probed = call(a, b);
      }
      ASSERT_EQ(probed, plain) << "seed " << seed << " a=" << a << " b=" << b;
      ASSERT_EQ(call(a, b), plain) << "restored";
    }
  }

  TestArena arena_;
  wire::TargetIdentity identity_{static_cast<uint32_t>(getpid())};
};

INSTANTIATE_TEST_SUITE_P(Functions, Execute, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Execute, MovedCodeComputesTheSame) { compare({}); }

TEST_P(Execute, ProgramsSeeTheCallAndChangeNothing) {
  const auto code = reinterpret_cast<uint64_t>(record_program);
  const auto site = reinterpret_cast<uint64_t>(GetParam().function);
  last_event = {};
  compare({{code, {1, site, 1, 0, 0}, 0}, {code, {2, site, 2, 0, 0}, identity_.tgid}});
  auto live = patch({{code, {42, site, 9, 0, 0}, 0}});
  ASSERT_NE(live, nullptr);
  const uint64_t before = last_event.count;
  call(11, 0);
  EXPECT_EQ(last_event.count, before + 1);
  EXPECT_EQ(last_event.regs.rdi, 11u);
  EXPECT_EQ(last_event.regs.rsi, 0u);
  EXPECT_EQ(last_event.regs.rdx, reinterpret_cast<uint64_t>(execute_helper));
  EXPECT_EQ(last_event.regs.rip, site);
  EXPECT_EQ(last_event.regs.orig_rax, ~uint64_t{0});
  EXPECT_EQ(last_event.regs.cs, 0x33u);
  EXPECT_EQ(last_event.regs.ss, 0x2bu);
  EXPECT_EQ(last_event.regs.rsp % 16, 8u) << "rsp at entry";
  EXPECT_EQ(last_event.invocation.cookie, 42u);
  EXPECT_EQ(last_event.invocation.func_ip, site);
  EXPECT_TRUE(last_event.aligned);
}

TEST_P(Execute, OtherProcessesProgramsStaySilent) {
  const auto code = reinterpret_cast<uint64_t>(record_program);
  last_event = {};
  compare({{code, {}, identity_.tgid + 1}});
  EXPECT_EQ(last_event.count, 0u);
  identity_.tgid = 0;  // as in a forked child
  compare({{code, {}, static_cast<uint32_t>(getpid())}});
  EXPECT_EQ(last_event.count, 0u);
}

// Ends the function with 99 when its first argument is 13, and clobbers what a program may.
extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t ending_program(
    void* ctx, const wire::Invocation* invocation) {
  auto* regs = static_cast<wire::PtRegs*>(ctx);
  record_program(ctx, invocation);
  if (regs->rdi != 13) return 0;
  regs->rax = 99;
  regs->orig_rax = wire::kFunctionEnds;
  return 0;
}

TEST_P(Execute, AProgramEndsTheFunctionWithItsValue) {
  const auto ending = reinterpret_cast<uint64_t>(ending_program);
  const auto recording = reinterpret_cast<uint64_t>(record_program);
  ProgramCall call_ending{ending, {}, 0};
  call_ending.ends = ProgramCall::Ends::kResultInRax;
  last_event = {};
  compare({{recording, {}, 0}});
  const uint64_t plain = call(12, 0);
  {
    auto live = patch({call_ending, {recording, {}, 0}});
    ASSERT_NE(live, nullptr);
    EXPECT_EQ(call(12, 0), plain);
    last_event = {};
    EXPECT_EQ(call(13, 0), 99u);
    EXPECT_EQ(last_event.count, 2u) << "the program behind it runs too";
  }
}

ProgramCall specialised(uint64_t (*program)(...), const char* end, ContextSlots slots) {
  const auto* start = reinterpret_cast<const uint8_t*>(program);
  ProgramCall call{reinterpret_cast<uint64_t>(program), {}, 0};
  call.use = code_use(Bytes(start, reinterpret_cast<const uint8_t*>(end) - start), 0);
  call.context_slots_read = slots;
  return call;
}

TEST_P(Execute, InlinedProgramsRunAsCalledOnes) {
  ProgramCall program = specialised(count_anywhere, count_anywhere_end, 0);
  const auto* start = reinterpret_cast<const uint8_t*>(count_anywhere);
  program.inlined =
      inlinable_code(Bytes(start, reinterpret_cast<const uint8_t*>(count_anywhere_end) - start), 0);
  ASSERT_FALSE(program.inlined.empty());
  program.code_address = 0;  // not called: out of reach
  program.invocation.cookie = reinterpret_cast<uint64_t>(&execute_runs);
  execute_runs = 0;
  compare({program});
  EXPECT_GE(execute_runs, 200u);
  execute_runs = 0;
  compare({program, specialised(clobber_r10_r11, clobber_r10_r11_end, 0), program});
  EXPECT_GE(execute_runs, 600u);
  // The jump over another process's program leads behind the copy.
  program.only_tgid = identity_.tgid + 1;
  execute_runs = 0;
  compare({program});
  EXPECT_EQ(execute_runs, 0u);
}

TEST_P(Execute, CountedRunsAreExactAndChangeNothing) {
  const auto code = reinterpret_cast<uint64_t>(record_program);
  uint64_t counters[3][8] = {};
  ProgramCall whole{code, {}, 0}, inert = specialised(program_inert, program_inert_end, 0),
                                  other{code, {}, identity_.tgid + 1};
  whole.counter = reinterpret_cast<uint64_t>(counters[0]);
  inert.counter = reinterpret_cast<uint64_t>(counters[1]);
  other.counter = reinterpret_cast<uint64_t>(counters[2]);
  last_event = {};
  compare({whole, inert, other});
  EXPECT_EQ(counters[0][0], last_event.count) << "begun";
  EXPECT_EQ(counters[1][0], last_event.count) << "a program without effect runs when its runs are counted";
  EXPECT_EQ(counters[2][0], 0u) << "another process's";
  for (const auto& counter : counters) EXPECT_EQ(counter[0], counter[1]) << "begun and ended";
  EXPECT_GT(static_cast<int64_t>(counters[0][2]), 0) << "cycles";
  EXPECT_LT(counters[0][2], uint64_t{1} << 50);
  // Few registers: those that counting needs are saved besides.
  ProgramCall small = specialised(clobber_arguments, clobber_arguments_end, 0);
  small.counter = whole.counter;
  counters[0][0] = execute_runs = 0;
  compare({small});
  EXPECT_EQ(counters[0][0], execute_runs);
}

TEST_P(Execute, OnlyWhatIsClobberedIsSavedAndNothingIsLost) {
  const ProgramCall programs[] = {
      specialised(clobber_rax, clobber_rax_end, 0),
      specialised(clobber_arguments, clobber_arguments_end, 0),
      specialised(clobber_r10_r11, clobber_r10_r11_end, 0),
      specialised(clobber_rcx_rdx_r8_r9, clobber_rcx_rdx_r8_r9_end, 0),
  };
  RegisterSet all = 0;
  for (const ProgramCall& program : programs) all |= program.use.clobbered;
  ASSERT_EQ(all, kCallerSavedRegisters);
  for (unsigned subset = 1; subset < 16; ++subset) {
    std::vector<ProgramCall> calls;
    for (unsigned i = 0; i < 4; ++i)
      if (subset >> i & 1) calls.push_back(programs[i]);
    if (subset % 2 == 0) calls[0].only_tgid = identity_.tgid;             // needs a register of its own
    if (subset % 3 == 0) calls[0].context_slots_read = kAllContextSlots;  // and so does rip
    execute_runs = 0;
    compare(calls);
    EXPECT_GE(execute_runs, 200 * calls.size())
        << "subset " << subset;  // execute_loop comes by its entry again
  }
}

TEST_P(Execute, ProgramsSeeTheSlotsTheyRead) {
  const auto code = reinterpret_cast<uint64_t>(record_program);
  for (const uint32_t read : {14u, 13u, 16u, 19u, 17u, 20u, 15u}) {
    ProgramCall call{code, {}, 0};
    call.context_slots_read = 1u << read;
    auto live = patch({call});
    ASSERT_NE(live, nullptr);
    const auto* slots = reinterpret_cast<const uint64_t*>(&last_event.regs);
    this->call(11, 0);
    const uint64_t seen = slots[read];
    live.reset();
    auto whole = patch({{code, {}, 0}});
    this->call(11, 0);
    EXPECT_EQ(seen, slots[read]) << "slot " << read;
  }
}

TEST_P(Execute, ProgramsThatDoNothingAreLeftOut) {
  const ProgramCall inert = specialised(program_inert, program_inert_end, 0);
  ASSERT_TRUE(inert.use.inert);
  compare({inert});
  auto bare = patch({});
  ASSERT_NE(bare, nullptr);
  const auto bytes = bare->plan().trampoline;
  bare.reset();
  auto live = patch({inert});
  EXPECT_EQ(live->plan().trampoline.size(), bytes.size());
}

extern "C" __attribute__((noinline)) double half_of(double value) {
  asm volatile("" ::: "memory");
  return value / 2;
}

extern "C" __attribute__((target("general-regs-only"), noinline)) uint64_t ending_with_a_double(
    void* ctx, const wire::Invocation*) {
  auto* regs = static_cast<wire::PtRegs*>(ctx);
  regs->rax = 0x4008000000000000;  // 3.0
  regs->orig_rax = wire::kFunctionEnds;
  return 0;
}

TEST(ExecuteFloat, AProgramEndsAFunctionThatReturnsADouble) {
  double (*volatile function)(double) = half_of;
  TestArena arena(reinterpret_cast<void*>(half_of));
  ProgramCall call{reinterpret_cast<uint64_t>(ending_with_a_double), {}, 0};
  call.ends = ProgramCall::Ends::kResultInXmm0;
  SiteRequest request;
  request.on_entry = {call};
  ASSERT_EQ(function(8.0), 4.0);
  {
    LivePatch live(arena, reinterpret_cast<void*>(half_of), 16, request);
    EXPECT_EQ(function(8.0), 3.0);
  }
  EXPECT_EQ(function(8.0), 4.0);
}

}  // namespace
}  // namespace bpftime::rewrite

// System calls of this very process, patched and made.
#include "rewrite/system_call.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <thread>

#include "rewrite/test_patch.h"
#include "symbols/symbols.h"
#include "wire/target_context.h"

asm(R"(
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
    .align 16, 0x90
    .endm

    function calls_write              # (fd, buffer, size): as libc's wrappers are
    mov $1, %eax
    syscall
    cmp $-4095, %rax
    jae 1f
    ret
1:  mov $-1, %rax
    ret
    done calls_write

    function calls_read               # number by xor, short
    mov %rcx, %r10
    xor %eax, %eax
    syscall
    cmp $-4095, %rax
    ret
    done calls_read

    function calls_any                # (number, a, b, c, d, e, f), as libc's syscall()
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov %r8, %r10
    mov %r9, %r8
    mov 8(%rsp), %r9
    syscall
    cmp $-4095, %rax
    ret
    done calls_any

    function calls_mask               # rt_sigprocmask, the size of its sets as it must be but for preserved_around
    cmp $0x1004, %r10
    je 1f
    xor %r10d, %r10d
1:  mov $14, %eax
    syscall
    cmp $-4095, %rax
    ret
    done calls_mask

    function calls_old                # one by the 32-bit door; the first two bytes alike belong to a constant
    mov $0x80cd80cd, %ecx
    mov $20, %eax
    int $0x80
    ret
    done calls_old

    function calls_by_register        # as libc's futex code: the register still has the number behind the call
    mov %edi, %r9d
    mov %rsi, %rdi
    mov %r9d, %eax
    syscall
    cmp $-4095, %rax
    ret
    done calls_by_register

    function calls_twice              # the second one right behind the first
    mov $39, %eax
    syscall
    mov $39, %eax
    syscall
    ret
    nop
    nop
    nop
    nop
    done calls_twice

    function calls_in_loop            # jumps to the call itself
    mov $39, %eax
1:  syscall
    test %rax, %rax
    mov $39, %eax
    js 1b
    ret
    done calls_in_loop

    function calls_with_flags         # carries flags across
    cmp %rdi, %rsi
    mov $39, %eax
    syscall
    sete %al
    movzbl %al, %eax
    ret
    done calls_with_flags

    function calls_stackless          # as musl's __unmapself
    mov $11, %eax
    syscall
    xor %edi, %edi
    mov $60, %eax
    syscall
    done calls_stackless

    function calls_red_zone           # (value): a leaf that keeps its data below rsp
    mov %rdi, -8(%rsp)
    mov %rdi, -128(%rsp)
    mov $39, %eax
    syscall
    cmp $-4095, %rax
    mov -8(%rsp), %rax
    sub -128(%rsp), %rax
    add %rdi, %rax
    ret
    done calls_red_zone

    function calls_suspend            # (mask): as libc's sigsuspend
    mov $8, %esi
    mov $130, %eax
    syscall
    cmp $-4095, %rax
    jae 1f
    ret
1:  xor %edi, %edi
    call calls_write
    mov $-1, %rax
    ret
    done calls_suspend

    function calls_suspend_and_looks  # (mask): at what the kernel leaves in its register
    mov $8, %esi
    mov $130, %eax
    syscall
    cmp $-4095, %rax
    jae 1f
    ret
1:  mov (%rdi), %rax
    ret
    done calls_suspend_and_looks

    function calls_pselect            # (mask and size): writes a part of the register only, then asks a function
    mov %rdi, %r9
    mov $270, %eax
    syscall
    mov $1, %r9b
    jmp *%rcx
    done calls_pselect

    function calls_ppoll              # (mask): all ways behind it write the register or return
    mov %rdi, %r10
    xor %edi, %edi
    xor %esi, %esi
    xor %edx, %edx
    mov $8, %r8d
    mov $271, %eax
    syscall
    cmp $-4095, %rax
    jae 1f
    ret
1:  xor %r10d, %r10d
    add %r10, %rax
    ret
    done calls_ppoll

    function calls_clone              # (flags, stack): the child returns on its own stack
    mov $0, %edx
    mov $0, %r10d
    mov $0, %r8d
    mov $56, %eax
    syscall
    test %rax, %rax
    jz 1f
    ret
1:  mov $7, %edi
    mov $60, %eax
    syscall
    hlt
    done calls_clone

    function preserved_around         # (function): 0 when it leaves every register but rax, rcx and r11 alone
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rdi, %r11
    mov $-1, %rdi
    mov $0x1002, %esi
    mov $0x1003, %edx
    mov $0x1004, %r10d
    mov $0x1005, %r8d
    mov $0x1006, %r9d
    mov $0x1007, %ebx
    mov $0x1008, %ebp
    mov $0x1009, %r12d
    mov $0x100a, %r13d
    mov $0x100b, %r14d
    mov $0x100c, %r15d
    call *%r11
    xor %eax, %eax
    .irp pair, rsi, rdx, r10, r8, r9, rbx, rbp, r12, r13, r14, r15
    add %\pair, %rax
    .endr
    sub $0xB04D, %rax
    inc %rdi
    or %rdi, %rax
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    done preserved_around
)");

#define CODE(name)                 \
  extern "C" const uint8_t name[]; \
  extern "C" const uint8_t name##_end[];
CODE(calls_write)
CODE(calls_read)
CODE(calls_any)
CODE(calls_by_register)
CODE(calls_mask)
CODE(calls_old)
CODE(calls_twice)
CODE(calls_in_loop)
CODE(calls_with_flags)
CODE(calls_stackless)
CODE(calls_red_zone)
CODE(calls_clone)
CODE(calls_suspend)
CODE(calls_suspend_and_looks)
CODE(calls_pselect)
CODE(calls_ppoll)
CODE(preserved_around)
#undef CODE

namespace bpftime::rewrite {
namespace {

#define GENERAL __attribute__((target("general-regs-only"), noinline, used))

struct Seen {
  uint64_t runs;
  int64_t number;
  uint64_t arguments[6];
  uint64_t cookie;
};
volatile Seen g_enter, g_exit;

GENERAL uint64_t on_enter(void* context, const wire::Invocation* invocation) {
  const auto* words = static_cast<const int64_t*>(context);
  g_enter.runs = g_enter.runs + 1;
  g_enter.number = words[1];
  for (int i = 0; i < 6; ++i) g_enter.arguments[i] = static_cast<uint64_t>(words[2 + i]);
  g_enter.cookie = invocation->cookie;
  return 0;
}
GENERAL uint64_t on_exit(void* context, const wire::Invocation*) {
  const auto* words = static_cast<const int64_t*>(context);
  g_exit.runs = g_exit.runs + 1;
  g_exit.number = words[1];
  g_exit.arguments[0] = static_cast<uint64_t>(words[2]);
  return 0;
}
GENERAL uint64_t on_raw(void* context, const wire::Invocation*) {
  const auto* words = static_cast<const uint64_t*>(context);
  const auto* regs = reinterpret_cast<const wire::PtRegs*>(words[0]);
  g_enter.runs = g_enter.runs + 1;
  g_enter.number = static_cast<int64_t>(words[1]);
  g_enter.arguments[0] = regs->rdi;
  g_enter.arguments[1] = regs->orig_rax;
  g_enter.arguments[2] = regs->rax;
  g_enter.arguments[3] = regs->rip;
  g_enter.arguments[4] = regs->rsp;
  return 0;
}
GENERAL uint64_t ends_it(void* context, const wire::Invocation*) {
  auto* regs = static_cast<wire::PtRegs*>(context);
  regs->rax = 4711;
  regs->orig_rax = wire::kFunctionEnds;
  return 0;
}

using Program = uint64_t (*)(void*, const wire::Invocation*);

class SystemCalls : public ::testing::Test {
 protected:
  void SetUp() override {
    std::memset(const_cast<Seen*>(&g_enter), 0, sizeof g_enter);
    std::memset(const_cast<Seen*>(&g_exit), 0, sizeof g_exit);
  }
  static uint64_t size_of(const uint8_t* begin, const uint8_t* end) {
    return static_cast<uint64_t>(end - begin);
  }
  // As it was before anything was patched.
  static Bytes code_of(const uint8_t* begin, const uint8_t* end) {
    static std::map<const uint8_t*, std::vector<uint8_t>> copies;
    auto& copy = copies[begin];
    if (copy.empty()) copy.assign(begin, end + 16);
    return copy;
  }
  static std::vector<SystemCallSite> find(const uint8_t* begin, const uint8_t* end) {
    return find_system_calls(code_of(begin, end), size_of(begin, end));
  }
  SystemCallProgram program(Program function, int32_t only = -1) {
    SystemCallProgram out;
    out.call.code_address = reinterpret_cast<uint64_t>(function);
    out.call.invocation.cookie = 99;
    out.only_number = only;
    return out;
  }
  SystemCallRequest request(const uint8_t* begin, const uint8_t* end, bool on_exit,
                            std::vector<SystemCallProgram> programs) {
    SystemCallRequest out;
    out.on_exit = on_exit;
    out.function = reinterpret_cast<uint64_t>(begin);
    out.function_size = size_of(begin, end);
    out.code = code_of(begin, end);
    out.site = find(begin, end).at(0);
    out.trampoline_address = arena_.next();
    out.identity_address = reinterpret_cast<uint64_t>(&identity_);
    out.programs = std::move(programs);
    return out;
  }
  std::unique_ptr<LivePatch> patch(const SystemCallRequest& request) {
    auto plan = plan_system_call(request);
    if (!plan.ok()) throw std::runtime_error(plan.error().message);
    return std::make_unique<LivePatch>(arena_, patch_address(request), std::move(*plan));
  }

  TestArena arena_{reinterpret_cast<const void*>(&on_enter)};
  wire::TargetIdentity identity_{static_cast<uint32_t>(::getpid())};
};

#define AT(name) name, name##_end
template <typename... Arguments>
long call(const uint8_t* function, Arguments... arguments) {
  return reinterpret_cast<long (*)(...)>(const_cast<uint8_t*>(function))(arguments...);
}

TEST_F(SystemCalls, AreFoundWithTheirNumbers) {
  const auto only = [&](const uint8_t* begin, const uint8_t* end) { return find(begin, end).at(0); };
  auto site = only(AT(calls_write));
  EXPECT_EQ(site.number, 1);
  EXPECT_EQ(site.enter_offset, 0u);
  EXPECT_EQ(site.exit_length, 6u);
  site = only(AT(calls_read));
  EXPECT_EQ(site.number, 0);
  EXPECT_EQ(site.no_enter + site.no_exit, "");
  site = only(AT(calls_any));
  EXPECT_EQ(site.number, -1);
  EXPECT_EQ(site.number_register, -1);  // rdi is overwritten
  EXPECT_EQ(site.no_enter, "");
  site = only(AT(calls_by_register));
  EXPECT_EQ(site.number, -1);
  EXPECT_EQ(site.number_register, 9);
  EXPECT_EQ(find(AT(calls_twice)).size(), 2u);
  EXPECT_TRUE(find(AT(preserved_around)).empty());
}

TEST_F(SystemCalls, ThatCannotBePatchedSayWhy) {
  EXPECT_EQ(find(AT(calls_in_loop)).at(0).no_enter, "a jump leads to it");
  EXPECT_EQ(find(AT(calls_with_flags)).at(0).no_enter, "flags are carried across it");
  EXPECT_EQ(find(AT(calls_stackless)).at(0).no_exit, "the thread may have no stack here");
  EXPECT_EQ(find(AT(calls_stackless)).at(1).no_enter, "the thread may have no stack here");
}

TEST_F(SystemCalls, ByTheOldDoorsAreCounted) {
  const auto count = [&](const uint8_t* begin, const uint8_t* end) {
    const auto address = reinterpret_cast<uint64_t>(begin);
    return count_old_system_calls(code_of(begin, end), address, [&](uint64_t) {
      return std::optional(std::pair(address, size_of(begin, end)));
    });
  };
  EXPECT_EQ(count(AT(calls_old)), 1u);
  EXPECT_EQ(count(AT(calls_write)), 0u);
  EXPECT_EQ(count_old_system_calls(code_of(AT(calls_old)), 0, [](uint64_t) { return std::nullopt; }), 0u);
}

TEST_F(SystemCalls, RunProgramsBeforeAndAfter) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const char text[] = "text";
  {
    const auto before = patch(request(AT(calls_write), false, {program(on_enter)}));
    const auto after = patch(request(AT(calls_write), true, {program(on_exit)}));
    EXPECT_EQ(call(calls_write, ends[1], text, 4L), 4);
    EXPECT_EQ(g_enter.number, 1);
    EXPECT_EQ(g_enter.arguments[0], static_cast<uint64_t>(ends[1]));
    EXPECT_EQ(g_enter.arguments[1], reinterpret_cast<uint64_t>(text));
    EXPECT_EQ(g_enter.arguments[2], 4u);
    EXPECT_EQ(g_enter.cookie, 99u);
    EXPECT_EQ(g_exit.number, 1);
    EXPECT_EQ(g_exit.arguments[0], 4u);
    EXPECT_EQ(call(calls_write, -1L, text, 4L), -1);
    EXPECT_EQ(static_cast<int64_t>(g_exit.arguments[0]), -EBADF);
  }
  EXPECT_EQ(call(calls_write, ends[1], text, 4L), 4);
  EXPECT_EQ(g_enter.runs, 2u);
  EXPECT_EQ(g_exit.runs, 2u);
  {
    const auto before = patch(request(AT(calls_read), false, {program(on_enter)}));
    char got[9] = {};
    EXPECT_EQ(call(calls_read, ends[0], got, 8L), 8);
    EXPECT_STREQ(got, "texttext");
    EXPECT_EQ(g_enter.number, 0);
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(SystemCalls, OfUnknownNumberAreToldApart) {
  const auto before =
      patch(request(AT(calls_any), false, {program(on_enter, SYS_getpid), program(on_enter, SYS_getuid)}));
  EXPECT_EQ(call(calls_any, long{SYS_getpid}), ::getpid());
  EXPECT_EQ(g_enter.runs, 1u);
  EXPECT_EQ(g_enter.number, SYS_getpid);
  EXPECT_EQ(call(calls_any, long{SYS_getppid}), ::getppid());
  EXPECT_EQ(g_enter.runs, 1u);
  EXPECT_EQ(call(calls_any, long{SYS_getuid}), static_cast<long>(::getuid()));
  EXPECT_EQ(g_enter.runs, 2u);
  EXPECT_EQ(call(calls_any, -1L), -ENOSYS);
  const auto every = patch(request(AT(calls_by_register), false, {program(on_enter)}));
  const auto after = patch(request(AT(calls_by_register), true, {program(on_exit, SYS_getppid)}));
  EXPECT_EQ(call(calls_by_register, long{SYS_getppid}), ::getppid());
  EXPECT_EQ(call(calls_by_register, long{SYS_getpid}), ::getpid());
  EXPECT_EQ(g_enter.runs, 4u);
  EXPECT_EQ(g_exit.runs, 1u);
  EXPECT_EQ(g_exit.number, SYS_getppid);
  EXPECT_EQ(g_exit.arguments[0], static_cast<uint64_t>(::getppid()));
}

TEST_F(SystemCalls, OfUnknownNumberAreFollowedToTheirEnd) {
  for (const int32_t only : {int{SYS_getppid}, -1}) {
    SetUp();
    auto both = request(AT(calls_any), false, {program(on_enter, SYS_getuid)});
    both.exit_programs = {program(on_exit, only)};
    const auto before = patch(both);
    EXPECT_EQ(call(calls_any, long{SYS_getppid}), ::getppid());
    EXPECT_EQ(g_exit.runs, 1u);
    EXPECT_EQ(g_exit.number, SYS_getppid);
    EXPECT_EQ(g_exit.arguments[0], static_cast<uint64_t>(::getppid()));
    EXPECT_EQ(call(calls_any, long{SYS_getuid}), static_cast<long>(::getuid()));
    EXPECT_EQ(g_enter.runs, 1u);
    EXPECT_EQ(call(calls_any, long{SYS_write}, -1L, "x", 1L), -EBADF);
    EXPECT_EQ(call(calls_any, 511L), -ENOSYS);
    EXPECT_EQ(g_exit.runs, only < 0 ? 4u : 1u);
    EXPECT_EQ(call(calls_any, -1L), -ENOSYS);
    EXPECT_EQ(call(calls_any, 512L), -ENOSYS);
  }
  EXPECT_EQ(g_exit.runs, 4u);  // the ends of numbers beyond all that exist are not seen
  auto only_end = request(AT(calls_any), false, {});
  only_end.exit_programs = {program(on_exit, SYS_getppid)};
  const auto before = patch(only_end);
  EXPECT_EQ(call(calls_any, long{SYS_getppid}), ::getppid());
  EXPECT_EQ(g_exit.runs, 5u);
}

TEST_F(SystemCalls, GiveRawTracepointsRegisters) {
  auto raw = program(on_raw);
  raw.context = SystemCallContext::kRegisters;
  const auto before = patch(request(AT(calls_write), false, {raw}));
  EXPECT_EQ(call(calls_write, -5L, "x", 1L), -1);
  EXPECT_EQ(g_enter.number, 1);
  EXPECT_EQ(static_cast<int64_t>(g_enter.arguments[0]), -5);
  EXPECT_EQ(g_enter.arguments[1], 1u);
  EXPECT_EQ(static_cast<int64_t>(g_enter.arguments[2]), -ENOSYS);
  EXPECT_EQ(g_enter.arguments[3], reinterpret_cast<uint64_t>(calls_write) + 7);
}

TEST_F(SystemCalls, OfAnotherProcessAreNotSeen) {
  auto other = program(on_enter);
  other.call.only_tgid = identity_.tgid + 1;
  auto own = program(on_exit);
  own.call.only_tgid = identity_.tgid;
  const auto before = patch(request(AT(calls_write), false, {other, own}));
  EXPECT_EQ(call(calls_write, -1L, "x", 1L), -1);
  EXPECT_EQ(g_enter.runs, 0u);
  EXPECT_EQ(g_exit.runs, 1u);
}

TEST_F(SystemCalls, CanBeEnded) {
  auto end = program(ends_it);
  end.call.ends = ProgramCall::Ends::kResultInRax;
  const auto before = patch(request(AT(calls_write), false, {program(on_enter), end}));
  const auto after = patch(request(AT(calls_write), true, {program(on_exit)}));
  EXPECT_EQ(call(calls_write, -1L, "x", 1L), 4711);
  EXPECT_EQ(g_enter.runs, 1u);
  EXPECT_EQ(g_exit.arguments[0], 4711u);
  auto refused = request(AT(calls_write), true, {end});
  EXPECT_FALSE(plan_system_call(refused).ok());
}

// Stands for the agent: makes the first, leaves the others to the kernel, and spoils what a function may.
volatile uint64_t g_guarded;
volatile uint64_t g_stack;
extern "C" GENERAL long guards_calls(long number, uint64_t* arguments, uint64_t stack) {
  g_guarded = g_guarded + 1;
  g_stack = stack;
  const auto first = static_cast<long>(arguments[0]), second = static_cast<long>(arguments[1]),
             third = static_cast<long>(arguments[2]), fourth = static_cast<long>(arguments[3]);
  asm volatile("mov $-1, %%rdx; mov %%rdx, %%rcx; mov %%rdx, %%r8; mov %%rdx, %%r9; mov %%rdx, %%r10" ::
                   : "rcx", "rdx", "r8", "r9", "r10");
  return first == 4711 ? number * 1000 + second + third + fourth : wire::kSignalCallIsTheKernels;
}

TEST_F(SystemCalls, AboutSignalsAreLedToTheirGuard) {
  g_guarded = 0;
  const auto guard = reinterpret_cast<uint64_t>(guards_calls);
  const auto guarded = [&](std::vector<SystemCallProgram> programs, std::vector<SystemCallProgram> exits) {
    auto out = request(AT(calls_any), false, std::move(programs));
    out.exit_programs = std::move(exits);
    out.signal_guard = guard;
    return out;
  };
  constexpr long kMine = SYS_rt_sigprocmask * 1000 + 6;
  {
    const auto before = patch(guarded({}, {}));
    EXPECT_EQ(call(calls_any, long{SYS_rt_sigprocmask}, 4711L, 1L, 2L, 3L), kMine);
    EXPECT_EQ(call(calls_any, long{SYS_rt_sigprocmask}, 99L, 16L, 0L, 8L), -EFAULT) << "the kernel's";
    EXPECT_EQ(call(calls_any, long{SYS_rt_sigaction}, 0L, 0L, 0L, 8L), -EINVAL) << "the kernel's";
    EXPECT_EQ(g_guarded, 3u);
    EXPECT_EQ(call(calls_any, long{SYS_getppid}), ::getppid());
    EXPECT_EQ(call(calls_any, long{SYS_write}, -1L, "x", 1L), -EBADF);
    EXPECT_EQ(g_guarded, 3u) << "other calls are none of its business";
  }
  for (const int32_t only : {int{SYS_rt_sigprocmask}, -1}) {
    SetUp();
    const auto both = patch(guarded({program(on_enter, SYS_rt_sigprocmask)}, {program(on_exit, only)}));
    EXPECT_EQ(call(calls_any, long{SYS_rt_sigprocmask}, 4711L, 1L, 2L, 3L), kMine);
    EXPECT_EQ(g_enter.arguments[0], 4711u);
    EXPECT_EQ(g_exit.runs, 1u);
    EXPECT_EQ(g_exit.number, SYS_rt_sigprocmask);
    EXPECT_EQ(g_exit.arguments[0], static_cast<uint64_t>(kMine));
    EXPECT_EQ(call(calls_any, long{SYS_rt_sigaction}, 4711L, 0L, 0L, 0L), SYS_rt_sigaction * 1000);
    EXPECT_EQ(g_exit.runs, only < 0 ? 2u : 1u);
    EXPECT_EQ(call(calls_any, long{SYS_rt_sigprocmask}, 99L, 16L, 0L, 8L), -EFAULT);
    EXPECT_EQ(g_exit.runs, only < 0 ? 3u : 2u) << "the kernel's, too";
    EXPECT_EQ(call(calls_any, long{SYS_getppid}), ::getppid());
  }
  {
    auto known = request(AT(calls_mask), false, {program(on_enter)});
    known.signal_guard = guard;
    const auto before = patch(known);
    const auto after = patch(request(AT(calls_mask), true, {program(on_exit)}));
    g_exit.runs = 0;
    EXPECT_EQ(call(calls_mask, 4711L, 1L, 2L, 3L), SYS_rt_sigprocmask * 1000 + 1 + 2);
    EXPECT_EQ(g_exit.runs, 1u) << "its end is where it always was";
    EXPECT_EQ(call(calls_mask, 99L, 16L, 0L), -EINVAL) << "the kernel's: a size of 0";
    EXPECT_EQ(call(preserved_around, calls_mask), 0);
  }
  auto other = request(AT(calls_write), false, {});
  other.signal_guard = guard;
  EXPECT_FALSE(plan_system_call(other).ok());
  auto end = request(AT(calls_mask), true, {});
  end.signal_guard = guard;
  EXPECT_FALSE(plan_system_call(end).ok());
}

// Stands for the agent: another mask for ppoll.
const uint64_t kLent = 0;
extern "C" GENERAL long lends_masks(long number, uint64_t* arguments, uint64_t) {
  g_guarded = g_guarded + 1;
  if (number == SYS_ppoll) arguments[3] = reinterpret_cast<uint64_t>(&kLent);
  return wire::kSignalCallIsTheKernels;
}

// The mask reaches the kernel in place of the host's: a wait that lets a signal through which the host's would not.
TEST_F(SystemCalls, WithMasksTakeThoseTheGuardLends) {
  g_guarded = 0;
  struct sigaction action {
  }, old{};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGUSR2, &action, &old), 0);
  sigset_t usr2, before_mask;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &usr2, &before_mask), 0);
  const uint64_t all = ~uint64_t{0};
  for (const bool any : {false, true}) {
    auto guarded =
        any ? request(AT(calls_any), false, {}) : request(AT(calls_ppoll), false, {program(on_enter)});
    guarded.signal_guard = reinterpret_cast<uint64_t>(lends_masks);
    const auto before = patch(guarded);
    ::raise(SIGUSR2);
    const uint64_t asked = g_guarded;
    EXPECT_EQ(any ? call(calls_any, long{SYS_ppoll}, 0L, 0L, 0L, &all, 8L) : call(calls_ppoll, &all), -EINTR);
    EXPECT_EQ(g_guarded, asked + 1);
    if (any) continue;
    EXPECT_EQ(g_enter.arguments[3], reinterpret_cast<uint64_t>(&all)) << "programs see the host's";
  }
  ::pthread_sigmask(SIG_SETMASK, &before_mask, nullptr);
  ::sigaction(SIGUSR2, &old, nullptr);
}

TEST_F(SystemCalls, WhoseMasksAreLookedAtAgainAreNotGuarded) {
  const auto used = [&](auto... code) { return request(code..., false, {}).site.arguments_used_after; };
  EXPECT_EQ(used(AT(calls_suspend)), 0);
  EXPECT_EQ(used(AT(calls_ppoll)), 0);
  EXPECT_EQ(used(AT(calls_any)), 0);
  EXPECT_EQ(used(AT(calls_suspend_and_looks)), 1 << 0);
  EXPECT_EQ(used(AT(calls_pselect)) & 1 << 5, 1 << 5);
  EXPECT_EQ(used(AT(calls_write)), 0) << "nobody asks";
  auto refused = request(AT(calls_suspend_and_looks), false, {});
  EXPECT_NE(no_guard_at(refused.site), "");
  refused.signal_guard = reinterpret_cast<uint64_t>(lends_masks);
  EXPECT_FALSE(plan_system_call(refused).ok());
}

TEST_F(SystemCalls, LeaveRegistersAndRedZoneAlone) {
  EXPECT_EQ(call(preserved_around, calls_write), 0);
  const auto before = patch(request(AT(calls_write), false, {program(on_enter)}));
  const auto after = patch(request(AT(calls_write), true, {program(on_exit)}));
  EXPECT_EQ(call(preserved_around, calls_write), 0);
  EXPECT_EQ(g_enter.runs + g_exit.runs, 2u);
  const auto zone = patch(request(AT(calls_red_zone), false, {program(on_enter)}));
  const auto zone_after = patch(request(AT(calls_red_zone), true, {program(on_exit)}));
  EXPECT_EQ(call(calls_red_zone, 123456L), 123456);
  EXPECT_EQ(g_enter.runs + g_exit.runs, 4u);
}

// The kernel starts a call anew by setting the program counter back by two bytes.
volatile int g_signals;
TEST_F(SystemCalls, AreRestarted) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  struct sigaction action {};
  action.sa_handler = [](int) { g_signals = g_signals + 1; };
  action.sa_flags = SA_RESTART;
  struct sigaction old {};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &old), 0);
  const auto before = patch(request(AT(calls_read), false, {program(on_enter)}));
  const auto after = patch(request(AT(calls_read), true, {program(on_exit)}));
  const pthread_t reader = ::pthread_self();
  std::thread waker([&] {
    for (int i = 0; i < 20; ++i) {
      const int had = g_signals;
      ::pthread_kill(reader, SIGUSR1);
      while (g_signals == had) std::this_thread::yield();
    }
    EXPECT_EQ(::write(ends[1], "done", 4), 4);
  });
  char got[8] = {};
  EXPECT_EQ(call(calls_read, ends[0], got, 4L), 4);
  waker.join();
  EXPECT_STREQ(got, "done");
  EXPECT_EQ(g_signals, 20);
  EXPECT_EQ(g_enter.runs, 1u);
  EXPECT_EQ(g_exit.runs, 1u);
  EXPECT_EQ(g_exit.arguments[0], 4u);
  ::sigaction(SIGUSR1, &old, nullptr);
}

TEST_F(SystemCalls, ThatReturnTwiceDoSo) {
  const auto before = patch(request(AT(calls_clone), false, {program(on_enter)}));
  const auto after = patch(request(AT(calls_clone), true, {program(on_exit)}));
  alignas(16) static uint8_t stack[16384];
  // A thread of its own: shares memory, so both returns are seen in ours.
  const long child =
      call(calls_clone, long{CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD}, stack + sizeof stack - 8);
  ASSERT_GT(child, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(static_cast<pid_t>(child), &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(g_enter.runs, 1u);
  EXPECT_EQ(g_exit.runs, 2u);
}

// What the child of a call finds: whether its memory is known to be another process's, too.
const wire::TargetIdentity* g_identity;
volatile int64_t g_shared_in_child;
GENERAL uint64_t looks_around(void* context, const wire::Invocation*) {
  const auto* words = static_cast<const int64_t*>(context);
  if (words[2] == 0) g_shared_in_child = g_identity->memory_shared;
  return 0;
}

TEST_F(SystemCalls, ThatMakeProcessesInThisMemorySaySo) {
  g_identity = &identity_;
  const auto keeps = [&](bool on_exit, std::vector<SystemCallProgram> programs) {
    auto out = request(AT(calls_clone), on_exit, std::move(programs));
    out.keeps_memory_shared = true;
    return patch(out);
  };
  const auto after = keeps(true, {program(looks_around)});
  alignas(16) static uint8_t stack[16384];
  const auto clone = [&](unsigned long flags) {
    g_shared_in_child = -1;
    const long child = call(calls_clone, flags | SIGCHLD, stack + sizeof stack - 8);
    int status = 0;
    if (child < 0) return child;
    EXPECT_EQ(::waitpid(static_cast<pid_t>(child), &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 7);
    return child;
  };
  EXPECT_GT(clone(CLONE_VM | CLONE_VFORK), 0);
  EXPECT_EQ(identity_.memory_shared, 0u);  // it was under way when it was patched: lowered only if raised

  const auto before = keeps(false, {});
  EXPECT_GT(clone(CLONE_VM | CLONE_VFORK), 0);
  EXPECT_EQ(g_shared_in_child, 1);
  EXPECT_EQ(identity_.memory_shared, 0u);
  EXPECT_GT(clone(0), 0);  // as fork
  EXPECT_EQ(g_shared_in_child, -1);
  EXPECT_EQ(identity_.memory_shared, 0u);
  EXPECT_LT(clone(CLONE_SIGHAND), 0);
  EXPECT_EQ(identity_.memory_shared, 0u);
  EXPECT_GT(clone(CLONE_VM), 0);  // parent and child go on together
  EXPECT_EQ(g_shared_in_child, 1);
  EXPECT_EQ(identity_.memory_shared, 1u);
}

// A signal at any moment: a timer that is much faster than a call.
volatile uint64_t g_alarms;
TEST_F(SystemCalls, AreInterruptedAnywhere) {
  const auto before = patch(request(AT(calls_write), false, {program(on_enter)}));
  const auto after = patch(request(AT(calls_write), true, {program(on_exit)}));
  struct sigaction action {};
  action.sa_handler = [](int) {
    g_alarms = g_alarms + 1;
    (void)call(calls_write, -1L, "x", 1L);
  };
  struct sigaction old {};
  ASSERT_EQ(::sigaction(SIGALRM, &action, &old), 0);
  itimerval every{{0, 20}, {0, 20}}, never{};
  ASSERT_EQ(::setitimer(ITIMER_REAL, &every, nullptr), 0);
  uint64_t calls = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (g_alarms < 2000 && std::chrono::steady_clock::now() < end) {
    ASSERT_EQ(call(preserved_around, calls_write), 0);
    ++calls;
  }
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &old, nullptr);
  EXPECT_GE(g_alarms, 2000u);
  std::cerr << calls << " calls, " << g_alarms << " signals\n";
}

struct SeenSignal {
  uint64_t runs;
  int32_t signal, error, code, pid;
};
volatile SeenSignal g_signal;
GENERAL uint64_t on_signal(void* context, const wire::Invocation*) {
  const auto* words = static_cast<const int32_t*>(context);
  g_signal.runs = g_signal.runs + 1;
  g_signal.signal = words[2];
  g_signal.error = words[3];
  g_signal.code = words[4];
  g_signal.pid = words[9];
  return 0;
}

// calls_any is asked for any number, so all five are told apart here.
TEST_F(SystemCalls, ThatSendSignalsTellWhich) {
  const pid_t pid = ::getpid(), tid = ::gettid();
  std::vector<SystemCallProgram> programs;
  for (const int32_t number : kSignalCalls) {
    programs.push_back(program(on_signal, number));
    programs.back().context = SystemCallContext::kSignal;
  }
  const auto patched = patch(request(AT(calls_any), false, programs));
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  struct sigaction old {};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &old), 0);
  uint64_t runs = 0;
  const auto sent = [&](int32_t to) {
    EXPECT_EQ(g_signal.runs, ++runs);
    EXPECT_EQ(g_signal.signal, SIGUSR1);
    EXPECT_EQ(g_signal.pid, to);
  };
  const auto number = [](long value) { return value; };
  EXPECT_EQ(call(calls_any, number(SYS_kill), number(pid), number(SIGUSR1)), 0);
  sent(pid);
  EXPECT_EQ(call(calls_any, number(SYS_tkill), number(tid), number(SIGUSR1)), 0);
  sent(tid);
  EXPECT_EQ(call(calls_any, number(SYS_tgkill), number(pid), number(tid), number(SIGUSR1)), 0);
  sent(tid);
  siginfo_t info{};
  info.si_signo = SIGUSR1;
  info.si_code = SI_QUEUE;
  info.si_errno = 77;
  EXPECT_EQ(call(calls_any, number(SYS_rt_sigqueueinfo), number(pid), number(SIGUSR1), &info), 0);
  sent(pid);
  EXPECT_EQ(g_signal.error, 77);
  EXPECT_EQ(call(calls_any, number(SYS_rt_tgsigqueueinfo), number(pid), number(tid), number(SIGUSR1), &info),
            0);
  sent(tid);
  EXPECT_EQ(g_signal.error, 77);

  // Sent to nobody, to several, or not at all.
  EXPECT_EQ(call(calls_any, number(SYS_kill), number(pid), number(0)), 0);
  EXPECT_EQ(call(calls_any, number(SYS_kill), number(pid), number(65)), -EINVAL);
  EXPECT_EQ(call(calls_any, number(SYS_kill), number(pid), number(-1)), -EINVAL);
  EXPECT_EQ(call(calls_any, number(SYS_kill), number(0x7fffffff), number(SIGUSR1)), -ESRCH);
  EXPECT_EQ(call(calls_any, number(SYS_tgkill), number(1), number(tid), number(SIGUSR1)), -ESRCH);
  EXPECT_EQ(call(calls_any, number(SYS_rt_sigqueueinfo), number(pid), number(SIGUSR1), number(8)), -EFAULT);
  EXPECT_EQ(call(calls_any, number(SYS_getpid)), pid);
  EXPECT_EQ(g_signal.runs, runs);
  ASSERT_EQ(::sigaction(SIGUSR1, &old, nullptr), 0);
}

// Its unwind table ends before the call, and no symbol names it.
TEST_F(SystemCalls, OfClone3AreFoundByTheirCode) {
  const std::vector<uint8_t> text = {0x48, 0x89, 0xc8,                          // mov %rcx,%rax
                                     0xb8, 0xb3, 0x01, 0x00, 0x00, 0x0f, 0x05,  // mov $435,%eax; syscall
                                     0x48, 0x85, 0xc0, 0x7c, 0x18,              // test %rax,%rax; jl
                                     0x74, 0x01, 0xc3, 0x31, 0xed};             // je; ret; xor
  const auto nobody = [](uint64_t) { return std::optional<std::pair<uint64_t, uint64_t>>(); };
  const auto found = find_system_calls(text, 0x1000, nobody);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].function + found[0].site.enter_offset, 0x1003u);
  EXPECT_EQ(found[0].function + found[0].site.offset, 0x1008u);
  EXPECT_EQ(found[0].site.number, 435);
  EXPECT_EQ(found[0].site.no_enter + found[0].site.no_exit, "");
  EXPECT_EQ(found[0].site.exit_length, 5u);
  for (const size_t other : {3, 4, 10, 13, 17}) {
    auto changed = text;
    changed[other] ^= 1;
    EXPECT_TRUE(find_system_calls(changed, 0x1000, nobody).empty()) << other;
  }
}

class SystemCallSweep : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Binaries, SystemCallSweep,
                         ::testing::Values("/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = isalnum(c) ? c : '_';
                           return name;
                         });

TEST_P(SystemCallSweep, MostCallsCanBeSeen) {
  auto elf = symbols::ElfFile::open(GetParam());
  if (!elf) GTEST_SKIP() << GetParam() << " cannot be read";
  std::vector<TextSystemCall> sites;
  std::chrono::nanoseconds took{};
  for (const auto& segment : elf->segments()) {
    if (!segment.executable) continue;
    const auto text = elf->read(segment.address, segment.file_size);
    const auto start = std::chrono::steady_clock::now();
    for (auto& site : find_system_calls(text, segment.address, [&](uint64_t address) {
           const auto function = elf->function_at(address);
           return function ? std::optional(std::pair(function->address, function->size)) : std::nullopt;
         }))
      sites.push_back(std::move(site));
    took += std::chrono::steady_clock::now() - start;
  }
  std::map<std::string, int> reasons;
  size_t enter = 0, exit = 0, known = 0, unguarded = 0;
  for (const auto& call : sites) {
    known += call.site.number >= 0;
    enter += call.site.no_enter.empty();
    exit += call.site.no_exit.empty() && (call.site.number >= 0 || call.site.number_register >= 0);
    if (!call.site.no_enter.empty()) ++reasons["enter: " + call.site.no_enter];
    const bool guarded = guarded_call(call.site.number) != nullptr;
    const std::string no_guard = no_guard_at(call.site).empty() ? call.site.no_enter : no_guard_at(call.site);
    if (guarded && !no_guard.empty()) {
      ++reasons["guard of " + std::to_string(call.site.number) + ": " + no_guard];
      ++unguarded;
    }
    if (!call.site.no_exit.empty()) ++reasons["exit: " + call.site.no_exit];
  }
  std::cerr << sites.size() << " calls, " << known << " of known number, enter " << enter << ", exit " << exit
            << ", " << took.count() / 1000 << " us\n";
  for (const auto& [why, count] : reasons) std::cerr << "  " << count << "  " << why << "\n";
  EXPECT_GE(enter * 100, sites.size() * 90);
  EXPECT_GE(exit * 100, sites.size() * 85);
  EXPECT_EQ(unguarded, 0u);
}

}  // namespace
}  // namespace bpftime::rewrite

// Helpers as compiled programs call them, in this very process.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "compiler/testing_target.h"
#include "helpers/table.h"
#include "helpers/trace_record.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

uint64_t now(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
}

class Helpers : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(target_.ok()) << "the window is taken"; }
  uint64_t call_only(int32_t helper) { return target_.run(Sequence() << call(helper) << exit_insn()); }
  void forbid_system_calls() { target_.context()->flags |= wire::kNoSystemCalls; }

  Target target_;
};

// A missing function would be an undefined reference, which the linker refuses.
TEST_F(Helpers, EveryRowOfTheTableCompilesToGeneralRegistersOnly) {
  target_.use_trace_ring(target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096));
  for (const helpers::Helper& helper : helpers::all()) {
    const auto code =
        target_.compile(Sequence() << mov(1, 0) << mov(2, 0) << mov(3, 0) << mov(4, 0) << mov(5, 0)
                                   << call(static_cast<int32_t>(helper.id)) << exit_insn());
    ASSERT_TRUE(code.ok()) << helper.name << ": " << code.error().message;
    EXPECT_EQ(code->forbidden_instruction(), "") << helper.name;
    EXPECT_EQ(code->machine_code().makes_system_calls, helper.system_call) << helper.name;
    EXPECT_EQ(code->machine_code().repairs_faults, helper.repairs_faults) << helper.name;
    const bool enters_kernel = code->disassembly().find("syscall") != std::string::npos;
    EXPECT_FALSE(enters_kernel && !helper.system_call)
        << helper.name << " makes system calls the table does not know";
  }
}

// ---- who and where ----

TEST_F(Helpers, PidTgidOfEveryThread) {
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_get_current_pid_tgid) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  const auto expected = [] {
    return static_cast<uint64_t>(getpid()) << 32 | static_cast<uint64_t>(gettid());
  };
  EXPECT_EQ(code->run(0, 0), expected());
  EXPECT_EQ(target_.identity()->tgid, static_cast<uint32_t>(getpid()));  // remembered
  std::thread([&] { EXPECT_EQ(code->run(0, 0), expected()); }).join();
}

TEST_F(Helpers, PidTgidOfAForkedChild) {
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_get_current_pid_tgid) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  code->run(0, 0);
  const pid_t child = fork();
  if (child == 0) {
    const uint64_t expected = static_cast<uint64_t>(getpid()) << 32 | static_cast<uint64_t>(gettid());
    _exit(code->run(0, 0) == expected ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// libc's thread structure and the identity page are the parent's then.
TEST_F(Helpers, PidTgidOfAChildInItsParentsMemory) {
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_get_current_pid_tgid) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  const uint64_t mine = static_cast<uint64_t>(getpid()) << 32 | static_cast<uint64_t>(gettid());
  EXPECT_EQ(code->run(0, 0), mine);
  static volatile uint64_t childs;
  target_.identity()->memory_shared = 1;
  const pid_t child = vfork();
  if (child == 0) {
    childs = code->run(0, 0);
    _exit(0);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_EQ(childs, static_cast<uint64_t>(child) << 32 | static_cast<uint64_t>(child));
  EXPECT_EQ(code->run(0, 0), mine);  // still counted: asked, and right
  target_.identity()->memory_shared = 0;
  EXPECT_EQ(code->run(0, 0), mine);  // what the child found out is not remembered
}

TEST_F(Helpers, PidTgidWithoutSystemCallsOrTidOffset) {
  forbid_system_calls();
  EXPECT_EQ(call_only(BPF_FUNC_get_current_pid_tgid),
            static_cast<uint64_t>(gettid()) << 32 | static_cast<uint64_t>(gettid()));
  EXPECT_EQ(target_.identity()->tgid, 0u);  // a guess is not remembered
  target_.context()->flags = 0;
  target_.context()->tid_offset = 0;
  EXPECT_EQ(call_only(BPF_FUNC_get_current_pid_tgid),
            static_cast<uint64_t>(getpid()) << 32 | static_cast<uint64_t>(gettid()));
}

TEST_F(Helpers, UidGidAreAskedEachTime) {
  EXPECT_EQ(call_only(BPF_FUNC_get_current_uid_gid), static_cast<uint64_t>(getgid()) << 32 | getuid());
  forbid_system_calls();
  EXPECT_EQ(call_only(BPF_FUNC_get_current_uid_gid), ~uint64_t{0});
}

TEST_F(Helpers, Comm) {
  prctl(PR_SET_NAME, "fifteen-letters");
  for (const int32_t size : {1, 4, 16, 32}) {
    char buffer[40];
    memset(buffer, 'x', sizeof(buffer));
    EXPECT_EQ(
        target_.run(Sequence() << mov(2, size) << call(BPF_FUNC_get_current_comm) << exit_insn(), buffer),
        0u);
    std::string expected = std::string("fifteen-letters").substr(0, static_cast<size_t>(size) - 1);
    expected.resize(static_cast<size_t>(size), '\0');
    EXPECT_EQ(std::string(buffer, static_cast<size_t>(size)), expected);
    EXPECT_EQ(buffer[size], 'x');
  }
  forbid_system_calls();
  char buffer[16] = "xxxxxxxxxxxxxxx";
  EXPECT_EQ(static_cast<int64_t>(target_.run(
                Sequence() << mov(2, 16) << call(BPF_FUNC_get_current_comm) << exit_insn(), buffer)),
            -EPERM);
  EXPECT_EQ(std::string(buffer, 16), std::string(16, '\0'));
}

TEST_F(Helpers, SmpProcessorId) {
  cpu_set_t before;
  sched_getaffinity(0, sizeof(before), &before);
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_get_smp_processor_id) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  const int64_t rseq = target_.context()->rseq_offset;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &before)) continue;
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    ASSERT_EQ(sched_setaffinity(0, sizeof(only), &only), 0);
    EXPECT_EQ(code->run(0, 0), static_cast<uint64_t>(cpu));
    target_.context()->rseq_offset = 0;  // a libc without rseq
    EXPECT_EQ(code->run(0, 0), static_cast<uint64_t>(cpu));
    target_.context()->rseq_offset = rseq;
  }
  sched_setaffinity(0, sizeof(before), &before);
}

TEST_F(Helpers, RandomNumbersDiffer) {
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_get_prandom_u32) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; i++) {
    const uint64_t number = code->run(0, 0);
    EXPECT_LE(number, 0xffffffffu);
    seen.insert(number);
  }
  EXPECT_GT(seen.size(), 990u);
}

TEST_F(Helpers, CookieAndFuncIpComeFromTheInvocation) {
  const wire::Invocation invocation{0x1122334455667788, 0x99aabbccddeeff00, 1, 0};
  EXPECT_EQ(target_.run(Sequence() << call(BPF_FUNC_get_attach_cookie) << exit_insn(), nullptr, invocation),
            invocation.cookie);
  EXPECT_EQ(target_.run(Sequence() << call(BPF_FUNC_get_func_ip) << exit_insn(), nullptr, invocation),
            invocation.func_ip);
}

TEST_F(Helpers, CookieIsKnownInLocalFunctions) {
  const wire::Invocation invocation{77, 0, 1, 0};
  EXPECT_EQ(target_.run(Sequence() << raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1) << exit_insn()
                                   << call(BPF_FUNC_get_attach_cookie) << exit_insn(),
                        nullptr, invocation),
            77u);
}

// ---- time ----

TEST_F(Helpers, ClocksAgreeWithTheKernels) {
  const struct {
    int32_t helper;
    clockid_t clock;
  } clocks[] = {
      {BPF_FUNC_ktime_get_ns, CLOCK_MONOTONIC}, {125, CLOCK_BOOTTIME}, {160, CLOCK_MONOTONIC_COARSE}};
  const uint64_t vdso = target_.context()->vdso_clock_gettime;
  EXPECT_NE(vdso, 0u) << "no vDSO: only the system call was tested";
  for (const bool with_vdso : {true, false}) {
    target_.context()->vdso_clock_gettime = with_vdso ? vdso : 0;
    for (const auto& [helper, clock] : clocks) {
      const uint64_t before = now(clock);
      const uint64_t inside = call_only(helper);
      EXPECT_LE(before, inside);
      EXPECT_LE(inside, now(clock));
    }
  }
  forbid_system_calls();
  EXPECT_EQ(call_only(BPF_FUNC_ktime_get_ns), 0u);
}

// How far a clock drawn as a line may be from the kernel's (docs/decisions/0040-clock-lines.md).
constexpr uint64_t kClockBoundNs = 10'000;

// Readings of `code`, each between two of the kernel's; the first disagreement, or "".
std::string compare_clocks(const Code& code, clockid_t clock, int readings) {
  uint64_t previous = 0;
  for (int i = 0; i < readings; i++) {
    const uint64_t before = now(clock), inside = code.run(0, 0), after = now(clock);
    const std::string what = "reading " + std::to_string(i) + ": " + std::to_string(before) + " " +
                             std::to_string(inside) + " " + std::to_string(after);
    if (inside < previous) return what + " went back from " + std::to_string(previous);
    if (inside + kClockBoundNs < before || inside > after + kClockBoundNs) return what + " is off";
    previous = inside;
  }
  return "";
}

bool counter_is_the_clock() {
  std::string source;
  std::ifstream("/sys/devices/system/clocksource/clocksource0/current_clocksource") >> source;
  return source == "tsc";
}

TEST_F(Helpers, ClockLinesFollowTheKernelsClocksInAllThreads) {
  if (!counter_is_the_clock()) GTEST_SKIP() << "the clock source is not tsc";
  const struct {
    int32_t helper;
    clockid_t clock;
    const wire::ClockLine& line;
  } clocks[] = {{BPF_FUNC_ktime_get_ns, CLOCK_MONOTONIC, target_.identity()->monotonic},
                {125, CLOCK_BOOTTIME, target_.identity()->boottime}};
  for (const auto& [helper, clock, line] : clocks) {
    const auto code = target_.compile(Sequence() << call(helper) << exit_insn());
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(line.ticks_max, 0u);
    std::vector<std::string> found(4);
    std::vector<std::thread> threads;
    for (std::string& trouble : found)
      threads.emplace_back([&] { trouble = compare_clocks(*code, clock, 200'000); });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& trouble : found) EXPECT_EQ(trouble, "");
    EXPECT_GT(line.sequence, 8u) << "several lines were drawn";
    EXPECT_NE(line.ticks_max, 0u);
  }
}

TEST_F(Helpers, ClocksNeedNoCounter) {
  target_.context()->flags &= ~wire::kTscClock;
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_ktime_get_ns) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(compare_clocks(*code, CLOCK_MONOTONIC, 10'000), "");
  EXPECT_EQ(target_.identity()->monotonic.sequence, 0u);
}

// What a suspended machine, a counter that started anew or a host that writes where it should not leave behind.
TEST_F(Helpers, ClockLinesRecoverFromAnything) {
  if (!counter_is_the_clock()) GTEST_SKIP() << "the clock source is not tsc";
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_ktime_get_ns) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  wire::ClockLine& line = target_.identity()->monotonic;
  ASSERT_EQ(compare_clocks(*code, CLOCK_MONOTONIC, 100'000), "");
  const wire::ClockLine good = line;
  uint64_t wire::ClockLine::*const fields[] = {&wire::ClockLine::ticks,      &wire::ClockLine::slope,
                                               &wire::ClockLine::ticks_max,  &wire::ClockLine::ns_end,
                                               &wire::ClockLine::base_ticks, &wire::ClockLine::base_ns,
                                               &wire::ClockLine::measured};
  for (const auto field : fields) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{1}, good.*field / 2, good.*field * 2, ~uint64_t{0}}) {
      line = good;
      line.*field = value;
      line.sequence = good.sequence & ~uint64_t{1};
      // Expires what the scribble left valid: a line is believed until its end.
      if (line.ticks_max > good.ticks_max || line.slope != good.slope || line.ticks != good.ticks)
        line.ticks_max = 0;
      for (int i = 0; i < 1000; i++) code->run(0, 0);
      const uint64_t start = now(CLOCK_MONOTONIC);
      while (now(CLOCK_MONOTONIC) - start < 3'000'000) code->run(0, 0);
      EXPECT_EQ(compare_clocks(*code, CLOCK_MONOTONIC, 1000), "") << value;
    }
  }
}

TEST_F(Helpers, ClocksOfAChildInAnotherTimeNamespace) {
  const auto code = target_.compile(Sequence() << call(BPF_FUNC_ktime_get_ns) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(compare_clocks(*code, CLOCK_MONOTONIC, 100'000), "");
  // The namespace is its creator's children's: made in a child, so that this process keeps its own.
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWTIME) != 0) _exit(2);
    FILE* offsets = fopen("/proc/self/timens_offsets", "w");
    if (offsets == nullptr || fputs("monotonic 86400 0\n", offsets) < 0 || fclose(offsets) != 0) _exit(2);
    for (int i = 0; i < 100'000; i++) code->run(0, 0);
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(compare_clocks(*code, CLOCK_MONOTONIC, 100'000).empty() ? 0 : 1);
    int status = -1;
    waitpid(grandchild, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "no new time namespace: needs CAP_SYS_ADMIN";
  EXPECT_EQ(status, 0);
}

// ---- probe_read ----

std::vector<program::Insn> read_program(int32_t helper, int32_t size, const void* address) {
  return Sequence() << mov(2, size) << load_imm(3, reinterpret_cast<uint64_t>(address)) << call(helper)
                    << exit_insn();
}

TEST_F(Helpers, ProbeReadCopiesOrZeroes) {
  const char source[8] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'};
  const void* bad[] = {nullptr,
                       reinterpret_cast<void*>(0x10),
                       reinterpret_cast<void*>(0x7ffffffffff0),
                       reinterpret_cast<void*>(0x7fffffffeffc),
                       reinterpret_cast<void*>(0x800000000000),
                       reinterpret_cast<void*>(~uint64_t{0} - 3)};
  for (const int32_t helper : {4, 112, 113}) {
    char buffer[9] = "xxxxxxxx";
    EXPECT_EQ(target_.run(read_program(helper, 8, source), buffer), 0u);
    EXPECT_EQ(std::string(buffer, 8), "abcdefgh");
    for (const void* address : bad) {
      memset(buffer, 'x', 9);
      EXPECT_EQ(static_cast<int64_t>(target_.run(read_program(helper, 8, address), buffer)), -EFAULT)
          << address;
      EXPECT_EQ(std::string(buffer, 9), std::string(8, '\0') + "x");
    }
    memset(buffer, 'x', 9);
    EXPECT_EQ(target_.run(read_program(helper, 0, nullptr), buffer), 0u);
    EXPECT_EQ(buffer[0], 'x');
  }
}

TEST_F(Helpers, ProbeReadsOfWordsAreLoadsInTheCode) {
  const uint64_t source = 0x8877665544332211;
  for (const int32_t size : {1, 2, 4, 8}) {
    auto* word = new uint64_t(~uint64_t{0});
    const auto code = target_.compile(read_program(112, size, &source));
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_NE(code->disassembly().find("nop"), std::string::npos);
    EXPECT_EQ(code->disassembly().find("call"), std::string::npos) << code->disassembly();
    EXPECT_EQ(code->run(reinterpret_cast<uint64_t>(word), 0), 0u);
    EXPECT_EQ(memcmp(word, &source, static_cast<size_t>(size)), 0) << size;
    EXPECT_EQ(size == 8 || *word >> size * 8 == ~uint64_t{0} >> size * 8, true) << "wrote more than " << size;
    *word = ~uint64_t{0};
    EXPECT_EQ(static_cast<int64_t>(target_.run(read_program(112, size, reinterpret_cast<void*>(0x10)), word)),
              -EFAULT);
    EXPECT_EQ(*word << (64 - size * 8), 0u) << "zeroed";
    delete word;
  }
}

TEST_F(Helpers, ProbeWritesOfWordsAreStoresInTheCode) {
  const auto write_program = [](void* address, int32_t size) {
    return Sequence() << mov_reg(2, 1) << load_imm(1, reinterpret_cast<uint64_t>(address)) << mov(3, size)
                      << call(BPF_FUNC_probe_write_user) << exit_insn();
  };
  uint64_t source = 0x8877665544332211;
  auto* read_only = static_cast<char*>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (const int32_t size : {1, 2, 4, 8}) {
    auto target = std::make_unique<uint64_t>(~uint64_t{0});
    const auto code = target_.compile(write_program(target.get(), size));
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(code->disassembly().find("jmpq	*"), std::string::npos) << code->disassembly();
    EXPECT_EQ(code->disassembly().find("call"), std::string::npos) << code->disassembly();
    EXPECT_EQ(code->run(reinterpret_cast<uint64_t>(&source), 0), 0u);
    EXPECT_EQ(memcmp(target.get(), &source, static_cast<size_t>(size)), 0) << size;
    EXPECT_EQ(size == 8 || *target >> size * 8 == ~uint64_t{0} >> size * 8, true)
        << "wrote more than " << size;
    for (void* bad : {static_cast<void*>(nullptr), static_cast<void*>(read_only),
                      reinterpret_cast<void*>(~uint64_t{0} - 8)}) {
      EXPECT_EQ(static_cast<int64_t>(target_.run(write_program(bad, size), &source)), -EFAULT) << bad;
    }
  }
  munmap(read_only, 4096);
}

TEST_F(Helpers, ProbeReadWithoutTheAgentFails) {
  target_.context()->safe_copy = target_.context()->safe_copy_string = 0;
  char buffer[200];
  memset(buffer, 'x', sizeof(buffer));
  EXPECT_EQ(static_cast<int64_t>(target_.run(read_program(112, 150, buffer), buffer)), -EFAULT);
  EXPECT_EQ(buffer[149], '\0');
  EXPECT_EQ(buffer[150], 'x');
  EXPECT_EQ(static_cast<int64_t>(target_.run(read_program(114, 8, "text"), buffer)), -EFAULT);
}

TEST_F(Helpers, ProbeReadStrCountsItsNul) {
  auto* page =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(page + 4096, 4096, PROT_NONE);
  char* at_end = page + 4096 - 6;
  memcpy(at_end, "hello", 6);
  for (const int32_t helper : {45, 114, 115}) {
    char buffer[9] = "xxxxxxxx";
    EXPECT_EQ(target_.run(read_program(helper, 8, at_end), buffer), 6u);
    EXPECT_STREQ(buffer, "hello");
    EXPECT_EQ(target_.run(read_program(helper, 3, at_end), buffer), 3u);  // cut, still terminated
    EXPECT_STREQ(buffer, "he");
    page[4095] = '!';  // runs into the hole
    memset(buffer, 'x', 9);
    EXPECT_EQ(static_cast<int64_t>(target_.run(read_program(helper, 8, at_end), buffer)), -EFAULT);
    EXPECT_EQ(std::string(buffer, 9), std::string(8, '\0') + "x");
    page[4095] = '\0';
    EXPECT_EQ(target_.run(read_program(helper, 0, at_end), buffer), 0u);
  }
  munmap(page, 8192);
}

// ---- maps ----

// r0 = lookup(map, key): r1..r2 set; falls through with r0 == 0 handled by the caller.
Sequence lookup(uint32_t map, int32_t key) {
  Sequence sequence;
  sequence << store_imm(BPF_W, 10, -4, key) << mov_reg(2, 10) << add(2, -4) << load_map(1, map)
           << call(BPF_FUNC_map_lookup_elem);
  return sequence;
}

TEST_F(Helpers, AMapIsUpdatedLookedUpAndDeletedFrom) {
  for (const uint32_t type : {BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY}) {
    const uint32_t map = target_.add_map(type, 4, 8, 16);
    const auto update = [&](int32_t key, int32_t value, int32_t flags) {
      return static_cast<int64_t>(target_.run(
          Sequence() << store_imm(BPF_W, 10, -4, key) << store_imm(BPF_DW, 10, -16, value) << load_map(1, map)
                     << mov_reg(2, 10) << add(2, -4) << mov_reg(3, 10) << add(3, -16) << mov(4, flags)
                     << call(BPF_FUNC_map_update_elem) << exit_insn()));
    };
    const auto read = [&](int32_t key) {
      return static_cast<int64_t>(target_.run(lookup(map, key) << jump_eq(0, 0, 2) << load(BPF_DW, 0, 0, 0)
                                                               << exit_insn() << mov(0, -1) << exit_insn()));
    };
    const auto remove = [&](int32_t key) {
      return static_cast<int64_t>(target_.run(Sequence() << store_imm(BPF_W, 10, -4, key) << load_map(1, map)
                                                         << mov_reg(2, 10) << add(2, -4)
                                                         << call(BPF_FUNC_map_delete_elem) << exit_insn()));
    };
    const bool hash = type == BPF_MAP_TYPE_HASH;
    EXPECT_EQ(read(3), hash ? -1 : 0);
    EXPECT_EQ(update(3, 42, BPF_ANY), 0);
    EXPECT_EQ(update(3, 43, BPF_NOEXIST), -EEXIST);
    EXPECT_EQ(update(16, 1, BPF_EXIST), hash ? -ENOENT : -E2BIG);
    if (hash) {
      EXPECT_EQ(read(3), 42);
    }
    EXPECT_EQ(read(16), -1);
    EXPECT_EQ(remove(3), hash ? 0 : -EINVAL);
    EXPECT_EQ(remove(3), hash ? -ENOENT : -EINVAL);
  }
}

// Noise, or numbers that do most harm as index, link, length or position.
void scribble(uint64_t address, uint64_t size, std::mt19937_64& random) {
  auto* words = reinterpret_cast<uint64_t*>(address);
  const uint64_t nasty[] = {0,          1,          ~uint64_t{0}, uint64_t{1} << 63, 0x80000000,   0x7fffffff,
                            0xffffffff, 0xfffffff8, 4096,         0x3fffffff,        random() % 80};
  const bool everywhere = random() % 2 != 0;
  for (uint64_t i = 0; i < size / 8; ++i)
    if (everywhere || random() % 8 == 0)
      words[i] = random() % 3 == 0 ? random() : nasty[random() % std::size(nasty)] + random() % 3;
}

// What the bitcode of the maps' code becomes inside programs believes no word of a map either: wrong values, but no access outside
// (nothing is mapped around it) and an end.
TEST_F(Helpers, OperationsStayInsideAMapThatAnybodyWrites) {
  std::mt19937_64 random(7);
  struct Kind {
    uint32_t type, key, value;
  };
  const Kind kinds[] = {{BPF_MAP_TYPE_HASH, 4, 8},        {BPF_MAP_TYPE_HASH, 4, 64},
                        {BPF_MAP_TYPE_PERCPU_HASH, 4, 8}, {BPF_MAP_TYPE_LRU_HASH, 4, 16},
                        {BPF_MAP_TYPE_ARRAY, 4, 8},       {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8},
                        {BPF_MAP_TYPE_LPM_TRIE, 8, 8},    {BPF_MAP_TYPE_QUEUE, 0, 8},
                        {BPF_MAP_TYPE_STACK, 0, 8},       {BPF_MAP_TYPE_RINGBUF, 0, 0}};
  for (const auto& [type, key_size, value_size] : kinds) {
    SCOPED_TRACE(type);
    const bool ring = type == BPF_MAP_TYPE_RINGBUF, keyed = key_size != 0;
    const int value = static_cast<int>(value_size), at_key = -8, at_value = at_key - value;
    const uint32_t map = target_.add_map(type, key_size, value_size, ring ? 4096 : 64,
                                         type == BPF_MAP_TYPE_LPM_TRIE ? BPF_F_NO_PREALLOC : 0);
    Sequence program;
    program << load(BPF_DW, 6, 1, 0) << store(BPF_DW, 10, at_key, 6);
    for (int i = 0; i < value; i += 8) program << store_imm(BPF_DW, 10, at_value + i, 5);
    const auto element = [&](int helper) {
      program << load_map(1, map) << mov_reg(2, 10) << add(2, keyed ? at_key : at_value) << mov_reg(3, 10)
              << add(3, at_value) << mov(4, 0);
      if (!keyed) program << mov(3, BPF_EXIST);
      program << call(helper);
    };
    if (ring) {
      program << load_map(1, map) << mov(2, 16) << mov(3, 0) << call(BPF_FUNC_ringbuf_reserve)
              << jump_eq(0, 0, 5) << store(BPF_DW, 0, 0, 6) << store(BPF_DW, 0, 8, 6) << mov_reg(1, 0)
              << mov(2, 0) << call(BPF_FUNC_ringbuf_submit);
    } else if (keyed) {
      element(BPF_FUNC_map_update_elem);
      element(BPF_FUNC_map_lookup_elem);
      program << jump_eq(0, 0, 2) << load(BPF_DW, 7, 0, value - 8) << store(BPF_DW, 0, value - 8, 7);
      element(BPF_FUNC_map_delete_elem);
    } else {
      element(BPF_FUNC_map_push_elem);
      element(BPF_FUNC_map_pop_elem);
      element(BPF_FUNC_map_peek_elem);
    }
    program << mov(0, 77) << exit_insn();
    auto code = target_.compile(program);
    ASSERT_TRUE(code.ok()) << code.error().message;
    const uint64_t size = maps::memory_size(target_.binding(map).spec);
    for (int round = 0; round < 200; ++round) {
      scribble(target_.binding(map).address, size, random);
      for (int i = 0; i < 8; ++i) {
        // Of an LPM trie: how many bits, and those.
        uint64_t key = type == BPF_MAP_TYPE_LPM_TRIE ? random() % 33 | random() << 32 : random() % 80;
        wire::Invocation invocation{};
        ASSERT_EQ(code->run(reinterpret_cast<uint64_t>(&key), reinterpret_cast<uint64_t>(&invocation)), 77u);
      }
    }
  }
}

TEST_F(Helpers, PerCpuArrayCountsInThisCpusSlot) {
  const uint32_t map = target_.add_map(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4);
  const auto code = target_.compile(lookup(map, 2) << jump_eq(0, 0, 3) << load(BPF_DW, 1, 0, 0) << add(1, 1)
                                                   << store(BPF_DW, 0, 0, 1) << mov(0, 0) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->forbidden_instruction(), "");
  for (int i = 0; i < 1000; i++) code->run(0, 0);
  const MapBinding& binding = target_.binding(map);
  std::vector<uint64_t> values(binding.spec.cpu_count);
  const uint32_t key = 2;
  ASSERT_EQ(maps::user_lookup(target_.map(map), &key, values.data(), 0), 0);
  uint64_t sum = 0;
  for (const uint64_t value : values) sum += value;
  EXPECT_EQ(sum, 1000u);
  // The whole lookup folds into the program: nothing is called.
  EXPECT_EQ(code->disassembly().find("call"), std::string::npos) << code->disassembly();
}

TEST_F(Helpers, GlobalDataIsAConstantAddress) {
  const uint32_t map = target_.add_map(BPF_MAP_TYPE_ARRAY, 4, 64, 1);
  Sequence program;
  program << raw(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, static_cast<int32_t>(map))
          << raw(0, 0, 0, 0, 16) << store_imm(BPF_W, 1, 4, 0x55) << mov(0, 0) << exit_insn();
  EXPECT_EQ(target_.run(program), 0u);
  EXPECT_EQ(target_.map(map).base[20], 0x55);
}

// ---- rings ----

TEST_F(Helpers, RingbufReserveSubmitDiscardOutputQuery) {
  const uint32_t ring = target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 8192);  // a second one to tell apart
  const auto reserve = [&](int32_t then) {
    return target_.run(Sequence() << load_map(1, ring) << mov(2, 16) << mov(3, 0) << call(131)
                                  << jump_eq(0, 0, 5) << store_imm(BPF_DW, 0, 0, 7)
                                  << store_imm(BPF_DW, 0, 8, then) << mov_reg(1, 0) << mov(2, 0) << call(then)
                                  << mov(0, 0) << exit_insn());
  };
  EXPECT_EQ(reserve(132), 0u);
  EXPECT_EQ(reserve(133), 0u);
  EXPECT_EQ(target_.run(Sequence() << store_imm(BPF_DW, 10, -8, 99) << load_map(1, ring) << mov_reg(2, 10)
                                   << add(2, -8) << mov(3, 8) << mov(4, 0) << call(130) << exit_insn()),
            0u);
  EXPECT_EQ(target_.run(Sequence() << load_map(1, ring) << mov(2, 1) << call(134) << exit_insn()), 4096u);
  uint64_t record[2] = {};
  EXPECT_EQ(maps::ring_consume(target_.map(ring), record, sizeof(record)), 16);
  EXPECT_EQ(record[0], 7u);
  EXPECT_EQ(record[1], 132u);
  EXPECT_EQ(maps::ring_consume(target_.map(ring), record, sizeof(record)),
            8);  // the discarded one is passed over
  EXPECT_EQ(record[0], 99u);
  EXPECT_EQ(maps::ring_consume(target_.map(ring), record, sizeof(record)), -EAGAIN);
  // Too large for the ring: NULL.
  EXPECT_EQ(target_.run(Sequence() << load_map(1, ring) << mov(2, 4096) << mov(3, 0) << call(131)
                                   << jump_eq(0, 0, 3) << mov_reg(1, 0) << mov(2, 0) << call(133) << mov(0, 5)
                                   << exit_insn()),
            5u);
  EXPECT_EQ(maps::ring_consume(target_.map(ring), record, sizeof(record)), -EAGAIN);
}

TEST_F(Helpers, RingbufWakesASleepingConsumer) {
  const uint32_t ring = target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  const auto code =
      target_.compile(Sequence() << store_imm(BPF_DW, 10, -8, 1) << load_map(1, ring) << mov_reg(2, 10)
                                 << add(2, -8) << mov(3, 8) << mov(4, 0) << call(130) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  bool has_data = true;
  const uint32_t value = maps::ring_prepare_wait(target_.map(ring), &has_data);
  ASSERT_FALSE(has_data);
  std::atomic<bool> woken = false;
  std::thread consumer([&] {
    const timespec deadline{20, 0};
    // EAGAIN: the producer came first; the word has changed, so we do not sleep.
    const long result =
        syscall(SYS_futex, maps::ring_wake_word(target_.map(ring)), FUTEX_WAIT, value, &deadline, nullptr, 0);
    woken = result == 0 || errno == EAGAIN;
  });
  EXPECT_EQ(code->run(0, 0), 0u);
  consumer.join();
  EXPECT_TRUE(woken);
  EXPECT_TRUE(maps::ring_has_data(target_.map(ring)));
}

TEST_F(Helpers, PerfEventOutput) {
  const uint32_t map = target_.add_map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4,
                                       static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_CONF)));
  const auto output = [&](uint64_t flags) {
    return static_cast<int64_t>(target_.run(
        Sequence() << store_imm(BPF_DW, 10, -8, 321) << mov_reg(4, 10) << add(4, -8) << load_map(2, map)
                   << load_imm(3, flags) << mov(5, 8) << call(BPF_FUNC_perf_event_output) << exit_insn()));
  };
  EXPECT_EQ(output(BPF_F_CURRENT_CPU), -ENOENT);
  EXPECT_EQ(output(10'000), -E2BIG);
  for (uint32_t slot = 0; slot < target_.binding(map).spec.max_entries; slot++)
    maps::perf_set_slot(target_.map(map), slot, true);
  EXPECT_EQ(output(BPF_F_CURRENT_CPU), 0);
  EXPECT_EQ(output(uint64_t{1} << 40), -EINVAL);
  uint8_t buffer[64] = {};
  EXPECT_EQ(maps::ring_consume(target_.map(map), buffer, sizeof(buffer)), 16);
  const auto header = read_at<maps::PerfRecordHeader>(buffer, 0);
  EXPECT_EQ(header->size, 8u);
  EXPECT_EQ(*read_at<uint64_t>(buffer, 8), 321u);
}

// ---- trace_printk ----

struct TraceLine {
  helpers::TraceRecord record{};
  std::string text;
};

class TracePrintk : public Helpers {
 protected:
  void SetUp() override {
    Helpers::SetUp();
    ring_ = target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 8192);
    target_.use_trace_ring(ring_);
  }

  int64_t print(const std::string& format, const std::vector<uint64_t>& arguments, uint32_t size = 0) {
    Sequence program;
    program << load_imm(1, reinterpret_cast<uint64_t>(format.c_str()))
            << mov(2, static_cast<int32_t>(size != 0 ? size : format.size() + 1));
    for (size_t i = 0; i < 3; i++)
      program << load_imm(static_cast<int>(3 + i), i < arguments.size() ? arguments[i] : 0);
    return static_cast<int64_t>(target_.run(program << call(BPF_FUNC_trace_printk) << exit_insn()));
  }

  TraceLine next_line() {
    uint8_t buffer[2048] = {};
    TraceLine line;
    const int64_t size = maps::ring_consume(target_.map(ring_), buffer, sizeof(buffer));
    if (size < helpers::kTraceTextOffset) return line;
    memcpy(&line.record, buffer, helpers::kTraceTextOffset);
    EXPECT_EQ(line.record.text_length, size - helpers::kTraceTextOffset);
    line.text.assign(reinterpret_cast<char*>(buffer) + helpers::kTraceTextOffset, line.record.text_length);
    return line;
  }

  uint32_t ring_ = 0;
};

uint64_t word(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

TEST_F(TracePrintk, FormatsAsTheKernelDoes) {
  const char* text = "bpftime";
  const struct {
    const char* format;
    std::vector<uint64_t> arguments;
    std::string expected;
  } cases[] = {
      {"plain", {}, "plain"},
      {"malloc called from pid %d\n", {1234}, "malloc called from pid 1234\n"},
      {"%d %i %u", {~0ull, 0x80000000, 0xffffffff}, "-1 -2147483648 4294967295"},
      {"%d", {0x1'0000'0005}, "5"},
      {"%ld %lld", {~0ull, 0x8000000000000000}, "-1 -9223372036854775808"},
      {"%lu %llu", {~0ull, 0}, "18446744073709551615 0"},
      {"%x %X %lx", {0xbeef, 0xbeef, 0xdeadbeefcafe}, "beef BEEF deadbeefcafe"},
      {"%5d|%-5d|%05d", {42, 42, 42}, "   42|42   |00042"},
      {"%05d|%+d|% d", {static_cast<uint64_t>(-42), 42, 42}, "-0042|+42| 42"},
      {"%08x|%2u|%-08x|", {0xab, 12345, 0xcd}, "000000ab|12345|cd      |"},
      {"%p %px", {0x1234, 0xffffffffffffffff}, "0000000000001234 ffffffffffffffff"},
      {"%s", {word(text)}, "bpftime"},
      {"%pks,%pus;", {word(text), word(text)}, "bpftime,bpftime;"},
      {"[%10s][%-10s][%2s]", {word(text), word(text), word(text)}, "[   bpftime][bpftime   ][bpftime]"},
      {"<%s>", {16}, "<>"},  // unreadable
      {"%c%c%c", {'a', 'b', 'c'}, "abc"},
      {"100%% of %d%%", {5}, "100% of 5%"},
      {"", {}, ""},
  };
  for (const auto& [format, arguments, expected] : cases) {
    EXPECT_EQ(print(format, arguments), static_cast<int64_t>(expected.size())) << format;
    EXPECT_EQ(next_line().text, expected) << format;
  }
}

TEST_F(TracePrintk, RefusesWhatTheKernelRefuses) {
  for (const char* format : {"%", "%f", "%n", "%5", "%.3d", "%lld %lld %lld %lld", "%hd", "%pz", "%sx",
                             "%llls", "%*d", "\x01", "\xc3\xa4"}) {
    EXPECT_EQ(print(format, {0, 0, 0}), -EINVAL) << format;
    EXPECT_FALSE(maps::ring_has_data(target_.map(ring_))) << format;
  }
  EXPECT_EQ(print("not terminated", {}, 3), -EINVAL);
}

TEST_F(TracePrintk, RecordsWhoWhenAndWhere) {
  prctl(PR_SET_NAME, "tracer");
  const uint64_t before = now(CLOCK_MONOTONIC);
  EXPECT_EQ(print("x", {}), 1);
  const TraceLine line = next_line();
  EXPECT_LE(before, line.record.time_ns);
  EXPECT_LE(line.record.time_ns, now(CLOCK_MONOTONIC));
  EXPECT_EQ(line.record.lineage, 4711u);
  EXPECT_EQ(line.record.tgid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(line.record.tid, static_cast<uint32_t>(gettid()));
  EXPECT_STREQ(line.record.comm, "tracer");
  EXPECT_LT(line.record.cpu, sysconf(_SC_NPROCESSORS_CONF));
}

TEST_F(TracePrintk, LongTextIsCutButCounted) {
  const std::string text(3000, 'y');
  EXPECT_GE(print("%s", {word(text.c_str())}), 1023);
  EXPECT_EQ(next_line().text, std::string(1023, 'y'));
}

TEST_F(TracePrintk, AFullRingDropsTheLine) {
  int64_t printed = 0;
  const auto code = target_.compile(Sequence() << load_imm(1, word("0123456789")) << mov(2, 11)
                                               << call(BPF_FUNC_trace_printk) << exit_insn());
  ASSERT_TRUE(code.ok()) << code.error().message;
  for (int i = 0; i < 1000; i++) EXPECT_EQ(code->run(0, 0), 10u);
  while (!next_line().text.empty()) printed++;
  EXPECT_GT(printed, 50);
  EXPECT_LT(printed, 1000);
}

TEST_F(Helpers, TracePrintkNeedsATraceRing) {
  const auto code = target_.compile(Sequence() << mov(2, 1) << call(BPF_FUNC_trace_printk) << exit_insn());
  ASSERT_FALSE(code.ok());
  EXPECT_EQ(code.error().code, EINVAL);
}

}  // namespace
}  // namespace bpftime::compiler

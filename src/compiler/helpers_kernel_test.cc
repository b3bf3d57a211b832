// Helpers in the kernel and here: the same program, the same thread, the same answers.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "compiler/testing_kernel.h"
#include "helpers/table.h"
#include "program/testing/kernel.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

constexpr int32_t kStrtol = 105, kStrtoul = 106, kJiffies = 118, kNsPidTgid = 120, kSnprintf = 165,
                  kTraceVprintk = 177, kStrncmp = 182, kTai = 208, kDynptrFromMem = 197, kReserveDynptr = 198,
                  kSubmitDynptr = 199, kDiscardDynptr = 200, kDynptrRead = 201, kDynptrWrite = 202,
                  kDynptrData = 203;

std::vector<uint8_t> bytes_of(const std::string& text, size_t size = 0) {
  std::vector<uint8_t> out(text.begin(), text.end());
  out.resize(std::max(size, text.size() + 1));
  return out;
}

class BothWays : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(target_.ok());
    if (const std::string reason = program::testing::kernel_unusable(); !reason.empty())
      GTEST_SKIP() << reason;
  }
  // Runs it both ways, expects equal results and output.
  RunResult same(const MakeProgram& body, const std::vector<uint8_t>& input = std::vector<uint8_t>(8),
                 const std::string& name = "") {
    const RunResult kernel = run_in_kernel(body, input), here = run_here(target_, body, input);
    EXPECT_EQ(kernel.refused, "") << name;
    EXPECT_EQ(static_cast<int32_t>(here.result), static_cast<int32_t>(kernel.result)) << name;
    EXPECT_EQ(here.output, kernel.output)
        << name << ": here '" << here.text(8) << "', kernel '" << kernel.text(8) << "'";
    return kernel;
  }
  Target target_;
};

TEST_F(BothWays, NumbersFromText) {
  const char* texts[] = {"0",
                         "42",
                         "-42",
                         "  7x",
                         "0x1F",
                         "0x",
                         "0xg",
                         "017",
                         "08",
                         "ff",
                         "-0x10",
                         "- 1",
                         "--1",
                         "",
                         " ",
                         "-",
                         "+5",
                         "\t\n\v\f\r 9",
                         "\240\063",  // a no-break space and a 3
                         "9223372036854775807",
                         "9223372036854775808",
                         "-9223372036854775808",
                         "-9223372036854775809",
                         "18446744073709551615",
                         "18446744073709551616",
                         "00000000000000000000000000000000000000000000000000000000000000000001",
                         "1777777777777777777777",
                         "12 34",
                         "0X2a"};
  size_t compared = 0, refused = 0;
  for (const char* text : texts) {
    for (const int32_t flags : {0, 8, 10, 16, 2, 7, 32}) {
      for (const int32_t helper : {kStrtol, kStrtoul}) {
        const auto length = static_cast<int32_t>(strlen(text));
        for (const int32_t size : {length + 1, length}) {
          if (size == 0) continue;
          const auto body = [&]() {
            return Sequence() << store_imm(BPF_DW, 10, -8, -1) << mov_reg(1, 7) << mov(2, size)
                              << mov(3, flags) << mov_reg(4, 10) << add(4, -8) << call(helper)
                              << load(BPF_DW, 1, 10, -8) << store(BPF_DW, 6, 0, 1) << exit_insn();
          };
          const auto result =
              same(body, bytes_of(text), std::string(text) + " base " + std::to_string(flags));
          compared++;
          refused += static_cast<int32_t>(result.result) < 0;
        }
      }
    }
  }
  printf("%zu numbers compared, %zu of them refused\n", compared, refused);
  EXPECT_GT(compared - refused, 100u);
}

TEST_F(BothWays, Strncmp) {
  const char* texts[] = {"", "a", "abc", "abd", "abcd", "\xff", "b"};
  for (const char* text : texts) {
    for (const char* other : texts) {
      for (const int32_t size : {1, 2, 3, 8}) {
        std::vector<uint8_t> input = bytes_of(other, 16);
        const auto body = [&]() {
          Sequence code;
          for (int32_t i = 0; i < 8; i++)
            code << store_imm(BPF_B, 10, i - 8, i < static_cast<int32_t>(strlen(text)) ? text[i] : 0);
          return code << mov_reg(1, 10) << add(1, -8) << mov(2, size) << mov_reg(3, 7) << call(kStrncmp)
                      << exit_insn();
        };
        same(body, input, std::string(text) + " and " + other);
      }
    }
  }
}

TEST_F(BothWays, Snprintf) {
  struct Case {
    const char* format;
    std::vector<uint64_t> values;
    int32_t size;
  };
  const Case cases[] = {
      {"%d %u %x %X %lld", {static_cast<uint64_t>(-5), 7, 255, 255, ~uint64_t{0}}, 64},
      {"plain", {}, 64},
      {"cut short %d", {123456}, 8},
      {"nothing %d", {1}, 0},
      {"one %d", {1}, 1},
      {"%d %d %d %d %d %d %d %d %d %d %d %d", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 64},
      {"100%% %c|%5d|%-5d|%05d", {'z', 42, 42, 42}, 64},
      {"%20llx|", {0xabcdef}, 32},
      {"more %d", {1, 2, 3}, 32},
  };
  for (const Case& c : cases) {
    const auto body = [&]() {
      Sequence code;
      for (size_t i = 0; i < c.values.size(); i++)
        code << load_imm(1, c.values[i]) << store(BPF_DW, 10, static_cast<int>(i) * 8 - 96, 1);
      code << mov_reg(1, 6) << add(1, 8) << mov(2, c.size) << mov_reg(3, 7) << mov_reg(4, 10) << add(4, -96)
           << mov(5, static_cast<int32_t>(c.values.size() * 8));
      if (c.values.empty()) code << mov(4, 0);
      return code << call(kSnprintf) << store(BPF_DW, 6, 0, 0) << exit_insn();
    };
    same(body, bytes_of(c.format, 64), c.format);
  }
}

TEST_F(BothWays, SnprintfReadsStrings) {
  const std::string text = "a string of the process";
  const auto body = [&](uint64_t address, int32_t size) {
    return [=]() {
      return Sequence() << load_imm(1, address) << store(BPF_DW, 10, -8, 1) << mov_reg(1, 6) << add(1, 8)
                        << mov(2, size) << mov_reg(3, 7) << mov_reg(4, 10) << add(4, -8) << mov(5, 8)
                        << call(kSnprintf) << exit_insn();
    };
  };
  for (const char* format : {"<%pus>", "<%30pus>", "<%-30pus>"})
    same(body(reinterpret_cast<uint64_t>(text.c_str()), 64), bytes_of(format, 64), format);
  same(body(reinterpret_cast<uint64_t>(text.c_str()), 5), bytes_of("<%pus>", 64), "cut");
  same(body(16, 64), bytes_of("<%pus>", 64), "unreadable");
}

// Formats no verifier would let through: at run time, too.
TEST_F(BothWays, BadFormatsAndArgumentsAreRefusedHereToo) {
  const auto snprintf_of = [&](const char* format, int32_t bytes) {
    const auto body = [&]() {
      return Sequence() << store_imm(BPF_DW, 6, 8, -1) << store_imm(BPF_DW, 10, -8, 1) << mov_reg(1, 6)
                        << add(1, 8) << mov(2, 64) << mov_reg(3, 7) << mov_reg(4, 10) << add(4, -8)
                        << mov(5, bytes) << call(kSnprintf) << exit_insn();
    };
    const auto run = run_here(target_, body, bytes_of(format, 64));
    EXPECT_EQ(run.at<uint64_t>(8), ~uint64_t{0}) << "nothing may be written";
    return static_cast<int32_t>(run.result);
  };
  EXPECT_EQ(snprintf_of("%d %d", 8), -EINVAL);
  EXPECT_EQ(snprintf_of("%n", 8), -EINVAL);
  EXPECT_EQ(snprintf_of("%d", 7), -EINVAL);
  EXPECT_EQ(snprintf_of("%d", 13 * 8), -EINVAL);
  EXPECT_EQ(snprintf_of("\x80", 8), -EINVAL);
}

TEST_F(BothWays, Vprintk) {
  const uint32_t ring = target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 8192);
  target_.use_trace_ring(ring);
  for (const int32_t bytes : {0, 8, 24, 12, 13 * 8}) {
    const auto body = [&]() {
      Sequence code;
      for (int i = 0; i < 13; i++) code << store_imm(BPF_DW, 10, i * 8 - 104, i + 1);
      return code << mov_reg(1, 7) << mov(2, 16) << mov_reg(3, 10) << add(3, -104) << mov(4, bytes)
                  << call(kTraceVprintk) << exit_insn();
    };
    const std::string format = bytes == 24 ? "%d %d %llx" : bytes == 8 ? "%d" : "text";
    same(body, bytes_of(format, 16), std::to_string(bytes));
  }
}

// ---- time and place ----

TEST_F(BothWays, TimesAgree) {
  target_.context()->task.tick_ns = [] {
    timespec tick{};
    clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
    return static_cast<uint32_t>(tick.tv_nsec);
  }();
  const auto clock_of = [](int32_t helper) {
    return [=]() { return Sequence() << call(helper) << store(BPF_DW, 6, 0, 0) << mov(0, 0) << exit_insn(); };
  };
  const uint64_t before = run_in_kernel(clock_of(kTai)).at<uint64_t>(0);
  const uint64_t here = run_here(target_, clock_of(kTai)).at<uint64_t>(0);
  const uint64_t after = run_in_kernel(clock_of(kTai)).at<uint64_t>(0);
  EXPECT_LE(before, here);
  EXPECT_LE(here, after);
  const uint64_t first = run_in_kernel(clock_of(kJiffies)).at<uint64_t>(0);
  const uint64_t ours = run_here(target_, clock_of(kJiffies)).at<uint64_t>(0);
  const uint64_t last = run_in_kernel(clock_of(kJiffies)).at<uint64_t>(0);
  constexpr uint64_t kTicksOff = 100;  // what differs
  EXPECT_LE(first, ours + kTicksOff);
  EXPECT_LE(ours, last + kTicksOff);
}

// One of ours between two of the kernel's.
TEST_F(BothWays, ClocksGoOnFromOneSideToTheOther) {
  const auto clock_of = [](int32_t helper) {
    return [=]() { return Sequence() << call(helper) << store(BPF_DW, 6, 0, 0) << mov(0, 0) << exit_insn(); };
  };
  constexpr uint64_t kNsOff = 10'000;  // what differs (helpers.def)
  for (const int32_t helper : {int32_t{BPF_FUNC_ktime_get_ns}, int32_t{BPF_FUNC_ktime_get_boot_ns}, kTai}) {
    const uint64_t before = run_in_kernel(clock_of(helper)).at<uint64_t>(0);
    const uint64_t here = run_here(target_, clock_of(helper)).at<uint64_t>(0);
    const uint64_t after = run_in_kernel(clock_of(helper)).at<uint64_t>(0);
    EXPECT_GT(before, 0u);
    EXPECT_LE(before, here + kNsOff) << "helper " << helper;
    EXPECT_LE(here, after + kNsOff) << "helper " << helper;
  }
}

TEST_F(BothWays, WhoIsRunning) {
  for (const int32_t helper : {BPF_FUNC_get_current_pid_tgid, BPF_FUNC_get_current_uid_gid}) {
    const auto body = [=]() {
      return Sequence() << call(helper) << store(BPF_DW, 6, 0, 0) << mov(0, 0) << exit_insn();
    };
    same(body);
    RunResult of_another;
    std::thread([&] { of_another = same(body); }).join();
    if (helper == BPF_FUNC_get_current_pid_tgid) {
      EXPECT_EQ(of_another.at<uint32_t>(4), static_cast<uint32_t>(getpid()));
      EXPECT_NE(of_another.at<uint32_t>(0), static_cast<uint32_t>(getpid()));
    }
  }
  for (const int32_t size : {1, 4, 15, 16, 17, 64}) {
    same([=]() {
      return Sequence() << store_imm(BPF_DW, 6, 16, -1) << mov_reg(1, 6) << mov(2, size)
                        << call(BPF_FUNC_get_current_comm) << exit_insn();
    });
  }
}

TEST_F(BothWays, MemoryOfTheProcessIsWritten) {
  uint64_t place = 0;
  const auto body = [](uint64_t address, int32_t size) {
    return [=]() {
      return Sequence() << load_imm(2, 0x1122334455667788) << store(BPF_DW, 10, -8, 2) << load_imm(1, address)
                        << mov_reg(2, 10) << add(2, -8) << mov(3, size) << call(BPF_FUNC_probe_write_user)
                        << exit_insn();
    };
  };
  const auto here = [&](uint64_t address, int32_t size) {
    return static_cast<int32_t>(run_here(target_, body(address, size)).result);
  };
  const auto at = reinterpret_cast<uint64_t>(&place);
  const RunResult kernel = run_in_kernel(body(at, 8));
  const bool refused = kernel.refused.find("cannot use helper bpf_probe_write_user") != std::string::npos;
  if (refused) printf("not compared with the kernel, which lets nobody write to processes\n");
  EXPECT_TRUE(refused || place == 0x1122334455667788) << kernel.refused;
  place = 0;
  EXPECT_EQ(here(at, 8), 0);
  EXPECT_EQ(std::exchange(place, 0), 0x1122334455667788u);
  EXPECT_EQ(here(at, 3), 0);
  EXPECT_EQ(place, 0x667788u);
  static const uint64_t constant = 4711;
  for (const uint64_t address : {uint64_t{0}, uint64_t{16}, reinterpret_cast<uint64_t>(&constant),
                                 uint64_t{0x7fffffffeffc}, uint64_t{1} << 63, ~uint64_t{0} - 3}) {
    const int32_t result = here(address, 8);
    EXPECT_EQ(result, -EFAULT) << std::hex << address;
    if (!refused) {
      EXPECT_EQ(static_cast<int32_t>(run_in_kernel(body(address, 8)).result), result) << std::hex << address;
    }
  }
  EXPECT_EQ(constant, 4711u);
}

TEST_F(BothWays, PidNamespace) {
  struct stat ns {};
  ASSERT_EQ(stat("/proc/self/ns/pid", &ns), 0);
  target_.context()->task.namespace_device = ns.st_dev;
  target_.context()->task.namespace_ids[wire::kPidNs] = static_cast<uint32_t>(ns.st_ino);
  const auto body = [](uint64_t device, uint64_t inode, int32_t size) {
    return [=]() {
      return Sequence() << store_imm(BPF_DW, 6, 0, -1) << load_imm(1, device) << load_imm(2, inode)
                        << mov_reg(3, 6) << mov(4, size) << call(kNsPidTgid) << exit_insn();
    };
  };
  const auto right = same(body(ns.st_dev, ns.st_ino, 8));
  EXPECT_EQ(right.at<uint32_t>(4), static_cast<uint32_t>(getpid()));
  same(body(ns.st_dev, ns.st_ino + 1, 8));
  same(body(ns.st_dev + 1, ns.st_ino, 8));
  same(body(ns.st_dev, ns.st_ino, 4));
  same(body(ns.st_dev, ns.st_ino, 12));
}

TEST_F(BothWays, NumaNode) {
  same([]() { return Sequence() << call(BPF_FUNC_get_numa_node_id) << exit_insn(); });
}

TEST_F(BothWays, Counters) {
  same([]() { return Sequence() << mov_reg(1, 6) << mov(2, 24) << mov(3, 0) << call(176) << exit_insn(); });
  same([]() { return Sequence() << mov_reg(1, 6) << mov(2, 24) << mov(3, 1) << call(176) << exit_insn(); });
}

volatile sig_atomic_t signals_seen;
volatile pid_t signalled_thread;

TEST_F(BothWays, SignalsComeToTheProcessAndToTheThread) {
  struct sigaction action {};
  action.sa_handler = [](int) {
    signals_seen = signals_seen + 1;
    signalled_thread = gettid();
  };
  struct sigaction before {};
  sigaction(SIGUSR2, &action, &before);
  const auto body = [](int32_t helper, int32_t number) {
    return [=]() { return Sequence() << mov(1, number) << call(helper) << exit_insn(); };
  };
  for (const int32_t helper : {109, 117}) {
    signals_seen = 0;
    std::thread([&] {
      EXPECT_EQ(run_here(target_, body(helper, SIGUSR2)).result, 0u);
      if (helper == 117) {
        EXPECT_EQ(signalled_thread, gettid());
      }
    }).join();
    EXPECT_EQ(signals_seen, 1);
    EXPECT_EQ(static_cast<int32_t>(run_here(target_, body(helper, 65)).result),
              static_cast<int32_t>(run_in_kernel(body(helper, 65)).result));
  }
  target_.context()->flags |= wire::kNoSystemCalls;
  EXPECT_EQ(static_cast<int32_t>(run_here(target_, body(109, SIGUSR2)).result), -EPERM);
  EXPECT_EQ(signals_seen, 1);
  sigaction(SIGUSR2, &before, nullptr);
}

// ---- dynptrs ----

TEST_F(BothWays, LocalDynptr) {
  for (const int32_t flags : {0, 1}) {
    for (const int32_t offset : {0, 8, 24, 25, 32, 33, -1}) {
      const auto body = [&]() {
        return Sequence() << load_imm(1, 0x1122334455667788) << store(BPF_DW, 6, 256, 1) << mov_reg(1, 6)
                          << add(1, 256) << mov(2, 32) << mov(3, flags) << mov_reg(4, 10) << add(4, -16)
                          << call(kDynptrFromMem)
                          << store(BPF_DW, 6, 0, 0)
                          // Write 8 bytes at the offset, read 8 from there.
                          << store_imm(BPF_DW, 10, -24, 0x77) << mov_reg(1, 10) << add(1, -16)
                          << mov(2, offset) << mov_reg(3, 10) << add(3, -24) << mov(4, 8) << mov(5, 0)
                          << call(kDynptrWrite) << store(BPF_DW, 6, 8, 0) << mov_reg(1, 6) << add(1, 64)
                          << mov(2, 8) << mov_reg(3, 10) << add(3, -16) << mov(4, offset) << mov(5, 0)
                          << call(kDynptrRead)
                          << store(BPF_DW, 6, 16, 0)
                          // Flags that do not exist.
                          << mov_reg(1, 6) << add(1, 64) << mov(2, 8) << mov_reg(3, 10) << add(3, -16)
                          << mov(4, 0) << mov(5, 9) << call(kDynptrRead) << store(BPF_DW, 6, 24, 0)
                          << mov_reg(1, 10) << add(1, -16) << mov(2, 0) << mov_reg(3, 10) << add(3, -24)
                          << mov(4, 8) << mov(5, 9) << call(kDynptrWrite)
                          << store(BPF_DW, 6, 32, 0)
                          // A slice.
                          << mov_reg(1, 10) << add(1, -16) << mov(2, offset) << mov(3, 8) << call(kDynptrData)
                          << jump_eq(0, 0, 2) << store_imm(BPF_DW, 0, 0, 0x55) << store_imm(BPF_DW, 6, 40, 1)
                          << mov(0, 0) << exit_insn();
      };
      same(body, std::vector<uint8_t>(8), "offset " + std::to_string(offset));
    }
  }
}

TEST_F(BothWays, RecordDynptr) {
  const uint32_t ring = target_.add_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  const auto run = [&](int32_t size, int32_t flags, int32_t finish) {
    Sequence code;
    code << load_map(1, ring) << mov(2, size) << mov(3, flags) << mov_reg(4, 10) << add(4, -16)
         << call(kReserveDynptr) << mov_reg(8, 0) << store_imm(BPF_DW, 10, -24, 0x77) << mov_reg(1, 10)
         << add(1, -16) << mov(2, 8) << mov_reg(3, 10) << add(3, -24) << mov(4, 8) << mov(5, 0)
         << call(kDynptrWrite) << mov_reg(9, 0) << mov_reg(1, 10) << add(1, -16) << mov(2, 0) << call(finish)
         << mov_reg(1, 10) << add(1, -16) << mov(2, 0) << call(finish)  // nothing twice
         << mov_reg(0, 8) << raw(BPF_ALU64 | BPF_LSH | BPF_K, 0, 0, 0, 32)
         << raw(BPF_ALU64 | BPF_LSH | BPF_K, 9, 0, 0, 32) << raw(BPF_ALU64 | BPF_RSH | BPF_K, 9, 0, 0, 32)
         << raw(BPF_ALU64 | BPF_OR | BPF_X, 0, 9) << exit_insn();
    const uint64_t both = target_.run(code);
    return std::pair(static_cast<int32_t>(both >> 32), static_cast<int32_t>(both));
  };
  char record[64] = {};
  EXPECT_EQ(run(16, 0, kSubmitDynptr), std::pair(0, 0));
  ASSERT_EQ(maps::ring_consume(target_.map(ring), record, sizeof record), 16);
  EXPECT_EQ(record[8], 0x77);
  EXPECT_LT(maps::ring_consume(target_.map(ring), record, sizeof record), 0);
  EXPECT_EQ(run(16, 0, kDiscardDynptr), std::pair(0, 0));
  EXPECT_LT(maps::ring_consume(target_.map(ring), record, sizeof record), 0);
  EXPECT_EQ(run(12, 0, kSubmitDynptr), std::pair(0, -E2BIG));
  EXPECT_EQ(run(16, 1, kSubmitDynptr), std::pair(-EINVAL, -EINVAL));
  EXPECT_EQ(run(8192, 0, kSubmitDynptr), std::pair(-EINVAL, -EINVAL));
  EXPECT_EQ(run(1 << 24, 0, kSubmitDynptr), std::pair(-E2BIG, -EINVAL));
}

// ---- stacks ----

// A chain of frames as compilers lay them out, anywhere in memory.
struct Frames {
  uint64_t words[16] = {};
  Frames() {
    // Frame i at words[2 i]: next frame, return address.
    for (uint64_t i = 0; i < 4; i++) {
      words[2 * i] = i < 3 ? reinterpret_cast<uint64_t>(&words[2 * (i + 1)]) : 0;
      words[2 * i + 1] = 0x1000 * (i + 2);
    }
    words[15] = 0xcafe;  // on top of the stack
  }
  wire::PtRegs regs() {
    wire::PtRegs out{};
    out.rip = 0x1000;
    out.rbp = reinterpret_cast<uint64_t>(&words[0]);
    out.rsp = reinterpret_cast<uint64_t>(&words[15]);
    return out;
  }
};

class Stacks : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(target_.ok()); }
  // bpf_get_stack: what it returned, then the buffer.
  std::pair<int64_t, std::vector<uint64_t>> get_stack(wire::PtRegs regs, int32_t size, uint64_t flags,
                                                      uint32_t invocation_flags = 0) {
    std::vector<uint64_t> buffer(32, ~uint64_t{0});
    wire::Invocation invocation{};
    invocation.flags = invocation_flags;
    const auto result = static_cast<int64_t>(
        target_.run(Sequence() << load_imm(2, reinterpret_cast<uint64_t>(buffer.data())) << mov(3, size)
                               << load_imm(4, flags) << call(BPF_FUNC_get_stack) << exit_insn(),
                    &regs, invocation));
    return {result, buffer};
  }
  Target target_;
};

constexpr uint64_t kUser = 256, kBuildId = 2048;

TEST_F(Stacks, FramesAreFollowed) {
  Frames frames;
  auto [size, ips] = get_stack(frames.regs(), 64, kUser);
  EXPECT_EQ(size, 40);
  EXPECT_EQ(std::vector<uint64_t>(ips.begin(), ips.begin() + 9),
            (std::vector<uint64_t>{0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0, 0, 0, ~uint64_t{0}}));
  std::tie(size, ips) = get_stack(frames.regs(), 64, kUser, wire::kAtFunctionEntry);
  EXPECT_EQ(size, 48);
  EXPECT_EQ(ips[1], 0xcafeu);
  std::tie(size, ips) = get_stack(frames.regs(), 16, kUser | 2);
  EXPECT_EQ(size, 16);
  EXPECT_EQ(ips[0], 0x3000u);
  EXPECT_EQ(ips[2], ~uint64_t{0});
  std::tie(size, ips) = get_stack(frames.regs(), 64, kUser | 5);
  EXPECT_EQ(size, 0);
  std::tie(size, ips) = get_stack(frames.regs(), 64, kUser | 6);
  EXPECT_EQ(size, -EFAULT);
  EXPECT_EQ(ips[0], 0u);
  EXPECT_EQ(get_stack(frames.regs(), 64, 0).first, 0);  // no kernel stack
  EXPECT_EQ(get_stack(frames.regs(), 60, kUser).first, -EINVAL);
  EXPECT_EQ(get_stack(frames.regs(), 64, kUser | 512).first, -EINVAL);
  EXPECT_EQ(get_stack(frames.regs(), 64, kBuildId).first, -EINVAL);
  EXPECT_EQ(get_stack(frames.regs(), 0, kUser).first, 0);
  std::tie(size, ips) = get_stack(frames.regs(), 64, kUser | kBuildId);
  EXPECT_EQ(size, 64);
  EXPECT_EQ(static_cast<uint32_t>(ips[0]), 2u);
  EXPECT_EQ(ips[3], 0x1000u);
  EXPECT_EQ(ips[7], 0x2000u);
}

TEST_F(Stacks, ChainsThatLeadNowhereEnd) {
  Frames frames;
  wire::PtRegs regs = frames.regs();
  for (const uint64_t bp : {uint64_t{0}, uint64_t{8}, ~uint64_t{0}, uint64_t{0x7fffffffeff8}, kUser << 40}) {
    regs.rbp = bp;
    EXPECT_EQ(get_stack(regs, 64, kUser).first, 8) << bp;
  }
  regs.rsp = 16;
  EXPECT_EQ(get_stack(regs, 64, kUser, wire::kAtFunctionEntry).first, 8);
  frames.words[0] = reinterpret_cast<uint64_t>(&frames.words[0]);  // in a circle
  EXPECT_EQ(get_stack(frames.regs(), 256, kUser).first, 256);
  frames.words[0] = 1;
  EXPECT_EQ(get_stack(frames.regs(), 256, kUser).first, 16);
}

TEST_F(Stacks, TracepointsPointToTheirRegisters) {
  Frames frames;
  wire::PtRegs regs = frames.regs();
  uint64_t buffer[8] = {};
  for (const uint32_t type : {BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_RAW_TRACEPOINT}) {
    target_.use_program_type(type);
    const auto stack_at = [&](uint64_t where) {
      uint64_t record[4] = {where};
      return static_cast<int64_t>(target_.run(Sequence() << load_imm(2, reinterpret_cast<uint64_t>(buffer))
                                                         << mov(3, 64) << load_imm(4, kUser)
                                                         << call(BPF_FUNC_get_stack) << exit_insn(),
                                              record));
    };
    EXPECT_EQ(stack_at(reinterpret_cast<uint64_t>(&regs)), 40);
    EXPECT_EQ(buffer[1], 0x2000u);
    EXPECT_EQ(stack_at(0), 0);
    EXPECT_EQ(stack_at(16), 0);
    EXPECT_EQ(stack_at(~uint64_t{0} - 64), 0);
  }
}

TEST_F(Stacks, StackIdsAreStoredOnce) {
  const uint32_t map = target_.add_map(BPF_MAP_TYPE_STACK_TRACE, 4, 4 * 8, 64);
  const auto id_of = [&](wire::PtRegs regs, uint64_t flags) {
    return static_cast<int64_t>(target_.run(
        Sequence() << load_map(2, map) << load_imm(3, flags) << call(BPF_FUNC_get_stackid) << exit_insn(),
        &regs));
  };
  Frames frames;
  const int64_t id = id_of(frames.regs(), kUser);
  ASSERT_GE(id, 0);
  EXPECT_EQ(id_of(frames.regs(), kUser), id);
  const auto key = static_cast<uint32_t>(id);
  uint64_t value[4];
  ASSERT_EQ(maps::user_lookup(target_.map(map), &key, value, 0), 0);
  EXPECT_EQ(value[0], 0x1000u);
  EXPECT_EQ(value[3], 0x4000u);  // as deep as the map
  EXPECT_EQ(id_of(frames.regs(), 0), -EFAULT);
  EXPECT_EQ(id_of(frames.regs(), kUser | 5), -EFAULT);
  EXPECT_EQ(id_of(frames.regs(), kUser | 1u << 12), -EINVAL);
  const int64_t skipped = id_of(frames.regs(), kUser | 1);
  ASSERT_GE(skipped, 0);
  const auto other = static_cast<uint32_t>(skipped);
  ASSERT_EQ(maps::user_lookup(target_.map(map), &other, value, 0), 0);
  EXPECT_EQ(value[0], 0x2000u);
  EXPECT_EQ(value[3], 0x5000u);
}

}  // namespace
}  // namespace bpftime::compiler

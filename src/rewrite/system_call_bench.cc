// What programs around a system call cost: the bare call and traced ones interleaved, medians over rounds.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>

#include "rewrite/system_call.h"
#include "rewrite/test_patch.h"
#include "wire/target_context.h"

asm(R"(
    .text
    .align 64
    .globl bench_known
bench_known:
    mov $39, %eax
    syscall
    cmp $-4095, %rax
    ret
    .globl bench_known_end
bench_known_end:
    .align 64
    .globl bench_unknown
bench_unknown:
    mov %rdi, %rax
    mov %rsi, %rdi
    syscall
    cmp $-4095, %rax
    ret
    .globl bench_unknown_end
bench_unknown_end:
    .align 64
)");
extern "C" {
extern const uint8_t bench_known[], bench_known_end[], bench_unknown[], bench_unknown_end[];
}

namespace bpftime::rewrite {
namespace {

uint64_t g_count;
__attribute__((target("general-regs-only"), noinline)) uint64_t count(void*, const wire::Invocation*) {
  g_count++;
  return 0;
}

std::vector<SystemCallProgram> counting(int32_t number) {
  SystemCallProgram out;
  out.call.code_address = reinterpret_cast<uint64_t>(&count);
  out.call.use = {1, 0, false};  // clobbers rax, reads no argument
  out.call.context_slots_read = 0;
  out.only_number = number;
  return {out};
}

SystemCallRequest request(TestArena& arena, const uint8_t* begin, const uint8_t* end, Bytes code) {
  static wire::TargetIdentity identity{};
  SystemCallRequest out;
  out.function = reinterpret_cast<uint64_t>(begin);
  out.function_size = static_cast<uint64_t>(end - begin);
  out.code = code;
  out.site = find_system_calls(code, out.function_size).at(0);
  out.trampoline_address = arena.next();
  out.identity_address = reinterpret_cast<uint64_t>(&identity);
  return out;
}

double once(const uint8_t* function) {
  constexpr int kCalls = 200000;
  const auto call = reinterpret_cast<long (*)(long)>(const_cast<uint8_t*>(function));
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) (void)call(SYS_getpid);
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  return took.count() / kCalls;
}

int run() {
  enum { kBare, kBareUnknown, kEnter, kBoth, kOther, kTraced, kRows };
  const char* const names[kRows] = {"bare",
                                    "bare, number unknown",
                                    "traced: enter",
                                    "traced: enter and exit",
                                    "untraced, number unknown, another is traced",
                                    "traced, number unknown"};
  std::vector<double> times[kRows];
  TestArena arena(reinterpret_cast<const void*>(&count), 16 << 20);
  const std::vector<uint8_t> known(bench_known, bench_known_end + 16);
  const std::vector<uint8_t> unknown(bench_unknown, bench_unknown_end + 16);
  const auto with = [&](const uint8_t* begin, const uint8_t* end, Bytes code, int sides, int32_t number) {
    std::optional<LivePatch> patches[2];
    for (int on_exit = 0; on_exit < sides; ++on_exit) {
      auto wanted = request(arena, begin, end, code);
      wanted.on_exit = on_exit != 0;
      wanted.programs = counting(number);
      auto plan = plan_system_call(wanted);
      if (!plan) return -1.0;
      patches[on_exit].emplace(arena, patch_address(wanted), std::move(*plan));
    }
    return once(begin);
  };
  for (int round = 0; round < 31; ++round) {
    times[kBare].push_back(once(bench_known));
    times[kEnter].push_back(with(bench_known, bench_known_end, known, 1, -1));
    times[kBoth].push_back(with(bench_known, bench_known_end, known, 2, -1));
    times[kBareUnknown].push_back(once(bench_unknown));
    times[kOther].push_back(with(bench_unknown, bench_unknown_end, unknown, 1, SYS_openat));
    times[kTraced].push_back(with(bench_unknown, bench_unknown_end, unknown, 1, SYS_getpid));
  }
  std::printf("%-46s %9s %9s %9s %9s\n", "ns per call of getpid", "median", "min", "max", "over bare");
  for (auto& row : times) std::sort(row.begin(), row.end());
  for (int row = 0; row < kRows; ++row) {
    const auto& all = times[row];
    const auto& bare = times[row == kOther || row == kTraced || row == kBareUnknown ? kBareUnknown : kBare];
    std::printf("%-46s %9.1f %9.1f %9.1f %9.1f\n", names[row], all[all.size() / 2], all.front(), all.back(),
                all[all.size() / 2] - bare[bare.size() / 2]);
  }
  return 0;
}

}  // namespace
}  // namespace bpftime::rewrite

int main() { return bpftime::rewrite::run(); }

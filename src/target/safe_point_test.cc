#include "target/safe_point.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "symbols/symbols.h"

namespace bpftime::target {
namespace {

symbols::Backtrace inside(const std::string& function, const std::string& module = "/lib/libc.so.6") {
  return {{{0x1000, module, function}, {0x2000, "/bin/program", "main"}}, true, ""};
}

TEST(SafePoint, ProgramsOwnCodeAndWaitingCallsAreSafe) {
  EXPECT_EQ(why_not_safe(inside("work", "/bin/program"), {}), "");
  EXPECT_EQ(why_not_safe(inside("fork_children", "/bin/program"), {}), "");
  for (const char* function : {"wait4", "__wait4", "poll", "read", "__read", "nanosleep"}) {
    EXPECT_EQ(why_not_safe(inside(function), {}), "") << function;
  }
}

TEST(SafePoint, EveryNameOfAnUnsafeFunctionOfLibcIsUnsafe) {
  Dl_info info{};
  ASSERT_NE(::dladdr(::dlsym(RTLD_DEFAULT, "abort"), &info), 0);
  auto elf = symbols::ElfFile::open(info.dli_fname);
  ASSERT_TRUE(elf.ok()) << elf.error().message;
  size_t aliases = 0;
  for (const char* function :
       {"fork", "vfork", "_Fork", "posix_spawn", "exit", "pthread_create", "setuid", "malloc",
        "pthread_key_create", "newlocale", "free", "valloc", "mallopt", "dlopen", "__cxa_atexit"}) {
    const auto known = elf->find_symbol(function);
    ASSERT_TRUE(known) << function;
    for (const char* prefix : {"", "_", "__", "__libc_"}) {
      const std::string alias = std::string(prefix) + function;
      const auto symbol = elf->find_symbol(alias);
      if (!symbol || symbol->address != known->address) continue;
      EXPECT_NE(why_not_safe(inside(alias), {}), "") << alias << " is " << function;
      ++aliases;
    }
  }
  EXPECT_GT(aliases, 15u);
}

constexpr char kLibc[] = "/lib/libc.so.6", kProgram[] = "/bin/program";

symbols::Backtrace stack(std::vector<symbols::Frame> frames) {
  frames.front().interrupted = true;
  return {std::move(frames), true, ""};
}

TEST(SafePoint, WhatASignalHandlerInterruptedCountsAsWell) {
  const symbols::Frame handler{0x1000, kProgram, "on_signal"}, restorer{0x2000, kLibc, ""};
  const symbols::Frame main{0x5000, kProgram, "main"};
  const auto interrupted = [&](const std::string& module, const std::string& function) {
    return stack({handler, restorer, {0x3000, module, function, true, false}, main});
  };
  EXPECT_EQ(why_not_safe(interrupted(kProgram, "work"), {}), "");
  EXPECT_EQ(why_not_safe(interrupted(kLibc, "poll"), {}), "");
  EXPECT_NE(why_not_safe(interrupted(kLibc, "malloc"), {}), "");
  EXPECT_NE(why_not_safe(interrupted(kLibc, ""), {}), "");  // aligned_alloc's inner function
  // It waits for a thread in the handler, not in what that interrupted.
  user_regs_struct joining{};
  joining.orig_rax = 202;  // futex
  joining.rax = static_cast<uint64_t>(-512);
  EXPECT_NE(
      why_not_safe(stack({{0x500, kLibc, ""}, handler, restorer, {0x3000, kLibc, "", true, false}, main}),
                   joining),
      "");
  EXPECT_EQ(why_not_safe(stack({{0x500, kLibc, ""}, main}), joining), "");
}

TEST(SafePoint, AThreadThatBeginsOrEndsIsUnsafe) {
  const symbols::Frame start{0x3000, kLibc, ""}, clone{0x4000, kLibc, "clone3"};
  EXPECT_EQ(why_not_safe(stack({{0x1000, kLibc, "poll"}, {0x2000, kProgram, "work"}, start, clone}), {}), "");
  EXPECT_NE(why_not_safe(stack({{0x1000, kLibc, ""}, start, clone}), {}), "");
  EXPECT_NE(why_not_safe(stack({start, clone}), {}), "");
  EXPECT_NE(why_not_safe(stack({clone}), {}), "");
}

TEST(SafePoint, InAFileWithAnAllocatorOnlyWaitingThreadsAreSafe) {
  const symbols::Frame main{0x2000, kProgram, "main", false, true}, inner{0x1800, kProgram, "", false, true};
  for (const char* function : {"poll", "__poll", "read", "nanosleep", "pthread_cond_wait"})
    EXPECT_EQ(why_not_safe(stack({{0x1000, kLibc, function}, inner, main}), {}), "") << function;
  for (const char* function : {"mmap", "madvise", "pthread_mutex_lock", "sched_yield", "memset", "syscall"})
    EXPECT_NE(why_not_safe(stack({{0x1000, kLibc, function}, inner, main}), {}), "") << function;
  EXPECT_NE(why_not_safe(stack({inner, main}), {}), "");
  EXPECT_EQ(why_not_safe(stack({{0x1000, "/lib/other.so", "work"}, {0x2000, kProgram, "main"}}), {}), "");
}

}  // namespace
}  // namespace bpftime::target

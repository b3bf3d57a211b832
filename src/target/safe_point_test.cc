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

}  // namespace
}  // namespace bpftime::target

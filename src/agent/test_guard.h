// For tests only: the signal guard in a child of the test process, which exits with kFine or dies as its host would.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "agent/test_agent.h"
#include "rewrite/test_patch.h"

namespace bpftime::agent {

using rewrite::LivePatch;
using rewrite::TestArena;

inline constexpr int kFine = 42;
#define REQUIRE(condition)                                       \
  do {                                                           \
    if (!(condition)) {                                          \
      dprintf(2, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      _exit(1);                                                  \
    }                                                            \
  } while (0)

// Runs `body` in a forked child; the wait status.
inline int in_child(const std::function<void()>& body) {
  fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    alarm(60);
    body();
    _exit(kFine);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

inline void expect_fine(const std::function<void()>& body) {
  const int status = in_child(body);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == kFine) << "status " << status;
}

inline void expect_death(int signal, const std::function<void()>& body) {
  const int status = in_child(body);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << "status " << status;
}

// Installs the guard and redirects libc as the daemon does. Leaks on purpose: lives as long as the child.
inline void guard_all() {
  TestAgent& agent = TestAgent::get();
  agent.install_guard();
  void* sigaction_entry = dlsym(RTLD_DEFAULT, "sigaction");
  void* mask_entry = dlsym(RTLD_DEFAULT, "pthread_sigmask");
  auto* arena = new TestArena(sigaction_entry);
  const auto redirect = [&](void* entry, const char* replacement, const char* original) {
    rewrite::SiteRequest request;
    request.address = reinterpret_cast<uint64_t>(entry);
    request.code = Bytes(static_cast<uint8_t*>(entry), 128);
    request.trampoline_address = arena->next();
    auto plan = plan_redirect(request, agent.symbol<uint64_t>(replacement));
    REQUIRE(plan.ok());
    *agent.symbol<uint64_t*>(original) = request.trampoline_address + plan->original_entry;
    new LivePatch(*arena, request.address, std::move(plan->site));
  };
  redirect(sigaction_entry, "bpftime_agent_sigaction", "bpftime_agent_original_sigaction");
  redirect(mask_entry, "bpftime_agent_sigmask", "bpftime_agent_original_sigmask");
}

}  // namespace bpftime::agent

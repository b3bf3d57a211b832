// Trapping bytes: ours lead on, the host's own are the host's, whoever handles them.
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "agent/test_guard.h"

namespace bpftime::agent {
namespace {

using wire::TrapRecord;
using wire::TrapState;

constexpr uint8_t kSite = 64;
// At 0: mov $42,%eax; ret. At kSite: int3, then an opcode that is none, then int3; each place has its own way on.
uint8_t* make_code() {
  auto* page = static_cast<uint8_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (int way = 0; way < 5; ++way) {
    const uint8_t code[] = {0xb8, static_cast<uint8_t>(40 + way), 0, 0, 0, 0xc3};
    std::memcpy(page + 8 * way, code, sizeof code);
  }
  const uint8_t site[] = {0xcc, 0x90, 0x06, 0x90, 0xcc};
  std::memcpy(page + kSite, site, sizeof site);
  return page;
}

TrapRecord& record_site(const uint8_t* page, uint32_t number = 0) {
  auto& context = TestAgent::get().context();
  context.header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, sizeof context};
  TrapRecord& record = context.traps[number];
  const auto base = reinterpret_cast<uint64_t>(page);
  record = {base + kSite, 1, TrapState::kOn, {base, 0, base + 16, 0, base + 32}};
  uint32_t slot = wire::trap_hash(record.address);
  while (context.trap_index[slot] != wire::kIndexEmpty) slot = (slot + 1) % wire::kTrapIndexSize;
  context.trap_index[slot] = static_cast<uint16_t>(number + 1);
  return record;
}

int run(const uint8_t* code) { return reinterpret_cast<int (*)()>(reinterpret_cast<uint64_t>(code))(); }

TEST(Traps, LeadOnFromEveryPlace) {
  expect_fine([] {
    guard_all();
    const uint8_t* page = make_code();
    record_site(page);
    for (int i = 0; i < 1000; ++i) {
      REQUIRE(run(page + kSite) == 40);
      REQUIRE(run(page + kSite + 2) == 42);
      REQUIRE(run(page + kSite + 4) == 44);
    }
  });
}

TEST(Traps, WhereOtherSitesHaveComeAndGone) {
  expect_fine([] {
    guard_all();
    const uint8_t* page = make_code();
    auto& context = TestAgent::get().context();
    const uint32_t home = wire::trap_hash(reinterpret_cast<uint64_t>(page + kSite));
    for (uint32_t i = 0; i < wire::kTrapProbesMax - 1; ++i)
      context.trap_index[(home + i) % wire::kTrapIndexSize] = i % 2 ? wire::kIndexGone : uint16_t{7};
    record_site(page);
    REQUIRE(run(page + kSite) == 40);
  });
}

TEST(Traps, WhatTheHostBlocksChangesNothing) {
  expect_fine([] {
    guard_all();
    const uint8_t* page = make_code();
    record_site(page);
    sigset_t all;
    sigfillset(&all);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &all, nullptr) == 0);
    REQUIRE(run(page + kSite) == 40);
    REQUIRE(run(page + kSite + 2) == 42);
    sigset_t now;
    REQUIRE(pthread_sigmask(SIG_SETMASK, nullptr, &now) == 0);
    REQUIRE(sigismember(&now, SIGTRAP) == 1 && sigismember(&now, SIGILL) == 1);
    signal(SIGTRAP, SIG_IGN);
    REQUIRE(run(page + kSite) == 40);
  });
}

TEST(Traps, TheHostsOwnKillIt) {
  for (const int place : {0, 4}) {  // not in the table
    expect_death(SIGTRAP, [&] {
      guard_all();
      run(make_code() + kSite + place);
    });
  }
  expect_death(SIGILL, [] {
    guard_all();
    run(make_code() + kSite + 2);
  });
  expect_death(SIGTRAP, [] {  // a site of ours, but none of its traps stands here
    guard_all();
    uint8_t* page = make_code();
    record_site(page).go_on[0] = 0;
    run(page + kSite);
  });
  expect_death(SIGTRAP, [] {  // ignored: a fault kills all the same
    guard_all();
    signal(SIGTRAP, SIG_IGN);
    run(make_code() + kSite);
  });
  expect_death(SIGTRAP, [] {
    guard_all();
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    run(make_code() + kSite);
  });
  expect_death(SIGTRAP, [] {
    guard_all();
    raise(SIGTRAP);
  });
}

volatile uint64_t seen_rip;
volatile int seen_code;

void host_handler(int, siginfo_t* info, void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  seen_rip = static_cast<uint64_t>(rip);
  seen_code = info->si_code;
  rip = static_cast<greg_t>((seen_rip & ~uint64_t{4095}) + 8 * 3);
}

TEST(Traps, TheHostsOwnComeToItsHandler) {
  expect_fine([] {
    struct sigaction action {};
    action.sa_sigaction = host_handler;
    action.sa_flags = SA_SIGINFO;
    REQUIRE(sigaction(SIGTRAP, &action, nullptr) == 0);
    guard_all();
    REQUIRE(sigaction(SIGILL, &action, nullptr) == 0);
    const uint8_t* page = make_code();
    const auto site = reinterpret_cast<uint64_t>(page + kSite);
    for (int i = 0; i < 3; ++i) {
      REQUIRE(run(page + kSite) == 43);
      REQUIRE(seen_rip == site + 1 && seen_code == SI_KERNEL);
      REQUIRE(run(page + kSite + 2) == 43);
      REQUIRE(seen_rip == site + 2 && seen_code == ILL_ILLOPN);
    }
    // With our traps gone from it, the same.
    record_site(page).state = TrapState::kOff;
    for (int i = 0; i < 3; ++i) {
      REQUIRE(run(page + kSite) == 43);
      REQUIRE(run(page + kSite + 2) == 43);
      REQUIRE(seen_rip == site + 2);
    }
  });
}

// What the daemon does around a restored site, as fast as it can: whoever met the trap meanwhile runs what is there then.
TEST(Traps, SurviveComingAndGoing) {
  expect_fine([] {
    guard_all();
    uint8_t* page = make_code();
    TrapRecord& record = record_site(page);
    const uint8_t original[] = {0xb8, 0x07, 0, 0, 0, 0xc3};  // mov $7,%eax; ret
    std::memcpy(page + 128, original, sizeof original);
    record.state = TrapState::kOff;
    // A second index entry for the same site, as while one patch replaces another.
    record.address = reinterpret_cast<uint64_t>(page) + 128;
    auto& context = TestAgent::get().context();
    context.trap_index[wire::trap_hash(record.address)] = 1;
    std::atomic<bool> done = false;
    std::thread changer([&] {
      auto* byte = reinterpret_cast<std::atomic<uint8_t>*>(page + 128);
      for (int i = 0; i < 20000; ++i) {
        __atomic_store_n(&record.version, record.version + 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&record.state, TrapState::kOn, __ATOMIC_SEQ_CST);
        byte->store(0xcc);
        for (int spin = 0; spin < 20; ++spin) byte->load();
        byte->store(0xb8);
        __atomic_store_n(&record.state, TrapState::kOff, __ATOMIC_SEQ_CST);
      }
      done = true;
    });
    while (!done) {
      const int got = run(page + 128);
      REQUIRE(got == 7 || got == 40);
    }
    changer.join();
  });
}

}  // namespace
}  // namespace bpftime::agent

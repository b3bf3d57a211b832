// Stands where the dynamic loader tells debuggers that the list of libraries has changed (r_debug.r_brk, an empty function
// called by dlopen and dlclose with the loader's lock held). At the end of a dlopen's mapping, before relocation and
// constructors, the daemon gets the chance to put probes into the new library.
//
// Rules for whoever edits this:
//  1. The host always goes on: nothing here waits unless somebody has been woken who will answer, and never longer than
//     kPatienceNs. A daemon that is dead, stopped or busy costs a few milliseconds per dlopen at most.
//  2. No locks, no heap, no libc, no errno; general registers only.
//  3. Everything in the shared words is anybody's to write.
#include <asm/unistd.h>

#include "agent/arch/x86_64/system_call.h"
#include "agent/thread.h"
#include "wire/target_context.h"

namespace bpftime::agent {
namespace {

constexpr int64_t kPatienceNs = 200'000'000;
constexpr int64_t kRetryNs = 1'000'000;  // between looks whether the daemon listens again
constexpr int kRetriesMax = 3;
constexpr long kFutexWait = 0, kFutexWake = 1;
constexpr int32_t kBeingAdded = 1,
                  kBeingDeleted = 2;  // RT_ADD, RT_DELETE: before anything is mapped or unmapped
constexpr int64_t kNsPerSecond = 1'000'000'000;

struct Time {
  int64_t seconds, ns;
};

int64_t now_ns() {
  Time now{};
  system_call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, system_argument(&now));
  return now.seconds * kNsPerSecond + now.ns;
}

bool answered(const wire::Announcements& words, uint32_t mine) {
  return static_cast<int32_t>(__atomic_load_n(&words.answered, __ATOMIC_ACQUIRE) - mine) >= 0;
}

void sleep_until_answer(wire::Announcements& words, uint32_t mine, int64_t ns) {
  const uint32_t seen = __atomic_load_n(&words.answered, __ATOMIC_ACQUIRE);
  if (static_cast<int32_t>(seen - mine) >= 0) return;
  const Time limit{ns / kNsPerSecond, ns % kNsPerSecond};
  system_call(__NR_futex, system_argument(&words.answered), kFutexWait, seen, system_argument(&limit));
}

}  // namespace

extern "C" {

// Called by the daemon before it leads the loader here.
long bpftime_agent_watch_loader(wire::TargetContext* context) {
  bpftime_agent_context = context;
  return 0;
}

// In place of the empty function.
void bpftime_agent_loaded() {
  wire::TargetContext* context = bpftime_agent_context;
  if (context == nullptr || (context->flags & (wire::kNoSystemCalls | wire::kDetached)) != 0) return;
  auto* words =
      reinterpret_cast<wire::Announcements*>(__atomic_load_n(&context->announcements, __ATOMIC_RELAXED));
  const auto* state = reinterpret_cast<const volatile int32_t*>(context->loader_state);
  if (words == nullptr || state == nullptr || *state == kBeingAdded || *state == kBeingDeleted) return;
  __atomic_add_fetch(&context->loads, 1, __ATOMIC_ACQ_REL);
  const uint32_t mine = __atomic_add_fetch(&words->asked, 1, __ATOMIC_ACQ_REL);
  // Whoever is woken is the daemon, alive. Nobody: it is dead, or just about to look at the word by itself.
  for (int tries = 0; system_call(__NR_futex, system_argument(&words->asked), kFutexWake, 1) <= 0; ++tries) {
    if (tries == kRetriesMax) return;
    sleep_until_answer(*words, mine, kRetryNs);
    if (answered(*words, mine)) return;
  }
  const int64_t deadline = now_ns() + kPatienceNs;
  while (!answered(*words, mine)) {
    const int64_t left = deadline - now_ns();
    if (left <= 0) return;
    sleep_until_answer(*words, mine, left);  // may end early, by a signal for one
  }
}

}  // extern "C"

}  // namespace bpftime::agent

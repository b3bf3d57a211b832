// The program that the tests of src/target enter. It checks its own work all the time and says so in a shared page.
#pragma once

#include <atomic>
#include <cstdint>

namespace bpftime::target {

constexpr int kVictimProgressFd = 3;  // a memfd of one page, inherited

struct VictimProgress {
  std::atomic<uint32_t> ready;   // all threads of the victim are at work
  std::atomic<uint32_t> finish;  // set by the test: exit now, 0 if nothing went wrong
  std::atomic<uint64_t> rounds;  // checks made
  std::atomic<uint64_t> failures;
  std::atomic<uint64_t> interrupted;  // calls that failed with EINTR
  char first_failure[256];
  std::atomic<uint64_t> signals;  // handlers run
};

}  // namespace bpftime::target

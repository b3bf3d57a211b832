// What the worker says to its runner, and hears back. One datagram each way over a socket pair (SOCK_SEQPACKET); every
// request is answered, in order. Both sides are of one build, so there is no version.
#pragma once

#include "wire/invocation.h"
#include "wire/target_context.h"

namespace bpftime::runner {

inline constexpr int kSocketFd = 3;  // of the runner
inline constexpr uint32_t kContextMax = 256;

enum class Verb : uint32_t {
  kMap = 1,    // the descriptor that comes along, at `address`
  kUnmap = 2,  // `size` bytes at `address`
  kRun = 3,
};

struct Request {
  Verb verb;
  uint32_t number;  // echoed
  // kMap, kUnmap.
  uint64_t address, size;
  int32_t protection;  // PROT_*
  // kRun.
  int32_t cpu;     // -1: any
  uint64_t entry;  // wire/invocation.h
  wire::Invocation invocation;
  uint8_t context[kContextMax];  // what lies behind the given bytes is zero
  // Whom the program sees as current; pid 0: the runner itself, and nothing else is set.
  uint32_t pid;
  uint32_t has_facts;
  char comm[16];
  uint64_t start_time_ns, start_boottime_ns;
  wire::TaskFacts facts;
};

struct Reply {
  uint32_t number;
  int32_t error;  // errno; 0: done
  uint64_t result;
  uint64_t cycles;  // kRun: how long it ran, by the time stamp counter
};

}  // namespace bpftime::runner

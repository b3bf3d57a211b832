// What the worker tells the keeper, over a socket pair, framed as wire/messages.h. The keeper starts the program that is
// installed now, so a worker may be of a later version (or, after a downgrade, of an earlier one): these messages are the same
// in all, and the worker speaks the keeper's version. What records hold is the worker's affair (kernel/record.h).
#pragma once

#include "wire/messages.h"

namespace bpftime::daemon {

enum class KeeperMessage : uint32_t {
  kPut = 1000,    // body: u64 key, record; fds: the object's. Worker to keeper, and back at a worker's start
  kErase = 1001,  // body: u64 key
  kReplayed = 1002,  // keeper to worker: all records have been sent
  kStop = 1003,      // worker to keeper: end the daemon once I have left
  kReady = 1005,     // worker to keeper: I serve
  kRestart = 1004,   // worker to keeper: start another worker once I have left
};

// Descriptors a worker inherits.
inline constexpr int kKeeperChannelFd = 3;
inline constexpr int kListenFd = 4;

}  // namespace bpftime::daemon

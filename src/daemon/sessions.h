// Sessions of `bpftime extend`: their extensions run in the processes that a session is about, not in every process of the host.
// Who belongs to which is said by the environment a process began with, and kept in its context (wire::TargetContext::sessions).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>

#include "wire/target_context.h"

namespace bpftime::daemon {

// Tokens, 0: none.
using Sessions = std::array<uint64_t, wire::kSessionsMax>;

// Of a process that `bpftime extend` started, or that one of those did: from BPFTIME_EXTEND, hexadecimal with commas, the
// innermost last. Of more than fit the innermost are taken.
Sessions sessions_of(pid_t pid);
// Of the loader whose policy it is (BPFTIME_POLICY_SESSION); 0: none, its extensions run wherever it attaches them.
uint64_t policy_session_of(pid_t pid);

// Whether its policy's programs are to check what host functions promise (BPFTIME_POLICY_CHECK=1).
bool policy_is_checked(pid_t pid);

inline bool contains(const Sessions& sessions, uint64_t token) {
  for (const uint64_t each : sessions)
    if (each == token) return true;
  return false;
}

// Whether `ancestor` is `pid` or among its parents.
bool descends_from(pid_t pid, pid_t ancestor);

}  // namespace bpftime::daemon

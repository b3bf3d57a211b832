// What the agent keeps per thread: one initial-exec TLS block, zero in a new thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "rewrite/return_slot.h"

namespace bpftime::agent {

struct Thread {
  rewrite::ReturnThread returns;  // hints where free frames are (arch/x86_64/return_slot.S)
  uint32_t adopted;               // chunks of an earlier thread with our thread pointer have been looked for
  uint32_t chunk_count;
  uint64_t missed_at;       // stack pointer of the call that last found the pool empty
  uint32_t misses_to_skip;  // calls below it that need not look again
  uint32_t host_masked;     // guarded signals as the host believes to have blocked them (signals.h bits)
  uint32_t host_pending;    // arrived while so blocked
  uint32_t tries;           // traps.cc: how often it was run again
  uint64_t tried_again;     // traps.cc: the trap last run again because its site was being restored
};
static_assert(sizeof(Thread) <= 64, "fits in what libcs keep for libraries loaded late");

extern "C" __attribute__((visibility("hidden"), tls_model("initial-exec"))) __thread Thread bpftime_thread;

}  // namespace bpftime::agent

namespace bpftime::wire {
struct TargetContext;
}
// The target's context, stored by the daemon (or by install_guard). Null: nothing is counted.
extern "C" bpftime::wire::TargetContext* bpftime_agent_context;

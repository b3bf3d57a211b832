// What the daemon writes into a target: one private mapping at the start of the user's window (see abi.h).
// It describes the target to the programs that run there, and the target's patches to any later daemon: a process
// carries the registry of its own patches, so fork copies both together and no journal outside can be out of date.
//
//   window + 0                     TargetContext       MAP_PRIVATE of the memfd "bpftime-target" (found in /proc/PID/maps)
//   window + kIdentityOffset       TargetIdentity      anonymous, MADV_WIPEONFORK: all zero in a forked child
//   window + kMapsOffset …         maps, each at the address the daemon chose at creation
#pragma once

#include "wire/abi.h"
#include "wire/task_facts.h"

namespace bpftime::wire {

inline constexpr char kTargetMemfdName[] = "bpftime-target";
inline constexpr char kCodeMemfdName[] = "bpftime-code";  // trampolines and program code

inline constexpr uint32_t kPatchBytesMax = 24;
inline constexpr uint32_t kPatchesMax = 8192;
inline constexpr uint32_t kArenasMax = 64;

enum class PatchState : uint32_t {
  kUnused = 0,
  kPending = 1,   // recorded, text may hold either version (write-ahead)
  kActive = 2,    // text holds `patched`
  kRestored = 3,  // text holds `original`; the trampoline may still be on a stack
};

enum class PatchKind : uint32_t {
  kProbe = 0,
  kGuard = 1,  // signal guard: sigaction and pthread_sigmask lead into the agent
};

// One patched site. Written before the text is touched.
struct PatchRecord {
  uint64_t address;
  uint64_t trampoline;  // where the patched jump leads
  PatchState state;
  PatchKind kind;
  uint32_t length;  // bytes replaced, <= kPatchBytesMax
  uint32_t trampoline_size;
  uint64_t
      content_hash;  // of what the trampoline does: equal hash, equal behaviour (trampolines are reused by it)
  uint8_t original[kPatchBytesMax];
  uint8_t patched[kPatchBytesMax];
};
static_assert(sizeof(PatchRecord) == 88);

// One stretch of bpftime-code memory mapped read-execute in the target.
struct ArenaRecord {
  uint64_t address;
  uint64_t size;
  uint64_t used;  // bytes handed out from the front; never handed out twice while mapped
  uint64_t inode;
};
static_assert(sizeof(ArenaRecord) == 32);

inline constexpr uint32_t kNoSystemCalls =
    1;  // the target has a seccomp filter: programs must not make system calls
inline constexpr uint32_t kDetached = 2;  // `bpftime detach`: no probes here until it is attached again

struct TargetContext {
  SharedHeader header;
  uint64_t daemon_instance;  // the runtime directory's identity: a daemon touches only its own targets
  uint32_t owner_uid;
  uint32_t lineage;  // pid (daemon's namespace) of the process first attached; equal in all its forks
  // Read by programs and trampolines.
  int64_t rseq_offset;  // thread pointer to struct rseq; 0: none registered by libc
  int32_t tid_offset;   // thread pointer to libc's copy of the thread id; 0: unknown, ask the kernel
  uint32_t flags;
  uint64_t vdso_clock_gettime;  // 0: none
  uint64_t agent_base;          // load address of libbpftime-agent.so; 0: not loaded
  uint64_t safe_copy;  // agent: long safe_copy(void* dst, const void* src, uint64_t len): 0 or -EFAULT
  uint64_t
      safe_copy_string;  // agent: long safe_copy_string(char* dst, const void* src, uint64_t size): length with NUL, or -EFAULT
  uint64_t return_enter;  // agent: see src/agent/arch/x86_64/return_slot.S
  // Written by programs and the agent (statistics: lossy, never trusted).
  uint64_t faults_repaired;
  uint64_t returns_missed;
  uint64_t random_state;
  uint64_t guard_installed;     // 1 once the signal guard is in place
  uint64_t host_call;           // agent: see src/agent/arch/x86_64/host_call.S
  uint64_t host_calls_aborted;  // by an exception; statistics
  uint64_t reserved[6];
  // The registry.
  uint32_t patch_count;  // records in use, <= kPatchesMax
  uint32_t arena_count;
  ArenaRecord arenas[kArenasMax];
  PatchRecord patches[kPatchesMax];
  TaskFacts task;
};
static_assert(offsetof(TargetContext, patch_count) == 184);
static_assert(offsetof(TargetContext, patches) == 192 + kArenasMax * sizeof(ArenaRecord));

// Zero after fork: whoever finds tgid == 0 asks the kernel and stores it.
struct TargetIdentity {
  uint32_t tgid;
  uint32_t reserved;
  // When the process began, by CLOCK_MONOTONIC and CLOCK_BOOTTIME; 0: not known (a child the daemon has not met yet).
  uint64_t start_time_ns, start_boottime_ns;
};

inline constexpr uint64_t kContextSize = (sizeof(TargetContext) + 4095) / 4096 * 4096;
inline constexpr uint64_t kIdentityOffset = kContextSize;
inline constexpr uint64_t kIdentitySize = 4096;
inline constexpr uint64_t kMapsOffset = uint64_t{1} << 24;
static_assert(kIdentityOffset + kIdentitySize < kMapsOffset);

}  // namespace bpftime::wire

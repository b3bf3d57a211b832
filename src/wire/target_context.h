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
  // No text: a USDT semaphore, a 16-bit word at `address` that we have raised by `content_hash`. `trampoline` is the inode of
  // its file; in state kPending the word is about to go from what `original` starts with to what `patched` starts with.
  kSemaphore = 2,
  kLoaderWatch =
      3,  // where the dynamic loader tells debuggers of a change (r_debug.r_brk): leads into the agent
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

// Where a thread that meets one of our trapping bytes at a site goes on: for the signal guard, which looks a site up in
// `trap_index`. Record i belongs to patches[i]. Rules for whoever writes it, while threads read it at any moment:
//  1. Filled in before the first byte of the site's text changes, `state` last; kOff only after the last byte is back.
//  2. `version` is raised before anything else changes. A reader that sees two versions takes neither: it runs the trapping
//     instruction again, which is right whatever stands there by then. So does one that finds kOff: the trap is gone.
//  3. `address` never changes while an index entry leads here. An entry that is no longer wanted becomes kIndexGone.
enum class TrapState : uint32_t { kOff = 0, kOn = 1 };
inline constexpr uint32_t kTrapPlaces = 5;  // bytes of a jump
struct TrapRecord {
  uint64_t address;  // of the site
  uint32_t version;
  TrapState state;
  uint64_t go_on[kTrapPlaces];  // [k]: for a trap at address + k; 0: none of ours stands there
};
static_assert(sizeof(TrapRecord) == 56);

// Open addressing: an entry is a record's number + 1, kIndexEmpty or kIndexGone. A site is found within kTrapProbesMax
// entries from trap_hash(address) on, or not at all.
inline constexpr uint32_t kTrapIndexSize = 32768;
inline constexpr uint32_t kTrapProbesMax = 64;
inline constexpr uint16_t kIndexEmpty = 0, kIndexGone = 0xffff;
static_assert(kPatchesMax < kIndexGone);
constexpr uint32_t trap_hash(uint64_t address) {
  return static_cast<uint32_t>((address * 0x9e3779b97f4a7c15) >> 49);
}
static_assert(trap_hash(~uint64_t{0}) < kTrapIndexSize);

// One stretch of bpftime-code memory mapped read-execute in the target.
struct ArenaRecord {
  uint64_t address;
  uint64_t size;
  uint64_t used;  // bytes handed out from the front; never handed out twice while mapped
  uint64_t inode;
};
static_assert(sizeof(ArenaRecord) == 32);

// Shared memory of the daemon and its targets: how a target says that its libraries have changed. Anybody may write anything
// here; the worst is a daemon that looks in vain, and a target that waits for its time-out.
struct Announcements {
  uint32_t asked;  // raised by who announces; the daemon waits for it (futex)
  uint32_t reserved[15];
  uint32_t answered;  // the `asked` before the daemon's last look; who announced waits for it (futex)
  uint32_t reserved2[15];
};
static_assert(sizeof(Announcements) == 128);

inline constexpr uint32_t kNoSystemCalls =
    1;  // the target has a seccomp filter: programs must not make system calls
inline constexpr uint32_t kDetached = 2;  // `bpftime detach`: no probes here until it is attached again
inline constexpr uint32_t kTscClock =
    4;  // the kernel's own clock is the time stamp counter: programs may read it too

// What the agent answers when a system call about signals is not its own to make; no result the kernel gives.
inline constexpr int64_t kSignalCallIsTheKernels = -0x7fffffff;

inline constexpr uint32_t kSessionsMax = 3;

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
  uint64_t return_enter;  // agent: see src/rewrite/return_slot.h; its agreement changed with kAbiVersion 4
  // Written by programs and the agent (statistics: lossy, never trusted).
  uint64_t faults_repaired;
  uint64_t returns_missed;
  uint64_t random_state;
  uint64_t guard_installed;     // 1 once the signal guard is in place
  uint64_t host_call;           // agent: see src/agent/arch/x86_64/host_call.S
  uint64_t host_calls_aborted;  // by an exception; statistics
  // Libraries that come and go (src/agent/loaded.cc). The addresses are 0 while nobody wants to know.
  uint64_t announcements;  // wire::Announcements, shared by all targets and the daemon
  uint64_t loader_state;   // the dynamic loader's r_debug.r_state, an int
  uint64_t loads;          // raised by the agent at each change
  // Whose extensions may run here, besides those for any process of their host: sessions of `bpftime extend`, by their token
  // (kernel::HostClass::session); 0: free. Forks have them, too.
  uint64_t sessions[kSessionsMax];
  // The registry.
  uint32_t patch_count;  // records in use, <= kPatchesMax
  uint32_t arena_count;
  ArenaRecord arenas[kArenasMax];
  PatchRecord patches[kPatchesMax];
  // From here on by version: kAbiVersion 3 brought the traps. A daemon that finds an older context (or a newer one) restores
  // its patches with all threads stopped and needs nothing below; one that finds a version 3 agent with `state` kOn knows that
  // threads may be led on from it.
  TrapRecord traps[kPatchesMax];
  uint16_t trap_index[kTrapIndexSize];
  TaskFacts task;
};
static_assert(offsetof(TargetContext, patch_count) == 184);
static_assert(offsetof(TargetContext, patches) == 192 + kArenasMax * sizeof(ArenaRecord));
static_assert(offsetof(TargetContext, traps) ==
              192 + kArenasMax * sizeof(ArenaRecord) + kPatchesMax * sizeof(PatchRecord));

// A stretch of a clock as a straight line over the time stamp counter; see src/helpers/runtime/clock.h. Written and read by
// programs only. Zero: no line yet.
struct alignas(64) ClockLine {
  uint64_t sequence;   // odd: being written
  uint64_t ticks, ns;  // where it starts
  uint64_t slope;      // nanoseconds per tick, times 2^32
  uint64_t ticks_max;  // good for so many ticks from its start
  uint64_t ns_end;     // highest time the line gives: no later one starts below
  uint64_t reserved[2];
  // Only for who draws the next one.
  uint64_t base_ticks, base_ns;  // an earlier reading, to measure the slope against
  uint64_t measured;             // the clock's own slope; 0: not known
  uint64_t reserved2[5];
};
static_assert(sizeof(ClockLine) == 128);

// Zero after fork: whoever finds tgid == 0 asks the kernel and stores it. The clocks, too, start anew: a child may be in
// another time namespace.
struct TargetIdentity {
  uint32_t tgid;
  // Children there may be just now that run in this memory under ids of their own (vfork, posix_spawn): while it is not zero, who
  // wants to know its ids asks the kernel. Raised before such a call, lowered when it has returned to the parent, which by then
  // has its memory to itself again. Too high costs time only. Read together with tgid.
  uint32_t memory_shared;
  // When the process began, by CLOCK_MONOTONIC and CLOCK_BOOTTIME; 0: not known (a child the daemon has not met yet).
  uint64_t start_time_ns, start_boottime_ns;
  ClockLine monotonic, boottime;
};
static_assert(offsetof(TargetIdentity, memory_shared) == 4);
static_assert(offsetof(TargetIdentity, monotonic) == 64 && sizeof(TargetIdentity) == 320);

inline constexpr uint64_t kContextSize = (sizeof(TargetContext) + 4095) / 4096 * 4096;
inline constexpr uint64_t kIdentityOffset = kContextSize;
inline constexpr uint64_t kIdentitySize = 4096;
inline constexpr uint64_t kMapsOffset = uint64_t{1} << 24;
static_assert(kIdentityOffset + kIdentitySize < kMapsOffset);

}  // namespace bpftime::wire

// The cold way to a frame for a return-probed call: when the thread's usual frame is in use, and its list is empty or stale.
//
// Frames lie in a static pool, in chunks of 64; a chunk belongs to a thread, known by its thread pointer. A
// new thread that gets the thread pointer of a finished one takes over its chunks: nobody has to be told
// that threads end.
//
// Frames leak when calls never return: longjmp, exceptions, pthread_exit. They are taken back
// when provably dead:
//  A. Two calls cannot have the same stack slot: of frames with one stack pointer only the youngest lives,
//     and those below it in a chain of tail calls (whose return address is our slot, and whose rbx therefore
//     the frame below).
//  B. A living call's return address (our slot) stands at its stack pointer. Where something else stands, or
//     nothing is mapped, it is dead. Only asked when reading is safe.
// What cannot be proved stays: a lost frame costs 64 bytes, a frame freed too early costs the host
// its return address. Coroutines and other stacks are covered: neither rule compares positions of
// different stack pointers.
//
// Signal handlers may interrupt anything here and run it themselves: frames are claimed by one instruction,
// and only the holder of a frame writes to it (return_slot.S, rule 4). Between threads only chunk ownership
// is contended: atomics.
#include <asm/unistd.h>

#include "agent/arch/x86_64/system_call.h"
#include "agent/signals.h"
#include "agent/thread.h"
#include "rewrite/return_slot.h"
#include "wire/target_context.h"

extern "C" {
__attribute__((visibility("hidden"),
               tls_model("initial-exec"))) __thread bpftime::agent::Thread bpftime_thread;
extern __attribute__((visibility("hidden"))) const char bpftime_return_slots[], bpftime_return_plainly[];
long bpftime_agent_safe_copy(void* dst, const void* src, uint64_t len);
bpftime::wire::TargetContext* bpftime_agent_context = nullptr;
}

namespace bpftime::agent {
namespace {

using rewrite::ReturnFrame;

static_assert(offsetof(ReturnFrame, return_address) == 0 && offsetof(ReturnFrame, saved_rbx) == 8);
static_assert(offsetof(ReturnFrame, exit_handler) == 24 && offsetof(ReturnFrame, state) == 48);
static_assert(rewrite::kReturnBodyBeforeHandler == 8 && rewrite::kReturnClaimedBeforeHandler == 16);
static_assert(rewrite::kReturnSlotStride == 32 && rewrite::kReturnSlotCopies == 128);
static_assert(rewrite::kReturnSavedR11 == -16 && rewrite::kReturnSavedR10 == -24);

constexpr uint64_t kHeld = 0;  // claimed, not in the body: never taken from its holder
constexpr uint64_t kFree = rewrite::kReturnFrameFree;
constexpr uint64_t kInBody = rewrite::kReturnFrameInBody;  // | serial; the low two bits tell

constexpr uint32_t kFramesPerChunk = 64;
constexpr uint32_t kChunks = 1024;
constexpr uint32_t kFrames = kChunks * kFramesPerChunk;
constexpr uint32_t kChunksPerThread = kChunks / 2;  // a runaway recursion leaves others their share
constexpr uint32_t kMissesToSkip = 4096;  // calls that do not search the pool again once it was empty

// Untouched pages of the pool cost nothing.
alignas(64) ReturnFrame pool[kFrames];
// Thread pointer of the owner; the upper 16 bits count changes of ownership, so that of two
// contenders one wins.
uint64_t chunk_owner[kChunks];
uint32_t chunks_used;

constexpr uint64_t kPointerMask = (uint64_t{1} << 48) - 1;
constexpr uint64_t kOwnerChange = uint64_t{1} << 48;

uint64_t load(const uint64_t& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
void store(uint64_t& word, uint64_t value) { __atomic_store_n(&word, value, __ATOMIC_RELEASE); }

bool replace(uint64_t& word, uint64_t expected, uint64_t value) {
  return __atomic_compare_exchange_n(&word, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

bool claim(ReturnFrame& frame) { return load(frame.state) == kFree && replace(frame.state, kFree, kHeld); }

uint64_t near_slots;  // the first; 0: there are none

// Whether an address on a stack is what a return-probed function returns to.
bool is_slot(uint64_t address) {
  const auto among_copies = [&](uint64_t first) {
    const uint64_t distance = address - rewrite::kReturnSlotCall - first;
    return distance % rewrite::kReturnSlotStride == 0 &&
           distance / rewrite::kReturnSlotStride < rewrite::kReturnSlotCopies;
  };
  const uint64_t near = __atomic_load_n(&near_slots, __ATOMIC_ACQUIRE);
  return among_copies(reinterpret_cast<uint64_t>(bpftime_return_slots)) || (near != 0 && among_copies(near));
}

// The same in every thread: initial-exec.
uint64_t list_offset(uint64_t self) {
  return reinterpret_cast<uint64_t>(&bpftime_thread.returns.list) - self;
}

template <typename Visit>
void for_own_frames(uint64_t self, Visit visit) {
  const uint32_t used = __atomic_load_n(&chunks_used, __ATOMIC_ACQUIRE);
  for (uint32_t chunk = 0; chunk < used && chunk < kChunks; ++chunk) {
    if ((load(chunk_owner[chunk]) & kPointerMask) != self) continue;
    for (uint32_t i = 0; i < kFramesPerChunk; ++i) visit(pool[chunk * kFramesPerChunk + i]);
  }
}

// Takes one free frame of ours and makes a new list of the others, but the usual one.
ReturnFrame* relink(uint64_t self) {
  ReturnFrame* taken = nullptr;
  uint64_t list = 0;
  for_own_frames(self, [&](ReturnFrame& frame) {
    if (reinterpret_cast<uint64_t>(&frame) == bpftime_thread.returns.usual || !claim(frame)) return;
    frame.list = list_offset(self);
    if (taken == nullptr) {
      taken = &frame;
      return;
    }
    frame.next = list;
    list = reinterpret_cast<uint64_t>(&frame);
    store(frame.state, kFree);
  });
  bpftime_thread.returns.list = list;
  return taken;
}

// A chunk nobody has had; its frames become the list, except one.
ReturnFrame* take_new_chunk(uint64_t self) {
  if (bpftime_thread.chunk_count >= kChunksPerThread) return nullptr;
  uint32_t chunk = __atomic_load_n(&chunks_used, __ATOMIC_ACQUIRE);
  do {
    if (chunk >= kChunks) return nullptr;
  } while (!__atomic_compare_exchange_n(&chunks_used, &chunk, chunk + 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE));
  ReturnFrame* frames = &pool[chunk * kFramesPerChunk];
  uint64_t list = 0;
  for (uint32_t i = kFramesPerChunk - 1; i > 0; --i) {
    frames[i].owner = self;
    frames[i].list = list_offset(self);
    frames[i].next = list;
    list = reinterpret_cast<uint64_t>(&frames[i]);
    store(frames[i].state, kFree);
  }
  frames[0].owner = self;
  frames[0].list = list_offset(self);
  store(chunk_owner[chunk], self);
  ++bpftime_thread.chunk_count;
  // What a signal handler may have put on the list meanwhile is found again by relink.
  bpftime_thread.returns.list = list;
  return &frames[0];
}

// Serials of different threads cannot be compared: calls still in flight there become the oldest of all.
void change_owner(uint32_t chunk, uint64_t from, uint64_t self) {
  const uint64_t changes = (from & ~kPointerMask) + kOwnerChange;
  constexpr uint64_t kNobody = 1;
  if (!replace(chunk_owner[chunk], from, kNobody | changes)) return;
  for (uint32_t i = 0; i < kFramesPerChunk; ++i) {
    ReturnFrame& frame = pool[chunk * kFramesPerChunk + i];
    const uint64_t state = load(frame.state);
    if ((state & 3) == kInBody) replace(frame.state, state, kInBody);
    store(frame.next, 0);  // may have led to another of the old owner's chunks, which becomes somebody else's
    __atomic_store_n(&frame.owner, self, __ATOMIC_RELAXED);
  }
  store(chunk_owner[chunk], self | changes);
  ++bpftime_thread.chunk_count;
}

// Chunks of a finished thread that had our thread pointer.
void adopt(uint64_t self) {
  const uint32_t used = __atomic_load_n(&chunks_used, __ATOMIC_ACQUIRE);
  for (uint32_t chunk = 0; chunk < used && chunk < kChunks; ++chunk) {
    const uint64_t owner = load(chunk_owner[chunk]);
    if ((owner & kPointerMask) == self) change_owner(chunk, owner, self);
  }
}

// Chunks of threads whose thread pointer no longer points to itself: that memory is gone or something else.
void take_from_finished_threads(uint64_t self) {
  for (uint32_t chunk = 0; chunk < kChunks && bpftime_thread.chunk_count < kChunksPerThread; ++chunk) {
    const uint64_t owner = load(chunk_owner[chunk]);
    const uint64_t pointer = owner & kPointerMask;
    if (pointer <= 1 || pointer == self) continue;
    uint64_t found = 0;
    const bool mapped = bpftime_agent_safe_copy(&found, reinterpret_cast<void*>(pointer), sizeof found) == 0;
    if (!mapped || found != pointer) change_owner(chunk, owner, self);
  }
}

const ReturnFrame* frame_at(uint64_t address) {
  const uint64_t first = reinterpret_cast<uint64_t>(pool);
  if (address < first || address >= first + sizeof pool || (address - first) % sizeof(ReturnFrame) != 0)
    return nullptr;
  return reinterpret_cast<const ReturnFrame*>(address);
}

// Whether `frame` is `youngest` or below it in a chain of tail calls. In doubt: yes.
bool in_chain(const ReturnFrame* youngest, const ReturnFrame& frame) {
  for (int i = 0; i < 64; ++i) {
    if (youngest == nullptr) return false;
    if (youngest == &frame) return true;
    if (!is_slot(youngest->return_address)) return false;
    youngest = frame_at(youngest->saved_rbx);
  }
  return true;
}

// Rule A: finds the youngest frame of each stack pointer. A hash table laid into the `next` words of the
// thread's own frames, so there is always room. A signal handler that does the same meanwhile may scramble
// it: an answer is checked against the frames themselves before it counts.
class Youngest {
 public:
  explicit Youngest(uint64_t self) {
    const uint32_t used = __atomic_load_n(&chunks_used, __ATOMIC_ACQUIRE);
    for (uint32_t chunk = 0; chunk < used && chunk < kChunks && count_ < kChunksPerThread; ++chunk) {
      if ((load(chunk_owner[chunk]) & kPointerMask) == self) chunks_[count_++] = static_cast<uint16_t>(chunk);
    }
    for (uint32_t i = 0; i < count_ * kFramesPerChunk; ++i) word(i) = 0;
  }

  void see(ReturnFrame& frame, uint64_t state) {
    if (count_ == 0) return;
    for (uint32_t probe = 0; probe < kProbes; ++probe) {
      uint64_t& at = word(slot(frame.stack_pointer, probe));
      const ReturnFrame* other = frame_at(at);
      if (other == nullptr || (other->stack_pointer == frame.stack_pointer && load(other->state) < state)) {
        at = reinterpret_cast<uint64_t>(&frame);
        return;
      }
      if (other->stack_pointer == frame.stack_pointer) return;
    }
  }

  bool proves_dead(const ReturnFrame& frame, uint64_t state) {
    if (count_ == 0) return false;
    for (uint32_t probe = 0; probe < kProbes; ++probe) {
      const ReturnFrame* youngest = frame_at(word(slot(frame.stack_pointer, probe)));
      if (youngest == nullptr) return false;
      const uint64_t its_state = load(youngest->state);
      if (youngest->stack_pointer != frame.stack_pointer) continue;
      return (its_state & 3) == kInBody && state < its_state && !in_chain(youngest, frame);
    }
    return false;
  }

 private:
  static constexpr uint32_t kProbes = 64;
  uint32_t slot(uint64_t stack_pointer, uint32_t probe) const {
    const uint32_t hash = static_cast<uint32_t>((stack_pointer * 0x9e3779b97f4a7c15u) >> 32);
    return (hash + probe) % (count_ * kFramesPerChunk);
  }
  uint64_t& word(uint32_t index) const {
    return pool[chunks_[index / kFramesPerChunk] * kFramesPerChunk + index % kFramesPerChunk].next;
  }
  uint16_t chunks_[kChunksPerThread];
  uint32_t count_ = 0;
};

bool reading_is_safe() {
  const wire::TargetContext* context = bpftime_agent_context;
  if (context == nullptr || context->guard_installed == 0) return false;
  if ((context->flags & wire::kNoSystemCalls) != 0) return false;  // cannot ask for the mask
  uint64_t mask = 0;
  const long asked = system_call(__NR_rt_sigprocmask, kSignalBlock, 0, system_argument(&mask), sizeof mask);
  return asked == 0 && (mask & kGuardedSignals) == 0;  // a fault while blocked would end the host
}

bool slot_gone(const ReturnFrame& frame) {
  uint64_t found = 0;
  const auto* at = reinterpret_cast<const void*>(frame.stack_pointer);
  return bpftime_agent_safe_copy(&found, at, sizeof found) != 0 || !is_slot(found);
}

// Frees dead frames of this thread's chunks. A call is about to begin at `stack_pointer` with `rbx`
// in the register.
void reclaim(uint64_t self, uint64_t stack_pointer, uint64_t rbx) {
  const bool tail_call = is_slot(*reinterpret_cast<const uint64_t*>(stack_pointer));
  const bool can_read = reading_is_safe();
  Youngest youngest(self);
  for_own_frames(self, [&](ReturnFrame& frame) {
    const uint64_t state = load(frame.state);
    if ((state & 3) == kInBody) youngest.see(frame, state);
  });
  for_own_frames(self, [&](ReturnFrame& frame) {
    const uint64_t state = load(frame.state);
    if ((state & 3) != kInBody) return;
    bool dead = false;
    if (frame.stack_pointer == stack_pointer) {
      dead = !tail_call || !in_chain(frame_at(rbx), frame);
    } else {
      // Reading the slot before comparing the state again (in replace): who leaves the body on another thread
      // clears the state first, and x86 keeps that order.
      dead = youngest.proves_dead(frame, state) || (can_read && slot_gone(frame));
    }
    if (dead) replace(frame.state, state, kFree);
  });
}

ReturnFrame* take_frame(uint64_t stack_pointer, uint64_t rbx) {
  const uint64_t self = thread_pointer();
  Thread& thread = bpftime_thread;
  // Deeper in the recursion that exhausted us nothing can have become free; further up it may.
  if (thread.misses_to_skip > 0 && thread.returns.list == 0 && stack_pointer <= thread.missed_at) {
    --thread.misses_to_skip;
    if (bpftime_agent_context != nullptr) ++bpftime_agent_context->returns_missed;
    return nullptr;
  }
  const bool new_here = thread.adopted == 0;
  if (new_here) {
    thread.adopted = 1;
    adopt(self);
  }
  // Searching costs as much as there are chunks: done when their number has doubled, so that deep
  // recursion stays linear.
  const bool search = new_here || (thread.chunk_count & (thread.chunk_count - 1)) == 0;
  if (search && thread.chunk_count > 0) {
    if (ReturnFrame* frame = relink(self)) return frame;
    reclaim(self, stack_pointer, rbx);
    if (ReturnFrame* frame = relink(self)) return frame;
  }
  if (ReturnFrame* frame = take_new_chunk(self)) return frame;
  reclaim(self, stack_pointer, rbx);
  if (reading_is_safe()) take_from_finished_threads(self);
  if (ReturnFrame* frame = relink(self)) return frame;
  thread.misses_to_skip = kMissesToSkip;
  thread.missed_at = stack_pointer;
  if (bpftime_agent_context != nullptr) ++bpftime_agent_context->returns_missed;
  return nullptr;
}

}  // namespace

// Called by return_cold.S. `stack_pointer` and `rbx` as at the entry of the probed function. Null: no frame
// to be had.
extern "C" __attribute__((visibility("hidden"))) ReturnFrame* bpftime_take_frame(uint64_t stack_pointer,
                                                                                 uint64_t rbx) {
  ReturnFrame* frame = take_frame(stack_pointer, rbx);
  // A thread's first becomes its usual one. Should a signal handler just have chosen another, that one is free, on no list, and
  // found by relink.
  if (frame != nullptr && bpftime_thread.returns.usual == 0) {
    frame->list = 0;
    bpftime_thread.returns.usual = reinterpret_cast<uint64_t>(frame);
  }
  return frame;
}

// For trampolines: where each thread has its ReturnThread, from the thread pointer. The same in every thread (initial-exec).
// 0: the library is still being loaded.
extern "C" int64_t bpftime_agent_return_thread;
int64_t bpftime_agent_return_thread = 0;

// Before the constructor that waits for the daemon (start.cc).
extern "C" __attribute__((constructor(101), visibility("hidden"))) void bpftime_return_prepare() {
  bpftime_agent_return_thread =
      reinterpret_cast<int64_t>(&bpftime_thread.returns) - static_cast<int64_t>(thread_pointer());
}

// Called by the daemon, and by nobody else meanwhile: return slots near the text of the program, `first` being the first of
// them, belong to us. Again does no harm. -EEXIST: there are others.
extern "C" long bpftime_agent_join_return_slots(uint64_t first) {
  constexpr long kExists = -17;
  if (near_slots != 0 && near_slots != first) return kExists;
  store(near_slots, first);
  return 0;
}

// Called by the daemon while all threads stand still and none in what we made: calls whose probes have gone return without
// running programs, since what these need (the signal guard, maps) is about to go, too.
extern "C" long bpftime_agent_forget_returns() {
  const uint32_t used = __atomic_load_n(&chunks_used, __ATOMIC_ACQUIRE);
  for (uint32_t i = 0; i < used * kFramesPerChunk && i < kFrames; ++i)
    if ((load(pool[i].state) & 3) == kInBody)
      store(pool[i].exit_handler, reinterpret_cast<uint64_t>(bpftime_return_plainly));
  return 0;
}

}  // namespace bpftime::agent

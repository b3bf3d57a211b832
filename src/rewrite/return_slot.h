// The agreement between a trampoline (rewrite/trampoline.cc) and the agent's return slots
// (agent/arch/x86_64/return_slot.S), which repeats these offsets.
// Freestanding, as src/wire: fixed layout, no constructors.
//
// Way in: the trampoline stores the host's r11 and r10 in the red zone and claims a ReturnFrame: the thread's usual one, else
// the first of its list, else it asks return_cold for one: that is jumped to with r11 = exit handler and all else as at function
// entry, and jumps to the `claimed` address with r10 = frame, or, if there is none, to the body. With the frame filled in, the
// return address taken off the stack, rbx = frame and r11 = exit handler it jumps to its copy of the slot, which calls the body.
// The body first loads r11 and r10 from the red zone; everything else is as the host had it.
// Way out: the body returns into the slot, which jumps to the handler (rsp ≡ 0 mod 16, rbx = frame). The handler copies what it
// needs of the frame, makes it the head of its thread's list, if this is the thread and it is not the usual one, sets `state` to
// free as its last access to it, and only then puts the return address back on the stack; it restores the host's rbx, runs the
// programs and returns, every other register as the body left it. Calls that outlive the signal guard return by a handler of the
// agent's instead, which runs no programs (return_cold.S).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::rewrite {

// In the red zone, which is dead at function entry; signal handlers leave it alone.
inline constexpr int32_t kReturnSavedR11 = -16, kReturnSavedR10 = -24;

// Addresses of eight bytes each before the exit handler: of the body, and of where to go on with a frame in r10.
inline constexpr int32_t kReturnBodyBeforeHandler = 8, kReturnClaimedBeforeHandler = 16;

// One call in flight. A cache line.
struct ReturnFrame {
  uint64_t return_address;  // to the caller
  uint64_t saved_rbx;       // the host's
  uint64_t stack_pointer;   // at function entry: where the return address stood
  uint64_t exit_handler;
  uint64_t
      list;  // distance from the thread pointer to the head of its thread's list; 0: the usual frame, on no list
  uint64_t owner;  // thread pointer of the thread whose pool this frame belongs to
  uint64_t state;  // 0 held, 1 free, else in the body: 2 + 4 × serial of the call on its thread
  uint64_t
      next;  // a frame of the same thread that may be free; the agent's scratch while it looks for dead frames
};
static_assert(sizeof(ReturnFrame) == 64);
inline constexpr uint64_t kReturnFrameFree = 1, kReturnFrameInBody = 2;

// What trampolines use of the agent's block of each thread.
struct ReturnThread {
  uint64_t list;    // a frame that may be free
  uint64_t serial;  // of the last return-probed call, times 4
  uint64_t usual;   // a frame on no list, for calls that do not nest; 0: none yet
};

// The slots are equal copies at this distance, so many as their symbol's size says. One per trampoline, as far as they go.
inline constexpr uint64_t kReturnSlotStride = 32, kReturnSlotCopies = 128;
inline constexpr uint64_t kReturnSlotCall =
    4;  // bytes of the call: what stands on stacks is the address behind it
constexpr uint64_t return_slot_for(uint64_t first, uint64_t copies, uint64_t trampoline) {
  constexpr uint64_t kTrampolineSize = 256;  // at least: neighbours have different ones
  return copies < 2 ? first : first + trampoline / kTrampolineSize % copies * kReturnSlotStride;
}

}  // namespace bpftime::rewrite

// The agreement between a trampoline (rewrite/trampoline.cc) and the agent's return slot
// (agent/arch/x86_64/return_slot.S), which repeats these offsets.
// Freestanding, as src/wire: fixed layout, no constructors.
//
// Way in: the trampoline stores the host's r11 at kReturnSavedR11(%rsp), puts the address of its exit handler in r11 and
// jumps to return_enter with every other register and the stack as at function entry. The agent takes a ReturnFrame, takes
// the return address off the stack, and calls the body, whose address stands before the handler, with rbx = frame, r11
// undefined, the host's r10 at kReturnSavedR10(%rsp) and everything else as the host had it: the body loads those two first.
// Way out: the body returns into the agent's slot, which clears `state`, puts the return address back on the stack and jumps
// to the handler (rsp ≡ 8 mod 16, rbx = frame). The handler runs the programs; makes the frame the head of its thread's list,
// if this is the thread, with `next` the head before; restores the host's rbx; sets `state` to free as its last access to the
// frame; and returns, every other register as the body left it. Without a frame: the agent jumps to the body, and its return
// goes unnoticed.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::rewrite {

// In the red zone, which is dead at function entry; signal handlers leave it alone.
inline constexpr int32_t kReturnSavedR11 = -16, kReturnSavedR10 = -24;

// The address of the body is the eight bytes before the exit handler.
inline constexpr int32_t kReturnBodyBeforeHandler = 8;

// One call in flight. A cache line.
struct ReturnFrame {
  uint64_t return_address;  // to the caller
  uint64_t saved_rbx;       // the host's
  uint64_t stack_pointer;   // at function entry: where the return address stood
  uint64_t exit_handler;
  uint64_t list;   // distance from the thread pointer to the head of its thread's list
  uint64_t owner;  // thread pointer of the thread whose pool this frame belongs to
  uint64_t state;  // 0 held, 1 free, else in the body: 2 + 4 × serial of the call on its thread
  uint64_t
      next;  // a frame of the same thread that may be free; the agent's scratch while it looks for dead frames
};
static_assert(sizeof(ReturnFrame) == 64);
inline constexpr uint64_t kReturnFrameFree = 1;

}  // namespace bpftime::rewrite

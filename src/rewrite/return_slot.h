// The agreement between a trampoline (rewrite/trampoline.cc) and the agent's return slot
// (agent/arch/x86_64/return_slot.S), which repeats these offsets.
// Freestanding, as src/wire: fixed layout, no constructors.
//
// Way in: the trampoline stores the host's r11 at kReturnSavedR11(%rsp), puts the address of its ReturnSite
// in r11 and jumps to return_enter with every other register and the stack as at function entry. The agent
// takes a ReturnFrame, takes the return address off the stack, calls `body` with rbx = frame and everything
// else as the host had it. Way out: the body returns into the agent's slot, which calls `exit_handler` (rsp ≡
// 8 mod 16, rbx = frame). The handler preserves every register. Then the agent gives the frame back and
// returns to the caller. Without a frame: the body runs with nothing changed, and its return goes unnoticed.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::rewrite {

// In the red zone, which is dead at function entry; signal handlers leave it alone.
inline constexpr int32_t kReturnSavedR11 = -16;

// Constants beside the trampoline.
struct ReturnSite {
  uint64_t body;          // the displaced code
  uint64_t exit_handler;  // runs the return programs
};

// One call in flight. A cache line.
struct ReturnFrame {
  uint64_t return_address;  // to the caller
  uint64_t saved_rbx;       // the host's
  uint64_t stack_pointer;   // at function entry: where the return address stood
  uint64_t exit_handler;
  uint64_t body;
  uint64_t owner;  // thread pointer of the thread whose pool this frame belongs to
  uint64_t state;  // 0 held, 1 free, else in the body: 2 + 4 × serial of the call on its thread
  uint64_t
      next;  // a frame of the same thread that may be free; the agent's scratch while it looks for dead frames
};
static_assert(sizeof(ReturnFrame) == 64);

}  // namespace bpftime::rewrite

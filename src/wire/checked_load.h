// Loads in program code that may fault, and how the agent's handler knows them: the 7-byte no-operation in front of each
// says how many bytes to skip. There is no table to find, publish or keep in step; the code carries its own repairs.
// Freestanding.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::wire {

//   0f 1f 80 NN 62 70 66    nopl 0x667062NN(%rax): a fault in the next instruction goes on NN bytes after its start
inline constexpr uint64_t kCheckedLoadMark = 7;  // bytes
#define BPFTIME_CHECKED_LOAD_MARK(length) ".byte 0x0f, 0x1f, 0x80, " length ", 0x62, 0x70, 0x66\n"

// Bytes to skip when the instruction at `pc` has faulted; 0: no checked load. The kCheckedLoadMark bytes before it must be
// readable.
inline uint64_t checked_load_length(const uint8_t* pc) {
  const uint8_t* mark = pc - kCheckedLoadMark;
  const bool marked = mark[0] == 0x0f && mark[1] == 0x1f && mark[2] == 0x80 && mark[4] == 0x62 &&
                      mark[5] == 0x70 && mark[6] == 0x66;
  return marked ? mark[3] : 0;
}

}  // namespace bpftime::wire

// Loads and stores in program code that may fault, and how the agent's handler knows them. There is no table to find, publish
// or keep in step: the code carries its own repairs, of two kinds. Freestanding.
//
//  A. A part that is skipped: the 7-byte no-operation in front of the instruction says how many bytes.
//       0f 1f 80 NN 62 70 66    nopl 0x667062NN(%rax): a fault in the next instruction goes on NN bytes after its start
//  B. A load of zero: two segment prefixes, which mean nothing in 64-bit mode and which no compiler puts there, in front of
//     a movzbl, movzwl, movl or movq from memory. It costs no instruction when nothing faults.
//       2e 3e [REX] 0f b6 | 0f b7 | 8b  /r
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bpftime::wire {

inline constexpr uint64_t kCheckedLoadMark = 7;  // bytes
#define BPFTIME_CHECKED_LOAD_MARK(length) ".byte 0x0f, 0x1f, 0x80, " length ", 0x62, 0x70, 0x66\n"
#define BPFTIME_ZERO_LOAD_PREFIX ".byte 0x2e, 0x3e\n"

// The registers of a signal's context (uc_mcontext.gregs, sigcontext): r8 … r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
inline constexpr size_t kSignalRip = 16;
inline constexpr uint8_t kSignalRegister[16] = {13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};

// Kind B. `bytes`: the instruction's length; `target`: the number of the register it loads.
struct ZeroLoad {
  uint8_t bytes, target;
};

// {0, 0}: none. Reads no byte behind the instruction's end.
inline ZeroLoad zero_load_at(const uint8_t* pc) {
  if (pc[0] != 0x2e || pc[1] != 0x3e) return {0, 0};
  uint8_t at = 2, rex = 0;
  if ((pc[at] & 0xf0) == 0x40) rex = pc[at++];
  if (pc[at] == 0x0f) {
    if (pc[at + 1] != 0xb6 && pc[at + 1] != 0xb7) return {0, 0};
    at += 2;
  } else if (pc[at++] != 0x8b) {
    return {0, 0};
  }
  const uint8_t modrm = pc[at++], mode = modrm >> 6, place = modrm & 7;
  if (mode == 3) return {0, 0};
  bool wide = mode == 2 || (mode == 0 && place == 5);
  if (place == 4) wide = wide || (mode == 0 && (pc[at] & 7) == 5), ++at;
  at = static_cast<uint8_t>(at + (wide ? 4 : mode == 1 ? 1 : 0));
  return {at, static_cast<uint8_t>((modrm >> 3 & 7) | (rex & 4) << 1)};
}

// A memory access of program code has faulted with these registers: true when it is one of the above; they are then as it
// is to go on. kCheckedLoadMark bytes before the instruction must be readable.
inline bool repair_checked_load(uint64_t* registers) {
  const auto* pc = reinterpret_cast<const uint8_t*>(registers[kSignalRip]);
  if (const ZeroLoad load = zero_load_at(pc); load.bytes != 0) {
    registers[kSignalRegister[load.target]] = 0;
    registers[kSignalRip] += load.bytes;
    return true;
  }
  const uint8_t* mark = pc - kCheckedLoadMark;
  const bool marked = mark[0] == 0x0f && mark[1] == 0x1f && mark[2] == 0x80 && mark[3] != 0 &&
                      mark[4] == 0x62 && mark[5] == 0x70 && mark[6] == 0x66;
  if (marked) registers[kSignalRip] += mark[3];
  return marked;
}

}  // namespace bpftime::wire

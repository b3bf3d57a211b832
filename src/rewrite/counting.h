// The code around a program whose runs are counted (ProgramCall::counter).
#pragma once

#include <asmjit/x86.h>

#include "rewrite/rewrite.h"

namespace bpftime::rewrite {

// Words of a counter.
inline constexpr int32_t kBegun = 0, kEnded = 8, kCycles = 16;

// Before the program when `begins`, behind it else. Changes kCountingRegisters and flags. The time is taken away first and
// added later: nothing needs to be kept meanwhile.
inline void count_run(asmjit::x86::Assembler& a, uint64_t counter, bool begins) {
  using namespace asmjit::x86;
  a.mov(r11, counter);
  if (begins) a.lock().inc(qword_ptr(r11, kBegun));
  a.rdtsc();
  a.shl(rdx, 32);
  a.or_(rax, rdx);
  if (begins) {
    a.lock().sub(qword_ptr(r11, kCycles), rax);
  } else {
    a.lock().add(qword_ptr(r11, kCycles), rax);
    a.lock().inc(qword_ptr(r11, kEnded));
  }
}

}  // namespace bpftime::rewrite

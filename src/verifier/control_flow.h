// What can be said about a program without running it: its shape, which registers and stack slots matter where.
#pragma once

#include <bitset>
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "verifier/limits.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {

// What of one frame matters at an instruction: bit i < 11: register i; bit 16 + s: stack slot s (bytes [-8(s+1), -8s)).
using FrameBits = std::bitset<16 + kStackBytes / kSlotBytes>;

struct Subprogram {
  uint32_t start = 0, end = 0;  // instruction slots [start, end)
  uint32_t stack_bytes = 0;     // filled while exploring
  bool is_callback = false;     // its address is taken
  bool is_global = false;       // BTF says BTF_FUNC_GLOBAL: verified once from its signature
  std::vector<uint32_t> callees;
};

struct ControlFlow {
  std::vector<Subprogram> subprograms;
  std::vector<uint32_t> subprogram_of;  // per instruction slot
  // States are stored and compared here: jump targets, instructions after conditional jumps and calls, loop heads.
  std::vector<bool> prune_point;
  std::vector<bool> loop_head;  // target of a back edge
  bool any_reserved_fields =
      false;  // some instruction uses reserved fields: refused where a path leads to it
  // Before the instruction runs: what may still be read (live), and of that, numbers whose exact value may decide whether
  // the program is accepted (relevant): they flow into an address, a size, a branch, a checked argument. Both
  // over-approximate. Stack slots: of the own frame. Callers' frames: at the return point.
  std::vector<FrameBits> live, relevant;
};

// Whether the instruction calls a helper that runs a callback at once, any number of times.
bool calls_callback(const program::Insn& insn);

// liveness.cc: fills live and relevant; everything else of `flow` must be there.
void analyse_liveness(const Request& request, ControlFlow& flow);

// Checks the shape (rules CFG…; ENC001 through program::validate) and analyses it. False: refused, diagnosis in `verdict`.
bool analyse(const Request& request, ControlFlow& flow, Verdict& verdict);

}  // namespace bpftime::verifier

// Small edits of programs: what programmers and compilers get wrong. Test-only.
#pragma once

#include <string>

#include "verifier/testing/random.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

// Applies one or two edits (an instruction dropped, a constant or offset moved, a comparison, operator, width, size or
// register exchanged). The length stays, so that jumps and function records stay right. Returns "edit@insn,edit@insn".
std::string mutate(Request& request, Random& random);

// For shrinking. The instruction does nothing any more; both slots of a 64-bit load.
void neutralise(Request& request, size_t insn);
// Takes an instruction out that does nothing and repairs jumps, calls and function records over it.
bool remove_insn(Request& request, size_t insn);

}  // namespace bpftime::verifier::testing

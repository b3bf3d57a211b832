// Finds in programs: look a key up, compute a value, store it under the same key. Tools count so (bpftrace: count(), sum(), hist(),
// @x++ and the like), and in the kernel, which does not take the CPU from a program, nobody comes between. In a target the
// scheduler may: whoever is held up in between would then overwrite what others stored meanwhile.
//
// Where nothing else happens between the two calls, they can be repeated: the update is made only if the value still is what the
// look-up found (src/maps/unchanged.h), else the program goes back to the look-up. What comes out is what would have come out had
// the program run a little later, without being held up.
#pragma once

#include <cstdint>
#include <map>
#include <span>

#include "compiler/compiler.h"

namespace bpftime::compiler {

// Of the function [start, end): the instruction of an update to that of its look-up. All ways to the update lead over the
// look-up. Without facts: none.
std::map<uint32_t, uint32_t> find_read_modify_writes(const program::Program& program, uint32_t start,
                                                     uint32_t end, std::span<const MapBinding> maps,
                                                     const verifier::Facts* facts);

}  // namespace bpftime::compiler

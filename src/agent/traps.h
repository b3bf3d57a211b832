// Trapping bytes of patched sites: int3 and opcodes no 64-bit processor decodes (see wire::TrapRecord, rewrite/pun.cc).
#pragma once

#include <stdint.h>

namespace bpftime::agent {

// Whether a trap at `rip` (of the trapping instruction itself) is ours; then `rip` has been set to where the thread goes on.
bool lead_on(uint64_t& rip);

}  // namespace bpftime::agent

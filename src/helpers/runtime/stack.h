// Call stacks: what the inlined entries (stack_entry.cc) hand to the walk (stack.cc).
#pragma once

#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {

// Where a walk starts: the probed thread's registers.
struct StackStart {
  uint64_t ip, sp, bp;
  bool at_function_entry;  // wire::kAtFunctionEntry
};

extern "C" {
__attribute__((visibility("hidden"))) int64_t bpftime_get_stackid(const StackStart* start, const MapRef* map,
                                                                  uint64_t flags);
__attribute__((visibility("hidden"))) int64_t bpftime_get_stack(const StackStart* start, void* buffer,
                                                                uint64_t size, uint64_t flags);
// The registers at an address out of a tracepoint's context, of which a walk needs ip, sp and bp: copied. 0: none that
// could be read.
__attribute__((visibility("hidden"))) uint64_t bpftime_tracepoint_registers(uint64_t where, uint64_t copy);
}

}  // namespace bpftime::runtime

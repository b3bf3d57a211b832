// The entries of the stack helpers: inlined, so that a trampoline saves no more registers than a walk starts with.
#include "helpers/runtime/stack.h"

namespace bpftime::runtime {
namespace {

// `registers`: wire::PtRegs, whatever the program's context is (the compiler passes them); 0: none.
inline StackStart stack_start(uint64_t registers, const wire::Invocation* invocation) {
  const auto* regs = pointer<const wire::PtRegs>(registers);
  if (regs == nullptr) return {};
  const bool at_entry = invocation != nullptr && (invocation->flags & wire::kAtFunctionEntry) != 0;
  return {regs->rip, regs->rsp, regs->rbp, at_entry};
}

}  // namespace

// r1 registers, r2 map, r3 flags.
BPFTIME_HELPER_FUNCTION(get_stackid) {
  const StackStart start = stack_start(r1, invocation);
  return static_cast<uint64_t>(bpftime_get_stackid(&start, pointer<const MapRef>(r2), r3));
}

// r1 registers, r2 buffer, r3 size, r4 flags.
BPFTIME_HELPER_FUNCTION(get_stack) {
  const StackStart start = stack_start(r1, invocation);
  return static_cast<uint64_t>(bpftime_get_stack(&start, pointer(r2), static_cast<uint32_t>(r3), r4));
}

// r1 task, r2 buffer, r3 size, r4 flags; r5 registers.
BPFTIME_HELPER_FUNCTION(get_task_stack) {
  constexpr uint64_t kUserStack = 1u << 8;
  const bool current = r1 == wire::task_address(current_tid());
  if (!current && (r4 & kUserStack) != 0) {
    bpftime_memset(pointer(r2), 0, static_cast<uint32_t>(r3));
    return static_cast<uint64_t>(-kEopnotsupp);
  }
  StackStart start = stack_start(r5, invocation);
  return static_cast<uint64_t>(bpftime_get_stack(&start, pointer(r2), static_cast<uint32_t>(r3), r4));
}

// r1 task; r2 registers. Those of the probed thread; of others there are none.
BPFTIME_HELPER_FUNCTION(task_pt_regs) { return r1 == wire::task_address(current_tid()) ? r2 : 0; }

}  // namespace bpftime::runtime

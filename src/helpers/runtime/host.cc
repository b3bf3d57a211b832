// Host memory and host functions, for extensions whose class grants them.
#include "helpers/runtime/checked_load.h"

namespace bpftime::runtime {

// Loads through pointers that came out of host memory: zero where nothing is mapped.
#define BPFTIME_CHECKED_LOAD(bytes, type) \
  extern "C" uint64_t bpftime_checked_load_##bytes(uint64_t address) { return load_or_zero<type>(address); }
BPFTIME_CHECKED_LOAD(1, uint8_t)
BPFTIME_CHECKED_LOAD(2, uint16_t)
BPFTIME_CHECKED_LOAD(4, uint32_t)
BPFTIME_CHECKED_LOAD(8, uint64_t)
#undef BPFTIME_CHECKED_LOAD

// r1: wire::PtRegs (the compiler passes them, whatever the program's context is); r2: the result. The trampoline ends the
// function when all programs of the site have run.
BPFTIME_HELPER_FUNCTION(override_return) {
  auto* regs = pointer<wire::PtRegs>(r1);
  regs->rax = r2;
  regs->orig_rax = wire::kFunctionEnds;
  return 0;
}

// r1 destination in the host, r2 source, r3 size.
BPFTIME_HELPER_FUNCTION(probe_write_user) {
  switch (static_cast<uint32_t>(r3)) {
    case 1:
      return store_checked<uint8_t>(r1, pointer(r2));
    case 2:
      return store_checked<uint16_t>(r1, pointer(r2));
    case 4:
      return store_checked<uint32_t>(r1, pointer(r2));
    case 8:
      return store_checked<uint64_t>(r1, pointer(r2));
    default:
      break;
  }
  return static_cast<uint64_t>(write_memory(r1, pointer(r2), static_cast<uint32_t>(r3)));
}

}  // namespace bpftime::runtime

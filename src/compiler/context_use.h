// Which part of the registers it gets a program looks at: the rest need not be saved for it.
#pragma once

#include <llvm/IR/Module.h>

#include <cstdint>

namespace bpftime::compiler {

// Bit i: the entry of `module`, optimised, may read 8-byte slot i of what its first argument points to; all ones when the
// pointer goes where this cannot follow it. Taken from the code and not from verifier::Facts: those count what a program
// loads, not what it has a helper read at a context address (bpf_probe_read_kernel(…, &ctx->di)).
uint32_t context_slots_read(const llvm::Module& module);

}  // namespace bpftime::compiler

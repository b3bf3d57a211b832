// Copies without string instructions and vector registers, and without a C library to call.
#pragma once

#include <llvm/Analysis/LoopInfo.h>
#include <llvm/Analysis/ScalarEvolution.h>
#include <llvm/IR/Function.h>
#include <llvm/IR/Module.h>

namespace bpftime::compiler {

// Programs copy byte by byte. Where such a loop moves the bytes upwards, or between places that do not overlap, which is found
// out at run time, bpftime_memcpy does it, by words. True: something changed.
bool speed_up_copy_loops(llvm::Function& function, llvm::LoopInfo& loops, llvm::ScalarEvolution& evolution);

// Long or variable copies become calls of the runtime's functions; short ones the backend unrolls.
void lower_copies(llvm::Module& module);

}  // namespace bpftime::compiler

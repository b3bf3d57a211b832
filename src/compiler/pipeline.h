// Which of LLVM's optimisations programs get, in which order.
#pragma once

#include <llvm/IR/Module.h>
#include <llvm/Target/TargetMachine.h>

namespace bpftime::compiler {

// Functions of the helpers' bitcode carry it.
inline constexpr char kRuntimeAttribute[] = "bpftime-runtime";

// A program and the bitcode of the helpers it calls become, as a rule, one function. LLVM's own -O2 makes twice the passes, most
// of them over helpers that are optimised already and are gone once inlined, and takes two to three times as long; what this order
// loses by it, `engine_bench` shows.
void optimize(llvm::Module& module, llvm::TargetMachine& machine);

}  // namespace bpftime::compiler

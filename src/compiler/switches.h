// BPF has no jump tables: clang turns a switch into a tree of comparisons. This makes it a switch again.
#pragma once

#include <llvm/IR/Function.h>

namespace bpftime::compiler {

// Replaces trees of branches that compare one value with constants, and do nothing else between, by switches. Meaning is kept.
// Blocks nobody reaches any more are left for SimplifyCFG. True: something changed.
bool recover_switches(llvm::Function& function);

}  // namespace bpftime::compiler

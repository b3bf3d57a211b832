// Has LLVM remember instructions as a debugger's line numbers: line n is instruction n - 1.
#pragma once

#include <llvm/IR/DIBuilder.h>
#include <llvm/IR/Module.h>

namespace bpftime::compiler {

class InsnLines {
 public:
  explicit InsnLines(llvm::Module& module);

  // Every function that calls one with lines has lines itself, or inlining leaves some behind that are nobody's.
  void begin(llvm::Function& function);
  static llvm::DebugLoc at(const llvm::Function& function, uint32_t insn);
  void finish() { builder_.finalize(); }

 private:
  llvm::DIBuilder builder_;
  llvm::DIFile* file_;
};

}  // namespace bpftime::compiler

// LLVM IR to an object file: links the helpers' bitcode, optimises, emits x86-64 that uses
// general registers only.
#pragma once

#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>

#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"

namespace bpftime::compiler {

// A context whose errors are collected instead of printed (LLVM would exit the process).
class Diagnostics {
 public:
  explicit Diagnostics(llvm::LLVMContext& context);
  const std::string& text() const { return text_; }  // empty: no error so far
  void add(const std::string& message);

 private:
  std::string text_;
};

// A module set up for the target machine.
std::unique_ptr<llvm::Module> make_module(llvm::LLVMContext& context, const std::string& name);

struct EmittedObject {
  llvm::SmallVector<char, 0> bytes;  // ELF, relocatable
  uint32_t context_slots_read = 0;   // see MachineCode
};
// Held by whoever compiles: the target machine is shared.
std::mutex& compile_turn();

// Errors: EINVAL with LLVM's words. `module` is consumed in place.
Result<EmittedObject> emit_object(llvm::Module& module, Diagnostics& diagnostics);

}  // namespace bpftime::compiler

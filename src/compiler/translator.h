// BPF bytecode to LLVM IR, one function per subprogram. No optimisation here: registers are allocas,
// which SROA promotes.
//
// Rules for whoever edits the translation:
//  1. BPF defines everything: no nsw, nuw, exact or inbounds, shifts are masked, division by zero is tested.
//  2. Memory is bytes: align 1, no TBAA, addresses by inttoptr, except atomics (naturally aligned,
//     as on Linux).
//  3. Functions may loop for ever (no mustprogress) and address 0 is an address (null_pointer_is_valid).
//  4. Addresses in the BPF stack stay GEPs of the frame as long as a block can see that: stores to
//     it then fold.
#pragma once

#include <llvm/IR/Module.h>

#include <span>

#include "compiler/compiler.h"

namespace bpftime::compiler {

inline constexpr char kEntrySymbol[] = "bpftime_program";
inline constexpr char kTailEntrySymbol[] = "bpftime_tail_entry";  // tail_call.h
// Constants that helpers read (src/helpers/runtime/runtime.h).
inline constexpr char kContextSymbol[] = "bpftime_context_address";
inline constexpr char kTraceRingSymbol[] = "bpftime_trace_ring";

struct TranslationFacts {
  bool makes_system_calls = false;
  bool repairs_faults = false;
  bool calls_host = false;
  bool ends_function = false;
  bool may_tail_call = false;
};

class InsnLines;

// `lines`: has the instructions remembered. Fills `module` with kEntrySymbol (wire/invocation.h) and what it needs; helpers stay declared.
Result<TranslationFacts> translate(const program::Program& program, std::span<const MapBinding> maps,
                                   const CompileOptions& options, llvm::Module& module,
                                   InsnLines* lines = nullptr);

}  // namespace bpftime::compiler

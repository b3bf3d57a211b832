#include "compiler/pipeline.h"

#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Transforms/IPO/GlobalDCE.h>
#include <llvm/Transforms/IPO/ModuleInliner.h>
#include <llvm/Transforms/InstCombine/InstCombine.h>
#include <llvm/Transforms/Scalar/ADCE.h>
#include <llvm/Transforms/Scalar/CorrelatedValuePropagation.h>
#include <llvm/Transforms/Scalar/DeadStoreElimination.h>
#include <llvm/Transforms/Scalar/EarlyCSE.h>
#include <llvm/Transforms/Scalar/GVN.h>
#include <llvm/Transforms/Scalar/IndVarSimplify.h>
#include <llvm/Transforms/Scalar/JumpThreading.h>
#include <llvm/Transforms/Scalar/LICM.h>
#include <llvm/Transforms/Scalar/LoopDeletion.h>
#include <llvm/Transforms/Scalar/LoopInstSimplify.h>
#include <llvm/Transforms/Scalar/LoopPassManager.h>
#include <llvm/Transforms/Scalar/LoopRotation.h>
#include <llvm/Transforms/Scalar/LoopSimplifyCFG.h>
#include <llvm/Transforms/Scalar/LoopUnrollPass.h>
#include <llvm/Transforms/Scalar/SROA.h>
#include <llvm/Transforms/Scalar/SimplifyCFG.h>

#include <utility>

#include "compiler/copies.h"
#include "compiler/switches.h"

namespace bpftime::compiler {
namespace {

llvm::SimplifyCFGOptions final_cfg() {
  return llvm::SimplifyCFGOptions()
      .convertSwitchRangeToICmp(true)
      .convertSwitchToLookupTable(true)
      .needCanonicalLoops(false)
      .hoistCommonInsts(true)
      .sinkCommonInsts(true);
}

struct RecoverSwitches : llvm::PassInfoMixin<RecoverSwitches> {
  llvm::PreservedAnalyses run(llvm::Function& function, llvm::FunctionAnalysisManager&) {
    return recover_switches(function) ? llvm::PreservedAnalyses::none() : llvm::PreservedAnalyses::all();
  }
};

struct SpeedUpCopyLoops : llvm::PassInfoMixin<SpeedUpCopyLoops> {
  llvm::PreservedAnalyses run(llvm::Function& function, llvm::FunctionAnalysisManager& analyses) {
    const bool changed = speed_up_copy_loops(function, analyses.getResult<llvm::LoopAnalysis>(function),
                                             analyses.getResult<llvm::ScalarEvolutionAnalysis>(function));
    return changed ? llvm::PreservedAnalyses::none() : llvm::PreservedAnalyses::all();
  }
};

// Runs what it holds over some functions only.
class Where : public llvm::PassInfoMixin<Where> {
 public:
  using Test = bool (*)(llvm::Function&, llvm::FunctionAnalysisManager&);
  Where(Test test, llvm::FunctionPassManager passes) : test_(test), passes_(std::move(passes)) {}
  llvm::PreservedAnalyses run(llvm::Function& function, llvm::FunctionAnalysisManager& analyses) {
    return test_(function, analyses) ? passes_.run(function, analyses) : llvm::PreservedAnalyses::all();
  }

 private:
  Test test_;
  llvm::FunctionPassManager passes_;
};

// Functions of the runtime come optimised.
bool is_the_programs(llvm::Function& function, llvm::FunctionAnalysisManager&) {
  return !function.hasFnAttribute(kRuntimeAttribute);
}
bool has_loops(llvm::Function& function, llvm::FunctionAnalysisManager& analyses) {
  return !analyses.getResult<llvm::LoopAnalysis>(function).empty();
}

// What makes inlining see what it inlines into: registers as values, map references as constants.
llvm::FunctionPassManager before_inlining() {
  llvm::FunctionPassManager passes;
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  passes.addPass(llvm::EarlyCSEPass(true));
  passes.addPass(llvm::SimplifyCFGPass());
  passes.addPass(RecoverSwitches());
  passes.addPass(llvm::SimplifyCFGPass());
  return passes;
}

llvm::FunctionPassManager loop_passes() {
  llvm::FunctionPassManager passes;
  llvm::LoopPassManager first, second;
  first.addPass(llvm::LoopInstSimplifyPass());
  first.addPass(llvm::LoopSimplifyCFGPass());
  first.addPass(llvm::LICMPass(llvm::LICMOptions()));
  first.addPass(llvm::LoopRotatePass());
  first.addPass(llvm::LICMPass(llvm::LICMOptions()));
  passes.addPass(llvm::createFunctionToLoopPassAdaptor(std::move(first), /*UseMemorySSA=*/true));
  passes.addPass(llvm::SimplifyCFGPass());
  passes.addPass(llvm::InstCombinePass());
  second.addPass(llvm::IndVarSimplifyPass());
  second.addPass(llvm::LoopDeletionPass());
  second.addPass(llvm::LoopFullUnrollPass(2, /*OnlyWhenForced=*/false));
  passes.addPass(llvm::createFunctionToLoopPassAdaptor(std::move(second)));
  passes.addPass(SpeedUpCopyLoops());
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  return passes;
}

llvm::FunctionPassManager after_inlining() {
  llvm::FunctionPassManager passes, unrolling;
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  passes.addPass(llvm::EarlyCSEPass(true));
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::JumpThreadingPass());
  passes.addPass(llvm::CorrelatedValuePropagationPass());
  passes.addPass(llvm::SimplifyCFGPass());
  passes.addPass(Where(has_loops, loop_passes()));
  passes.addPass(llvm::GVNPass());
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::DSEPass());
  passes.addPass(llvm::ADCEPass());
  unrolling.addPass(llvm::LoopUnrollPass(llvm::LoopUnrollOptions(2)));
  unrolling.addPass(llvm::InstCombinePass());
  passes.addPass(Where(has_loops, std::move(unrolling)));
  passes.addPass(llvm::SimplifyCFGPass(final_cfg()));
  return passes;
}

}  // namespace

void optimize(llvm::Module& module, llvm::TargetMachine& machine) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  // There is no C library in the image: no loop may become a call of memset, and the like.
  llvm::TargetLibraryInfoImpl library(machine.getTargetTriple());
  library.disableAllFunctions();
  functions.registerPass([&library] { return llvm::TargetLibraryAnalysis(library); });
  llvm::PassBuilder builder(&machine);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  llvm::ModulePassManager passes;
  passes.addPass(llvm::createModuleToFunctionPassAdaptor(Where(is_the_programs, before_inlining())));
  // Helpers end in functions made for one map, which must have become small before it is asked whether they are.
  llvm::ModuleInlinerWrapperPass inliner(llvm::getInlineParams(2, 0), /*MandatoryFirst=*/false);
  llvm::FunctionPassManager simplify;
  simplify.addPass(llvm::EarlyCSEPass(true));
  simplify.addPass(llvm::SimplifyCFGPass());
  inliner.getPM().addPass(
      llvm::createCGSCCToFunctionPassAdaptor(Where(is_the_programs, std::move(simplify))));
  passes.addPass(std::move(inliner));
  passes.addPass(llvm::GlobalDCEPass());
  passes.addPass(llvm::createModuleToFunctionPassAdaptor(after_inlining()));
  passes.run(module, modules);
}

}  // namespace bpftime::compiler

#include "compiler/backend.h"

#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Linker/Linker.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
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
#include <llvm/Transforms/Vectorize/LoopVectorize.h>

#include <string>
#include <vector>

#include "compiler/context_use.h"
#include "compiler/translator.h"
#include "helpers/runtime_images.h"

namespace bpftime::compiler {
namespace {

constexpr char kTriple[] = "x86_64-unknown-linux-gnu";
constexpr char kCpu[] = "x86-64";
// General registers only: what clang's -mgeneral-regs-only says, and soft-float so that nothing returns in
// xmm0.
constexpr char kFeatures[] = "+cx8,-x87,-mmx,-sse,-sse2,-avx,+soft-float";
// Longer copies become calls: the backend would unroll up to 8 moves and then use string instructions.
constexpr uint64_t kUnrolledCopyMax = 64;

// One per process; LLVM's are not thread safe, callers of emit_object take turns.
llvm::TargetMachine* target_machine(std::string& why) {
  static const auto machine = [&why]() -> std::unique_ptr<llvm::TargetMachine> {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser();  // the runtime's inline assembly
    const llvm::Target* target = llvm::TargetRegistry::lookupTarget(kTriple, why);
    if (target == nullptr) return nullptr;
    llvm::TargetOptions options;
    options.FunctionSections = true;  // the linker keeps what is reached
    options.DataSections = true;
    options.EmitStackSizeSection = true;
    options.EnableIPRA = false;
    return std::unique_ptr<llvm::TargetMachine>(
        target->createTargetMachine(kTriple, kCpu, kFeatures, options, llvm::Reloc::PIC_,
                                    llvm::CodeModel::Small, llvm::CodeGenOptLevel::Default));
  }();
  return machine.get();
}

// Every function gets the same attributes, ours and the runtime's, so that each may be inlined into each.
void set_attributes(llvm::Module& module) {
  for (llvm::Function& function : module) {
    if (function.isDeclaration()) continue;
    function.removeFnAttr("tune-cpu");
    function.removeFnAttr("frame-pointer");
    function.removeFnAttr(llvm::Attribute::UWTable);
    function.removeFnAttr(llvm::Attribute::MustProgress);
    function.removeFnAttr(llvm::Attribute::StackProtect);
    function.addFnAttr("target-cpu", kCpu);
    function.addFnAttr("target-features", kFeatures);
    function.addFnAttr("no-builtins");
    function.addFnAttr("frame-pointer", "none");
    function.addFnAttr(llvm::Attribute::NoRedZone);
    function.addFnAttr(llvm::Attribute::NoUnwind);
    function.addFnAttr(llvm::Attribute::NullPointerIsValid);
  }
}

// Everything but the entry, and what the runtime's object refers to, is private to the program. What stays
// undefined the linker finds in that object, or refuses.
void internalize(llvm::Module& module) {
  for (llvm::GlobalObject& object : module.global_objects()) {
    if (!object.hasLocalLinkage()) object.setVisibility(llvm::GlobalValue::HiddenVisibility);  // no GOT
    const llvm::StringRef name = object.getName();
    const bool exported = name == kEntrySymbol || name == kContextSymbol || name == kTraceRingSymbol;
    if (object.isDeclaration() || exported) continue;
    object.setVisibility(llvm::GlobalValue::DefaultVisibility);
    object.setLinkage(llvm::GlobalValue::InternalLinkage);
    object.setComdat(nullptr);
  }
}

// Links what `module` declares, and what that needs. The bitcode is read lazily: unused helpers cost nothing.
Result<void> link_runtime(llvm::Module& module) {
  const auto bitcode = helpers::runtime_bitcode();
  const llvm::StringRef bytes(reinterpret_cast<const char*>(bitcode.data()), bitcode.size());
  auto runtime = llvm::getLazyBitcodeModule(llvm::MemoryBufferRef(bytes, "runtime"), module.getContext());
  if (!runtime) return Error{EINVAL, "compile: helpers' bitcode: " + llvm::toString(runtime.takeError())};
  (*runtime)->setTargetTriple(module.getTargetTriple());
  (*runtime)->setDataLayout(module.getDataLayout());
  if (llvm::Linker::linkModules(module, std::move(*runtime), llvm::Linker::Flags::LinkOnlyNeeded)) {
    return Error{EINVAL, "compile: linking the helpers' bitcode failed"};
  }
  // Flags like "uwtable" would bring unwind tables back.
  if (auto* flags = module.getModuleFlagsMetadata()) module.eraseNamedMetadata(flags);
  return {};
}

llvm::SimplifyCFGOptions final_cfg() {
  return llvm::SimplifyCFGOptions()
      .convertSwitchRangeToICmp(true)
      .convertSwitchToLookupTable(true)
      .needCanonicalLoops(false)
      .hoistCommonInsts(true)
      .sinkCommonInsts(true);
}

// What makes inlining see what it inlines into: registers as values, map references as constants.
llvm::FunctionPassManager before_inlining() {
  llvm::FunctionPassManager passes;
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  passes.addPass(llvm::EarlyCSEPass(true));
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
  return passes;
}

llvm::FunctionPassManager after_inlining() {
  llvm::FunctionPassManager passes;
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  passes.addPass(llvm::EarlyCSEPass(true));
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::JumpThreadingPass());
  passes.addPass(llvm::CorrelatedValuePropagationPass());
  passes.addPass(llvm::SimplifyCFGPass());
  passes.addPass(loop_passes());
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  passes.addPass(llvm::GVNPass());
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::DSEPass());
  passes.addPass(llvm::ADCEPass());
  passes.addPass(llvm::LoopUnrollPass(llvm::LoopUnrollOptions(2)));
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::SimplifyCFGPass(final_cfg()));
  return passes;
}

void optimize(llvm::Module& module, llvm::TargetMachine& machine) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  // There is no C library in the image: no loop may become a call of memset, and the like.
  llvm::TargetLibraryInfoImpl library{llvm::Triple(kTriple)};
  library.disableAllFunctions();
  functions.registerPass([&library] { return llvm::TargetLibraryAnalysis(library); });
  llvm::PassBuilder builder(&machine);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  if (getenv("OLDPIPE")) {
    builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O2).run(module, modules);
    return;
  }
  llvm::ModulePassManager passes;
  passes.addPass(llvm::createModuleToFunctionPassAdaptor(before_inlining()));
  passes.addPass(llvm::ModuleInlinerWrapperPass(llvm::getInlineParams(2, 0), /*MandatoryFirst=*/false));
  passes.addPass(llvm::GlobalDCEPass());
  passes.addPass(llvm::createModuleToFunctionPassAdaptor(after_inlining()));
  passes.run(module, modules);
}

// Declares a copy function as the runtime defines it.
llvm::FunctionCallee copy_function(llvm::Module& module, const char* name, llvm::Type* second) {
  auto* pointer = llvm::PointerType::get(module.getContext(), 0);
  auto* word = llvm::Type::getInt64Ty(module.getContext());
  auto callee =
      module.getOrInsertFunction(name, llvm::FunctionType::get(pointer, {pointer, second, word}, false));
  llvm::cast<llvm::Function>(callee.getCallee())->setVisibility(llvm::GlobalValue::HiddenVisibility);
  return callee;
}

// Long or variable copies become calls of the runtime's functions; see kUnrolledCopyMax.
void lower_copies(llvm::Module& module) {
  std::vector<llvm::MemIntrinsic*> copies;
  for (llvm::Function& function : module) {
    for (llvm::Instruction& instruction : llvm::instructions(function)) {
      auto* copy = llvm::dyn_cast<llvm::MemIntrinsic>(&instruction);
      if (copy == nullptr) continue;
      const auto* length = llvm::dyn_cast<llvm::ConstantInt>(copy->getLength());
      if (length == nullptr || length->getValue().ugt(kUnrolledCopyMax)) copies.push_back(copy);
    }
  }
  for (llvm::MemIntrinsic* copy : copies) {
    llvm::IRBuilder<> builder(copy);
    llvm::Value* length = builder.CreateZExtOrTrunc(copy->getLength(), builder.getInt64Ty());
    const char* name = llvm::isa<llvm::MemMoveInst>(copy) ? "bpftime_memmove" : "bpftime_memcpy";
    llvm::Value* second = nullptr;
    if (auto* set = llvm::dyn_cast<llvm::MemSetInst>(copy)) {
      name = "bpftime_memset";
      second = builder.CreateZExt(set->getValue(), builder.getInt32Ty());
    } else {
      second = llvm::cast<llvm::MemTransferInst>(copy)->getRawSource();
    }
    builder.CreateCall(copy_function(module, name, second->getType()), {copy->getRawDest(), second, length});
    copy->eraseFromParent();
  }
}

Result<void> verify(const llvm::Module& module, const char* when) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (!llvm::verifyModule(module, &stream)) return {};
  return Error{EINVAL, std::string("compile: generated IR is wrong ") + when + ": " + stream.str()};
}

}  // namespace

Diagnostics::Diagnostics(llvm::LLVMContext& context) {
  context.setDiagnosticHandlerCallBack(
      [](const llvm::DiagnosticInfo* info, void* self) {
        if (info->getSeverity() != llvm::DS_Error) return;
        std::string text;
        llvm::raw_string_ostream stream(text);
        llvm::DiagnosticPrinterRawOStream printer(stream);
        info->print(printer);
        static_cast<Diagnostics*>(self)->add(stream.str());
      },
      this);
}

void Diagnostics::add(const std::string& message) {
  if (!text_.empty()) text_ += "; ";
  text_ += message;
}

std::unique_ptr<llvm::Module> make_module(llvm::LLVMContext& context, const std::string& name) {
  auto module = std::make_unique<llvm::Module>(name, context);
  module->setTargetTriple(kTriple);
  std::string why;
  if (const llvm::TargetMachine* machine = target_machine(why))
    module->setDataLayout(machine->createDataLayout());
  return module;
}

#include <time.h>
static double tnow(){timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec*1e3+t.tv_nsec/1e6;}
Result<EmittedObject> emit_object(llvm::Module& module, Diagnostics& diagnostics) {
  double T=tnow(); auto lap=[&](const char*w){double n=tnow(); fprintf(stderr,"%s %.2f  ",w,n-T); T=n;};
  std::string why;
  llvm::TargetMachine* machine = target_machine(why);
  if (machine == nullptr) return Error{ENOTSUP, "compile: LLVM has no x86-64 backend: " + why};
  if (Result<void> good = verify(module, "before optimisation"); !good) return good.error();
lap("verify");
  if (Result<void> linked = link_runtime(module); !linked) return linked.error();
lap("link");
  set_attributes(module);
  internalize(module);
lap("attr"); if (getenv("DUMPIR")) {std::error_code ec; llvm::raw_fd_ostream o(getenv("DUMPIR"), ec); module.print(o,nullptr);} optimize(module, *machine); lap("opt");
  EmittedObject out;
  out.context_slots_read = context_slots_read(module);
  lower_copies(module);
  if (Result<void> good = verify(module, "after optimisation"); !good) return good.error();

lap("verify2"); if (getenv("DUMPIR2")) {std::error_code ec; llvm::raw_fd_ostream o(getenv("DUMPIR2"), ec); module.print(o,nullptr);}  llvm::raw_svector_ostream stream(out.bytes);
  llvm::legacy::PassManager passes;
  if (machine->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::ObjectFile)) {
    return Error{ENOTSUP, "compile: LLVM cannot emit object files"};
  }
lap("addpasses");  passes.run(module); lap("codegen"); fprintf(stderr,"\n");
  if (!diagnostics.text().empty()) return Error{EINVAL, "compile: " + diagnostics.text()};
  return out;
}

}  // namespace bpftime::compiler

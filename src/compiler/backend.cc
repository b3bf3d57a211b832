#include "compiler/backend.h"

#include <llvm/ADT/SmallPtrSet.h>
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Linker/Linker.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <string>
#include <vector>

#include "compiler/context_use.h"
#include "compiler/copies.h"
#include "compiler/pipeline.h"
#include "compiler/translator.h"
#include "helpers/runtime_images.h"

namespace bpftime::compiler {
namespace {

constexpr char kTriple[] = "x86_64-unknown-linux-gnu";
constexpr char kCpu[] = "x86-64";
// General registers only: what clang's -mgeneral-regs-only says, and soft-float so that nothing
// returns in xmm0.
constexpr char kFeatures[] = "+cx8,-x87,-mmx,-sse,-sse2,-avx,+soft-float";

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
    const bool exported = name == kEntrySymbol || name == kTailEntrySymbol || name == kContextSymbol ||
                          name == kTraceRingSymbol;
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
  llvm::SmallPtrSet<const llvm::Function*, 16> own;
  for (const llvm::Function& function : module)
    if (!function.isDeclaration()) own.insert(&function);
  if (llvm::Linker::linkModules(module, std::move(*runtime), llvm::Linker::Flags::LinkOnlyNeeded)) {
    return Error{EINVAL, "compile: linking the helpers' bitcode failed"};
  }
  for (llvm::Function& function : module)
    if (!function.isDeclaration() && !own.contains(&function)) function.addFnAttr(kRuntimeAttribute);
  // Flags like "uwtable" would bring unwind tables back.
  if (auto* flags = module.getModuleFlagsMetadata()) module.eraseNamedMetadata(flags);
  return {};
}

Result<void> verify(const llvm::Module& module, const char* when) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (!llvm::verifyModule(module, &stream)) return {};
  return Error{EINVAL, std::string("compile: generated IR is wrong ") + when + ": " + stream.str()};
}

}  // namespace

std::mutex& compile_turn() {
  static std::mutex turn;
  return turn;
}

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

Result<EmittedObject> emit_object(llvm::Module& module, Diagnostics& diagnostics) {
  std::string why;
  llvm::TargetMachine* machine = target_machine(why);
  if (machine == nullptr) return Error{ENOTSUP, "compile: LLVM has no x86-64 backend: " + why};
  if (Result<void> good = verify(module, "before optimisation"); !good) return good.error();
  if (Result<void> linked = link_runtime(module); !linked) return linked.error();
  set_attributes(module);
  internalize(module);
  optimize(module, *machine);
  EmittedObject out;
  out.context_slots_read = context_slots_read(module);
  lower_copies(module);
  if (Result<void> good = verify(module, "after optimisation"); !good) return good.error();

  llvm::raw_svector_ostream stream(out.bytes);
  llvm::legacy::PassManager passes;
  if (machine->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::ObjectFile)) {
    return Error{ENOTSUP, "compile: LLVM cannot emit object files"};
  }
  passes.run(module);
  if (!diagnostics.text().empty()) return Error{EINVAL, "compile: " + diagnostics.text()};
  return out;
}

}  // namespace bpftime::compiler

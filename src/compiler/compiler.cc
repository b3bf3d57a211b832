#include "compiler/compiler.h"

#include <llvm/IR/LLVMContext.h>

#include <mutex>

#include "compiler/backend.h"
#include "compiler/linker.h"
#include "compiler/translator.h"
#include "helpers/runtime_images.h"
#include "wire/invocation.h"

namespace bpftime::compiler {

Result<MachineCode> compile(const program::Program& program, std::span<const MapBinding> maps,
                            const CompileOptions& options) {
  static std::mutex one_at_a_time;  // the target machine is shared
  const std::lock_guard<std::mutex> lock(one_at_a_time);

  llvm::LLVMContext context;
  Diagnostics diagnostics(context);
  const auto module = make_module(context, program.name);
  const auto facts = translate(program, maps, options, *module);
  if (!facts) return facts.error();
  const auto object = emit_object(*module, diagnostics);
  if (!object) return object.error();
  const Bytes objects[] = {
      Bytes(reinterpret_cast<const uint8_t*>(object->bytes.data()), object->bytes.size()),
      helpers::runtime_object()};
  auto linked = link_image(objects, kEntrySymbol);
  if (!linked) return linked.error();
  if (linked->stack_bytes > wire::kProgramStackMax) {
    return Error{E2BIG, "compile: program " + program.name + ": needs " +
                            std::to_string(linked->stack_bytes) + " bytes of stack, at most " +
                            std::to_string(wire::kProgramStackMax) +
                            " are allowed; use smaller local variables or fewer nested calls"};
  }
  MachineCode code;
  code.image = std::move(linked->image);
  code.entry_offset = linked->entry_offset;
  code.text_size = linked->text_size;
  code.stack_bytes = static_cast<uint32_t>(linked->stack_bytes);
  code.makes_system_calls = facts->makes_system_calls;
  code.repairs_faults = facts->repairs_faults;
  code.calls_host = facts->calls_host;
  code.ends_function = facts->ends_function;
  code.context_slots_read = object->context_slots_read;
  return code;
}

}  // namespace bpftime::compiler

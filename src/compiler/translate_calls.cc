// Calls: of helpers, of the program's own functions, of the host.
#include "compiler/function_translator.h"
#include "helpers/table.h"
#include "wire/target_context.h"

namespace bpftime::compiler {

Value* FunctionTranslator::host_address(uint32_t id) {
  Value* invocation = function_->getArg(kInvocationArgument);
  Value* table = builder_.CreateLoad(
      word(),
      builder_.CreateConstGEP1_64(builder_.getInt8Ty(), invocation, offsetof(wire::Invocation, host_table)));
  Value* place = builder_.CreateAdd(table, word_of(uint64_t{id} * sizeof(uint64_t)));
  return builder_.CreateLoad(word(), builder_.CreateIntToPtr(place, scope_.pointer()));
}

Result<void> FunctionTranslator::host_call(uint32_t index, const Insn& insn) {
  const auto id = static_cast<uint32_t>(insn.imm);
  if (!is_host_id(id, &verifier::Constraints::functions)) return error_at(index, "no such host function");
  const auto& functions = scope_.options.constraints->functions;
  const auto& function =
      *std::find_if(functions.begin(), functions.end(), [id](const auto& item) { return item.id == id; });
  scope_.facts.calls_host = true;
  Value* where = word_of(scope_.options.context_address + offsetof(wire::TargetContext, host_call));
  Value* bridge = builder_.CreateLoad(scope_.pointer(), builder_.CreateIntToPtr(where, scope_.pointer()));
  std::array<Value*, 7> arguments{};
  for (uint32_t i = 0; i < 5; i++) arguments[i] = get(i + 1);
  arguments[kInvocationArgument] = builder_.CreateIntToPtr(host_address(id), scope_.pointer());
  arguments[kRegsArgument] = function_->getArg(kRegsArgument);
  Value* result = builder_.CreateCall(scope_.function_type(), bridge, arguments);
  set(BPF_REG_0, extend_argument(builder_, result, function.result));
  for (uint32_t i = BPF_REG_1; i <= BPF_REG_5; i++) frame_offsets_[i].reset();
  return {};
}

Result<void> FunctionTranslator::call(uint32_t index, const Insn& insn) {
  llvm::Function* callee = nullptr;
  if (is_local_call(insn)) {
    const auto target = scope_.subprograms.find(static_cast<uint32_t>(int64_t{index} + 1 + insn.imm));
    if (target == scope_.subprograms.end()) return error_at(index, "no function there");
    callee = target->second;
  } else if (insn.src_reg == BPF_PSEUDO_KFUNC_CALL) {
    return host_call(index, insn);
  } else if (insn.src_reg != 0) {
    return error_at(index, "unknown kind of call");
  } else {
    const helpers::Helper* helper = helpers::find(static_cast<uint32_t>(insn.imm));
    if (helper == nullptr) {  // proved dead, or nothing was (compiler.h)
      builder_.CreateRet(word_of(0));
      open_ = false;
      return {};
    }
    if (helper->id == BPF_FUNC_trace_printk && scope_.options.trace_ring == nullptr && !scope_.options.bare) {
      return error_at(index, "bpf_trace_printk without a trace ring");
    }
    scope_.facts.makes_system_calls |= helper->system_call;
    scope_.facts.repairs_faults |= helper->repairs_faults;
    callee = llvm::cast<llvm::Function>(
        scope_.module.getOrInsertFunction(std::string(helper->symbol), scope_.helper_type()).getCallee());
  }
  std::vector<Value*> arguments(is_local_call(insn) ? 7 : 6);
  // A local function may move the pointers it gets.
  for (uint32_t i = 0; i < 5; i++) arguments[i] = is_local_call(insn) ? get(i + 1) : get_argument(i + 1);
  arguments[kInvocationArgument] = function_->getArg(kInvocationArgument);
  if (is_local_call(insn)) arguments[kRegsArgument] = function_->getArg(kRegsArgument);
  if (!is_local_call(insn) && insn.imm == BPF_FUNC_override_return) {
    scope_.facts.ends_function = true;
    arguments[0] =
        builder_.CreatePtrToInt(function_->getArg(kRegsArgument), word());  // the context may be a copy
  }
  set(BPF_REG_0, builder_.CreateCall(callee->getFunctionType(), callee, arguments));
  for (uint32_t i = BPF_REG_1; i <= BPF_REG_5; i++) frame_offsets_[i].reset();
  return {};
}

}  // namespace bpftime::compiler

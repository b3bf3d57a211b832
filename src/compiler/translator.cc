#include "compiler/translator.h"

#include "compiler/function_translator.h"
#include "compiler/read_modify_write.h"
#include "compiler/tail_call.h"
#include "helpers/table.h"
#include "maps/map.h"
#include "wire/target_context.h"

namespace bpftime::compiler {

Result<void> FunctionTranslator::run() {
  if (Result<void> found = make_blocks(); !found) return found;
  scope_.at_insn(builder_, *function_, start_);
  make_prologue();
  lookups_ = find_read_modify_writes(scope_.program, start_, end_, scope_.maps, scope_.options.facts);
  for (uint32_t index = start_; index < end_; index++) {
    if (const auto block = blocks_.find(index); block != blocks_.end()) enter_block(block->second);
    if (open_ && proved_dead(index)) {
      builder_.CreateRet(word_of(0));
      leave_block();
    }
    scope_.at_insn(builder_, *function_, index);
    if (!open_) continue;  // after a jump without a label, or proved dead
    if (Result<void> done = translate(index, insn(index)); !done) return done;
    if (is_wide(insn(index))) index++;
  }
  if (open_) return error_at(end_ - 1, "control falls off the end of a function");
  shrink_frame();
  return {};
}

bool FunctionTranslator::proved_dead(uint32_t index) const {
  const verifier::Facts* facts = scope_.options.facts;
  return facts != nullptr && index < facts->insns.size() && !facts->insns[index].reached;
}

std::optional<uint32_t> FunctionTranslator::proved_map(uint32_t index) const {
  const verifier::Facts* facts = scope_.options.facts;
  if (facts == nullptr || index >= facts->insns.size() || !facts->insns[index].same_map) return std::nullopt;
  const uint32_t map = facts->insns[index].map;
  return map < scope_.maps.size() ? std::optional(map) : std::nullopt;
}

Result<void> FunctionTranslator::make_blocks() {
  for (uint32_t index = start_; index < end_; index++) {
    if (const auto target = jump_target(insn(index), index)) {
      if (*target < start_ || *target >= end_) return error_at(index, "jump out of its function");
      blocks_[static_cast<uint32_t>(*target)] = nullptr;
      if (index + 1 < end_) blocks_[index + 1] = nullptr;
    }
    if (is_wide(insn(index))) {
      if (index + 1 >= end_) return error_at(index, "half an instruction");
      wide_seconds_.insert(++index);
    }
  }
  for (auto& [index, block] : blocks_) {
    if (wide_seconds_.contains(index)) return error_at(index, "jump into the middle of an instruction");
    block = BasicBlock::Create(scope_.context(), "at" + std::to_string(index), function_);
  }
  return {};
}

void FunctionTranslator::leave_block() {
  for (const auto& offset : frame_offsets_) whole_frame_ |= offset.has_value();
  open_ = false;
}

void FunctionTranslator::enter_block(BasicBlock* block) {
  if (open_) {
    builder_.CreateBr(block);
    leave_block();
  }
  builder_.SetInsertPoint(block);
  open_ = true;
  frame_offsets_.fill(std::nullopt);
}

Result<void> FunctionTranslator::translate(uint32_t index, const Insn& insn) {
  if (insn.dst_reg >= kRegisters || (insn.src_reg >= kRegisters && !is_wide(insn))) {
    return error_at(index, "no such register");
  }
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return alu(index, insn);
    case BPF_JMP:
    case BPF_JMP32:
      return jump(index, insn);
    case BPF_LDX:
      return load(index, insn);
    case BPF_ST:
    case BPF_STX:
      return store(index, insn);
    default:
      return is_wide(insn) ? load_constant(index, insn) : unknown(index, insn);
  }
}

namespace {

// First instructions of all functions, ascending; and that calls lead somewhere and never in a circle.
Result<std::vector<uint32_t>> find_subprograms(const program::Program& program) {
  const auto& insns = program.insns;
  constexpr size_t kSubprogramsMax = 256;  // BPF_MAX_SUBPROGS
  std::set<uint32_t> starts{0};
  std::vector<std::pair<uint32_t, uint32_t>> calls;  // instruction, target
  for (uint32_t i = 0; i < insns.size(); i++) {
    const bool wide = is_wide(insns[i]);
    if (is_local_call(insns[i]) || (wide && insns[i].src_reg == BPF_PSEUDO_FUNC)) {
      const int64_t target = int64_t{i} + 1 + insns[i].imm;
      if (target < 0 || target >= static_cast<int64_t>(insns.size())) return error_at(i, "no function there");
      starts.insert(static_cast<uint32_t>(target));
      if (!wide) calls.emplace_back(i, static_cast<uint32_t>(target));
    }
    if (wide) i++;
  }
  if (starts.size() > kSubprogramsMax)
    return Error{E2BIG, "compile: program " + program.name + ": too many functions"};
  std::map<uint32_t, std::set<uint32_t>> callees;
  for (const auto& [at, target] : calls) callees[*std::prev(starts.upper_bound(at))].insert(target);
  // Remove functions that call nobody until none is left; what stays calls in a circle.
  std::set<uint32_t> left = starts;
  for (bool changed = true; changed;) {
    changed = false;
    for (auto it = left.begin(); it != left.end();) {
      bool leaf = true;
      for (const uint32_t callee : callees[*it]) leaf &= !left.contains(callee);
      changed |= leaf;
      it = leaf ? left.erase(it) : std::next(it);
    }
  }
  if (!left.empty()) return error_at(*left.begin(), "function calls itself");
  return std::vector<uint32_t>(starts.begin(), starts.end());
}

// The context of a typed entry: the probed function's arguments, one 8-byte slot each, widened as their types say.
Value* make_typed_context(llvm::IRBuilder<>& builder, ProgramScope& scope, Value* regs) {
  constexpr uint64_t kRegisterOffsets[kArgumentRegisters] = {
      offsetof(wire::PtRegs, rdi), offsetof(wire::PtRegs, rsi), offsetof(wire::PtRegs, rdx),
      offsetof(wire::PtRegs, rcx), offsetof(wire::PtRegs, r8),  offsetof(wire::PtRegs, r9)};
  const auto& arguments = scope.options.constraints->entry;
  auto* slots =
      builder.CreateAlloca(scope.word(), builder.getInt64(std::max<size_t>(arguments.size(), 1)), "context");
  const auto load_at = [&](Value* base, uint64_t offset) {
    return builder.CreateLoad(scope.word(), builder.CreateConstGEP1_64(builder.getInt8Ty(), base, offset));
  };
  for (size_t i = 0; i < arguments.size(); i++) {
    Value* value;
    if (i < kArgumentRegisters) {
      value = load_at(regs, kRegisterOffsets[i]);
    } else {  // above the return address
      Value* stack = builder.CreateIntToPtr(load_at(regs, offsetof(wire::PtRegs, rsp)), scope.pointer());
      value = load_at(stack, 8 + 8 * (i - kArgumentRegisters));
    }
    builder.CreateStore(extend_argument(builder, value, arguments[i]),
                        builder.CreateConstGEP1_64(scope.word(), slots, i));
  }
  return builder.CreatePtrToInt(slots, scope.word());
}

// Adds one to this CPU's counter. Not locked: a thread that moves between load and store loses a count, which nobody relies on.
void make_run_count(llvm::IRBuilder<>& builder, ProgramScope& scope, Value* invocation) {
  Value* zero = builder.getInt64(0);
  auto cpu_of = scope.module.getOrInsertFunction(
      std::string(helpers::find(BPF_FUNC_get_smp_processor_id)->symbol), scope.helper_type());
  Value* cpu = builder.CreateCall(cpu_of, {zero, zero, zero, zero, zero, invocation});
  Value* index = builder.CreateAnd(cpu, builder.getInt64(scope.options.run_counters - 1));
  Value* address = builder.CreateAdd(builder.CreateMul(index, builder.getInt64(kRunCounterStride)),
                                     builder.getInt64(scope.options.run_counter_address));
  Value* place = builder.CreateIntToPtr(address, scope.pointer());
  builder.CreateStore(builder.CreateAdd(builder.CreateLoad(scope.word(), place), builder.getInt64(1)), place);
}

// A call of the program's first function.
Value* call_main(llvm::IRBuilder<>& builder, ProgramScope& scope, std::array<Value*, 2> first,
                 const std::vector<Value*>& environment) {
  Value* zero = builder.getInt64(0);
  std::vector<Value*> arguments{first[0], first[1], zero, zero, zero};
  arguments.insert(arguments.end(), environment.begin(), environment.end());
  auto* made = builder.CreateCall(scope.subprograms.at(0), arguments);
  made->setCallingConv(scope.function_convention());
  return made;
}

llvm::Function* make_function(ProgramScope& scope, const char* name, llvm::FunctionType* type) {
  auto* function = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, name, scope.module);
  function->setVisibility(llvm::GlobalValue::HiddenVisibility);
  if (scope.lines != nullptr) scope.lines->begin(*function);
  return function;
}

// The state that lives as long as the tail calls.
Value* make_tail_state(llvm::IRBuilder<>& builder, ProgramScope& scope, Value* invocation, Value* regs) {
  auto* state =
      builder.CreateAlloca(scope.word(), builder.getInt64(sizeof(TailState) / sizeof(uint64_t)), "state");
  const auto put = [&](uint64_t offset, Value* value) {
    builder.CreateStore(value, scope.field(builder, state, offset));
  };
  put(offsetof(TailState, invocation), invocation);
  put(offsetof(TailState, regs), regs);
  put(offsetof(TailState, stack_top), builder.CreatePtrToInt(state, scope.word()));
  put(offsetof(TailState, remaining), builder.getInt64(kTailCallsMax));
  return state;
}

// uint64_t program(void* ctx, const Invocation*), or bare: r1 and r2.
void make_entry(ProgramScope& scope) {
  const bool bare = scope.options.bare;
  llvm::Type* second = bare ? static_cast<llvm::Type*>(scope.word()) : scope.pointer();
  auto* entry = make_function(scope, kEntrySymbol,
                              llvm::FunctionType::get(scope.word(), {scope.word(), second}, false));
  llvm::IRBuilder<> builder(BasicBlock::Create(scope.context(), "entry", entry));
  scope.at_insn(builder, *entry, 0);
  Value* zero = builder.getInt64(0);
  Value* invocation =
      bare ? llvm::ConstantPointerNull::get(scope.pointer()) : static_cast<Value*>(entry->getArg(1));
  Value* regs = builder.CreateIntToPtr(entry->getArg(0), scope.pointer());
  const verifier::Constraints* constraints = scope.options.constraints;
  const bool typed = constraints != nullptr && constraints->typed_entry;
  if (scope.options.run_counters != 0 && !bare) make_run_count(builder, scope, invocation);
  Value* context = typed ? make_typed_context(builder, scope, regs) : entry->getArg(0);
  const std::array<Value*, 2> first{context, bare ? entry->getArg(1) : zero};
  std::vector<Value*> environment{invocation, regs};
  if (scope.tail_calls()) environment = {make_tail_state(builder, scope, invocation, regs)};
  builder.CreateRet(call_main(builder, scope, first, environment));
}

// What other programs jump to (tail_call.h).
void make_tail_entry(ProgramScope& scope) {
  auto* entry = make_function(scope, kTailEntrySymbol,
                              llvm::FunctionType::get(scope.word(), {scope.word(), scope.pointer()}, false));
  entry->setCallingConv(llvm::CallingConv::Tail);
  llvm::IRBuilder<> builder(BasicBlock::Create(scope.context(), "entry", entry));
  scope.at_insn(builder, *entry, 0);
  Value* state = entry->getArg(1);
  const std::array<Value*, 2> first{entry->getArg(0), builder.getInt64(0)};
  std::vector<Value*> environment{state};
  if (!scope.tail_calls()) {
    const auto load = [&](uint64_t offset) {
      return builder.CreateLoad(scope.pointer(), scope.field(builder, state, offset));
    };
    environment = {load(offsetof(TailState, invocation)), load(offsetof(TailState, regs))};
  }
  auto* made = llvm::cast<llvm::CallInst>(call_main(builder, scope, first, environment));
  if (scope.tail_calls()) made->setTailCallKind(llvm::CallInst::TCK_MustTail);  // rule 1
  builder.CreateRet(made);
}

// const MapRef* bpftime_ring_of(const void* record): submit and discard name a record but not its ring, and
// only the program's own rings can be meant.
void make_ring_of(ProgramScope& scope) {
  auto* type = llvm::FunctionType::get(scope.pointer(), {scope.pointer()}, false);
  auto* function =
      llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, "bpftime_ring_of", scope.module);
  llvm::IRBuilder<> builder(BasicBlock::Create(scope.context(), "entry", function));
  Value* record = builder.CreatePtrToInt(function->getArg(0), scope.word());
  Value* result = llvm::ConstantPointerNull::get(scope.pointer());
  for (uint32_t i = 0; i < scope.maps.size(); i++) {
    const MapBinding& map = scope.maps[i];
    if (map.spec.type != BPF_MAP_TYPE_RINGBUF) continue;
    Value* offset = builder.CreateSub(record, builder.getInt64(map.address));
    Value* inside = builder.CreateICmpULT(offset, builder.getInt64(maps::memory_size(map.spec)));
    result = builder.CreateSelect(inside, scope.map_global(i), result);
  }
  if (scope.options.inner_maps != 0) {
    auto* search = BasicBlock::Create(scope.context(), "search", function);
    auto* found = BasicBlock::Create(scope.context(), "found", function);
    builder.CreateCondBr(builder.CreateIsNull(result), search, found);
    builder.SetInsertPoint(found);
    builder.CreateRet(result);
    builder.SetInsertPoint(search);
    const auto inner = scope.module.getOrInsertFunction("bpftime_inner_ring_of", scope.pointer(),
                                                        scope.pointer(), scope.pointer());
    Value* table = builder.CreateIntToPtr(builder.getInt64(scope.options.inner_maps), scope.pointer());
    result = builder.CreateCall(inner, {function->getArg(0), table});
  }
  builder.CreateRet(result);
}

// The constants src/helpers/runtime/runtime.h declares.
void make_environment(ProgramScope& scope) {
  scope.constant(kContextSymbol, llvm::ConstantInt::get(scope.word(), scope.options.context_address));
  scope.map_ref(scope.options.trace_ring, kTraceRingSymbol);
}

}  // namespace

Result<TranslationFacts> translate(const program::Program& program, std::span<const MapBinding> maps,
                                   const CompileOptions& options, llvm::Module& module, InsnLines* lines) {
  if (program.insns.empty()) return Error{EINVAL, "compile: program " + program.name + ": no instructions"};
  if (program.insns.size() > program::kInsnsMax)
    return Error{E2BIG, "compile: program " + program.name + ": too long"};
  const auto starts = find_subprograms(program);
  if (!starts) return starts.error();

  ProgramScope scope{program, maps, options, module, {}, {}, std::vector<llvm::GlobalVariable*>(maps.size())};
  scope.lines = lines;
  scope.facts.may_tail_call = std::any_of(program.insns.begin(), program.insns.end(), is_tail_call);
  if ((scope.facts.may_tail_call || options.tail_entry) && options.constraints != nullptr)
    return Error{EOPNOTSUPP, "compile: program " + program.name + ": extensions make and take no tail calls"};
  for (const uint32_t start : *starts) {
    auto* function = llvm::Function::Create(scope.function_type(), llvm::GlobalValue::InternalLinkage,
                                            "bpf_function_" + std::to_string(start), module);
    function->setCallingConv(scope.function_convention());
    // Inlined, a jump out of it would become a call.
    if (scope.facts.may_tail_call) function->addFnAttr(llvm::Attribute::NoInline);
    if (lines != nullptr) lines->begin(*function);
    scope.subprograms[start] = function;
  }
  for (size_t i = 0; i < starts->size(); i++) {
    const auto end = i + 1 < starts->size() ? (*starts)[i + 1] : static_cast<uint32_t>(program.insns.size());
    const bool known = options.facts != nullptr && i < options.facts->zeroed_bytes.size();
    const uint32_t zeroed = known ? options.facts->zeroed_bytes[i] : 0;
    if (Result<void> done = FunctionTranslator(scope, (*starts)[i], end, zeroed).run(); !done)
      return done.error();
  }
  make_entry(scope);
  if (options.tail_entry) make_tail_entry(scope);
  make_environment(scope);
  make_ring_of(scope);
  if (lines != nullptr) lines->finish();
  return scope.facts;
}

}  // namespace bpftime::compiler

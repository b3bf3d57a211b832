// Calls: of helpers, of the program's own functions, of the host.
#include <llvm/IR/InlineAsm.h>

#include "compiler/function_translator.h"
#include "compiler/tail_call.h"
#include "helpers/table.h"
#include "maps/map_type.h"
#include "maps/prog_array.h"
#include "maps/user_ringbuf.h"
#include "wire/target_context.h"

namespace bpftime::compiler {

Value* FunctionTranslator::host_address(uint32_t id) {
  Value* table = builder_.CreateLoad(
      word(),
      builder_.CreateConstGEP1_64(builder_.getInt8Ty(), invocation_, offsetof(wire::Invocation, host_table)));
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
  arguments[kRegsArgument] = regs_;
  llvm::CallInst* result = builder_.CreateCall(scope_.bridge_type(), bridge, arguments);
  result->addFnAttr(llvm::Attribute::get(scope_.context(), kHostCallAttribute));
  Value* extended = extend_argument(builder_, result, function.result);
  if (scope_.options.check_promises && scope_.options.run_counters != 0)
    check_promise(extended, function.result);
  set(BPF_REG_0, extended);
  return {};
}

// What the verifier took on trust (host_result in verifier/host_calls.cc).
void FunctionTranslator::check_promise(Value* result, const verifier::Argument& promised) {
  Value* kept = nullptr;
  if (promised.kind != verifier::Argument::Kind::kNumber) {
    if (!promised.may_be_null) kept = builder_.CreateIsNotNull(result);
  } else if (promised.bytes != 0) {
    const verifier::Scalar& range = promised.number;
    const auto both = [&](Value* least, Value* most) { return builder_.CreateAnd(least, most); };
    kept = both(both(builder_.CreateICmpSGE(result, word_of(static_cast<uint64_t>(range.smin))),
                     builder_.CreateICmpSLE(result, word_of(static_cast<uint64_t>(range.smax)))),
                both(builder_.CreateICmpUGE(result, word_of(range.umin)),
                     builder_.CreateICmpULE(result, word_of(range.umax))));
  }
  if (kept == nullptr) return;
  auto* broken = new_block("promise_broken");
  auto* on = new_block("promise_kept");
  builder_.CreateCondBr(kept, on, broken);
  builder_.SetInsertPoint(broken);
  Value* place = word_of(scope_.options.run_counter_address + kBrokenPromisesOffset);
  builder_.CreateAtomicRMW(llvm::AtomicRMWInst::Add, builder_.CreateIntToPtr(place, scope_.pointer()),
                           word_of(1), llvm::MaybeAlign(8), llvm::AtomicOrdering::Monotonic);
  // As an exception ends a program (.Lcaught in src/agent/arch/x86_64/host_call.S): back to where the trampoline called it, from
  // whatever depth. The offsets are of wire::PtRegs.
  static_assert(offsetof(wire::PtRegs, r15) == 0 && offsetof(wire::PtRegs, rbx) == 40);
  auto* type = llvm::FunctionType::get(builder_.getVoidTy(), {scope_.pointer()}, false);
  builder_.CreateCall(llvm::InlineAsm::get(type,
                                           "movq 0(%rdi), %r15\n movq 8(%rdi), %r14\n movq 16(%rdi), %r13\n"
                                           "movq 24(%rdi), %r12\n movq 32(%rdi), %rbp\n movq 40(%rdi), %rbx\n"
                                           "leaq -8(%rdi), %rsp\n xorl %eax, %eax\n ret",
                                           "{rdi},~{memory}", /*hasSideEffects=*/true),
                      {regs_});
  builder_.CreateUnreachable();
  builder_.SetInsertPoint(on);
}

void FunctionTranslator::take_environment() {
  if (!scope_.tail_calls()) {
    invocation_ = function_->getArg(kInvocationArgument);
    regs_ = function_->getArg(kRegsArgument);
    return;
  }
  state_ = function_->getArg(kStateArgument);
  invocation_ = builder_.CreateLoad(scope_.pointer(), state_);
  regs_ = builder_.CreateLoad(scope_.pointer(), scope_.field(builder_, state_, offsetof(TailState, regs)));
}

Value* FunctionTranslator::call_function(Value* callee, std::array<Value*, 5> arguments) {
  std::vector<Value*> all(arguments.begin(), arguments.end());
  if (scope_.tail_calls()) {
    all.push_back(state_);
  } else {
    all.insert(all.end(), {invocation_, regs_});
  }
  auto* made = builder_.CreateCall(scope_.function_type(), callee, all);
  made->setCallingConv(scope_.function_convention());
  return made;
}

Result<void> FunctionTranslator::local_call(uint32_t index, const Insn& insn) {
  const auto target = scope_.subprograms.find(static_cast<uint32_t>(int64_t{index} + 1 + insn.imm));
  if (target == scope_.subprograms.end()) return error_at(index, "no function there");
  // It may move the pointers it gets, so `get` and not `get_argument`.
  set(BPF_REG_0, call_function(target->second, {get(1), get(2), get(3), get(4), get(5)}));
  return {};
}

Result<void> FunctionTranslator::call(uint32_t index, const Insn& insn) {
  Result<void> done;
  if (is_local_call(insn)) {
    done = local_call(index, insn);
  } else if (insn.src_reg == BPF_PSEUDO_KFUNC_CALL) {
    done = host_call(index, insn);
  } else if (insn.src_reg != 0) {
    return error_at(index, "unknown kind of call");
  } else {
    done = helper_call(index, static_cast<uint32_t>(insn.imm));
  }
  for (uint32_t i = BPF_REG_1; i <= BPF_REG_5; i++) frame_offsets_[i].reset();
  return done;
}

// Helpers whose first argument is a map and whose bodies are inlined (src/helpers/runtime/maps.cc).
static bool is_map_helper(uint32_t id) {
  switch (id) {
    case BPF_FUNC_map_lookup_elem:
    case BPF_FUNC_map_update_elem:
    case BPF_FUNC_map_delete_elem:
    case BPF_FUNC_map_lookup_percpu_elem:
    case BPF_FUNC_ringbuf_reserve:
    case BPF_FUNC_ringbuf_query:
      return true;
    default:
      return false;
  }
}

Result<void> FunctionTranslator::helper_call(uint32_t index, uint32_t id) {
  const helpers::Helper* helper = helpers::find(id);
  if (helper == nullptr) {  // proved dead, or nothing was (compiler.h)
    builder_.CreateRet(word_of(0));
    open_ = false;
    return {};
  }
  if ((id == BPF_FUNC_trace_printk || id == kTraceVprintk) && scope_.options.trace_ring == nullptr &&
      !scope_.options.bare) {
    return error_at(index, "bpf_trace_printk without a trace ring");
  }
  scope_.facts.makes_system_calls |= helper->system_call;
  scope_.facts.repairs_faults |= helper->repairs_faults;
  if (id == BPF_FUNC_tail_call) return tail_call(index);
  if (id == BPF_FUNC_loop) return loop_call(), Result<void>();
  if (id == BPF_FUNC_for_each_map_elem) return for_each_call(), Result<void>();
  if (id == BPF_FUNC_user_ringbuf_drain) return drain_call(), Result<void>();
  const std::optional<uint32_t> map = is_map_helper(id) ? proved_map(index) : std::nullopt;
  llvm::Function* callee =
      map ? scope_.map_helper(helpers::symbol_for_map(*helper, scope_.maps[*map].spec.type), *map)
          : scope_.helper(helper->symbol);
  std::array<Value*, 6> arguments{};
  for (uint32_t i = 0; i < 5; i++) arguments[i] = get_argument(i + 1);
  arguments[kInvocationArgument] = invocation_;
  if (id == BPF_FUNC_override_return) {
    scope_.facts.ends_function = true;
    arguments[0] = builder_.CreatePtrToInt(regs_, word());  // the context may be a copy
  }
  add_stack_registers(id, arguments);
  const auto is_this = [index](const auto& each) { return each.second == index; };
  if (std::any_of(lookups_.begin(), lookups_.end(), is_this)) {
    set(BPF_REG_0, look_up_for_update(index, callee, arguments));
    return {};
  }
  const auto lookup = lookups_.find(index);
  const auto looked_up = lookup != lookups_.end() ? looked_up_.find(lookup->second) : looked_up_.end();
  set(BPF_REG_0, looked_up != looked_up_.end()
                     ? update_unchanged(looked_up->second, callee, arguments)
                     : builder_.CreateCall(callee->getFunctionType(), callee, arguments));
  return {};
}

// ---- a value looked up, changed and stored (read_modify_write.h) ----

// As often as others may come between before the update is made whatever there is. On this CPU's values that takes a switch of
// threads each time.
constexpr uint64_t kTriesMax = 64;

// Where an update goes back to. Of registers only r6–r9 can have been changed in between that are read after it, and the frame
// is written before it is read.
Value* FunctionTranslator::look_up_for_update(uint32_t index, llvm::Function* callee,
                                              const std::array<Value*, 6>& arguments) {
  LookedUp& lookup = looked_up_[index];
  lookup.map = scope_.options.facts->insns[index].map;  // the finder asked for it
  llvm::IRBuilder<> first(&function_->getEntryBlock(), function_->getEntryBlock().begin());
  lookup.tries = first.CreateAlloca(word(), nullptr, "tries");
  builder_.CreateStore(word_of(0), lookup.tries);
  // Not by get(): no address comes out of here that was not in its register.
  for (uint32_t i = 0; i < lookup.kept.size(); i++)
    lookup.kept[i] = builder_.CreateLoad(word(), registers_[BPF_REG_6 + i]);
  lookup.again = new_block("look_up");
  builder_.CreateBr(lookup.again);
  builder_.SetInsertPoint(lookup.again);
  lookup.place = builder_.CreateCall(callee->getFunctionType(), callee, arguments);
  lookup.seen = unless(builder_.CreateIsNull(lookup.place), word_of(0), [&]() -> Value* {
    Value* place = builder_.CreateIntToPtr(lookup.place, scope_.pointer());
    auto* seen = builder_.CreateAlignedLoad(word(), place, llvm::Align(8));
    seen->setAtomic(llvm::AtomicOrdering::Monotonic);
    return seen;
  });
  return lookup.place;
}

Value* FunctionTranslator::update_unchanged(const LookedUp& lookup, llvm::Function* callee,
                                            const std::array<Value*, 6>& arguments) {
  const uint32_t type = scope_.maps[lookup.map].spec.type;
  llvm::Function* unchanged =
      scope_.map_helper("bpftime_map_update_unchanged_of_type_" + std::to_string(type), lookup.map);
  auto *changed = new_block("changed"), *back = new_block("back"), *whatever = new_block("whatever"),
       *done = new_block("updated");
  Value* outcome = builder_.CreateCall(
      unchanged->getFunctionType(), unchanged,
      {arguments[0], arguments[1], arguments[2], lookup.place, lookup.seen, arguments[kInvocationArgument]});
  auto* updated_in = builder_.GetInsertBlock();
  builder_.CreateCondBr(builder_.CreateICmpEQ(outcome, word_of(maps::kChanged)), changed, done);
  builder_.SetInsertPoint(changed);
  Value* tries = builder_.CreateAdd(builder_.CreateLoad(word(), lookup.tries), word_of(1));
  builder_.CreateStore(tries, lookup.tries);
  builder_.CreateCondBr(builder_.CreateICmpULT(tries, word_of(kTriesMax)), back, whatever);
  builder_.SetInsertPoint(back);
  for (uint32_t i = 0; i < lookup.kept.size(); i++)
    builder_.CreateStore(lookup.kept[i], registers_[BPF_REG_6 + i]);
  builder_.CreateBr(lookup.again);
  builder_.SetInsertPoint(whatever);
  Value* forced = builder_.CreateCall(callee->getFunctionType(), callee, arguments);
  builder_.CreateBr(done);
  builder_.SetInsertPoint(done);
  auto* result = builder_.CreatePHI(word(), 2);
  result->addIncoming(outcome, updated_in);
  result->addIncoming(forced, whatever);
  return result;
}

void FunctionTranslator::add_stack_registers(uint32_t helper, std::array<Value*, 6>& arguments) {
  if (helper == BPF_FUNC_get_stackid || helper == BPF_FUNC_get_stack) arguments[0] = stack_registers();
  if (helper == BPF_FUNC_get_task_stack) arguments[4] = stack_registers();
  if (helper == kTaskPtRegs) arguments[1] = stack_registers();
}

Value* FunctionTranslator::stack_registers() {
  const uint32_t type = scope_.program.type;
  if (type != BPF_PROG_TYPE_TRACEPOINT && type != BPF_PROG_TYPE_RAW_TRACEPOINT &&
      type != BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE)
    return builder_.CreatePtrToInt(regs_, word());
  // As on Linux, the first 8 bytes of a tracepoint's record, which programs cannot read, point to the registers; the first argument
  // of raw system call tracepoints is that pointer.
  llvm::IRBuilder<> first(&function_->getEntryBlock(), function_->getEntryBlock().begin());
  Value* copy = first.CreateAlloca(first.getInt8Ty(), word_of(sizeof(wire::PtRegs)), "stack_registers");
  const auto callee =
      scope_.module.getOrInsertFunction("bpftime_tracepoint_registers", word(), word(), word());
  Value* where = builder_.CreateAlignedLoad(word(), regs_, llvm::Align(8));
  return builder_.CreateCall(callee, {where, builder_.CreatePtrToInt(copy, word())});
}

// ---- tail calls (tail_call.h) ----

// Jumps, or goes on behind the call when there is nothing to jump to.
Result<void> FunctionTranslator::tail_call(uint32_t index) {
  if (scope_.options.bare) return error_at(index, "no tail calls without an Invocation");
  Value* map = builder_.CreateIntToPtr(get(BPF_REG_2), scope_.pointer());
  Value* wanted = builder_.CreateTrunc(get(BPF_REG_3), half());
  auto* jump = new_block("tail_call");
  auto* on = new_block("no_tail_call");
  const auto go_on_unless = [&](Value* good, const char* name) {
    auto* next = new_block(name);
    builder_.CreateCondBr(good, next, on);
    builder_.SetInsertPoint(next);
  };
  // MapRef, as runtime.h has it: the constant it is folds.
  const uint64_t entries = sizeof(uint64_t) + offsetof(wire::MapSpec, max_entries);
  Value* count = builder_.CreateLoad(half(), scope_.field(builder_, map, entries));
  go_on_unless(builder_.CreateICmpULT(wanted, count), "slot_exists");
  Value* left_at = scope_.field(builder_, state_, offsetof(TailState, remaining));
  Value* left = builder_.CreateLoad(word(), left_at);
  go_on_unless(builder_.CreateIsNotNull(left), "calls_left");
  if (!is_main()) {
    auto* type = llvm::FunctionType::get(word(), false);
    Value* stack = builder_.CreateCall(llvm::InlineAsm::get(type, "movq %rsp, $0", "=r", false), {});
    Value* top = builder_.CreateLoad(word(), scope_.field(builder_, state_, offsetof(TailState, stack_top)));
    Value* used = builder_.CreateSub(top, stack);
    go_on_unless(builder_.CreateICmpULE(used, word_of(kTailDistanceMax)), "stack_left");
  }
  Value* slots = builder_.CreateLoad(word(), map);
  Value* slot = builder_.CreateAdd(
      slots, builder_.CreateMul(builder_.CreateZExt(wanted, word()), word_of(sizeof(maps::ProgArraySlot))));
  auto* code =
      builder_.CreateAlignedLoad(word(), builder_.CreateIntToPtr(slot, scope_.pointer()), llvm::Align(8));
  code->setAtomic(llvm::AtomicOrdering::Acquire);
  builder_.CreateCondBr(builder_.CreateIsNotNull(code), jump, on);
  builder_.SetInsertPoint(jump);
  builder_.CreateStore(builder_.CreateSub(left, word_of(1)),
                       left_at);  // empty slots cost nothing, as in Linux
  auto* type = llvm::FunctionType::get(word(), {word(), scope_.pointer()}, false);
  auto* made =
      builder_.CreateCall(type, builder_.CreateIntToPtr(code, scope_.pointer()), {get(BPF_REG_1), state_});
  made->setCallingConv(llvm::CallingConv::Tail);
  made->setTailCallKind(llvm::CallInst::TCK_MustTail);
  builder_.CreateRet(made);
  builder_.SetInsertPoint(on);
  set(BPF_REG_0, word_of(static_cast<uint64_t>(-int64_t{EINVAL})));
  return {};
}

// ---- calls back ----

constexpr uint64_t kInvalid = static_cast<uint64_t>(-int64_t{EINVAL});

template <typename Make>
Value* FunctionTranslator::unless(Value* wrong, Value* answer, Make make) {
  auto *right = new_block("right"), *after = new_block("after");
  auto* before = builder_.GetInsertBlock();
  builder_.CreateCondBr(wrong, after, right);
  builder_.SetInsertPoint(right);
  Value* made = make();
  auto* made_in = builder_.GetInsertBlock();
  builder_.CreateBr(after);
  builder_.SetInsertPoint(after);
  auto* result = builder_.CreatePHI(word(), 2);
  result->addIncoming(answer, before);
  result->addIncoming(made, made_in);
  return result;
}

template <typename More, typename Body>
Value* FunctionTranslator::count_rounds(More more, Body body) {
  auto *test = new_block("test"), *round = new_block("round"), *done = new_block("done");
  auto* before = builder_.GetInsertBlock();
  builder_.CreateBr(test);
  builder_.SetInsertPoint(test);
  auto* number = builder_.CreatePHI(word(), 2);
  number->addIncoming(word_of(0), before);
  Value* goes_on = more(number);
  auto* tested_in = builder_.GetInsertBlock();
  builder_.CreateCondBr(goes_on, round, done);
  builder_.SetInsertPoint(round);
  Value* last = body(number);
  Value* next = builder_.CreateAdd(number, word_of(1));
  auto* round_end = builder_.GetInsertBlock();
  number->addIncoming(next, round_end);
  builder_.CreateCondBr(last, done, test);
  builder_.SetInsertPoint(done);
  auto* rounds = builder_.CreatePHI(word(), 2);
  rounds->addIncoming(number, tested_in);
  rounds->addIncoming(next, round_end);
  return rounds;
}

// bpf_loop(number of rounds, function, its argument, flags)
void FunctionTranslator::loop_call() {
  constexpr uint64_t kRoundsMax = 1u << 23;  // BPF_MAX_LOOPS
  // Where Linux inlines the loop, which is nearly everywhere, it moves 32 bits.
  constexpr uint64_t kTooMany = static_cast<uint32_t>(-E2BIG);
  Value* rounds = builder_.CreateZExt(builder_.CreateTrunc(get(BPF_REG_1), half()), word());
  Value* function = builder_.CreateIntToPtr(get(BPF_REG_2), scope_.pointer());
  Value* argument = get(BPF_REG_3);
  Value* zero = word_of(0);
  set(BPF_REG_0, unless(builder_.CreateIsNotNull(get(BPF_REG_4)), word_of(kInvalid), [&] {
        return unless(builder_.CreateICmpUGT(rounds, word_of(kRoundsMax)), word_of(kTooMany), [&] {
          return count_rounds([&](Value* number) { return builder_.CreateICmpULT(number, rounds); },
                              [&](Value* number) {
                                return builder_.CreateIsNotNull(
                                    call_function(function, {number, argument, zero, zero, zero}));
                              });
        });
      }));
}

// bpf_for_each_map_elem(map, function, its argument, flags)
void FunctionTranslator::for_each_call() {
  auto* cursor_type = llvm::ArrayType::get(word(), sizeof(maps::MapCursor) / sizeof(uint64_t));
  llvm::IRBuilder<> first(&function_->getEntryBlock(), function_->getEntryBlock().begin());
  auto* cursor = first.CreateAlloca(cursor_type, nullptr, "cursor");
  Value* map = get(BPF_REG_1);
  Value* function = builder_.CreateIntToPtr(get(BPF_REG_2), scope_.pointer());
  Value* argument = get(BPF_REG_3);
  const auto next =
      scope_.module.getOrInsertFunction("bpftime_map_next", word(), scope_.pointer(), scope_.pointer());
  const auto cpu_of = scope_.module.getOrInsertFunction(
      std::string(helpers::find(BPF_FUNC_get_smp_processor_id)->symbol), scope_.helper_type());
  set(BPF_REG_0, unless(builder_.CreateIsNotNull(get(BPF_REG_4)), word_of(kInvalid), [&] {
        builder_.CreateStore(llvm::Constant::getNullValue(cursor_type), cursor);
        Value* zero = word_of(0);
        Value* cpu = builder_.CreateCall(cpu_of, {zero, zero, zero, zero, zero, invocation_});
        builder_.CreateStore(builder_.CreateTrunc(cpu, half()),
                             scope_.field(builder_, cursor, offsetof(maps::MapCursor, cpu)));
        return count_rounds(
            [&](Value*) {
              Value* at = builder_.CreateIntToPtr(map, scope_.pointer());
              return builder_.CreateIsNotNull(builder_.CreateCall(next, {at, cursor}));
            },
            [&](Value*) {
              Value* key =
                  builder_.CreateLoad(word(), scope_.field(builder_, cursor, offsetof(maps::MapCursor, key)));
              Value* value = builder_.CreateLoad(
                  word(), scope_.field(builder_, cursor, offsetof(maps::MapCursor, value)));
              return builder_.CreateIsNotNull(
                  call_function(function, {map, key, value, argument, word_of(0)}));
            });
      }));
}

// bpf_user_ringbuf_drain(map, function, its argument, flags); the steps are those of src/helpers/runtime/user_ring.cc.
void FunctionTranslator::drain_call() {
  auto* cursor_type = llvm::ArrayType::get(word(), sizeof(maps::UserRingCursor) / sizeof(uint64_t));
  llvm::IRBuilder<> first(&function_->getEntryBlock(), function_->getEntryBlock().begin());
  auto* cursor = first.CreateAlloca(cursor_type, nullptr, "cursor");
  Value* map = builder_.CreateIntToPtr(get(BPF_REG_1), scope_.pointer());
  Value* function = builder_.CreateIntToPtr(get(BPF_REG_2), scope_.pointer());
  Value *argument = get(BPF_REG_3), *flags = get(BPF_REG_4), *zero = word_of(0);
  const auto step = [&](const char* name, std::initializer_list<Value*> arguments) -> Value* {
    std::vector<llvm::Type*> types;
    for (const Value* each : arguments) types.push_back(each->getType());
    auto* type = llvm::FunctionType::get(word(), types, false);
    return builder_.CreateCall(scope_.module.getOrInsertFunction(name, type), arguments);
  };
  Value* begun = step("bpftime_user_ring_begin", {map, cursor, flags});
  set(BPF_REG_0, unless(builder_.CreateIsNotNull(begun), begun, [&] {
        count_rounds(
            [&](Value*) {
              return builder_.CreateIsNotNull(step("bpftime_user_ring_next", {map, cursor}));
            },
            [&](Value*) {
              Value* sample = builder_.CreatePtrToInt(cursor, word());
              Value* stop = call_function(function, {sample, argument, zero, zero, zero});
              step("bpftime_user_ring_release", {map, cursor});
              return builder_.CreateIsNotNull(stop);
            });
        return step("bpftime_user_ring_end", {map, cursor, flags});
      }));
}

}  // namespace bpftime::compiler

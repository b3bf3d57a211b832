// What the files that translate share: the state of one program and of one of its functions.
#pragma once

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Module.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compiler/insn_lines.h"
#include "compiler/translator.h"
#include "helpers/table.h"
#include "wire/invocation.h"

namespace bpftime::compiler {

using llvm::BasicBlock;
using llvm::Value;
using program::Insn;

// Of instruction set v4, not in older linux/bpf.h.
constexpr uint8_t kMemsx = 0x80;
constexpr int32_t kAtomicLoadAcquire = 0x100, kAtomicStoreRelease = 0x110;

constexpr uint32_t kTaskPtRegs = 175;
constexpr uint32_t kTraceVprintk = 177;

constexpr uint32_t kRegisters = 11;
constexpr uint32_t kFramePointer = 10;
constexpr uint64_t kFrameSize = 512;  // MAX_BPF_STACK
constexpr uint32_t kInvocationArgument = 5;
constexpr uint32_t kRegsArgument = 6;  // of local functions: wire::PtRegs, whatever the context is
// Of the call of the bridge, which reads no more of wire::PtRegs than its unwind table names (context_use.cc).
constexpr char kHostCallAttribute[] = "bpftime-host-call";
constexpr uint32_t kStateArgument =
    5;  // of local functions of programs that make tail calls, in place of both
constexpr uint32_t kArgumentRegisters = 6;

inline Error error_at(uint32_t index, const std::string& why) {
  return Error{EINVAL, "compile: instruction " + std::to_string(index) + ": " + why};
}

inline bool is_jump_class(const Insn& insn) {
  const uint8_t cls = BPF_CLASS(insn.code);
  return cls == BPF_JMP || cls == BPF_JMP32;
}
inline bool is_wide(const Insn& insn) { return insn.code == (BPF_LD | BPF_IMM | BPF_DW); }
inline bool is_local_call(const Insn& insn) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_CALL;
}
inline bool is_tail_call(const Insn& insn) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == 0 && insn.imm == BPF_FUNC_tail_call;
}
// The instruction a jump leads to; call and exit are no jumps.
inline std::optional<int64_t> jump_target(const Insn& insn, uint32_t index) {
  const uint8_t op = BPF_OP(insn.code);
  if (!is_jump_class(insn) || op == BPF_CALL || op == BPF_EXIT) return std::nullopt;
  const bool far = insn.code == (BPF_JMP32 | BPF_JA);
  return int64_t{index} + 1 + (far ? insn.imm : insn.off);
}

// What the functions of one program share.
struct ProgramScope {
  const program::Program& program;
  std::span<const MapBinding> maps;
  const CompileOptions& options;
  llvm::Module& module;
  TranslationFacts facts;
  std::map<uint32_t, llvm::Function*> subprograms;      // by first instruction
  std::vector<llvm::GlobalVariable*> map_globals = {};  // by index into `maps`, made on first use
  std::map<std::pair<std::string, uint32_t>, llvm::Function*> map_helpers = {};  // by symbol and map index

  InsnLines* lines = nullptr;  // null: nobody wants to know

  bool tail_calls() const { return facts.may_tail_call; }
  // What `builder` makes from here on belongs to that instruction.
  void at_insn(llvm::IRBuilder<>& builder, const llvm::Function& function, uint32_t insn) const {
    if (lines != nullptr) builder.SetCurrentDebugLocation(InsnLines::at(function, insn));
  }

  llvm::LLVMContext& context() const { return module.getContext(); }
  llvm::IntegerType* word() const { return llvm::Type::getInt64Ty(context()); }
  llvm::PointerType* pointer() const { return llvm::PointerType::get(context(), 0); }
  // r1..r5 and the Invocation; what local functions and helpers have in common.
  llvm::FunctionType* helper_type() const {
    return llvm::FunctionType::get(word(), {word(), word(), word(), word(), word(), pointer()}, false);
  }
  // Local functions: the same and the registers of the probed function, or r1..r5 and the TailState.
  llvm::FunctionType* function_type() const {
    if (tail_calls()) return helper_type();
    return bridge_type();
  }
  llvm::CallingConv::ID function_convention() const {
    return tail_calls() ? llvm::CallingConv::Tail : llvm::CallingConv::C;
  }
  llvm::FunctionType* bridge_type() const {
    return llvm::FunctionType::get(word(), {word(), word(), word(), word(), word(), pointer(), pointer()},
                                   false);
  }

  Value* field(llvm::IRBuilder<>& builder, Value* base, uint64_t offset) const {
    return builder.CreateConstGEP1_64(builder.getInt8Ty(), base, offset);
  }

  // A constant struct MapRef (src/helpers/runtime/runtime.h).
  llvm::GlobalVariable* map_ref(const MapBinding* binding, const std::string& name) {
    auto* u32 = llvm::Type::getInt32Ty(context());
    auto* spec_type = llvm::StructType::get(context(), {u32, u32, u32, u32, u32, u32});
    auto* type = llvm::StructType::get(context(), {pointer(), spec_type});
    llvm::Constant* value = llvm::Constant::getNullValue(type);
    if (binding != nullptr) {
      const wire::MapSpec& spec = binding->spec;
      std::vector<llvm::Constant*> fields;
      for (const uint32_t field :
           {spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags, spec.cpu_count}) {
        fields.push_back(llvm::ConstantInt::get(u32, field));
      }
      auto* base =
          llvm::ConstantExpr::getIntToPtr(llvm::ConstantInt::get(word(), binding->address), pointer());
      value = llvm::ConstantStruct::get(type, {base, llvm::ConstantStruct::get(spec_type, fields)});
    }
    return constant(name, value);
  }

  llvm::GlobalVariable* constant(const std::string& name, llvm::Constant* value) {
    auto* global = llvm::cast<llvm::GlobalVariable>(module.getOrInsertGlobal(name, value->getType()));
    global->setInitializer(value);
    global->setConstant(true);
    return global;
  }

  llvm::GlobalVariable* map_global(uint32_t index) {
    if (map_globals[index] == nullptr) {
      map_globals[index] = map_ref(&maps[index], "bpftime_map_" + std::to_string(index));
    }
    return map_globals[index];
  }

  llvm::Function* helper(std::string_view symbol) const {
    return llvm::cast<llvm::Function>(
        module.getOrInsertFunction(std::string(symbol), helper_type()).getCallee());
  }

  // A helper whose first argument is always map `index`: the helper's body is optimised once for this map and shared by all
  // its calls, or inlined where that is shorter. Without this a program that calls twice would get the body for any map.
  llvm::Function* map_helper(std::string_view symbol, uint32_t index) {
    llvm::Function*& made = map_helpers[{std::string(symbol), index}];
    if (made != nullptr) return made;
    made = llvm::Function::Create(helper_type(), llvm::GlobalValue::InternalLinkage,
                                  std::string(symbol) + "_of_map_" + std::to_string(index), module);
    llvm::IRBuilder<> builder(BasicBlock::Create(context(), "entry", made));
    std::vector<Value*> arguments;
    for (llvm::Argument& argument : made->args()) arguments.push_back(&argument);
    arguments[0] = builder.CreatePtrToInt(map_global(index), word());
    llvm::CallInst* call = builder.CreateCall(helper_type(), helper(symbol), arguments);
    call->addFnAttr(llvm::Attribute::AlwaysInline);
    builder.CreateRet(call);
    return made;
  }
};

// What C leaves in the upper bits of a narrow argument or result is anything.
inline Value* extend_argument(llvm::IRBuilder<>& builder, Value* value, const verifier::Argument& type) {
  if (type.kind != verifier::Argument::Kind::kNumber || type.bytes == 0 || type.bytes >= 8) return value;
  Value* narrow = builder.CreateTrunc(value, builder.getIntNTy(type.bytes * 8));
  return type.is_signed ? builder.CreateSExt(narrow, builder.getInt64Ty())
                        : builder.CreateZExt(narrow, builder.getInt64Ty());
}

// Translates one subprogram: instructions [start, end).
class FunctionTranslator {
 public:
  // `zeroed_bytes`: below r10, to be zero on entry.
  FunctionTranslator(ProgramScope& scope, uint32_t start, uint32_t end, uint32_t zeroed_bytes)
      : scope_(scope),
        start_(start),
        end_(end),
        zeroed_bytes_(std::min<uint32_t>(zeroed_bytes, kFrameSize)),
        function_(scope.subprograms.at(start)),
        builder_(scope.context()) {}

  Result<void> run();

 private:
  const Insn& insn(uint32_t index) const { return scope_.program.insns[index]; }
  bool proved_dead(uint32_t index) const;
  // The map that a helper call at `index` always gets.
  std::optional<uint32_t> proved_map(uint32_t index) const;

  Result<void> make_blocks();

  void make_prologue();

  // Gives back what lies below the lowest address ever made, as long as all are known.
  void shrink_frame();

  // A frame address that outlives its block may be moved down where nobody looks.
  void leave_block();

  void enter_block(BasicBlock* block);

  // ---- values ----
  llvm::IntegerType* word() const { return scope_.word(); }
  llvm::ConstantInt* word_of(uint64_t value) const { return llvm::ConstantInt::get(word(), value); }
  llvm::IntegerType* half() { return builder_.getInt32Ty(); }

  std::optional<int64_t> frame_offset(uint32_t reg) const {
    return reg == kFramePointer ? std::optional<int64_t>(0) : frame_offsets_[reg];
  }
  Value* frame_pointer(int64_t offset);
  // A register's value, for whatever purpose.
  Value* get(uint32_t reg);
  // The same for who only goes up from there, if it is a frame address: a helper, which gets
  // a buffer's start.
  Value* get_argument(uint32_t reg);
  void set(uint32_t reg, Value* value);
  void set_frame_address(uint32_t reg, int64_t offset);
  Value* address(uint32_t reg, int16_t offset);
  llvm::IntegerType* size_type(uint8_t code);
  // The second operand of an ALU or jump instruction: src register or sign-extended immediate, in `type`.
  Value* operand(const Insn& insn, llvm::IntegerType* type);

  // ---- instructions ----
  Result<void> translate(uint32_t index, const Insn& insn);

  static Error unknown(uint32_t index, const Insn& insn) {
    return error_at(index, "unknown or unsupported opcode " + std::to_string(insn.code));
  }

  Result<void> alu(uint32_t index, const Insn& insn);

  // rX = r10, rX += constant: keeps the address a GEP of the frame (rule 4).
  bool frame_arithmetic(const Insn& insn);

  Value* shift_count(Value* count, llvm::IntegerType* type);

  // x / 0 = 0, x % 0 = x, and the most negative number divided by -1 wraps. The unused quotient of a guarded
  // division is computed with a divisor that cannot trap.
  Value* divide(Value* left, Value* right, llvm::IntegerType* type, bool modulo, bool is_signed);

  Result<void> byte_swap(uint32_t index, const Insn& insn);

  Result<void> load(uint32_t index, const Insn& insn);

  bool may_fault(uint32_t index) const;
  // Of host memory that may be gone: zero then (src/helpers/runtime/host.cc).
  Value* checked_load(const Insn& insn);

  Result<void> store(uint32_t index, const Insn& insn);

  Result<void> atomic(uint32_t index, const Insn& insn);

  Result<void> load_constant(uint32_t index, const Insn& insn);

  Result<void> jump(uint32_t index, const Insn& insn);

  Value* condition(uint8_t op, Value* left, Value* right);

  template <typename Member>
  bool is_host_id(uint32_t id, Member member) const {
    const verifier::Constraints* constraints = scope_.options.constraints;
    if (constraints == nullptr) return false;
    const auto& list = constraints->*member;
    return std::any_of(list.begin(), list.end(), [id](const auto& item) { return item.id == id; });
  }
  // Of a host function or variable in the target at hand.
  Value* host_address(uint32_t id);

  // Through the agent's bridge (src/agent/arch/x86_64/host_call.S).
  Result<void> host_call(uint32_t index, const Insn& insn);
  void check_promise(Value* result, const verifier::Argument& promised);
  // Of this function, whose callers pass them in one of two ways.
  void take_environment();
  bool is_main() const { return start_ == 0; }

  // Calls a function of the program's, or one it has the address of.
  Value* call_function(Value* callee, std::array<Value*, 5> arguments);
  Result<void> local_call(uint32_t index, const Insn& insn);
  Result<void> helper_call(uint32_t index, uint32_t id);

  // For helpers that look at the probed thread's registers: in place of the context, or in an argument they do not use.
  void add_stack_registers(uint32_t helper, std::array<Value*, 6>& arguments);
  // Address of the wire::PtRegs at which a walk of the stack starts; 0: there are none.
  Value* stack_registers();

  // A look-up whose update follows, and that update (read_modify_write.h).
  struct LookedUp {
    uint32_t map;
    BasicBlock* again;  // where the look-up stands
    Value *place, *seen;
    llvm::AllocaInst* tries;
    std::array<Value*, 4> kept;  // r6–r9 before it
  };
  Value* look_up_for_update(uint32_t index, llvm::Function* callee, const std::array<Value*, 6>& arguments);
  Value* update_unchanged(const LookedUp& lookup, llvm::Function* callee,
                          const std::array<Value*, 6>& arguments);

  // Calls that are no function in the runtime: they call functions of the program's, or leave it.
  Result<void> tail_call(uint32_t index);
  void loop_call();
  void for_each_call();
  void drain_call();
  // `body(n)` makes round n, and says whether it was the last; the value is how many were made. `more` says whether there is
  // a round n.
  template <typename More, typename Body>
  Value* count_rounds(More more, Body body);
  // What `make` makes, or `answer`, without having made it, where `wrong` holds.
  template <typename Make>
  Value* unless(Value* wrong, Value* answer, Make make);
  BasicBlock* new_block(const char* name) { return BasicBlock::Create(scope_.context(), name, function_); }

  // r1–r5 keep their values: who may run cannot read them, and keeping costs nothing when nobody does.
  Result<void> call(uint32_t index, const Insn& insn);

  ProgramScope& scope_;
  const uint32_t start_, end_, zeroed_bytes_;
  llvm::Function* function_;
  llvm::IRBuilder<> builder_;
  Value *invocation_ = nullptr, *regs_ = nullptr;
  Value* state_ = nullptr;  // TailState, of programs that make tail calls
  std::map<uint32_t, BasicBlock*> blocks_;
  std::set<uint32_t> wide_seconds_;
  std::map<uint32_t, uint32_t> lookups_;    // of the updates that replace what was seen
  std::map<uint32_t, LookedUp> looked_up_;  // those of them that have been translated
  std::array<llvm::AllocaInst*, kRegisters> registers_{};
  std::array<std::optional<int64_t>, kRegisters> frame_offsets_;  // from r10, where this block knows it
  llvm::AllocaInst* frame_ = nullptr;
  llvm::GetElementPtrInst* frame_top_ = nullptr;  // r10
  int64_t lowest_offset_ = 0;                     // of all frame addresses made
  bool whole_frame_ = false;                      // there may be others
  bool open_ = false;                             // the current block has no terminator yet
};

}  // namespace bpftime::compiler

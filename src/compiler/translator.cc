#include "compiler/translator.h"

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InlineAsm.h>
#include <llvm/IR/Intrinsics.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

#include "helpers/table.h"
#include "maps/map.h"
#include "wire/invocation.h"
#include "wire/target_context.h"

namespace bpftime::compiler {
namespace {

using llvm::BasicBlock;
using llvm::Value;
using program::Insn;

// Of instruction set v4, not in older linux/bpf.h.
constexpr uint8_t kMemsx = 0x80;
constexpr int32_t kAtomicLoadAcquire = 0x100, kAtomicStoreRelease = 0x110;

constexpr int32_t kTaskPtRegs = 175;
constexpr uint32_t kTraceVprintk = 177;

constexpr uint32_t kRegisters = 11;
constexpr uint32_t kFramePointer = 10;
constexpr uint64_t kFrameSize = 512;  // MAX_BPF_STACK
constexpr uint32_t kInvocationArgument = 5;
constexpr uint32_t kRegsArgument = 6;  // of local functions: wire::PtRegs, whatever the context is
constexpr uint32_t kArgumentRegisters = 6;

Error error_at(uint32_t index, const std::string& why) {
  return Error{EINVAL, "compile: instruction " + std::to_string(index) + ": " + why};
}

bool is_jump_class(const Insn& insn) {
  const uint8_t cls = BPF_CLASS(insn.code);
  return cls == BPF_JMP || cls == BPF_JMP32;
}
bool is_wide(const Insn& insn) { return insn.code == (BPF_LD | BPF_IMM | BPF_DW); }
bool is_local_call(const Insn& insn) {
  return insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_CALL;
}
// The instruction a jump leads to; call and exit are no jumps.
std::optional<int64_t> jump_target(const Insn& insn, uint32_t index) {
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
  std::map<std::pair<uint32_t, uint32_t>, llvm::Function*> map_helpers = {};  // by helper id and map index

  llvm::LLVMContext& context() const { return module.getContext(); }
  llvm::IntegerType* word() const { return llvm::Type::getInt64Ty(context()); }
  llvm::PointerType* pointer() const { return llvm::PointerType::get(context(), 0); }
  // r1..r5 and the Invocation; what local functions and helpers have in common.
  llvm::FunctionType* helper_type() const {
    return llvm::FunctionType::get(word(), {word(), word(), word(), word(), word(), pointer()}, false);
  }
  // The same and the registers of the probed function.
  llvm::FunctionType* function_type() const {
    return llvm::FunctionType::get(word(), {word(), word(), word(), word(), word(), pointer(), pointer()},
                                   false);
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

  llvm::Function* helper(const helpers::Helper& helper) const {
    return llvm::cast<llvm::Function>(
        module.getOrInsertFunction(std::string(helper.symbol), helper_type()).getCallee());
  }

  // `helper`, whose first argument is always map `index`: the helper's body is optimised once for this map and shared by all
  // its calls, or inlined where that is shorter. Without this a program that calls twice would get the body for any map.
  llvm::Function* map_helper(const helpers::Helper& row, uint32_t index) {
    llvm::Function*& made = map_helpers[{row.id, index}];
    if (made != nullptr) return made;
    made = llvm::Function::Create(helper_type(), llvm::GlobalValue::InternalLinkage,
                                  std::string(row.symbol) + "_of_map_" + std::to_string(index), module);
    llvm::IRBuilder<> builder(BasicBlock::Create(context(), "entry", made));
    std::vector<Value*> arguments;
    for (llvm::Argument& argument : made->args()) arguments.push_back(&argument);
    arguments[0] = builder.CreatePtrToInt(map_global(index), word());
    llvm::CallInst* call = builder.CreateCall(helper_type(), helper(row), arguments);
    call->addFnAttr(llvm::Attribute::AlwaysInline);
    builder.CreateRet(call);
    return made;
  }
};

// Helpers whose first argument is a map and whose bodies are inlined (src/helpers/runtime/maps.cc).
bool is_map_helper(uint32_t id) {
  switch (id) {
    case BPF_FUNC_map_lookup_elem:
    case BPF_FUNC_map_update_elem:
    case BPF_FUNC_map_delete_elem:
    case BPF_FUNC_ringbuf_reserve:
    case BPF_FUNC_ringbuf_query:
      return true;
    default:
      return false;
  }
}

// What C leaves in the upper bits of a narrow argument or result is anything.
Value* extend_argument(llvm::IRBuilder<>& builder, Value* value, const verifier::Argument& type) {
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

  Result<void> run() {
    if (Result<void> found = make_blocks(); !found) return found;
    make_prologue();
    for (uint32_t index = start_; index < end_; index++) {
      if (const auto block = blocks_.find(index); block != blocks_.end()) enter_block(block->second);
      if (open_ && proved_dead(index)) {
        builder_.CreateRet(word_of(0));
        leave_block();
      }
      if (!open_) continue;  // after a jump without a label, or proved dead
      if (Result<void> done = translate(index, insn(index)); !done) return done;
      if (is_wide(insn(index))) index++;
    }
    if (open_) return error_at(end_ - 1, "control falls off the end of a function");
    shrink_frame();
    return {};
  }

 private:
  const Insn& insn(uint32_t index) const { return scope_.program.insns[index]; }
  bool proved_dead(uint32_t index) const {
    const verifier::Facts* facts = scope_.options.facts;
    return facts != nullptr && index < facts->insns.size() && !facts->insns[index].reached;
  }

  // The map that a helper call at `index` always gets.
  std::optional<uint32_t> proved_map(uint32_t index) const {
    const verifier::Facts* facts = scope_.options.facts;
    if (facts == nullptr || index >= facts->insns.size() || !facts->insns[index].same_map)
      return std::nullopt;
    const uint32_t map = facts->insns[index].map;
    return map < scope_.maps.size() ? std::optional(map) : std::nullopt;
  }

  Result<void> make_blocks() {
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

  void make_prologue() {
    auto* entry = BasicBlock::Create(scope_.context(), "entry", function_,
                                     function_->empty() ? nullptr : &function_->front());
    builder_.SetInsertPoint(entry);
    open_ = true;
    for (uint32_t i = 0; i < kRegisters; i++) {
      registers_[i] = builder_.CreateAlloca(word(), nullptr, "r" + std::to_string(i));
      Value* initial = word_of(0);
      if (i >= 1 && i <= 5) initial = function_->getArg(i - 1);
      builder_.CreateStore(initial, registers_[i]);
    }
    bool uses_frame = false;
    for (uint32_t i = start_; i < end_; i++) {
      uses_frame |= insn(i).dst_reg == kFramePointer || insn(i).src_reg == kFramePointer;
    }
    if (!uses_frame) return;
    frame_ = builder_.CreateAlloca(builder_.getInt8Ty(), word_of(kFrameSize), "frame");
    frame_->setAlignment(llvm::Align(16));
    // Made by hand: the builder would fold a constant index, and shrink_frame changes it.
    Value* size = word_of(kFrameSize);
    frame_top_ = llvm::GetElementPtrInst::Create(builder_.getInt8Ty(), frame_, {size}, "frame_top",
                                                 builder_.GetInsertBlock());
    if (zeroed_bytes_ != 0) {
      Value* start = frame_pointer(-int64_t{zeroed_bytes_});
      builder_.CreateMemSet(start, builder_.getInt8(0), zeroed_bytes_, llvm::MaybeAlign(1));
    }
    if (scope_.options.facts != nullptr) return;
    // Programs may read stack they never wrote (the verifier allows it): unknown bytes, not LLVM's undef,
    // which would let it delete the branches that depend on them.
    auto* type = llvm::FunctionType::get(builder_.getVoidTy(), {scope_.pointer()}, false);
    builder_.CreateCall(llvm::InlineAsm::get(type, "", "r,~{memory}", /*hasSideEffects=*/true), {frame_});
  }

  // Gives back what lies below the lowest address ever made, as long as all are known.
  void shrink_frame() {
    if (frame_ == nullptr || whole_frame_) return;
    const auto size = word_of(static_cast<uint64_t>(-lowest_offset_ + 15) & ~uint64_t{15});
    frame_->setOperand(0, size);
    frame_top_->setOperand(1, size);
  }

  // A frame address that outlives its block may be moved down where nobody looks.
  void leave_block() {
    for (const auto& offset : frame_offsets_) whole_frame_ |= offset.has_value();
    open_ = false;
  }

  void enter_block(BasicBlock* block) {
    if (open_) {
      builder_.CreateBr(block);
      leave_block();
    }
    builder_.SetInsertPoint(block);
    open_ = true;
    frame_offsets_.fill(std::nullopt);
  }

  // ---- values ----
  llvm::IntegerType* word() const { return scope_.word(); }
  llvm::ConstantInt* word_of(uint64_t value) const { return llvm::ConstantInt::get(word(), value); }
  llvm::IntegerType* half() { return builder_.getInt32Ty(); }

  std::optional<int64_t> frame_offset(uint32_t reg) const {
    return reg == kFramePointer ? std::optional<int64_t>(0) : frame_offsets_[reg];
  }
  Value* frame_pointer(int64_t offset) {
    lowest_offset_ = std::min(lowest_offset_, offset);
    return builder_.CreateGEP(builder_.getInt8Ty(), frame_top_, word_of(static_cast<uint64_t>(offset)));
  }
  // A register's value, for whatever purpose.
  Value* get(uint32_t reg) {
    whole_frame_ |= frame_offset(reg).has_value();
    return get_argument(reg);
  }
  // The same for who only goes up from there, if it is a frame address: a helper, which gets a buffer's
  // start.
  Value* get_argument(uint32_t reg) {
    if (const auto offset = frame_offset(reg)) return builder_.CreatePtrToInt(frame_pointer(*offset), word());
    return builder_.CreateLoad(word(), registers_[reg]);
  }
  void set(uint32_t reg, Value* value) {
    builder_.CreateStore(builder_.CreateZExt(value, word()), registers_[reg]);
    frame_offsets_[reg].reset();
  }
  void set_frame_address(uint32_t reg, int64_t offset) {
    set(reg, builder_.CreatePtrToInt(frame_pointer(offset), word()));
    frame_offsets_[reg] = offset;
  }
  Value* address(uint32_t reg, int16_t offset) {
    if (const auto base = frame_offset(reg)) return frame_pointer(*base + offset);
    Value* sum = builder_.CreateAdd(get(reg), word_of(static_cast<uint64_t>(int64_t{offset})));
    return builder_.CreateIntToPtr(sum, scope_.pointer());
  }
  llvm::IntegerType* size_type(uint8_t code) {
    switch (BPF_SIZE(code)) {
      case BPF_B:
        return builder_.getInt8Ty();
      case BPF_H:
        return builder_.getInt16Ty();
      case BPF_W:
        return builder_.getInt32Ty();
      default:
        return builder_.getInt64Ty();
    }
  }
  // The second operand of an ALU or jump instruction: src register or sign-extended immediate, in `type`.
  Value* operand(const Insn& insn, llvm::IntegerType* type) {
    if (BPF_SRC(insn.code) == BPF_X) return builder_.CreateTrunc(get(insn.src_reg), type);
    return llvm::ConstantInt::getSigned(type, insn.imm);
  }

  // ---- instructions ----
  Result<void> translate(uint32_t index, const Insn& insn) {
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

  static Error unknown(uint32_t index, const Insn& insn) {
    return error_at(index, "unknown or unsupported opcode " + std::to_string(insn.code));
  }

  Result<void> alu(uint32_t index, const Insn& insn) {
    if (insn.dst_reg == kFramePointer) return error_at(index, "r10 is read-only");
    const bool wide = BPF_CLASS(insn.code) == BPF_ALU64;
    auto* type = wide ? word() : half();
    const uint8_t op = BPF_OP(insn.code);
    if (op == BPF_END) return byte_swap(index, insn);
    if (wide && frame_arithmetic(insn)) return {};
    Value* left = op == BPF_MOV ? nullptr : builder_.CreateTrunc(get(insn.dst_reg), type);
    if (op == BPF_NEG) {
      set(insn.dst_reg, builder_.CreateNeg(left));
      return {};
    }
    Value* right = operand(insn, type);
    Value* result = nullptr;
    switch (op) {
      case BPF_ADD:
        result = builder_.CreateAdd(left, right);
        break;
      case BPF_SUB:
        result = builder_.CreateSub(left, right);
        break;
      case BPF_MUL:
        result = builder_.CreateMul(left, right);
        break;
      case BPF_OR:
        result = builder_.CreateOr(left, right);
        break;
      case BPF_AND:
        result = builder_.CreateAnd(left, right);
        break;
      case BPF_XOR:
        result = builder_.CreateXor(left, right);
        break;
      case BPF_LSH:
        result = builder_.CreateShl(left, shift_count(right, type));
        break;
      case BPF_RSH:
        result = builder_.CreateLShr(left, shift_count(right, type));
        break;
      case BPF_ARSH:
        result = builder_.CreateAShr(left, shift_count(right, type));
        break;
      case BPF_DIV:
      case BPF_MOD:
        result = divide(left, right, type, op == BPF_MOD, insn.off == 1);
        break;
      case BPF_MOV:
        if (insn.off != 0 && insn.off != 8 && insn.off != 16 && insn.off != 32) return unknown(index, insn);
        result =
            insn.off == 0
                ? right
                : builder_.CreateSExt(
                      builder_.CreateTrunc(right, builder_.getIntNTy(static_cast<unsigned>(insn.off))), type);
        break;
      default:
        return unknown(index, insn);
    }
    set(insn.dst_reg, result);
    return {};
  }

  // rX = r10, rX += constant: keeps the address a GEP of the frame (rule 4).
  bool frame_arithmetic(const Insn& insn) {
    const uint8_t op = BPF_OP(insn.code);
    if (op == BPF_MOV && BPF_SRC(insn.code) == BPF_X && insn.off == 0) {
      const auto offset = frame_offset(insn.src_reg);
      if (offset) set_frame_address(insn.dst_reg, *offset);
      return offset.has_value();
    }
    const auto base = frame_offset(insn.dst_reg);
    if (!base || BPF_SRC(insn.code) != BPF_K || (op != BPF_ADD && op != BPF_SUB)) return false;
    const int64_t offset = *base + (op == BPF_ADD ? int64_t{insn.imm} : -int64_t{insn.imm});
    if (offset < -int64_t{kFrameSize} || offset > 0)
      return false;  // an address outside the frame stays a number
    set_frame_address(insn.dst_reg, offset);
    return true;
  }

  Value* shift_count(Value* count, llvm::IntegerType* type) {
    return builder_.CreateAnd(count, llvm::ConstantInt::get(type, type->getBitWidth() - 1));
  }

  // x / 0 = 0, x % 0 = x, and the most negative number divided by -1 wraps. The unused quotient of a guarded
  // division is computed with a divisor that cannot trap.
  Value* divide(Value* left, Value* right, llvm::IntegerType* type, bool modulo, bool is_signed) {
    auto* zero = llvm::ConstantInt::get(type, 0);
    auto* one = llvm::ConstantInt::get(type, 1);
    Value* by_zero = builder_.CreateICmpEQ(right, zero);
    Value* by_minus_one =
        is_signed ? builder_.CreateICmpEQ(right, llvm::ConstantInt::getSigned(type, -1)) : nullptr;
    Value* guarded = is_signed ? builder_.CreateOr(by_zero, by_minus_one) : by_zero;
    Value* divisor = builder_.CreateSelect(guarded, one, right);
    Value* result = nullptr;
    if (modulo) {
      result = is_signed ? builder_.CreateSRem(left, divisor) : builder_.CreateURem(left, divisor);
    } else {
      result = is_signed ? builder_.CreateSDiv(left, divisor) : builder_.CreateUDiv(left, divisor);
    }
    // x % 1 = 0 is already right for a divisor of -1.
    if (is_signed && !modulo) result = builder_.CreateSelect(by_minus_one, builder_.CreateNeg(left), result);
    return builder_.CreateSelect(by_zero, modulo ? left : zero, result);
  }

  Result<void> byte_swap(uint32_t index, const Insn& insn) {
    if (insn.imm != 16 && insn.imm != 32 && insn.imm != 64) return unknown(index, insn);
    // BPF_ALU: to little endian truncates, to big endian swaps; BPF_ALU64: swaps.
    const bool swaps = BPF_CLASS(insn.code) == BPF_ALU64 || BPF_SRC(insn.code) == BPF_TO_BE;
    Value* value =
        builder_.CreateTrunc(get(insn.dst_reg), builder_.getIntNTy(static_cast<unsigned>(insn.imm)));
    if (swaps) value = builder_.CreateUnaryIntrinsic(llvm::Intrinsic::bswap, value);
    set(insn.dst_reg, value);
    return {};
  }

  Result<void> load(uint32_t index, const Insn& insn) {
    if (insn.dst_reg == kFramePointer) return error_at(index, "r10 is read-only");
    const uint8_t mode = BPF_MODE(insn.code);
    if (mode != BPF_MEM && mode != kMemsx) return unknown(index, insn);
    Value* value = may_fault(index)
                       ? checked_load(insn)
                       : builder_.CreateAlignedLoad(size_type(insn.code), address(insn.src_reg, insn.off),
                                                    llvm::Align(1));
    set(insn.dst_reg, mode == kMemsx ? builder_.CreateSExt(value, word()) : value);
    return {};
  }

  bool may_fault(uint32_t index) const {
    const verifier::Facts* facts = scope_.options.facts;
    return facts != nullptr && index < facts->insns.size() && facts->insns[index].needs_fault_table;
  }
  // Of host memory that may be gone: zero then (src/helpers/runtime/host.cc).
  Value* checked_load(const Insn& insn) {
    scope_.facts.repairs_faults = true;
    auto* type = size_type(insn.code);
    const std::string name = "bpftime_checked_load_" + std::to_string(type->getBitWidth() / 8);
    const auto callee = scope_.module.getOrInsertFunction(name, word(), word());
    Value* place = builder_.CreateAdd(get(insn.src_reg), word_of(static_cast<uint64_t>(int64_t{insn.off})));
    return builder_.CreateTrunc(builder_.CreateCall(callee, {place}), type);
  }

  Result<void> store(uint32_t index, const Insn& insn) {
    const uint8_t mode = BPF_MODE(insn.code);
    const bool immediate = BPF_CLASS(insn.code) == BPF_ST;
    if (mode == BPF_ATOMIC && !immediate) return atomic(index, insn);
    if (mode != BPF_MEM) return unknown(index, insn);
    auto* type = size_type(insn.code);
    Value* value = immediate ? llvm::ConstantInt::getSigned(type, insn.imm)
                             : builder_.CreateTrunc(get(insn.src_reg), type);
    builder_.CreateAlignedStore(value, address(insn.dst_reg, insn.off), llvm::Align(1));
    return {};
  }

  Result<void> atomic(uint32_t index, const Insn& insn) {
    auto* type = size_type(insn.code);
    const llvm::Align align(type->getBitWidth() / 8);
    if (insn.imm == kAtomicLoadAcquire) {
      auto* value = builder_.CreateAlignedLoad(type, address(insn.src_reg, insn.off), align);
      value->setAtomic(llvm::AtomicOrdering::Acquire);
      set(insn.dst_reg, value);
      return {};
    }
    Value* place = address(insn.dst_reg, insn.off);
    Value* value = builder_.CreateTrunc(get(insn.src_reg), type);
    if (insn.imm == kAtomicStoreRelease) {
      builder_.CreateAlignedStore(value, place, align)->setAtomic(llvm::AtomicOrdering::Release);
      return {};
    }
    if (type->getBitWidth() < 32) return unknown(index, insn);
    constexpr auto kOrder = llvm::AtomicOrdering::SequentiallyConsistent;
    if (insn.imm == BPF_CMPXCHG) {
      Value* expected = builder_.CreateTrunc(get(BPF_REG_0), type);
      Value* pair = builder_.CreateAtomicCmpXchg(place, expected, value, align, kOrder, kOrder);
      set(BPF_REG_0, builder_.CreateExtractValue(pair, 0));
      return {};
    }
    llvm::AtomicRMWInst::BinOp op = llvm::AtomicRMWInst::BAD_BINOP;
    switch (insn.imm & ~BPF_FETCH) {
      case BPF_ADD:
        op = llvm::AtomicRMWInst::Add;
        break;
      case BPF_OR:
        op = llvm::AtomicRMWInst::Or;
        break;
      case BPF_AND:
        op = llvm::AtomicRMWInst::And;
        break;
      case BPF_XOR:
        op = llvm::AtomicRMWInst::Xor;
        break;
      case BPF_XCHG & ~BPF_FETCH:
        op = llvm::AtomicRMWInst::Xchg;
        break;
      default:
        return error_at(index, "unknown atomic operation");
    }
    Value* old = builder_.CreateAtomicRMW(op, place, value, align, kOrder);
    if ((insn.imm & BPF_FETCH) != 0) set(insn.src_reg, old);
    return {};
  }

  Result<void> load_constant(uint32_t index, const Insn& insn) {
    if (insn.dst_reg >= kFramePointer) return error_at(index, "r10 is read-only");
    const auto second = static_cast<uint32_t>(this->insn(index + 1).imm);
    const auto first = static_cast<uint32_t>(insn.imm);
    switch (insn.src_reg) {
      case 0:
        set(insn.dst_reg, word_of(uint64_t{second} << 32 | first));
        return {};
      case BPF_PSEUDO_MAP_FD:
      case BPF_PSEUDO_MAP_VALUE:
        break;
      case BPF_PSEUDO_FUNC: {
        const auto target = scope_.subprograms.find(static_cast<uint32_t>(int64_t{index} + 1 + insn.imm));
        if (target == scope_.subprograms.end()) return error_at(index, "no function there");
        set(insn.dst_reg, builder_.CreatePtrToInt(target->second, word()));
        return {};
      }
      case BPF_PSEUDO_BTF_ID:
        if (!is_host_id(first, &verifier::Constraints::globals))
          return error_at(index, "no such host variable");
        set(insn.dst_reg, host_address(first));
        return {};
      default:
        return error_at(index, "unsupported kind of 64-bit constant " + std::to_string(insn.src_reg));
    }
    if (first >= scope_.maps.size()) return error_at(index, "no map with index " + std::to_string(first));
    if (insn.src_reg == BPF_PSEUDO_MAP_FD) {
      set(insn.dst_reg, builder_.CreatePtrToInt(scope_.map_global(first), word()));
    } else {
      set(insn.dst_reg,
          word_of(scope_.maps[first].address + second));  // values start at offset 0 (wire/object.h)
    }
    return {};
  }

  Result<void> jump(uint32_t index, const Insn& insn) {
    const uint8_t op = BPF_OP(insn.code);
    if (op == BPF_EXIT || op == BPF_CALL) {
      if (BPF_CLASS(insn.code) != BPF_JMP || BPF_SRC(insn.code) != BPF_K) return unknown(index, insn);
      if (op == BPF_CALL) return call(index, insn);
      builder_.CreateRet(get(BPF_REG_0));
      open_ = false;  // nothing follows
      return {};
    }
    BasicBlock* target = blocks_.at(static_cast<uint32_t>(*jump_target(insn, index)));
    if (op == BPF_JA) {
      if (BPF_SRC(insn.code) != BPF_K) return unknown(index, insn);
      builder_.CreateBr(target);
      leave_block();
      return {};
    }
    if (index + 1 >= end_) return error_at(index, "control falls off the end of a function");
    auto* type = BPF_CLASS(insn.code) == BPF_JMP ? word() : half();
    Value* left = builder_.CreateTrunc(get(insn.dst_reg), type);
    Value* right = operand(insn, type);
    Value* taken = condition(op, left, right);
    if (taken == nullptr) return unknown(index, insn);
    builder_.CreateCondBr(taken, target, blocks_.at(index + 1));
    leave_block();
    return {};
  }

  Value* condition(uint8_t op, Value* left, Value* right) {
    switch (op) {
      case BPF_JEQ:
        return builder_.CreateICmpEQ(left, right);
      case BPF_JNE:
        return builder_.CreateICmpNE(left, right);
      case BPF_JGT:
        return builder_.CreateICmpUGT(left, right);
      case BPF_JGE:
        return builder_.CreateICmpUGE(left, right);
      case BPF_JLT:
        return builder_.CreateICmpULT(left, right);
      case BPF_JLE:
        return builder_.CreateICmpULE(left, right);
      case BPF_JSGT:
        return builder_.CreateICmpSGT(left, right);
      case BPF_JSGE:
        return builder_.CreateICmpSGE(left, right);
      case BPF_JSLT:
        return builder_.CreateICmpSLT(left, right);
      case BPF_JSLE:
        return builder_.CreateICmpSLE(left, right);
      case BPF_JSET:
        return builder_.CreateIsNotNull(builder_.CreateAnd(left, right));
      default:
        return nullptr;
    }
  }

  template <typename Member>
  bool is_host_id(uint32_t id, Member member) const {
    const verifier::Constraints* constraints = scope_.options.constraints;
    if (constraints == nullptr) return false;
    const auto& list = constraints->*member;
    return std::any_of(list.begin(), list.end(), [id](const auto& item) { return item.id == id; });
  }
  // Of a host function or variable in the target at hand.
  Value* host_address(uint32_t id) {
    Value* invocation = function_->getArg(kInvocationArgument);
    Value* table =
        builder_.CreateLoad(word(), builder_.CreateConstGEP1_64(builder_.getInt8Ty(), invocation,
                                                                offsetof(wire::Invocation, host_table)));
    Value* place = builder_.CreateAdd(table, word_of(uint64_t{id} * sizeof(uint64_t)));
    return builder_.CreateLoad(word(), builder_.CreateIntToPtr(place, scope_.pointer()));
  }

  // Through the agent's bridge (src/agent/arch/x86_64/host_call.S).
  Result<void> host_call(uint32_t index, const Insn& insn) {
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
  // r1–r5 keep their values: who may run cannot read them, and keeping costs nothing when nobody does.
  Result<void> call(uint32_t index, const Insn& insn) {
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
      if ((helper->id == BPF_FUNC_trace_printk || helper->id == kTraceVprintk) &&
          scope_.options.trace_ring == nullptr && !scope_.options.bare) {
        return error_at(index, "bpf_trace_printk without a trace ring");
      }
      scope_.facts.makes_system_calls |= helper->system_call;
      scope_.facts.repairs_faults |= helper->repairs_faults;
      const auto map = is_map_helper(helper->id) ? proved_map(index) : std::nullopt;
      callee = map ? scope_.map_helper(*helper, *map) : scope_.helper(*helper);
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
    if (!is_local_call(insn)) add_stack_registers(insn.imm, arguments);
    set(BPF_REG_0, builder_.CreateCall(callee->getFunctionType(), callee, arguments));
    for (uint32_t i = BPF_REG_1; i <= BPF_REG_5; i++) frame_offsets_[i].reset();
    return {};
  }

  // For helpers that look at the probed thread's registers: in place of the context, or in an argument they do not use.
  void add_stack_registers(int32_t helper, std::vector<Value*>& arguments) {
    if (helper == BPF_FUNC_get_stackid || helper == BPF_FUNC_get_stack) arguments[0] = stack_registers();
    if (helper == BPF_FUNC_get_task_stack) arguments[4] = stack_registers();
    if (helper == kTaskPtRegs) arguments[1] = stack_registers();
  }

  // Address of the wire::PtRegs at which a walk of the stack starts; 0: there are none.
  Value* stack_registers() {
    Value* entry = function_->getArg(kRegsArgument);
    const uint32_t type = scope_.program.type;
    if (type != BPF_PROG_TYPE_TRACEPOINT && type != BPF_PROG_TYPE_RAW_TRACEPOINT &&
        type != BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE)
      return builder_.CreatePtrToInt(entry, word());
    // As on Linux, the first 8 bytes of a tracepoint's record, which programs cannot read, point to the registers; the first argument
    // of raw system call tracepoints is that pointer.
    llvm::IRBuilder<> first(&function_->getEntryBlock(), function_->getEntryBlock().begin());
    Value* copy = first.CreateAlloca(first.getInt8Ty(), word_of(sizeof(wire::PtRegs)), "stack_registers");
    const auto callee =
        scope_.module.getOrInsertFunction("bpftime_tracepoint_registers", word(), word(), word());
    Value* where = builder_.CreateAlignedLoad(word(), entry, llvm::Align(8));
    return builder_.CreateCall(callee, {where, builder_.CreatePtrToInt(copy, word())});
  }

  ProgramScope& scope_;
  const uint32_t start_, end_, zeroed_bytes_;
  llvm::Function* function_;
  llvm::IRBuilder<> builder_;
  std::map<uint32_t, BasicBlock*> blocks_;
  std::set<uint32_t> wide_seconds_;
  std::array<llvm::AllocaInst*, kRegisters> registers_{};
  std::array<std::optional<int64_t>, kRegisters> frame_offsets_;  // from r10, where this block knows it
  llvm::AllocaInst* frame_ = nullptr;
  llvm::GetElementPtrInst* frame_top_ = nullptr;  // r10
  int64_t lowest_offset_ = 0;                     // of all frame addresses made
  bool whole_frame_ = false;                      // there may be others
  bool open_ = false;                             // the current block has no terminator yet
};

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

// uint64_t program(void* ctx, const Invocation*), or bare: r1 and r2.
void make_entry(ProgramScope& scope) {
  const bool bare = scope.options.bare;
  llvm::Type* second = bare ? static_cast<llvm::Type*>(scope.word()) : scope.pointer();
  auto* type = llvm::FunctionType::get(scope.word(), {scope.word(), second}, false);
  auto* entry = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, kEntrySymbol, scope.module);
  entry->setVisibility(llvm::GlobalValue::HiddenVisibility);
  llvm::IRBuilder<> builder(BasicBlock::Create(scope.context(), "entry", entry));
  Value* zero = builder.getInt64(0);
  Value* no_invocation = llvm::ConstantPointerNull::get(scope.pointer());
  Value* regs = builder.CreateIntToPtr(entry->getArg(0), scope.pointer());
  const verifier::Constraints* constraints = scope.options.constraints;
  const bool typed = constraints != nullptr && constraints->typed_entry;
  if (scope.options.run_counters != 0 && !bare) make_run_count(builder, scope, entry->getArg(1));
  Value* context = typed ? make_typed_context(builder, scope, regs) : entry->getArg(0);
  Value* result =
      builder.CreateCall(scope.subprograms.at(0), {context, bare ? entry->getArg(1) : zero, zero, zero, zero,
                                                   bare ? no_invocation : entry->getArg(1), regs});
  builder.CreateRet(result);
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
  builder.CreateRet(result);
}

// The constants src/helpers/runtime/runtime.h declares.
void make_environment(ProgramScope& scope) {
  scope.constant(kContextSymbol, llvm::ConstantInt::get(scope.word(), scope.options.context_address));
  scope.map_ref(scope.options.trace_ring, kTraceRingSymbol);
}

}  // namespace

Result<TranslationFacts> translate(const program::Program& program, std::span<const MapBinding> maps,
                                   const CompileOptions& options, llvm::Module& module) {
  if (program.insns.empty()) return Error{EINVAL, "compile: program " + program.name + ": no instructions"};
  if (program.insns.size() > program::kInsnsMax)
    return Error{E2BIG, "compile: program " + program.name + ": too long"};
  const auto starts = find_subprograms(program);
  if (!starts) return starts.error();

  ProgramScope scope{program, maps, options, module, {}, {}, std::vector<llvm::GlobalVariable*>(maps.size())};
  for (const uint32_t start : *starts) {
    scope.subprograms[start] =
        llvm::Function::Create(scope.function_type(), llvm::GlobalValue::InternalLinkage,
                               "bpf_function_" + std::to_string(start), module);
  }
  for (size_t i = 0; i < starts->size(); i++) {
    const auto end = i + 1 < starts->size() ? (*starts)[i + 1] : static_cast<uint32_t>(program.insns.size());
    const bool known = options.facts != nullptr && i < options.facts->zeroed_bytes.size();
    const uint32_t zeroed = known ? options.facts->zeroed_bytes[i] : 0;
    if (Result<void> done = FunctionTranslator(scope, (*starts)[i], end, zeroed).run(); !done)
      return done.error();
  }
  make_entry(scope);
  make_environment(scope);
  make_ring_of(scope);
  return scope.facts;
}

}  // namespace bpftime::compiler

// Registers, stack, loads and stores.
#include <llvm/IR/InlineAsm.h>

#include "compiler/function_translator.h"

namespace bpftime::compiler {

void FunctionTranslator::make_prologue() {
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
  take_environment();
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

void FunctionTranslator::shrink_frame() {
  if (frame_ == nullptr || whole_frame_) return;
  const auto size = word_of(static_cast<uint64_t>(-lowest_offset_ + 15) & ~uint64_t{15});
  frame_->setOperand(0, size);
  frame_top_->setOperand(1, size);
}

Value* FunctionTranslator::frame_pointer(int64_t offset) {
  lowest_offset_ = std::min(lowest_offset_, offset);
  return builder_.CreateGEP(builder_.getInt8Ty(), frame_top_, word_of(static_cast<uint64_t>(offset)));
}

Value* FunctionTranslator::get(uint32_t reg) {
  whole_frame_ |= frame_offset(reg).has_value();
  return get_argument(reg);
}

Value* FunctionTranslator::get_argument(uint32_t reg) {
  if (const auto offset = frame_offset(reg)) return builder_.CreatePtrToInt(frame_pointer(*offset), word());
  return builder_.CreateLoad(word(), registers_[reg]);
}

void FunctionTranslator::set(uint32_t reg, Value* value) {
  builder_.CreateStore(builder_.CreateZExt(value, word()), registers_[reg]);
  frame_offsets_[reg].reset();
}

void FunctionTranslator::set_frame_address(uint32_t reg, int64_t offset) {
  set(reg, builder_.CreatePtrToInt(frame_pointer(offset), word()));
  frame_offsets_[reg] = offset;
}

Value* FunctionTranslator::address(uint32_t reg, int16_t offset) {
  if (const auto base = frame_offset(reg)) return frame_pointer(*base + offset);
  Value* sum = builder_.CreateAdd(get(reg), word_of(static_cast<uint64_t>(int64_t{offset})));
  return builder_.CreateIntToPtr(sum, scope_.pointer());
}

llvm::IntegerType* FunctionTranslator::size_type(uint8_t code) {
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

Result<void> FunctionTranslator::load(uint32_t index, const Insn& insn) {
  if (insn.dst_reg == kFramePointer) return error_at(index, "r10 is read-only");
  const uint8_t mode = BPF_MODE(insn.code);
  if (mode != BPF_MEM && mode != kMemsx) return unknown(index, insn);
  Value* value =
      may_fault(index)
          ? checked_load(insn)
          : builder_.CreateAlignedLoad(size_type(insn.code), address(insn.src_reg, insn.off), llvm::Align(1));
  set(insn.dst_reg, mode == kMemsx ? builder_.CreateSExt(value, word()) : value);
  return {};
}

bool FunctionTranslator::may_fault(uint32_t index) const {
  const verifier::Facts* facts = scope_.options.facts;
  return facts != nullptr && index < facts->insns.size() && facts->insns[index].needs_fault_table;
}

Value* FunctionTranslator::checked_load(const Insn& insn) {
  scope_.facts.repairs_faults = true;
  auto* type = size_type(insn.code);
  const std::string name = "bpftime_checked_load_" + std::to_string(type->getBitWidth() / 8);
  const auto callee = scope_.module.getOrInsertFunction(name, word(), word());
  Value* place = builder_.CreateAdd(get(insn.src_reg), word_of(static_cast<uint64_t>(int64_t{insn.off})));
  return builder_.CreateTrunc(builder_.CreateCall(callee, {place}), type);
}

Result<void> FunctionTranslator::store(uint32_t index, const Insn& insn) {
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

Result<void> FunctionTranslator::atomic(uint32_t index, const Insn& insn) {
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

Result<void> FunctionTranslator::load_constant(uint32_t index, const Insn& insn) {
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

}  // namespace bpftime::compiler

// Arithmetic and jumps.
#include <llvm/IR/Intrinsics.h>

#include "compiler/function_translator.h"

namespace bpftime::compiler {

Value* FunctionTranslator::operand(const Insn& insn, llvm::IntegerType* type) {
  if (BPF_SRC(insn.code) == BPF_X) return builder_.CreateTrunc(get(insn.src_reg), type);
  return llvm::ConstantInt::getSigned(type, insn.imm);
}

Result<void> FunctionTranslator::alu(uint32_t index, const Insn& insn) {
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

bool FunctionTranslator::frame_arithmetic(const Insn& insn) {
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

Value* FunctionTranslator::shift_count(Value* count, llvm::IntegerType* type) {
  return builder_.CreateAnd(count, llvm::ConstantInt::get(type, type->getBitWidth() - 1));
}

Value* FunctionTranslator::divide(Value* left, Value* right, llvm::IntegerType* type, bool modulo,
                                  bool is_signed) {
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

Result<void> FunctionTranslator::byte_swap(uint32_t index, const Insn& insn) {
  if (insn.imm != 16 && insn.imm != 32 && insn.imm != 64) return unknown(index, insn);
  // BPF_ALU: to little endian truncates, to big endian swaps; BPF_ALU64: swaps.
  const bool swaps = BPF_CLASS(insn.code) == BPF_ALU64 || BPF_SRC(insn.code) == BPF_TO_BE;
  Value* value = builder_.CreateTrunc(get(insn.dst_reg), builder_.getIntNTy(static_cast<unsigned>(insn.imm)));
  if (swaps) value = builder_.CreateUnaryIntrinsic(llvm::Intrinsic::bswap, value);
  set(insn.dst_reg, value);
  return {};
}

Result<void> FunctionTranslator::jump(uint32_t index, const Insn& insn) {
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

Value* FunctionTranslator::condition(uint8_t op, Value* left, Value* right) {
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

}  // namespace bpftime::compiler

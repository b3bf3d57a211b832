#include "compiler/copies.h"

#include <llvm/Analysis/ScalarEvolutionExpressions.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/Transforms/Utils/ScalarEvolutionExpander.h>

#include <vector>

namespace bpftime::compiler {
namespace {

using llvm::BasicBlock;
using llvm::Value;

// Longer copies become calls: the backend would unroll up to 8 moves and then use string instructions.
constexpr uint64_t kUnrolledCopyMax = 64;
// Shorter ones are not worth the call.
constexpr uint64_t kLoopCopyMin = 16;

// Declares a copy function as the runtime defines it.
llvm::FunctionCallee copy_function(llvm::Module& module, const char* name, llvm::Type* second) {
  auto* pointer = llvm::PointerType::get(module.getContext(), 0);
  auto* word = llvm::Type::getInt64Ty(module.getContext());
  auto callee =
      module.getOrInsertFunction(name, llvm::FunctionType::get(pointer, {pointer, second, word}, false));
  llvm::cast<llvm::Function>(callee.getCallee())->setVisibility(llvm::GlobalValue::HiddenVisibility);
  return callee;
}

// A loop that does nothing but to[i] = from[i], for bytes.
struct CopyLoop {
  BasicBlock *before, *body, *after;
  const llvm::SCEV *to, *from, *length;  // addresses and count at its start, 64 bits
  Value *to_value = nullptr, *from_value = nullptr, *length_value = nullptr;
};

// The start of an address that goes up by one each time round; null: it does not.
const llvm::SCEV* upward(Value* address, const llvm::Loop& loop, llvm::ScalarEvolution& evolution) {
  if (const auto* cast = llvm::dyn_cast<llvm::IntToPtrInst>(address)) address = cast->getOperand(0);
  const auto* steps = llvm::dyn_cast<llvm::SCEVAddRecExpr>(evolution.getSCEV(address));
  if (steps == nullptr || steps->getLoop() != &loop || !steps->isAffine() ||
      !steps->getStepRecurrence(evolution)->isOne())
    return nullptr;
  return steps->getStart();
}

// What leaves the loop must not have been computed in it.
bool leaves_nothing(const llvm::Loop& loop) {
  for (const BasicBlock* block : loop.blocks()) {
    for (const llvm::Instruction& instruction : *block) {
      for (const llvm::User* user : instruction.users()) {
        if (!loop.contains(llvm::cast<llvm::Instruction>(user))) return false;
      }
    }
  }
  return true;
}

bool read_loop(const llvm::Loop& loop, llvm::ScalarEvolution& evolution, CopyLoop& copy) {
  if (!loop.isInnermost() || loop.getNumBlocks() != 1 || !loop.isLoopSimplifyForm()) return false;
  copy.before = loop.getLoopPreheader();
  copy.body = loop.getHeader();
  copy.after = loop.getExitBlock();
  if (copy.after == nullptr || !leaves_nothing(loop)) return false;
  llvm::LoadInst* load = nullptr;
  llvm::StoreInst* store = nullptr;
  for (llvm::Instruction& instruction : *copy.body) {
    if (!instruction.mayReadOrWriteMemory() && !instruction.mayHaveSideEffects()) continue;
    if (auto* one = llvm::dyn_cast<llvm::LoadInst>(&instruction); one != nullptr && load == nullptr) {
      load = one;
    } else if (auto* other = llvm::dyn_cast<llvm::StoreInst>(&instruction);
               other != nullptr && store == nullptr) {
      store = other;
    } else {
      return false;
    }
  }
  if (load == nullptr || store == nullptr || !load->isSimple() || !store->isSimple()) return false;
  if (store->getValueOperand() != load || !load->getType()->isIntegerTy(8)) return false;
  copy.to = upward(store->getPointerOperand(), loop, evolution);
  copy.from = upward(load->getPointerOperand(), loop, evolution);
  const llvm::SCEV* again = evolution.getBackedgeTakenCount(&loop);
  if (copy.to == nullptr || copy.from == nullptr || llvm::isa<llvm::SCEVCouldNotCompute>(again)) return false;
  auto* word = llvm::Type::getInt64Ty(copy.body->getContext());
  if (evolution.getTypeSizeInBits(again->getType()) > 64) return false;
  copy.length = evolution.getAddExpr(evolution.getNoopOrZeroExtend(again, word), evolution.getOne(word));
  return true;
}

// 64 bits, whether it was a number or a pointer.
Value* expand(llvm::SCEVExpander& expander, const llvm::SCEV* what, llvm::Instruction* at) {
  Value* value = expander.expandCodeFor(what, what->getType(), at->getIterator());
  llvm::IRBuilder<> builder(at);
  return value->getType()->isPointerTy() ? builder.CreatePtrToInt(value, builder.getInt64Ty()) : value;
}

// Around the loop: if the copy may be done by words, it is, and the loop is not entered.
void go_around(const CopyLoop& copy) {
  llvm::Instruction* end = copy.before->getTerminator();
  llvm::IRBuilder<> builder(end);
  // Downwards, or far enough up that nothing is read after it was written. A length of 0 is 2^64, which the loop may have.
  Value* distance = builder.CreateSub(copy.to_value, copy.from_value);
  Value* apart = builder.CreateICmpUGE(distance, copy.length_value);
  Value* enough = builder.CreateICmpUGE(copy.length_value, builder.getInt64(kLoopCopyMin));
  auto* around = BasicBlock::Create(builder.getContext(), "", copy.body->getParent(), copy.body);
  builder.CreateCondBr(builder.CreateAnd(apart, enough), around, copy.body);
  end->eraseFromParent();
  builder.SetInsertPoint(around);
  auto function = copy_function(*copy.body->getModule(), "bpftime_memcpy", builder.getPtrTy());
  builder.CreateCall(function,
                     {builder.CreateIntToPtr(copy.to_value, builder.getPtrTy()),
                      builder.CreateIntToPtr(copy.from_value, builder.getPtrTy()), copy.length_value});
  builder.CreateBr(copy.after);
  for (llvm::PHINode& phi : copy.after->phis())
    phi.addIncoming(phi.getIncomingValueForBlock(copy.body), around);
}

}  // namespace

bool speed_up_copy_loops(llvm::Function& function, llvm::LoopInfo& loops, llvm::ScalarEvolution& evolution) {
  std::vector<CopyLoop> copies;
  for (llvm::Loop* loop : loops.getLoopsInPreorder()) {
    CopyLoop copy;
    if (read_loop(*loop, evolution, copy)) copies.push_back(copy);
  }
  // All are expanded before blocks change, which would make what is known of loops wrong.
  llvm::SCEVExpander expander(evolution, function.getDataLayout(), "copy");
  std::erase_if(copies, [&](CopyLoop& copy) {
    llvm::Instruction* at = copy.before->getTerminator();
    for (const llvm::SCEV* part : {copy.to, copy.from, copy.length}) {
      if (!expander.isSafeToExpandAt(part, at)) return true;
    }
    copy.to_value = expand(expander, copy.to, at);
    copy.from_value = expand(expander, copy.from, at);
    copy.length_value = expand(expander, copy.length, at);
    return false;
  });
  for (const CopyLoop& copy : copies) go_around(copy);
  return !copies.empty();
}

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
    Value* length = builder.CreateZExtOrTrunc(copy->getLength(), builder.getInt64Ty());
    const char* name = llvm::isa<llvm::MemMoveInst>(copy) ? "bpftime_memmove" : "bpftime_memcpy";
    Value* second = nullptr;
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

}  // namespace bpftime::compiler

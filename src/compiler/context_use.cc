#include "compiler/context_use.h"

#include <llvm/IR/Instructions.h>
#include <llvm/IR/Operator.h>

#include <set>
#include <vector>

#include "compiler/function_translator.h"
#include "wire/invocation.h"

namespace bpftime::compiler {
namespace {

constexpr uint32_t kEverything = ~uint32_t{0};
// What the bridge's unwind table names (src/agent/arch/x86_64/host_call.S): the registers that functions preserve, and rsp.
constexpr uint32_t slot_of(size_t offset) { return 1u << offset / sizeof(uint64_t); }
constexpr uint32_t kBridgeSlots =
    slot_of(offsetof(wire::PtRegs, r15)) | slot_of(offsetof(wire::PtRegs, r14)) |
    slot_of(offsetof(wire::PtRegs, r13)) | slot_of(offsetof(wire::PtRegs, r12)) |
    slot_of(offsetof(wire::PtRegs, rbp)) | slot_of(offsetof(wire::PtRegs, rbx)) |
    slot_of(offsetof(wire::PtRegs, rsp));
constexpr size_t kPlacesMax = 4096;  // looked at; more means "everything"

// A value that is the context's address plus `offset`.
struct Place {
  const llvm::Value* value;
  uint64_t offset;
  auto operator<=>(const Place&) const = default;
};

class ContextUse {
 public:
  explicit ContextUse(const llvm::Module& module) : layout_(module.getDataLayout()) {}

  uint32_t of(const llvm::Value* context) {
    follow(context, 0);
    while (!queue_.empty()) {
      const Place place = queue_.back();
      queue_.pop_back();
      for (const llvm::Use& use : place.value->uses())
        if (!add(use, place.offset)) return kEverything;
      if (seen_.size() > kPlacesMax) return kEverything;
    }
    return slots_;
  }

 private:
  void follow(const llvm::Value* value, uint64_t offset) {
    if (seen_.insert({value, offset}).second) queue_.push_back({value, offset});
  }

  bool read(uint64_t offset, uint64_t bytes) {
    if (bytes == 0 || offset >= sizeof(wire::PtRegs) || bytes > sizeof(wire::PtRegs) - offset) return false;
    for (uint64_t slot = offset / 8; slot <= (offset + bytes - 1) / 8; slot++) slots_ |= 1u << slot;
    return true;
  }

  // False: not understood.
  bool add(const llvm::Use& use, uint64_t offset) {
    const auto* user = llvm::dyn_cast<llvm::Instruction>(use.getUser());
    if (user == nullptr) return false;
    if (llvm::isa<llvm::ICmpInst>(user)) return true;
    if (llvm::isa<llvm::IntToPtrInst>(user) || llvm::isa<llvm::PtrToIntInst>(user)) {
      if (!user->getType()->isPointerTy() && !user->getType()->isIntegerTy(64)) return false;
      follow(user, offset);
      return true;
    }
    if (const auto* load = llvm::dyn_cast<llvm::LoadInst>(user))
      return read(offset, layout_.getTypeStoreSize(load->getType()).getFixedValue());
    if (const auto* store = llvm::dyn_cast<llvm::StoreInst>(user))  // the result of a function to be ended
      return use.getOperandNo() == store->getPointerOperandIndex();
    if (user->getOpcode() == llvm::Instruction::Add) {
      const auto* distance = llvm::dyn_cast<llvm::ConstantInt>(user->getOperand(1 - use.getOperandNo()));
      if (distance == nullptr) return false;
      follow(user, offset + distance->getZExtValue());
      return true;
    }
    if (const auto* element = llvm::dyn_cast<llvm::GEPOperator>(user)) {
      llvm::APInt distance(64, 0);
      if (use.getOperandNo() != 0 || !element->accumulateConstantOffset(layout_, distance)) return false;
      follow(user, offset + distance.getZExtValue());
      return true;
    }
    if (const auto* call = llvm::dyn_cast<llvm::CallInst>(user)) return add_call(*call, use, offset);
    return false;
  }

  bool add_call(const llvm::CallInst& call, const llvm::Use& use, uint64_t offset) {
    const llvm::Function* callee = call.getCalledFunction();
    if (!call.isArgOperand(&use)) return false;
    const unsigned index = call.getArgOperandNo(&use);
    if (callee == nullptr) {
      if (!call.hasFnAttr(kHostCallAttribute) || index != kRegsArgument) return false;
      slots_ |= kBridgeSlots;
      return true;
    }
    // Takes the context as a token.
    if (callee->getName() == "bpftime_helper_perf_event_output" && index == 0) return true;
    if (callee->isDeclaration() || index >= callee->arg_size()) return false;
    follow(callee->getArg(index), offset);
    return true;
  }

  const llvm::DataLayout& layout_;
  std::set<Place> seen_;
  std::vector<Place> queue_;
  uint32_t slots_ = 0;
};

}  // namespace

uint32_t context_slots_read(const llvm::Module& module) {
  const llvm::Function* entry = module.getFunction(kEntrySymbol);
  if (entry == nullptr || entry->arg_empty()) return kEverything;
  return ContextUse(module).of(entry->getArg(0));
}

}  // namespace bpftime::compiler

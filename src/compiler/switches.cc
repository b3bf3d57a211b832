#include "compiler/switches.h"

#include <llvm/Analysis/ValueTracking.h>
#include <llvm/IR/ConstantRange.h>
#include <llvm/IR/Instructions.h>
#include <llvm/Support/KnownBits.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace bpftime::compiler {
namespace {

using llvm::BasicBlock;
using llvm::Value;

// Fewer are as fast as they stand.
constexpr size_t kTestsMin = 4;
// Bounds what one tree may cost, whoever wrote the program.
constexpr size_t kTestsMax = 4096;
constexpr uint64_t kCasesMax = 2048;

// A set of numbers of at most 64 bits: disjoint [first, last], ascending.
using Interval = std::pair<uint64_t, uint64_t>;
using Set = std::vector<Interval>;

Set set_of(const llvm::ConstantRange& range) {
  if (range.isEmptySet()) return {};
  const uint64_t first = range.getLower().getZExtValue();
  const uint64_t last = (range.getUpper() - 1).getZExtValue();
  const uint64_t all = llvm::APInt::getMaxValue(range.getBitWidth()).getZExtValue();
  if (range.isFullSet()) return {{0, all}};
  if (first <= last) return {{first, last}};
  return {{0, last}, {first, all}};
}

Set intersection(const Set& a, const Set& b) {
  Set out;
  for (const Interval& x : a) {
    for (const Interval& y : b) {
      const uint64_t first = std::max(x.first, y.first), last = std::min(x.second, y.second);
      if (first <= last) out.emplace_back(first, last);
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

// Numbers in it; kCasesMax + 1 stands for more than that.
uint64_t count(const Set& set) {
  uint64_t sum = 0;
  for (const auto& [first, last] : set) {
    if (last - first >= kCasesMax) return kCasesMax + 1;
    sum += last - first + 1;
    if (sum > kCasesMax) return kCasesMax + 1;
  }
  return sum;
}

// `block` ends by comparing a value with a constant.
struct Test {
  llvm::BranchInst* branch = nullptr;
  llvm::ICmpInst* compare = nullptr;
  Value* value = nullptr;
  Set taken, through;
};

bool read_test(BasicBlock& block, Test& test) {
  test.branch = llvm::dyn_cast<llvm::BranchInst>(block.getTerminator());
  if (test.branch == nullptr || !test.branch->isConditional()) return false;
  test.compare = llvm::dyn_cast<llvm::ICmpInst>(test.branch->getCondition());
  if (test.compare == nullptr || test.compare->getParent() != &block || !test.compare->hasOneUse())
    return false;
  const auto* constant = llvm::dyn_cast<llvm::ConstantInt>(test.compare->getOperand(1));
  test.value = test.compare->getOperand(0);
  if (constant == nullptr || constant->getBitWidth() > 64 || llvm::isa<llvm::Constant>(test.value))
    return false;
  const auto predicate = test.compare->getPredicate();
  test.taken = set_of(llvm::ConstantRange::makeExactICmpRegion(predicate, constant->getValue()));
  test.through = set_of(llvm::ConstantRange::makeExactICmpRegion(
      llvm::CmpInst::getInversePredicate(predicate), constant->getValue()));
  return true;
}

// Nothing in it but a test of `value`.
bool only_tests(BasicBlock& block, const Value* value, Test& test) {
  return read_test(block, test) && test.value == value && &block.front() == test.compare &&
         test.compare->getNextNode() == test.branch;
}

// Where the tree ends: for the numbers in `numbers` control goes from `from` to `to`.
struct Leaf {
  BasicBlock *from, *to;
  Set numbers;
};

class Tree {
 public:
  Tree(BasicBlock& root, const Test& test) : root_(root), value_(test.value) {
    const auto bits = llvm::computeKnownBits(value_, root.getDataLayout());
    const Set possible = set_of(llvm::ConstantRange::fromKnownBits(bits, /*IsSigned=*/false));
    inside_.insert(&root);
    tests_ = 1;
    go(root, test, possible);
  }

  bool worthwhile() {
    if (tests_ < kTestsMin || tests_ > kTestsMax || leaves_.empty()) return false;
    std::stable_sort(leaves_.begin(), leaves_.end(),
                     [](const Leaf& a, const Leaf& b) { return count(a.numbers) > count(b.numbers); });
    uint64_t all = 0;
    for (const Leaf& leaf : leaves_) all += count(leaf.numbers);
    complete_ = all <= kCasesMax;
    return all - count(leaves_[0].numbers) <= kCasesMax;
  }

  const std::set<BasicBlock*>& inside() const { return inside_; }

  void replace() {
    std::vector<BasicBlock*> targets;
    for (const Leaf& leaf : leaves_) targets.push_back(way_to(leaf));
    auto* branch = root_.getTerminator();
    auto* compare = llvm::cast<llvm::Instruction>(llvm::cast<llvm::BranchInst>(branch)->getCondition());
    for (BasicBlock* next : llvm::successors(&root_))
      next->removePredecessor(&root_, /*KeepOneInputPHIs=*/true);
    branch->eraseFromParent();
    compare->eraseFromParent();
    BasicBlock* rest = complete_ ? nowhere() : targets[0];
    auto* type = llvm::cast<llvm::IntegerType>(value_->getType());
    auto* made = llvm::SwitchInst::Create(value_, rest, static_cast<unsigned>(leaves_.size()), &root_);
    for (size_t i = complete_ ? 0 : 1; i < leaves_.size(); i++) {
      for (const auto& [first, last] : leaves_[i].numbers) {
        for (uint64_t number = first;; number++) {
          made->addCase(llvm::ConstantInt::get(type, number), targets[i]);
          if (number == last) break;
        }
      }
    }
  }

 private:
  // Depth-first, without recursion: programs may be a chain of a million tests.
  void go(BasicBlock& root, const Test& first, const Set& possible) {
    std::vector<Leaf> queue;
    const auto follow = [&queue](BasicBlock& from, const Test& test, const Set& numbers) {
      queue.push_back({&from, test.branch->getSuccessor(0), intersection(numbers, test.taken)});
      queue.push_back({&from, test.branch->getSuccessor(1), intersection(numbers, test.through)});
    };
    follow(root, first, possible);
    while (!queue.empty()) {
      Leaf edge = std::move(queue.back());
      queue.pop_back();
      if (edge.numbers.empty()) continue;  // never goes this way
      Test test;
      if (tests_ <= kTestsMax && !inside_.contains(edge.to) && only_tests(*edge.to, value_, test)) {
        inside_.insert(edge.to);
        tests_++;
        follow(*edge.to, test, edge.numbers);
      } else {
        leaves_.push_back(std::move(edge));
      }
    }
  }

  // The block to go to instead of along an edge of the tree. Where two edges bring different values to the same block, each needs
  // a block of its own to bring them from. Nothing in the tree defines a value, so what reaches its edges reaches the root.
  BasicBlock* way_to(const Leaf& leaf) {
    if (leaf.to->phis().empty()) return leaf.to;
    auto* way = BasicBlock::Create(root_.getContext(), "", root_.getParent(), leaf.to);
    llvm::BranchInst::Create(leaf.to, way);
    for (llvm::PHINode& phi : leaf.to->phis()) phi.addIncoming(phi.getIncomingValueForBlock(leaf.from), way);
    return way;
  }

  BasicBlock* nowhere() {
    auto* block = BasicBlock::Create(root_.getContext(), "", root_.getParent());
    new llvm::UnreachableInst(root_.getContext(), block);
    return block;
  }

  BasicBlock& root_;
  Value* value_;
  std::set<BasicBlock*> inside_;  // root and blocks that only test
  size_t tests_ = 0;
  std::vector<Leaf> leaves_;
  bool complete_ = false;  // every possible number is some leaf's, and few enough to list
};

}  // namespace

bool recover_switches(llvm::Function& function) {
  bool changed = false;
  std::set<BasicBlock*> done;
  std::vector<BasicBlock*> blocks;  // replacing adds some, which are not looked at
  for (BasicBlock& block : function) blocks.push_back(&block);
  for (BasicBlock* block : blocks) {
    Test test;
    if (done.contains(block) || !read_test(*block, test)) continue;
    // Starts where no other test of the value comes before: a block in the middle is found from there.
    Test before;
    BasicBlock* only = block->getSinglePredecessor();
    Test own;
    if (only != nullptr && only != block && only_tests(*block, test.value, own) && read_test(*only, before) &&
        before.value == test.value)
      continue;
    Tree tree(*block, test);
    if (!tree.worthwhile()) continue;
    done.insert(tree.inside().begin(), tree.inside().end());
    tree.replace();
    changed = true;
  }
  return changed;
}

}  // namespace bpftime::compiler

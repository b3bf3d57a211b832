// The loop over paths: what is simulated next, what is stored, what is refused for its size.
#include <algorithm>
#include <string>
#include <utility>

#include "program/instructions.h"
#include "verifier/blame.h"
#include "verifier/engine.h"
#include "verifier/log.h"
#include "verifier/state_store.h"

namespace bpftime::verifier {
namespace {

// How sparing states are stored, as Linux does it: not before this many instructions and jumps since the last one …
constexpr uint32_t kInsnsBetweenStates = 8;
constexpr uint32_t kJumpsBetweenStates = 2;
// … and in loops, where the states of rounds differ and help little, not before these.
constexpr uint32_t kInsnsBetweenRounds = 100;
constexpr uint32_t kJumpsBetweenRounds = 20;
// A stored state is dropped when it was compared in vain this many times more than it was of use.
constexpr uint32_t kMissesPerHit = 3;
constexpr uint32_t kMissesPerHitOfCalls = 64;

constexpr uint32_t kLimitOverrun = 4;
constexpr uint32_t kFrameRegister = 10;

bool is_conditional(const program::Insn& insn) {
  const uint8_t operation = BPF_OP(insn.code);
  return operation != BPF_JA && operation != BPF_CALL && operation != BPF_EXIT;
}

bool is_jump_class(const program::Insn& insn) {
  return BPF_CLASS(insn.code) == BPF_JMP || BPF_CLASS(insn.code) == BPF_JMP32;
}

uint64_t bytes_of(const State& state) {
  uint64_t bytes = sizeof(State) + state.references.capacity() * sizeof(Reference);
  for (const Frame& frame : state.frames) bytes += sizeof(Frame) + frame.stack.capacity() * sizeof(Slot);
  return bytes;
}

}  // namespace

Link::~Link() {
  // Only the last owner of a link goes on to the one before.
  std::shared_ptr<const Link> next = std::move(before);
  while (next && next.use_count() == 1) next = std::move(const_cast<Link&>(*next).before);
}

Engine::Engine(const Request& request, const ControlFlow& flow, Verdict& verdict)
    : request(request),
      flow(flow),
      facts(verdict.facts),
      statistics(verdict.statistics),
      verdict(verdict),
      store_(std::make_unique<StateStore>(request, flow, verdict.facts, verdict.statistics)) {
  facts = Facts{};
  statistics = Statistics{};
  facts.insns.resize(request.program.insns.size());
  facts.stack_bytes.assign(flow.subprograms.size(), 0);
  facts.zeroed_bytes.assign(flow.subprograms.size(), 0);
}

Engine::~Engine() = default;

bool Engine::refuse(Rule rule, std::string message, std::string linux_message, std::vector<Cause> causes) {
  if (!enforces(rule)) return true;
  if (verdict.diagnoses.size() >= std::max(1u, request.options.limits.diagnoses)) return false;
  Diagnosis diagnosis;
  diagnosis.rule = rule;
  diagnosis.error = info(rule).error;
  diagnosis.insn = insn_index;
  diagnosis.message = std::move(message);
  diagnosis.linux_message = std::move(linux_message);
  diagnosis.causes = std::move(causes);
  for (const Link* link = trail.get(); link != nullptr && diagnosis.path.size() < kPathMax;
       link = link->before.get())
    diagnosis.path.push_back(link->branch);
  std::reverse(diagnosis.path.begin(), diagnosis.path.end());
  for (size_t i = 1; i < state.frames.size(); ++i) diagnosis.call_chain.push_back(state.frames[i].call_site);
  verdict.diagnoses.push_back(std::move(diagnosis));
  return false;
}

bool Engine::refuse_register(Rule rule, uint32_t number, std::string message, std::string linux_message) {
  if (refuse(rule, std::move(message), std::move(linux_message))) return true;
  Diagnosis& diagnosis = verdict.diagnoses.back();
  if (!diagnosis.state.empty() || number > kFrameRegister) return false;
  diagnosis.state.push_back(describe_operand(*this, state.reg(number), "r" + std::to_string(number)));
  for (Cause& cause : blame_register(*this, rule, number)) diagnosis.causes.push_back(std::move(cause));
  return false;
}

bool Engine::push(State other, uint32_t at, Branch branch, PathEdge path) {
  if (pending_.size() >= request.options.limits.pending_branches &&
      !refuse_limit(Rule::kLIM002,
                    "The sequence of " + std::to_string(pending_.size() + 1) + " jumps is too complex.",
                    "pending branches"))
    return false;
  pending_bytes_ += bytes_of(other);
  if (log != nullptr) log->path_put_aside();
  store_->opened(path.node);
  pending_.push_back({std::move(other), at, insn_index, std::make_shared<const Link>(trail, branch), path});
  return true;
}

bool Engine::push_branch(State other, uint32_t at, Branch branch) {
  return push(std::move(other), at, branch, path_);
}

bool Engine::push_callback(State inside, uint32_t at, uint64_t trips) {
  StateStore::Node& call = store_->node(path_.node);
  call.trips = std::max(call.trips, trips);
  for (size_t i = inside.frames.size(); i-- > 0;) {
    if (!inside.frames[i].is_callback) continue;
    inside.frames[i].callback_node = path_.node;
    break;
  }
  return push(std::move(inside), at, {insn_index, true}, {path_.node, PathEdge::kBody, 0, 0});
}

void Engine::leave_callback(uint32_t call) {
  path_.kind = path_.kind == PathEdge::kBody ? PathEdge::kAgain : PathEdge::kReturn;
  path_.call = call;
}

void Engine::mark_stack_used(uint32_t frame, int64_t lowest) {
  uint32_t& used = facts.stack_bytes[state.frames[frame].subprogram];
  used = std::max(used, static_cast<uint32_t>(-lowest));
}

void Engine::mark_stack_zeroed(uint32_t frame, int64_t lowest) {
  uint32_t& zeroed = facts.zeroed_bytes[state.frames[frame].subprogram];
  zeroed = std::max(zeroed, static_cast<uint32_t>(-lowest));
}

bool Engine::refuse_limit(Rule rule, const std::string& words, const char* limit) {
  return refuse(rule, std::string("the verifier's limit of ") + limit + " is reached", words);
}

void Engine::widen_round(uint32_t call) {
  const StoredState& before = store_->node(call).state;
  // What differs from one round to the next will differ again: any number stands for all of them.
  for (const StoredState::Item& item : before.items) {
    if (item.frame >= state.frames.size()) continue;
    Frame& frame = state.frames[item.frame];
    if (!item.is_slot) {
      Value& now = frame.registers[item.number];
      if (item.any_number || !now.is_number() || !before.values[item.value].is_number()) continue;
      if (before.values[item.value].scalar == now.scalar) continue;
      now = Value::of(Scalar::unknown());
      now.lost_at = insn_index;
      widened = true;
      continue;
    }
    if (item.number >= frame.stack.size()) continue;
    Slot& slot = frame.stack[item.number];
    const auto is_number = [](Byte byte, const Value* value) {
      return byte == Byte::kMisc || byte == Byte::kZero || byte == Byte::kUninitialised ||
             (byte == Byte::kSpill && value != nullptr && value->is_number());
    };
    const Value* old = item.value == kNoNode ? nullptr : &before.values[item.value];
    const Value any = Value::of(Scalar::unknown());
    if (item.any_number) old = &any;
    if (!is_number(item.bytes[0], old) || !is_number(slot.bytes[0], &slot.value)) continue;
    const bool same_bytes = item.bytes == slot.bytes;
    if (same_bytes && (slot.bytes[0] != Byte::kSpill || old->scalar == slot.value.scalar)) continue;
    for (Byte& byte : slot.bytes) byte = byte == Byte::kUninitialised ? byte : Byte::kMisc;
    slot.value = Value{};
    widened = true;
  }
}

Engine::Visit Engine::visit_prune_point() {
  const bool is_call = calls_callback(insn());
  const bool is_round = path_.kind == PathEdge::kReturn || path_.kind == PathEdge::kAgain;
  const uint32_t insns_since = statistics.insns_processed - stored_at_insns_;
  const uint32_t jumps_since = jumps_processed_ - stored_at_jumps_;
  bool store = is_call || (request.flags & BPF_F_TEST_STATE_FREQ) != 0 ||
               (jumps_since >= kJumpsBetweenStates && insns_since >= kInsnsBetweenStates);

  uint32_t before = kNoNode;
  for (uint32_t index = store_->first_at(insn_index); index != kNoNode;) {
    StateStore::Node& node = store_->node(index);
    const uint32_t next = node.next;
    const bool contained = store_->contains(node.state, state);
    const bool open = node.branches != 0;
    if (contained && !open && store_->may_end_at(index, path_, state)) {
      ++node.hits;
      store_->adopt(node.state, state);
      store_->ended(path_, store_->remaining(index));
      return Visit::kPruned;
    }
    if (contained && open) {
      if (is_call && is_round && node.instance == store_->node(path_.call).instance) {
        // This round brought nothing that an earlier one of the same call has not: no later one will.
        ++node.hits;
        store_->adopt(node.state, state);
        store_->lean(path_, index);
        store_->ended(path_, {});
        return Visit::kPruned;
      }
      if (node.state.callback_rounds == state.callback_rounds) {
        State general = state;
        generalise(flow, general, insn_index);
        if (StateStore::same(node.state, store_->compact(general)) &&
            !refuse(Rule::kCFG007, "the loop through here comes back with nothing changed",
                    "infinite loop detected at insn " + std::to_string(insn_index)))
          return Visit::kRefused;
      }
    }
    if (open && !is_call && jumps_since < kJumpsBetweenRounds && insns_since < kInsnsBetweenRounds)
      store = false;
    if (store) ++node.misses;
    const uint32_t patience = is_call ? kMissesPerHitOfCalls : kMissesPerHit;
    if (node.misses > node.hits * patience + patience) {
      store_->evict(insn_index, before, index);
    } else {
      before = index;
    }
    index = next;
  }
  if (store && (!store_->full() || is_call)) enter_state(is_call);
  if (store_->memory_bytes() + pending_bytes_ > request.options.limits.memory_bytes &&
      !refuse_limit(
          Rule::kLIM003,
          "BPF program is too large. Processed " + std::to_string(statistics.insns_processed) + " insn",
          "memory"))
    return Visit::kRefused;
  return Visit::kGoOn;
}

void Engine::enter_state(bool is_call) {
  generalise(flow, state, insn_index);
  const uint32_t index = store_->add(state, insn_index, path_);
  store_->node(index).is_call = is_call;
  path_ = {index, is_call ? PathEdge::kRest : PathEdge::kOn, 0, 0};
  stored_at_insns_ = statistics.insns_processed;
  stored_at_jumps_ = jumps_processed_;
}

bool Engine::check_registers() {
  if (flow.any_reserved_fields && program::uses_reserved_fields(insn()))
    return refuse(Rule::kENC001, "reserved fields of the instruction are used", "uses reserved fields");
  const program::RegisterUse use = program::register_use(insn());
  const bool is_exit_or_call = is_jump_class(insn()) && !is_conditional(insn());
  if (!is_exit_or_call && BPF_CLASS(insn().code) != BPF_LD) {
    // The source first, as Linux: `r2 = r1` with neither is about r1. Jumps look at the left side first.
    uint32_t order[] = {insn().src_reg, insn().dst_reg, 0};
    if (is_conditional(insn())) std::swap(order[0], order[1]);
    for (const uint32_t reg : order) {
      if ((use.reads & 1u << reg) == 0 || state.reg(reg).kind != Kind::kUninitialised) continue;
      const std::string name = std::to_string(reg);
      if (!refuse_register(Rule::kTYP001, reg, "`r" + name + "` has no value here", "R" + name + " !read_ok"))
        return false;
    }
  }
  if ((use.writes & 1u << kFrameRegister) != 0 &&
      !refuse(Rule::kTYP007, "`r10` is written", "frame pointer is read only"))
    return false;
  return true;
}

bool Engine::step_jump(bool& path_ends) {
  ++jumps_processed_;
  const program::Insn& at = insn();
  switch (BPF_OP(at.code)) {
    case BPF_JA:
      insn_index = static_cast<uint32_t>(*program::jump_target(at, insn_index));
      return true;
    case BPF_EXIT:
      return step_exit(*this, path_ends);
    case BPF_CALL:
      if (at.src_reg == BPF_PSEUDO_CALL) return step_local_call(*this);
      if (at.src_reg == BPF_PSEUDO_KFUNC_CALL) {
        if (!step_host_call(*this)) return false;
      } else {
        if (at.imm >= 0 && at.imm < 4096) {
          if (helper_seen_.size() <= static_cast<size_t>(at.imm)) helper_seen_.resize(at.imm + 1);
          helper_seen_[at.imm] = true;
        }
        if (!step_helper_call(*this)) return false;
      }
      ++insn_index;
      return true;
    default:
      break;
  }
  const uint32_t from = insn_index;
  const size_t pending = pending_.size();
  const Link* const before = trail.get();
  if (!step_branch(*this)) return false;
  const bool taken = insn_index != from + 1;
  // Where both ways are possible, one was put aside: remember which this is.
  if (pending_.size() > pending && trail.get() == before)
    trail = std::make_shared<const Link>(trail, Branch{from, taken});
  return true;
}

bool Engine::step(bool& path_ends) {
  switch (BPF_CLASS(insn().code)) {
    case BPF_JMP:
    case BPF_JMP32:
      return step_jump(path_ends);
    case BPF_ALU:
    case BPF_ALU64:
      if (!step_arithmetic(*this)) return false;
      break;
    case BPF_LDX:
      if (!step_load(*this)) return false;
      break;
    case BPF_ST:
      if (!step_store(*this)) return false;
      break;
    case BPF_STX:
      if (!(BPF_MODE(insn().code) == BPF_ATOMIC ? step_atomic(*this) : step_store(*this))) return false;
      break;
    default:
      if (program::is_load_imm64(insn())) {
        if (!step_load_immediate(*this)) return false;
        insn_index += 2;
        return true;
      }
      if (!step_load(*this)) return false;
      break;
  }
  ++insn_index;
  return true;
}

bool Engine::refuse_too_complex() {
  const std::string words =
      "BPF program is too large. Processed " + std::to_string(statistics.insns_processed) + " insn";
  const uint32_t loop = store_->busiest();
  if (request.constraints == nullptr || loop == 0)
    return refuse_limit(Rule::kLIM001, words, "instructions processed");
  // Of an extension it is not the verifier's patience that counts, but that it must be seen to end.
  const uint32_t here = std::exchange(insn_index, loop);
  if (refuse(Rule::kBND002,
             "this loop was followed for " + std::to_string(statistics.insns_processed) +
                 " instructions without an end",
             words)) {
    insn_index = here;
    return true;
  }
  verdict.diagnoses.back().error = E2BIG;
  return false;
}

// A path that is longer than granted needs not be followed to its end, which it may not have.
bool Engine::check_path_length() {
  const uint64_t granted = request.constraints->instructions_below;
  const uint64_t steps = add_steps(store_->node(path_.node).steps_before, path_.count);
  if (granted == kInstructionsInfinite || steps < granted || !enforces(Rule::kBND001)) return true;
  if (const uint32_t loop = store_->busiest(); loop != 0) insn_index = loop;
  return refuse(Rule::kBND001, "a path of " + std::to_string(steps) +
                                   " instructions and more leads through here; fewer than " +
                                   std::to_string(granted) + " are granted");
}

bool Engine::follow_path() {
  while (true) {
    if (++statistics.insns_processed > request.options.limits.insns_processed && !refuse_too_complex())
      return false;
    // A test that switched the limit off must end as well.
    if (statistics.insns_processed / kLimitOverrun > request.options.limits.insns_processed) return false;
    if (request.constraints != nullptr && !check_path_length()) return false;
    if (flow.prune_point[insn_index]) {
      const Visit visit = visit_prune_point();
      if (visit == Visit::kRefused) return false;
      if (visit == Visit::kPruned) {
        if (log != nullptr) log->path_pruned(insn_index);
        return true;
      }
    }
    if (log != nullptr) log->instruction(insn_index, state);
    if (request.options.observer != nullptr) request.options.observer->on_instruction(insn_index, state);
    facts.insns[insn_index].reached = true;
    path_.count = add_steps(path_.count, 1);
    bool path_ends = false;
    if (!check_registers() || !step(path_ends)) return false;
    if (path_ends) {
      store_->ended(path_, {});
      return true;
    }
  }
}

bool Engine::explore() {
  if (request.options.observer != nullptr) request.options.observer->on_start();
  const uint32_t root = store_->add_root();
  path_ = {root, PathEdge::kOn, 0, 0};
  state = State{};
  state.frames.resize(1);
  Value frame_pointer = Value::pointer(Kind::kStack);
  frame_pointer.frame = 0;
  state.reg(kFrameRegister) = frame_pointer;
  state.reg(1) = entry_context(*this);
  insn_index = 0;
  while (follow_path()) {
    if (pending_.empty()) {
      facts.instructions_max = store_->node(root).remaining.steps;
      finish_facts();
      return check_memory() && check_bound();
    }
    Pending& next = pending_.back();
    pending_bytes_ -= std::min(pending_bytes_, bytes_of(next.state));
    state = std::move(next.state);
    insn_index = next.insn_index;
    trail = std::move(next.trail);
    path_ = next.path;
    const uint32_t from = next.from;
    pending_.pop_back();
    if (log != nullptr) log->path_continued(from, insn_index, state);
  }
  return false;
}

void Engine::finish_facts() {
  for (uint32_t id = 0; id < helper_seen_.size(); ++id)
    if (helper_seen_[id]) facts.helpers_called.push_back(id);
}

bool Engine::check_memory() {
  facts.memory_bytes = 0;
  for (const MapConstraint& map : request.maps) {
    const auto whole = [](uint64_t bytes) { return (bytes + 7) / 8 * 8; };
    const wire::MapSpec& spec = map.spec;
    const bool is_ring = spec.type == BPF_MAP_TYPE_RINGBUF || spec.type == BPF_MAP_TYPE_USER_RINGBUF;
    const uint64_t bytes =
        is_ring ? spec.max_entries
                : multiply_steps(whole(spec.key_size) + whole(spec.value_size), spec.max_entries);
    facts.memory_bytes = add_steps(facts.memory_bytes, bytes);
  }
  for (const uint32_t bytes : facts.stack_bytes) facts.memory_bytes = add_steps(facts.memory_bytes, bytes);
  const uint64_t granted = request.constraints == nullptr ? 0 : request.constraints->memory_below;
  if (granted == 0 || facts.memory_bytes < granted) return true;
  insn_index = 0;
  return refuse(Rule::kBND003, "maps and stack take " + std::to_string(facts.memory_bytes) +
                                   " bytes; fewer than " + std::to_string(granted) + " are granted");
}

bool Engine::check_bound() {
  const Constraints* constraints = request.constraints;
  if (constraints == nullptr || constraints->instructions_below == kInstructionsInfinite) return true;
  uint64_t most = facts.instructions_max;
  // A tail call starts another program of the class, with the same bound, this many times at most.
  if (helper_seen_.size() > BPF_FUNC_tail_call && helper_seen_[BPF_FUNC_tail_call])
    most = multiply_steps(most, kTailCallsMax + 1);
  if (most < constraints->instructions_below) return true;
  insn_index = store_->busiest();
  const std::string bound = most == UINT64_MAX ? "more than 2^64" : "up to " + std::to_string(most);
  return refuse(Rule::kBND001, bound + " instructions may be executed; fewer than " +
                                   std::to_string(constraints->instructions_below) + " are granted");
}

}  // namespace bpftime::verifier

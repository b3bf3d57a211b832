// Generalising states, keeping them, and deciding that a path needs no further exploration.
//
// Rules for whoever edits this file:
// 1. contains() must err to "no": a "yes" ends a path.
// 2. generalise() may only forget. What is stored is what exploration goes on with; nothing else may be compared against.
// 3. An open node is an ancestor of the current path (paths are followed depth first).
#include <algorithm>

#include "verifier/memory.h"
#include "verifier/state_store.h"

namespace bpftime::verifier {
namespace {

constexpr uint32_t kFirstSlotBit = 16;
constexpr uint32_t kFrameRegister = 10;

bool is_untouched(const Slot& slot) {
  return std::all_of(slot.bytes.begin(), slot.bytes.end(),
                     [](Byte byte) { return byte == Byte::kUninitialised; });
}

bool holds_value(const std::array<Byte, kSlotBytes>& bytes) {
  return bytes[0] == Byte::kSpill || bytes[0] == Byte::kDynptr || bytes[0] == Byte::kIterator;
}

uint32_t spill_width(const std::array<Byte, kSlotBytes>& bytes) {
  uint32_t width = 0;
  while (width < kSlotBytes && bytes[width] == Byte::kSpill) ++width;
  return width;
}

bool is_any_number(const Value& value) {
  return value.is_number() && value.id == 0 && value.length_id == 0 && value.scalar == Scalar::unknown();
}

// A slot whose exact contents do not matter: what numbers it holds is forgotten, pointers and dynptrs are kept.
void forget_numbers(Slot& slot) {
  if (slot.bytes[0] == Byte::kSpill && slot.value.is_pointer()) return;
  for (Byte& byte : slot.bytes)
    if (byte == Byte::kSpill || byte == Byte::kZero) byte = Byte::kMisc;
  if (!holds_value(slot.bytes)) slot.value = Value{};
}

// A link that no second value shares says nothing.
void drop_lonely_links(State& state) {
  std::vector<std::pair<uint32_t, uint32_t>> uses;
  const auto count = [&](uint32_t id) {
    if (id == 0) return;
    for (auto& use : uses) {
      if (use.first == id) {
        ++use.second;
        return;
      }
    }
    uses.emplace_back(id, 1);
  };
  bool any = false;
  state.for_each_value([&](Value& value) { any |= value.is_number() && value.id != 0; });
  if (!any) return;
  state.for_each_value([&](Value& value) {
    if (value.is_number()) count(value.id);
  });
  state.for_each_value([&](Value& value) {
    if (!value.is_number() || value.id == 0) return;
    const auto use =
        std::find_if(uses.begin(), uses.end(), [&](const auto& u) { return u.first == value.id; });
    if (use->second > 1) return;
    value.id = 0;
    value.off = 0;
    value.delta32 = false;
  });
}

bool same_plain(const Value& a, const Value& b) {
  return a.kind == b.kind && a.may_be_null == b.may_be_null && a.read_only == b.read_only &&
         a.walked == b.walked && a.alloc_record == b.alloc_record && a.delta32 == b.delta32 &&
         a.frame == b.frame && a.off == b.off && a.index == b.index && a.length_slack == b.length_slack;
}

}  // namespace

uint64_t add_steps(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

uint64_t multiply_steps(uint64_t a, uint64_t b) {
  uint64_t product;
  return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

void Rounds::absorb(const Rounds& other) {
  body = std::max(body, other.body);
  rest = std::max(rest, other.rest);
}

bool IdMap::add(uint32_t old, uint32_t now, bool both_ways) {
  for (const auto& [from, to] : pairs_) {
    if (from == old) return to == now;
    if (both_ways && to == now) return false;
  }
  pairs_.emplace_back(old, now);
  return true;
}

std::pair<FrameBits, FrameBits> frame_bits(const ControlFlow& flow, const State& state, size_t depth,
                                           uint32_t insn) {
  if (depth + 1 == state.frames.size()) return {flow.live[insn], flow.relevant[insn]};
  const Frame& callee = state.frames[depth + 1];
  // A callback comes back to the call itself.
  if (callee.is_callback) return {flow.live[callee.call_site], flow.relevant[callee.call_site]};
  // The stack may be used by the callee, which is what the call's own bits say; r0 to r5 are lost in it.
  FrameBits live = flow.live[callee.call_site], relevant = flow.relevant[callee.call_site];
  for (uint32_t reg = 0; reg <= kFrameRegister; ++reg) {
    live[reg] = reg > 5 && flow.live[callee.call_site + 1][reg];
    relevant[reg] = reg > 5 && flow.relevant[callee.call_site + 1][reg];
  }
  return {live, relevant};
}

void generalise(const ControlFlow& flow, State& state, uint32_t insn) {
  for (size_t depth = 0; depth < state.frames.size(); ++depth) {
    const auto [live, relevant] = frame_bits(flow, state, depth, insn);
    Frame& frame = state.frames[depth];
    for (uint32_t reg = 0; reg < kFrameRegister; ++reg) {
      Value& value = frame.registers[reg];
      if (!live[reg]) {
        value = Value{};
      } else if (!relevant[reg] && value.is_number() && !is_any_number(value)) {
        const uint32_t made_at = value.made_at;
        value = Value::of(Scalar::unknown());
        value.made_at = made_at;
      }
    }
    for (uint32_t i = 0; i < frame.stack.size(); ++i) {
      Slot& slot = frame.stack[i];
      if (!live[kFirstSlotBit + i]) {
        // A dynptr or iterator stays: overwriting one is checked, and it may own something.
        if (slot.bytes[0] != Byte::kDynptr && slot.bytes[0] != Byte::kIterator) slot = Slot{};
      } else if (!relevant[kFirstSlotBit + i]) {
        forget_numbers(slot);
      }
    }
    while (!frame.stack.empty() && is_untouched(frame.stack.back())) frame.stack.pop_back();
  }
  drop_lonely_links(state);
}

StateStore::StateStore(const Request& request, const ControlFlow& flow, Facts& facts, Statistics& statistics)
    : request_(request), flow_(flow), facts_(facts), statistics_(statistics) {
  heads_.assign(request.program.insns.size(), kNoNode);
}

uint32_t StateStore::add_root() {
  nodes_.emplace_back();
  nodes_.back().branches = 1;
  nodes_.back().from.node = kNoNode;
  return static_cast<uint32_t>(nodes_.size() - 1);
}

StoredState StateStore::compact(const State& state) const {
  StoredState out;
  out.references = state.references;
  out.lock = state.lock;
  out.preempt_or_rcu = state.preempt_or_rcu;
  out.callback_rounds = state.callback_rounds;
  out.frames.reserve(state.frames.size());
  for (size_t depth = 0; depth < state.frames.size(); ++depth) {
    const Frame& frame = state.frames[depth];
    out.frames.push_back({frame.subprogram, frame.call_site, frame.callback_depth, frame.is_callback});
    const auto keep = [&](StoredState::Item item, const Value* value) {
      item.frame = static_cast<uint8_t>(depth);
      item.value = kNoNode;
      item.any_number = value != nullptr && is_any_number(*value);
      if (value != nullptr && !item.any_number) {
        item.value = static_cast<uint32_t>(out.values.size());
        out.values.push_back(*value);
      }
      out.items.push_back(item);
    };
    for (uint8_t reg = 0; reg < kFrameRegister; ++reg) {
      const Value& value = frame.registers[reg];
      if (value.kind != Kind::kUninitialised) keep({.is_slot = false, .number = reg}, &value);
    }
    for (size_t i = 0; i < frame.stack.size(); ++i) {
      const Slot& slot = frame.stack[i];
      if (is_untouched(slot)) continue;
      keep({.is_slot = true, .number = static_cast<uint8_t>(i), .bytes = slot.bytes},
           holds_value(slot.bytes) ? &slot.value : nullptr);
    }
  }
  return out;
}

namespace {

uint64_t bytes_of(const StoredState& state) {
  return state.items.capacity() * sizeof(StoredState::Item) + state.values.capacity() * sizeof(Value) +
         state.frames.capacity() * sizeof(StoredState::Call) +
         state.references.capacity() * sizeof(Reference) + 64;
}

}  // namespace

uint32_t StateStore::add(const State& state, uint32_t insn, PathEdge from) {
  uint32_t index;
  if (free_.empty()) {
    index = static_cast<uint32_t>(nodes_.size());
    nodes_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  Node& node = nodes_[index];
  node.insn = insn;
  node.from = from;
  node.branches = 1;
  node.steps_before = add_steps(nodes_[from.node].steps_before, from.count);
  node.state = compact(state);
  node.listed = true;
  node.next = heads_[insn];
  heads_[insn] = index;
  const bool is_round = from.kind == PathEdge::kReturn || from.kind == PathEdge::kAgain;
  node.instance = is_round ? nodes_[from.call].instance : index;
  size_t callbacks = 0;
  for (const Frame& frame : state.frames) callbacks += frame.is_callback;
  node.remaining.outer.resize(callbacks);

  memory_bytes_ += sizeof(Node) + bytes_of(node.state);
  ++statistics_.states_stored;
  statistics_.states_peak = std::max(statistics_.states_peak, ++stored_);
  uint32_t here = 0;
  for (uint32_t i = heads_[insn]; i != kNoNode; i = nodes_[i].next) ++here;
  statistics_.states_per_insn_max = std::max(statistics_.states_per_insn_max, here);
  return index;
}

void StateStore::evict(uint32_t insn, uint32_t before, uint32_t index) {
  Node& node = nodes_[index];
  (before == kNoNode ? heads_[insn] : nodes_[before].next) = node.next;
  node.listed = false;
  if (node.branches == 0) release(index);
}

void StateStore::release(uint32_t index) {
  Node& node = nodes_[index];
  if (node.pinned) return;
  memory_bytes_ -= sizeof(Node) + bytes_of(node.state);
  --stored_;
  node = Node{};
  free_.push_back(index);
}

bool StateStore::same_instance(uint32_t old, uint32_t now) {
  if ((is_entry_instance(old) || is_entry_instance(now)) && old != now) return false;
  return instances_.add(old, now, true);
}

// A length belongs to an object: a buffer loaded from that object later must be as long in both states.
bool StateStore::same_length(uint32_t old, uint32_t now) {
  const uint32_t old_object = length_instance(old), now_object = length_instance(now);
  if (old_object == 0 || now_object == 0) return old == now;
  return is_same_length_member(old, now) && same_instance(old_object, now_object);
}

bool StateStore::contains_value(const Value& old, const Value& now) {
  // A pointer is some number too, but what may be done with numbers may be refused with pointers, as in Linux.
  if (old.kind != now.kind || !old.scalar.contains(now.scalar)) return false;
  // More slack is more knowledge.
  if (old.length_id != 0 && (now.length_id == 0 || now.length_slack < old.length_slack ||
                             !same_length(old.length_id, now.length_id)))
    return false;
  if (old.is_number()) {
    if (old.id == 0) return true;
    return now.id != 0 && old.off == now.off && old.delta32 == now.delta32 &&
           links_.add(old.id, now.id, false);
  }
  if (old.may_be_null != now.may_be_null) return false;
  Value plain = now;
  plain.length_slack = old.length_slack;
  if (!same_plain(old, plain)) return false;
  const bool shrinks = old.kind == Kind::kPacket || old.kind == Kind::kHostBuffer;
  if (shrinks ? old.size > now.size : old.size != now.size) return false;
  if ((old.reference == 0) != (now.reference == 0)) return false;
  if (old.reference != 0 && !references_.add(old.reference, now.reference, true)) return false;
  if (old.instance != 0 && (now.instance == 0 || !same_instance(old.instance, now.instance))) return false;
  if (old.id != 0 && !nulls_.add(old.id, now.id, true)) return false;
  return true;
}

bool StateStore::contains_slot(const StoredState& stored, const StoredState::Item& item, const Slot* slot) {
  static const Slot kUntouched;
  const Slot& now = slot == nullptr ? kUntouched : *slot;
  const bool zero_stack = request_.options.zero_stack;
  const bool has_number = now.bytes[0] == Byte::kSpill && now.value.is_number();
  const uint32_t old_width = spill_width(item.bytes), now_width = spill_width(now.bytes);
  for (uint32_t i = old_width; i < kSlotBytes; ++i) {
    const Byte is = now.bytes[i];
    switch (item.bytes[i]) {
      case Byte::kUninitialised:
        break;
      case Byte::kMisc:
        if (is == Byte::kDynptr || is == Byte::kIterator) return false;
        if (is == Byte::kUninitialised && !zero_stack) return false;
        if (is == Byte::kSpill && !has_number) return false;
        break;
      case Byte::kZero:
        if (is != Byte::kZero && !(is == Byte::kSpill && now.value.is_null())) return false;
        break;
      default:
        if (is != item.bytes[i]) return false;
    }
  }
  if (!holds_value(item.bytes)) return true;
  const Value any = Value::of(Scalar::unknown());
  const Value& old = item.any_number ? any : stored.values[item.value];
  if (item.bytes[0] != Byte::kSpill) return contains_value(old, now.value);
  if (now_width == old_width) return contains_value(old, now.value);
  if (!old.is_number()) return false;
  // Bytes where a number was stored: zero, or anything.
  bool zero = true;
  for (uint32_t i = 0; i < old_width; ++i) {
    const Byte is = now.bytes[i];
    if (is == Byte::kDynptr || is == Byte::kIterator || (is == Byte::kUninitialised && !zero_stack))
      return false;
    if (is == Byte::kSpill && !has_number) return false;
    zero &= is == Byte::kZero;
  }
  const bool power = (old_width & (old_width - 1)) == 0;
  if (!power) return false;
  return contains_value(old, Value::of(zero ? Scalar::constant(0) : Scalar::loaded(old_width, false)));
}

bool StateStore::contains(const StoredState& stored, const State& state) {
  if (stored.frames.size() != state.frames.size() || stored.references.size() != state.references.size() ||
      stored.preempt_or_rcu != state.preempt_or_rcu || stored.lock.held != state.lock.held)
    return false;
  for (size_t i = 0; i < stored.frames.size(); ++i) {
    const StoredState::Call& old = stored.frames[i];
    const Frame& now = state.frames[i];
    // A state met after more rounds was explored for fewer of them.
    if (old.subprogram != now.subprogram || old.call_site != now.call_site ||
        old.is_callback != now.is_callback || old.callback_depth > now.callback_depth)
      return false;
  }
  links_.clear();
  nulls_.clear();
  instances_.clear();
  references_.clear();
  for (size_t i = 0; i < stored.references.size(); ++i) {
    const Reference &old = stored.references[i], &now = state.references[i];
    if (old.kind != now.kind || old.frame != now.frame || !references_.add(old.id, now.id, true))
      return false;
  }
  if (stored.lock.held) {
    const Lock &old = stored.lock, &now = state.lock;
    if (old.is_map != now.is_map || old.map != now.map || !instances_.add(old.instance, now.instance, true))
      return false;
  }
  for (const StoredState::Item& item : stored.items) {
    const Frame& frame = state.frames[item.frame];
    if (item.is_slot) {
      const Slot* slot = item.number < frame.stack.size() ? &frame.stack[item.number] : nullptr;
      if (!contains_slot(stored, item, slot)) return false;
      continue;
    }
    const Value& now = frame.registers[item.number];
    if (item.any_number) {
      if (now.is_number()) continue;
      return false;
    }
    if (!contains_value(stored.values[item.value], now)) return false;
  }
  return true;
}

bool StateStore::same(const StoredState& a, const StoredState& b) {
  if (a.items.size() != b.items.size() || a.frames.size() != b.frames.size() ||
      a.references.size() != b.references.size() || a.callback_rounds != b.callback_rounds)
    return false;
  IdMap ids, references;
  for (size_t i = 0; i < a.references.size(); ++i)
    if (!references.add(a.references[i].id, b.references[i].id, true)) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    const StoredState::Item &x = a.items[i], &y = b.items[i];
    if (x.frame != y.frame || x.is_slot != y.is_slot || x.number != y.number ||
        x.any_number != y.any_number || (x.value == kNoNode) != (y.value == kNoNode) ||
        (x.is_slot && x.bytes != y.bytes))
      return false;
    if (x.value == kNoNode) continue;
    const Value &v = a.values[x.value], &w = b.values[y.value];
    if (!same_plain(v, w) || v.scalar != w.scalar || v.size != w.size || !ids.add(v.id, w.id, true) ||
        !ids.add(v.length_id, w.length_id, true) || !references.add(v.reference, w.reference, true))
      return false;
  }
  return true;
}

void StateStore::adopt(const StoredState& stored, const State& state) {
  for (const StoredState::Item& item : stored.items) {
    if (!item.is_slot) continue;
    const Frame& frame = state.frames[item.frame];
    for (uint32_t i = 0; i < kSlotBytes; ++i) {
      const bool written =
          item.number < frame.stack.size() && frame.stack[item.number].bytes[i] != Byte::kUninitialised;
      if (item.bytes[i] == Byte::kUninitialised || written) continue;
      // The stored path wrote these bytes and may have read them; this one did not write them.
      uint32_t& zeroed = facts_.zeroed_bytes[frame.subprogram];
      zeroed = std::max(zeroed, (item.number + 1u) * kSlotBytes - i);
    }
  }
}

uint32_t StateStore::busiest() const {
  uint32_t insn = 0;
  uint64_t most = 0;
  for (const Node& node : nodes_) {
    const uint64_t steps =
        node.is_call ? multiply_steps(node.trips, node.remaining.own.body) : node.misses + 1;
    if (node.insn == 0 || !(flow_.loop_head[node.insn] || node.is_call) || steps < most) continue;
    most = steps;
    insn = node.insn;
  }
  return insn;
}

// ---- the tree ----

void StateStore::contribute(const PathEdge& edge, const Remaining& rest) {
  Remaining& to = nodes_[edge.node].remaining;
  const auto absorb_outer = [&](size_t shift_from, size_t shift_to) {
    for (size_t i = 0; i + shift_from < rest.outer.size() && i + shift_to < to.outer.size(); ++i)
      to.outer[i + shift_to].absorb(rest.outer[i + shift_from]);
  };
  const uint64_t steps = add_steps(edge.count, rest.steps);
  switch (edge.kind) {
    case PathEdge::kOn:
      to.steps = std::max(to.steps, steps);
      absorb_outer(0, 0);
      break;
    case PathEdge::kRest:
      to.own.rest = std::max(to.own.rest, steps);
      absorb_outer(0, 0);
      break;
    case PathEdge::kBody:
      to.own.body = std::max(to.own.body, steps);
      if (!rest.outer.empty()) to.own.absorb(rest.outer[0]);
      absorb_outer(1, 0);
      break;
    case PathEdge::kReturn: {
      // From past another call, the way out is that call's rest.
      uint64_t& way_out = nodes_[edge.node].is_call ? to.own.rest : to.steps;
      way_out = std::max(way_out, edge.count);
      if (!to.outer.empty()) to.outer[0].absorb(rest.own);
      absorb_outer(0, 1);
      break;
    }
    case PathEdge::kAgain:
      to.own.body = std::max(to.own.body, edge.count);
      to.own.absorb(rest.own);
      absorb_outer(0, 0);
      break;
  }
}

void StateStore::ended(PathEdge path, const Remaining& rest) {
  contribute(path, rest);
  uint32_t index = path.node;
  while (--nodes_[index].branches == 0) {
    Node& node = nodes_[index];
    if (node.is_call)
      node.remaining.steps =
          add_steps(multiply_steps(node.trips, node.remaining.own.body), node.remaining.own.rest);
    const PathEdge from = node.from;
    if (from.node != kNoNode) contribute(from, node.remaining);
    if (!node.listed && from.node != kNoNode) release(index);
    if (from.node == kNoNode) return;
    index = from.node;
  }
}

void StateStore::lean(PathEdge path, uint32_t call) {
  // How far out the call is, seen from each stored state on the way back to it.
  int32_t level = -1;
  while (true) {
    if (path.kind == PathEdge::kReturn) ++level;
    if (path.kind == PathEdge::kBody) --level;
    if (path.node == call || path.node == kNoNode) break;
    Node& node = nodes_[path.node];
    const bool known = std::any_of(node.leans_on.begin(), node.leans_on.end(), [&](const Node::Lean& lean) {
      return lean.call == call && lean.level == level;
    });
    if (!known) node.leans_on.push_back({call, level});
    path = node.from;
  }
  nodes_[call].pinned = true;
}

bool StateStore::may_end_at(uint32_t index, const PathEdge& path, const State& state) const {
  for (const Node::Lean& lean : nodes_[index].leans_on) {
    const Node& call = nodes_[lean.call];
    if (call.branches == 0) {
      const bool finished = std::all_of(call.leans_on.begin(), call.leans_on.end(),
                                        [&](const Node::Lean& l) { return nodes_[l.call].branches == 0; });
      if (!finished) return false;
      continue;
    }
    uint32_t instance = kNoNode;
    if (lean.level < 0) {
      if (path.kind == PathEdge::kReturn || path.kind == PathEdge::kAgain)
        instance = nodes_[path.call].instance;
    } else {
      int32_t level = 0;
      for (size_t i = state.frames.size(); i-- > 0;) {
        if (!state.frames[i].is_callback) continue;
        if (level++ == lean.level) instance = nodes_[state.frames[i].callback_node].instance;
      }
    }
    if (instance != call.instance) return false;
  }
  return true;
}

Remaining StateStore::remaining(uint32_t index) {
  Remaining out = nodes_[index].remaining;
  for (const Node::Lean& lean : nodes_[index].leans_on) {
    if (nodes_[lean.call].branches != 0) continue;  // the path is in a round of it, which will count it
    const Remaining call =
        nodes_[lean.call].leans_on.empty() ? nodes_[lean.call].remaining : remaining(lean.call);
    const auto level = static_cast<size_t>(lean.level + 1);
    if (level == 0) {
      out.own.absorb(call.own);
    } else if (level <= out.outer.size()) {
      out.outer[level - 1].absorb(call.own);
    }
    for (size_t i = 0; i < call.outer.size() && level + i < out.outer.size(); ++i)
      out.outer[level + i].absorb(call.outer[i]);
  }
  return out;
}

}  // namespace bpftime::verifier

// Conditional jumps: which ways are possible, and what each way teaches about the operands and all that is linked with them.
//
// Rules for whoever edits this file:
//  1. The way that is not jumped is gone on with, the other is put aside, as Linux does: the first error is then the same.
//  2. A way is dropped only if it is impossible for every concrete value; doubt follows both.
//  3. What is learned of a register holds for every value with its id in any frame, registers and spilled ones.
#include <algorithm>

#include "program/instructions.h"
#include "verifier/engine.h"
#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

constexpr uint64_t kPacketBytesMax = 0xffff;  // MAX_PACKET_OFF

// A conditional jump with its operands as they were before.
struct Comparison {
  uint8_t op;
  bool is64;
  uint32_t left_reg, right_reg;
  bool has_right_reg;
  Value left, right;  // right: the constant, if there is no register
};

bool is_equality(uint8_t op) { return op == BPF_JEQ || op == BPF_JNE; }
bool is_packet(const Value& value) {
  return value.kind == Kind::kPacket || value.kind == Kind::kPacketMeta || value.kind == Kind::kPacketEnd;
}

Comparison read_comparison(const Engine& engine, const Insn& insn) {
  Comparison c;
  c.op = BPF_OP(insn.code);
  c.is64 = BPF_CLASS(insn.code) == BPF_JMP;
  c.left_reg = insn.dst_reg;
  c.right_reg = insn.src_reg;
  c.has_right_reg = BPF_SRC(insn.code) == BPF_X;
  c.left = engine.state.reg(c.left_reg);
  c.right = c.has_right_reg
                ? engine.state.reg(c.right_reg)
                : Value::of(Scalar::constant(static_cast<uint64_t>(static_cast<int64_t>(insn.imm))));
  return c;
}

// Pointers that cannot be null wherever they point: not those that only Linux's own rules keep from being null.
bool is_never_null(const Value& value) {
  if (value.may_be_null || value.walked) return false;
  switch (value.kind) {
    case Kind::kMap:
    case Kind::kMapValue:
    case Kind::kMapKey:
    case Kind::kMemory:
    case Kind::kDynptr:
    case Kind::kKernelObject:
    case Kind::kHostObject:
    case Kind::kHostBuffer:
    case Kind::kHandle:
      return true;
    default:
      return false;
  }
}

Outcome decide(const Comparison& c) {
  if (c.left.is_number() && c.right.is_number()) return compare(c.op, c.is64, c.left.scalar, c.right.scalar);
  // The low half of an address says nothing.
  if (!c.is64 || !is_equality(c.op)) return Outcome::kUnknown;
  const bool tests_left = c.right.is_null() && is_never_null(c.left);
  const bool tests_right = c.left.is_null() && is_never_null(c.right);
  if (!tests_left && !tests_right) return Outcome::kUnknown;
  return c.op == BPF_JNE ? Outcome::kAlways : Outcome::kNever;
}

// ---- numbers ----

// Narrows the operands in `state` for one way. False: that way is impossible.
bool narrow(State& state, const Comparison& c, bool taken) {
  if (!c.left.is_number() || !c.right.is_number()) return true;
  Value right = c.right;
  Value& left = state.reg(c.left_reg);
  if (!assume(c.op, c.is64, taken, left.scalar, right.scalar)) return false;
  if (c.has_right_reg && c.left_reg == c.right_reg) {
    // A register compared with itself: it has the bounds of either side.
    if (!intersect(left.scalar, right.scalar)) return false;
  } else if (c.has_right_reg) {
    state.reg(c.right_reg).scalar = right.scalar;
  }
  learn_lengths(state, c.op, c.is64, taken, left, c.has_right_reg ? state.reg(c.right_reg) : right);
  if (c.has_right_reg && right.id != 0) update_links(state, Value(state.reg(c.right_reg)));
  if (left.id != 0) update_links(state, Value(left));
  return true;
}

// The comparison contradicts what was known: only the operands' known bits are kept. Any set is right where no value is left.
void forget_ranges(State& state, const Comparison& c) {
  const auto forget = [&](uint32_t number, const Value& before) {
    Value& value = state.reg(number);
    if (!value.is_number()) return;
    Scalar bits = Scalar::unknown();
    bits.bits = before.scalar.bits;
    value.scalar = bits.normalise() ? bits : Scalar::unknown();
    if (value.id != 0) update_links(state, Value(value));
  };
  forget(c.left_reg, c.left);
  if (c.has_right_reg) forget(c.right_reg, c.right);
}

// What a value linked with `known` is, as far as the link tells.
Scalar through_link(const Value& known, const Value& other) {
  const auto add = [](const Scalar& number, int64_t delta, bool low_half) {
    return apply_alu(BPF_ADD, !low_half, false, number, Scalar::constant(static_cast<uint64_t>(delta)));
  };
  if (known.off == other.off && (known.off == 0 || known.delta32 == other.delta32)) return known.scalar;
  const int64_t back = -static_cast<int64_t>(known.off), forth = other.off;
  // Both deltas in one step where they are of the same width: two steps could wrap in between and lose bounds.
  if (known.off == 0 || known.delta32 == other.delta32) return add(known.scalar, back + forth, other.delta32);
  if (other.off == 0) return add(known.scalar, back, known.delta32);
  return add(add(known.scalar, back, known.delta32), forth, other.delta32);
}

// ---- null ----

void test_null(Engine& engine, State& state, const Comparison& c, bool equal) {
  const uint32_t id = state.reg(c.left_reg).id;
  if (id != 0) {
    resolve_null(engine, state, id, equal);
    return;
  }
  Value& value = state.reg(c.left_reg);
  if (equal) {
    value = Value::of(Scalar::constant(0));
    value.made_at = engine.insn_index;
  } else {
    value.may_be_null = false;
  }
}

// Equal to a pointer that is not null: not null either. Only this register, as in Linux.
void learn_from_equal_pointer(State& state, const Comparison& c) {
  if (c.left.may_be_null == c.right.may_be_null) return;
  const Value& certain = c.left.may_be_null ? c.right : c.left;
  if (certain.walked || c.left.kind == Kind::kKernelObject || c.right.kind == Kind::kKernelObject) return;
  state.reg(c.left.may_be_null ? c.left_reg : c.right_reg).may_be_null = false;
}

// ---- packets ----

// `pointer` lies at most at the end of its packet (`below`: before it): so many bytes are there for all of the same base.
void prove_packet(State& state, const Value& pointer, bool below) {
  if (pointer.off < 0 || (pointer.off == 0 && below)) return;
  const uint64_t farthest = pointer.scalar.umax;
  const uint64_t fixed = static_cast<uint64_t>(pointer.off);
  // Beyond that the sum could wrap, and the comparison would prove nothing.
  if (farthest > kPacketBytesMax || farthest + fixed > kPacketBytesMax) return;
  const uint32_t bytes = static_cast<uint32_t>(pointer.off) + (below ? 1 : 0);
  state.for_each_value([&](Value& value) {
    if (value.kind == pointer.kind && value.id == pointer.id) value.size = std::max(value.size, bytes);
  });
}

bool is_packet_start(const Value& value) {
  return value.kind == Kind::kPacket && value.off == 0 && value.id == 0 && value.scalar.is_const() &&
         value.scalar.value() == 0;
}

bool bounds_packet(const Value& pointer, const Value& end) {
  return (pointer.kind == Kind::kPacket && end.kind == Kind::kPacketEnd) ||
         (pointer.kind == Kind::kPacketMeta && is_packet_start(end));
}

// Packet pointers against the end of theirs. False: it is another comparison.
bool learn_from_packet_end(const Comparison& c, State& through, State& taken) {
  if (!c.has_right_reg || !c.is64) return false;
  uint8_t op = c.op;
  const Value* pointer = &c.left;
  if (!bounds_packet(c.left, c.right)) {
    if (!bounds_packet(c.right, c.left)) return false;
    pointer = &c.right;
    // end OP pointer is pointer OP' end.
    switch (op) {
      case BPF_JGT:
        op = BPF_JLT;
        break;
      case BPF_JLT:
        op = BPF_JGT;
        break;
      case BPF_JGE:
        op = BPF_JLE;
        break;
      case BPF_JLE:
        op = BPF_JGE;
        break;
      default:
        return false;
    }
  }
  switch (op) {
    case BPF_JGT:
      prove_packet(through, *pointer, false);
      return true;
    case BPF_JLE:
      prove_packet(taken, *pointer, false);
      return true;
    case BPF_JGE:
      prove_packet(through, *pointer, true);
      return true;
    case BPF_JLT:
      prove_packet(taken, *pointer, true);
      return true;
    default:
      return false;
  }
}

// ---- both ways ----

bool refuse_comparison(Engine& engine, uint32_t reg) {
  return engine.refuse_register(Rule::kTYP006, reg,
                                "the pointer in `r" + std::to_string(reg) + "` is compared with a number",
                                "R" + std::to_string(reg) + " pointer comparison prohibited");
}

// What a comparison of pointers teaches the two ways.
bool learn_from_pointers(Engine& engine, const Comparison& c, State& through, State& taken) {
  if (c.is64 && c.has_right_reg && c.left.is_pointer() && c.right.is_pointer() && is_equality(c.op))
    learn_from_equal_pointer(c.op == BPF_JEQ ? taken : through, c);
  if (c.is64 && !c.has_right_reg && c.right.is_null() && is_equality(c.op) && c.left.is_pointer() &&
      c.left.may_be_null) {
    test_null(engine, through, c, c.op == BPF_JNE);
    test_null(engine, taken, c, c.op == BPF_JEQ);
    return true;
  }
  if (learn_from_packet_end(c, through, taken)) return true;
  // Whether the host has a pointer there at all is no secret: loads through it are repaired, so nothing was to be proved.
  if (c.is64 && !c.has_right_reg && c.right.is_null() && is_equality(c.op) && c.left.walked) return true;
  if (c.left.is_pointer() && !engine.request.options.allow_pointer_leaks)
    return refuse_comparison(engine, c.left_reg);
  return true;
}

bool check_operands(Engine& engine, const Insn& insn) {
  if (BPF_SRC(insn.code) != BPF_X) return true;
  const Value &left = engine.state.reg(insn.dst_reg), &right = engine.state.reg(insn.src_reg);
  if (engine.request.options.allow_pointer_leaks || !right.is_pointer()) return true;
  return (is_packet(left) && is_packet(right)) || refuse_comparison(engine, insn.src_reg);
}

}  // namespace

bool step_branch(Engine& engine) {
  const Insn insn = engine.insn();
  if (!check_operands(engine, insn)) return false;
  const Comparison c = read_comparison(engine, insn);
  const uint32_t at = engine.insn_index;
  const uint32_t next = at + 1, target = static_cast<uint32_t>(static_cast<int64_t>(next) + insn.off);

  // Ordinary programs: as Linux, which never takes back that a way is possible once the comparison was not decided.
  const bool as_linux = engine.request.constraints == nullptr;
  const Outcome outcome = decide(c);
  bool may_take = outcome != Outcome::kNever, may_pass = outcome != Outcome::kAlways;
  State taken;
  if (outcome == Outcome::kUnknown) {
    taken = engine.state;
    may_take = narrow(taken, c, true);
    may_pass = narrow(engine.state, c, false);
    if (as_linux && !may_take) forget_ranges(taken, c);
    if (as_linux && !may_pass) forget_ranges(engine.state, c);
    if (as_linux) may_take = may_pass = true;
    if (may_take && !may_pass) engine.state = std::move(taken);
    // Neither is possible only in a state that is itself impossible; both are followed.
    if (!may_take && !may_pass) may_take = may_pass = true;
  }

  InsnFacts& facts = engine.facts.insns[at];
  facts.reached_taken |= may_take;
  facts.reached_through |= may_pass;
  if (!may_pass || !may_take) {
    engine.insn_index = may_take ? target : next;
    return true;
  }
  if (!learn_from_pointers(engine, c, engine.state, taken)) return false;
  if (!engine.push_branch(std::move(taken), target, Branch{at, true})) return false;
  engine.insn_index = next;
  return true;
}

void resolve_null(Engine& engine, State& state, uint32_t id, bool is_null) {
  bool acquired = false;
  state.for_each_value([&](Value& value) {
    if (!value.is_pointer() || !value.may_be_null || value.id != id) return;
    acquired |= value.reference == id;
    if (is_null) {
      const uint32_t made_at = value.made_at;
      value = Value::of(Scalar::constant(0));
      value.made_at = made_at;
    } else {
      value.may_be_null = false;
      value.id = 0;
    }
  });
  (void)engine;
  if (!is_null || !acquired) return;
  std::erase_if(state.references, [id](const Reference& reference) { return reference.id == id; });
}

void update_links(State& state, const Value& known) {
  if (known.id == 0 || !known.is_number()) return;
  state.for_each_value([&](Value& value) {
    if (!value.is_number() || value.id != known.id) return;
    // Contradiction: the path cannot be; what was known before stays true.
    Scalar narrowed = value.scalar;
    if (intersect(narrowed, through_link(known, value))) value.scalar = narrowed;
    // Equal values are bounded by the same length.
    const bool equal = known.off == value.off && (known.off == 0 || known.delta32 == value.delta32);
    if (equal && value.length_id == 0) {
      value.length_id = known.length_id;
      value.length_slack = known.length_slack;
    }
  });
}

}  // namespace bpftime::verifier

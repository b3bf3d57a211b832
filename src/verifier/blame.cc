#include "verifier/blame.h"

#include <algorithm>

#include "program/instructions.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

std::string quoted(const std::string& name) { return "`" + name + "`"; }

// ---- operands in words ----

std::string bytes(uint64_t count) { return std::to_string(count) + (count == 1 ? " byte" : " bytes"); }

bool unbounded(const Scalar& s) {
  return s.smin == INT64_MIN && s.smax == INT64_MAX && s.umin == 0 && s.umax == UINT64_MAX;
}

// "[0, 255]"; half-open knowledge in words.
std::string range(const Scalar& s) {
  if (s.is_const()) {
    const auto value = static_cast<int64_t>(s.value());
    return std::to_string(value);
  }
  if (unbounded(s)) {
    if (s.umin32 == 0 && s.umax32 == UINT32_MAX) return "any number";
    return "any number (low 32 bits in [" + std::to_string(s.umin32) + ", " + std::to_string(s.umax32) + "])";
  }
  if (s.smin >= 0) return "[" + std::to_string(s.umin) + ", " + std::to_string(s.umax) + "]";
  // Both ranges say something where the sign is not known.
  if (s.smin == INT64_MIN && s.smax == INT64_MAX)
    return "[" + std::to_string(s.umin) + ", " + std::to_string(s.umax) + "] (unsigned)";
  return "[" + std::to_string(s.smin) + ", " + std::to_string(s.smax) + "]";
}

std::string offset_of(const Value& value) {
  if (!value.scalar.is_const() && value.off == 0) return ", offset in " + range(value.scalar);
  if (!value.scalar.is_const()) return ", offset " + std::to_string(value.off) + " + " + range(value.scalar);
  return ", offset " + std::to_string(value.off + static_cast<int64_t>(value.scalar.value()));
}

std::string map_name(const Engine& engine, uint32_t index) {
  if (index >= engine.request.maps.size()) return "?";
  const std::string& name = engine.request.maps[index].name;
  return name.empty() ? "map " + std::to_string(index) : name;
}

std::string view_name(const Engine& engine, uint32_t index) {
  const Constraints* constraints = engine.request.constraints;
  if (constraints == nullptr || index >= constraints->views.size()) return "object";
  return constraints->views[index].type;
}

std::string pointee(const Engine& engine, const Value& value) {
  switch (value.kind) {
    case Kind::kContext:
      return "context";
    case Kind::kStack:
      return "stack";
    case Kind::kMap:
      return "map " + map_name(engine, value.index);
    case Kind::kMapValue:
      if (value.index >= engine.request.maps.size()) return "map_value";
      return "map_value(" + map_name(engine, value.index) + ", " +
             bytes(engine.request.maps[value.index].spec.value_size) + ")";
    case Kind::kMapKey:
      return "map_key(" + map_name(engine, value.index) + ")";
    case Kind::kMemory:
      return "memory(" + bytes(value.size) + ")";
    case Kind::kPacket:
      return "packet(" + bytes(value.size) + " checked)";
    case Kind::kPacketEnd:
      return "end of packet";
    case Kind::kPacketMeta:
      return "packet metadata";
    case Kind::kFunction:
      return "function";
    case Kind::kDynptr:
      return "dynptr";
    case Kind::kKernelObject:
      return "kernel object";
    case Kind::kHostObject:
      return "host object " + view_name(engine, value.index) + (value.walked ? " (read from the host)" : "");
    case Kind::kHostBuffer:
      return "host buffer(" + (value.length_id != 0 ? std::string("of checked length") : bytes(value.size)) +
             ")";
    case Kind::kHandle:
      return "handle";
    case Kind::kUninitialised:
    case Kind::kScalar:
      break;
  }
  return "number";
}

// ---- where it comes from ----

enum class Origin { kCall, kLocalCall, kLoad, kStackLoad, kConstant, kArithmetic, kMove, kOther };

Origin origin_of(const Engine& engine, uint32_t insn_index) {
  const auto& insns = engine.request.program.insns;
  if (insn_index >= insns.size()) return Origin::kOther;
  const Insn& insn = insns[insn_index];
  switch (BPF_CLASS(insn.code)) {
    case BPF_LDX:
      return insn.src_reg == program::kFrameRegister ? Origin::kStackLoad : Origin::kLoad;
    case BPF_LD:
      return program::is_load_imm64(insn) ? Origin::kConstant : Origin::kLoad;
    case BPF_STX:
      return Origin::kLoad;  // an atomic that fetches
    case BPF_ALU:
    case BPF_ALU64:
      if (BPF_OP(insn.code) != BPF_MOV) return Origin::kArithmetic;
      return BPF_SRC(insn.code) == BPF_X ? Origin::kMove : Origin::kConstant;
    case BPF_JMP:
      if (BPF_OP(insn.code) != BPF_CALL) return Origin::kOther;
      return program::is_local_call(insn) ? Origin::kLocalCall : Origin::kCall;
    default:
      return Origin::kOther;
  }
}

bool is_null_rule(Rule rule) { return rule == Rule::kNUL001 || rule == Rule::kNUL002; }

std::string null_text(Origin origin) {
  switch (origin) {
    case Origin::kCall:
    case Origin::kLocalCall:
      return "null comes from this call";
    case Origin::kLoad:
      return "this load may give null";
    default:
      return "it may be null since here";
  }
}

std::string made_text(const Value& value, const std::string& name, Origin origin) {
  if (value.kind == Kind::kUninitialised) {
    if (origin == Origin::kCall || origin == Origin::kLocalCall)
      return quoted(name) + " does not survive this call";
    return quoted(name) + " has no value since here";
  }
  if (value.is_pointer())
    return quoted(name) + (origin == Origin::kCall ? " comes from this call" : " is made here");
  switch (origin) {
    case Origin::kCall:
    case Origin::kLocalCall:
      return quoted(name) + " is the result of this call";
    case Origin::kLoad:
    case Origin::kStackLoad:
      return quoted(name) + " is a number loaded here";
    case Origin::kConstant:
      return quoted(name) + " gets a constant here";
    default:
      return quoted(name) + " becomes a number here";
  }
}

// For pointers: what happened to the number that was added.
std::string lost_text(const Value& value, const std::string& name, Origin origin) {
  const bool bounded =
      value.is_pointer() && value.scalar.smin > -kOffsetMax && value.scalar.smax < kOffsetMax;
  const bool is_load = origin == Origin::kLoad || origin == Origin::kStackLoad;
  const bool is_call = origin == Origin::kCall || origin == Origin::kLocalCall;
  const std::string place = is_load ? "this load" : is_call ? "this call" : "here";
  if (bounded) return "what is added to " + quoted(name) + " comes from " + place;
  const std::string what = value.is_pointer() ? "the offset of " + quoted(name) : quoted(name);
  if (is_load || is_call) return what + " has no known bound since " + place;
  return what + " loses its bound here";
}

void add_cause(const Engine& engine, std::vector<Cause>& causes, uint32_t insn, std::string text) {
  if (insn == engine.insn_index || causes.size() == kCausesMax) return;
  const bool known =
      std::any_of(causes.begin(), causes.end(), [&](const Cause& cause) { return cause.insn == insn; });
  if (!known) causes.push_back({insn, std::move(text)});
}

}  // namespace

std::string describe_operand(const Engine& engine, const Value& value, const std::string& name) {
  if (value.kind == Kind::kUninitialised) return name + " = no value";
  if (value.is_number()) {
    const std::string numbers = range(value.scalar);
    return name + " = " + (numbers.starts_with("[") ? "a number in " + numbers : numbers);
  }
  std::string text = name + " = " + pointee(engine, value);
  if (value.may_be_null) text += " or null";
  return text + offset_of(value);
}

std::vector<Cause> blame_value(const Engine& engine, Rule rule, const Value& value, const std::string& name) {
  std::vector<Cause> causes;
  if (is_null_rule(rule) && value.may_be_null) {
    add_cause(engine, causes, value.made_at, null_text(origin_of(engine, value.made_at)));
    return causes;
  }
  if (value.lost_at != 0)
    add_cause(engine, causes, value.lost_at, lost_text(value, name, origin_of(engine, value.lost_at)));
  if (value.reference != 0)
    for (const Reference& reference : engine.state.references)
      if (reference.id == value.reference) add_cause(engine, causes, reference.acquired_at, "acquired here");
  // What is there from the start (context, frame pointer) was made by nothing.
  const bool from_start = value.made_at == 0 && (value.kind == Kind::kContext || value.kind == Kind::kStack ||
                                                 value.kind == Kind::kUninitialised);
  if (!from_start)
    add_cause(engine, causes, value.made_at, made_text(value, name, origin_of(engine, value.made_at)));
  // Nearest first: the path runs forward, but for loops. A stable sort of a few; std::stable_sort calls what C++17 deprecates.
  const auto nearer = [](const Cause& a, const Cause& b) { return a.insn > b.insn; };
  for (auto cause = causes.begin(); cause != causes.end(); ++cause)
    std::rotate(std::upper_bound(causes.begin(), cause, *cause, nearer), cause, cause + 1);
  return causes;
}

std::vector<Cause> blame_register(const Engine& engine, Rule rule, uint32_t number) {
  return blame_value(engine, rule, engine.state.reg(number), "r" + std::to_string(number));
}

}  // namespace bpftime::verifier

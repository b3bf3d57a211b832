// Numbers and pointers in registers: BPF_ALU, BPF_ALU64 and ld_imm64.
//
// Rules for whoever edits this file (operands are known to have values, and r10 not to be written: explore.cc):
//  1. Every write to a register goes through set(): it stamps made_at and drops what the old value was linked to.
//  2. Pointers move by bounded numbers only, and only within plus or minus kOffsetMax: memory.cc adds offsets without
//     looking for overflow.
//  3. What Linux 6.18 forgets (quotients, shifts by unknown counts) is forgotten for ordinary programs too, so that they
//     get the same verdict; classes of extensions get the precise result.
#include <algorithm>
#include <bit>

#include "program/instructions.h"
#include "verifier/engine.h"
#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

constexpr int kAddressSpaceCast = 1;  // `off` of a BPF_MOV | BPF_X: between a program's and a user's arena

std::string name(uint32_t reg) { return "`r" + std::to_string(reg) + "`"; }
std::string linux_name(uint32_t reg) { return "R" + std::to_string(reg); }

// "+=", as the disassembler writes it.
const char* symbol(uint8_t op) {
  switch (op) {
    case BPF_ADD:
      return "+=";
    case BPF_SUB:
      return "-=";
    case BPF_MUL:
      return "*=";
    case BPF_DIV:
      return "/=";
    case BPF_OR:
      return "|=";
    case BPF_AND:
      return "&=";
    case BPF_LSH:
      return "<<=";
    case BPF_RSH:
      return ">>=";
    case BPF_MOD:
      return "%=";
    case BPF_XOR:
      return "^=";
    case BPF_ARSH:
      return "s>>=";
    default:
      return "=";
  }
}

bool is_bounded(const Scalar& number) {
  return number.umax != UINT64_MAX || number.smin != INT64_MIN || number.smax != INT64_MAX;
}

// Where precision was lost: here, if the operands had bounds and the result has none; else where they lost theirs.
uint32_t loss(const Engine& engine, const Value& result, const Value& a, const Value& b) {
  if (is_bounded(result.scalar)) return 0;
  if (a.is_number() && !is_bounded(a.scalar)) return a.lost_at != 0 ? a.lost_at : a.made_at;
  if (b.is_number() && !is_bounded(b.scalar)) return b.lost_at != 0 ? b.lost_at : b.made_at;
  return engine.insn_index;
}

void set(Engine& engine, uint32_t reg, Value value, uint32_t lost_at = 0) {
  value.made_at = engine.insn_index;
  value.lost_at = lost_at;
  engine.state.reg(reg) = value;
}

bool is_32(const Insn& insn) { return BPF_CLASS(insn.code) == BPF_ALU; }
bool uses_register(const Insn& insn) { return BPF_SRC(insn.code) == BPF_X; }

// ---- moves ----

// Copies share an id from now on. A constant needs none. A value that is itself a link plus a delta cannot carry a second
// delta, so it starts anew.
void link_copies(Engine& engine, Value& source) {
  if (source.id != 0 && (source.off != 0 || source.delta32)) {
    source.id = 0;
    source.off = 0;
    source.delta32 = false;
  }
  if (source.id == 0 && !source.scalar.is_const()) source.id = engine.new_id();
}

// A number moved whole or in part: `kept`: the destination equals the source. The length a number is bounded by goes along.
void move_number(Engine& engine, const Insn& insn, bool kept, const Scalar& moved) {
  Value& source = engine.state.reg(insn.src_reg);
  if (kept) link_copies(engine, source);
  Value result = source;
  result.scalar = moved;
  if (!kept) {
    const Scalar number = result.scalar;
    result = Value::of(number);
  }
  set(engine, insn.dst_reg, result,
      source.lost_at != 0 ? source.lost_at : loss(engine, result, source, source));
}

bool move_register(Engine& engine, const Insn& insn) {
  const uint32_t bits = static_cast<uint32_t>(insn.off);
  const Value& source = engine.state.reg(insn.src_reg);
  if (source.is_number()) {
    // Signs are extended only if the sign bit may be set.
    const bool fits = bits == 0 ? !is_32(insn) || source.scalar.umax <= UINT32_MAX
                                : source.scalar.umax < 1ull << (bits - 1);
    Scalar moved = source.scalar;
    if (bits != 0 && !fits) moved = sign_extend(source.scalar, bits, !is_32(insn));
    if (bits == 0 && !fits) moved = zero_extend_32(source.scalar);
    move_number(engine, insn, fits, moved);
    return true;
  }
  if (bits == 0 && !is_32(insn)) {
    Value copy = source;
    const uint32_t made_at = source.made_at;
    set(engine, insn.dst_reg, copy, source.lost_at);
    engine.state.reg(insn.dst_reg).made_at = made_at;  // where a null comes from
    return true;
  }
  if (!engine.request.options.allow_pointer_leaks) {
    const std::string what = bits != 0 ? " sign-extension part of pointer" : " partial copy of pointer";
    if (!engine.refuse_register(Rule::kTYP006, insn.src_reg,
                                "part of the pointer in " + name(insn.src_reg) + " is used as a number",
                                linux_name(insn.src_reg) + what))
      return false;
  }
  const Scalar part = is_32(insn) ? zero_extend_32(Scalar::unknown()) : Scalar::unknown();
  set(engine, insn.dst_reg, Value::of(part), engine.insn_index);
  return true;
}

bool move(Engine& engine, const Insn& insn) {
  if (uses_register(insn)) {
    if (!is_32(insn) && insn.off == kAddressSpaceCast) {
      return engine.refuse(Rule::kENC001, "address spaces exist in programs with an arena only",
                           "addr_space_cast insn can only be used in a program that has an associated arena");
    }
    return move_register(engine, insn);
  }
  const uint64_t number =
      is_32(insn) ? static_cast<uint32_t>(insn.imm) : static_cast<uint64_t>(static_cast<int64_t>(insn.imm));
  set(engine, insn.dst_reg, Value::of(Scalar::constant(number)));
  return true;
}

// BPF_NEG and BPF_END: one operand.
bool change_in_place(Engine& engine, const Insn& insn) {
  const Value before = engine.state.reg(insn.dst_reg);
  // To the own byte order, all bytes: nothing happens, and links stay.
  if (before.is_number() && insn.code == (BPF_ALU | BPF_END | BPF_TO_LE) && insn.imm == 64 &&
      std::endian::native == std::endian::little)
    return true;
  Value result = Value::of(Scalar::unknown());
  if (before.is_pointer()) {
    if (!engine.request.options.allow_pointer_leaks &&
        !engine.refuse_register(Rule::kTYP003, insn.dst_reg,
                                "the pointer in " + name(insn.dst_reg) + " cannot be negated or swapped",
                                linux_name(insn.dst_reg) + " pointer arithmetic prohibited"))
      return false;
  } else if (BPF_OP(insn.code) == BPF_NEG) {
    result.scalar = negate(before.scalar, !is_32(insn));
  } else {
    const bool unconditional = !is_32(insn);
    result.scalar = byte_swap(before.scalar, static_cast<uint32_t>(insn.imm), BPF_SRC(insn.code) == BPF_TO_BE,
                              unconditional);
  }
  set(engine, insn.dst_reg, result, loss(engine, result, before, before));
  return true;
}

// ---- numbers ----

bool linux_forgets(uint8_t op, const Scalar& source, bool wide) {
  if (op == BPF_DIV || op == BPF_MOD) return true;
  if (op != BPF_LSH && op != BPF_RSH && op != BPF_ARSH) return false;
  const uint64_t width = wide ? 64 : 32;
  return !source.is_const() || source.umax >= width;
}

// The sum or difference with a constant stays linked to what the operand was linked to.
void keep_link(const Insn& insn, const Value& before, const Value& source, Value& result) {
  const uint8_t op = BPF_OP(insn.code);
  const bool same_register = uses_register(insn) && insn.src_reg == insn.dst_reg;
  if ((op != BPF_ADD && op != BPF_SUB) || before.id == 0 || !source.scalar.is_const() || same_register)
    return;
  if (before.off != 0 || before.delta32) return;  // one delta only
  int64_t delta = static_cast<int64_t>(source.scalar.value());
  if (is_32(insn)) {
    // The linked value must be its own low half, or nothing could be told of it from the sum.
    if (before.scalar.umax > UINT32_MAX) return;
    delta = static_cast<int32_t>(delta);
  }
  if (op == BPF_SUB) delta = delta == INT64_MIN ? delta : -delta;
  if (delta < INT32_MIN || delta > INT32_MAX) return;
  result.id = before.id;
  result.off = static_cast<int32_t>(delta);
  result.delta32 = is_32(insn);
}

void compute(Engine& engine, const Insn& insn, const Value& source) {
  const uint8_t op = BPF_OP(insn.code);
  const Value before = engine.state.reg(insn.dst_reg);
  Value result = Value::of(Scalar::unknown());
  if (engine.request.constraints != nullptr || !linux_forgets(op, source.scalar, !is_32(insn)))
    result.scalar = apply_alu(op, !is_32(insn), insn.off == 1, before.scalar, source.scalar);
  keep_link(insn, before, source, result);
  if (!is_32(insn) && (op == BPF_ADD || op == BPF_SUB) && source.scalar.is_const()) {
    const uint64_t addend = op == BPF_ADD ? source.scalar.value() : 0 - source.scalar.value();
    shift_length(before, static_cast<int64_t>(addend), result);
  }
  set(engine, insn.dst_reg, result, loss(engine, result, before, source));
}

// ---- pointers ----

bool may_move(const Value& pointer, const Value& number, uint8_t op) {
  switch (pointer.kind) {
    case Kind::kMap:
      return op == BPF_ADD && number.is_null();
    case Kind::kPacketEnd:
    case Kind::kHandle:
      return false;
    default:
      return true;
  }
}

bool is_sane(Engine& engine, uint32_t reg, const Value& offset, const std::string& type) {
  const Scalar& number = offset.scalar;
  const int64_t value = static_cast<int64_t>(number.bits.value);
  if (number.is_const() && (value >= kOffsetMax || value <= -kOffsetMax)) {
    return engine.refuse_register(
        Rule::kMEM008, reg, std::to_string(value) + " is too far to move a pointer",
        "math between " + type + " pointer and " + std::to_string(value) + " is not allowed");
  }
  if (offset.is_pointer() && (offset.off >= kOffsetMax || offset.off <= -kOffsetMax)) {
    return engine.refuse_register(Rule::kMEM008, reg,
                                  "the pointer is moved by " + std::to_string(offset.off) + " bytes, too far",
                                  type + " pointer offset " + std::to_string(offset.off) + " is not allowed");
  }
  if (number.smin == INT64_MIN) {
    return engine.refuse_register(
        Rule::kMEM008, reg,
        "the number in " + name(reg) + " has no lower bound, so no pointer may move by it",
        "math between " + type + " pointer and register with unbounded min value is not allowed");
  }
  if (number.smin >= kOffsetMax || number.smin <= -kOffsetMax) {
    return engine.refuse_register(
        Rule::kMEM008, reg, "moves the pointer by " + std::to_string(number.smin) + " bytes or more, too far",
        "value " + std::to_string(number.smin) + " makes " + type + " pointer be out of bounds");
  }
  return true;
}

bool refuse_pointer_operator(Engine& engine, uint32_t reg, uint8_t op) {
  const bool bitwise = op == BPF_AND || op == BPF_OR || op == BPF_XOR;
  const std::string words =
      bitwise ? std::string(" bitwise operator ") + symbol(op) + " on pointer prohibited"
              : std::string(" pointer arithmetic with ") + symbol(op) + " operator prohibited";
  return engine.refuse_register(Rule::kTYP003, reg,
                                std::string("`") + symbol(op) + "` on the pointer in " + name(reg),
                                linux_name(reg) + words);
}

// A pointer read from the host may be anything already: loads through it are repaired wherever it is moved.
bool is_repaired(const Value& pointer) { return pointer.walked && pointer.kind == Kind::kHostObject; }

// What may not be done whatever the numbers are. `reversed`: number OP pointer.
bool check_pointer_operands(Engine& engine, const Insn& insn, const Value& pointer, const Value& number) {
  const uint32_t reg = insn.dst_reg;
  const std::string type = type_name(pointer);
  if (pointer.may_be_null && !is_repaired(pointer) &&
      !engine.refuse_register(
          Rule::kNUL002, pointer.kind == engine.state.reg(reg).kind ? reg : insn.src_reg,
          "arithmetic on a pointer that may be null",
          linux_name(reg) + " pointer arithmetic on " + type + " prohibited, null-check it first"))
    return false;
  if (!may_move(pointer, number, BPF_OP(insn.code)) &&
      !engine.refuse_register(Rule::kTYP003, reg, "a pointer of type " + type + " cannot be moved",
                              linux_name(reg) + " pointer arithmetic on " + type + " prohibited"))
    return false;
  return true;
}

// A new variable part: packets forget what was proved of the old place.
void vary(Engine& engine, Value& result, uint8_t op, const Value& number) {
  if (result.kind == Kind::kHostBuffer && op == BPF_ADD) index_buffer(result, number);
  result.scalar = apply_alu(op, true, false, result.scalar, number.scalar);
  if (result.kind != Kind::kPacket && result.kind != Kind::kPacketMeta) return;
  result.id = engine.new_id();
  if (op == BPF_ADD || number.scalar.smin < 0) result.size = 0;
}

bool move_pointer(Engine& engine, const Insn& insn, const Value& pointer, const Value& number,
                  bool reversed) {
  const uint8_t op = BPF_OP(insn.code);
  const uint32_t reg = insn.dst_reg;
  if (is_32(insn)) {
    if ((op != BPF_SUB || !engine.request.options.allow_pointer_leaks) &&
        !engine.refuse_register(Rule::kTYP004, reg,
                                "32-bit arithmetic on the pointer in " + name(reversed ? insn.src_reg : reg),
                                linux_name(reg) + " 32-bit pointer arithmetic prohibited"))
      return false;
    set(engine, reg, Value::of(Scalar::unknown()), engine.insn_index);
    return true;
  }
  if (!check_pointer_operands(engine, insn, pointer, number)) return false;
  const std::string type = type_name(pointer);
  const uint32_t number_reg = reversed ? reg : uses_register(insn) ? insn.src_reg : reg;
  if (!is_sane(engine, number_reg, number, type) || !is_sane(engine, reg, pointer, type)) return false;

  if (op == BPF_SUB && reversed) {
    if (!engine.refuse_register(Rule::kTYP003, reg, "a pointer is subtracted from the number in " + name(reg),
                                linux_name(reg) + " tried to subtract pointer from scalar"))
      return false;
  } else if (op == BPF_SUB && pointer.kind == Kind::kStack) {
    if (!engine.refuse_register(Rule::kTYP003, reg,
                                "subtraction from a stack pointer; add a negative number instead",
                                linux_name(reg) + " subtraction from stack pointer prohibited"))
      return false;
  } else if (op != BPF_ADD && op != BPF_SUB) {
    if (!refuse_pointer_operator(engine, reg, op)) return false;
    set(engine, reg, Value::of(Scalar::unknown()), engine.insn_index);
    return true;
  }

  Value result = pointer;
  if (is_repaired(pointer)) {
    // Whether it was null is no longer to be seen from it, nor the other way round.
    result.may_be_null = false;
    result.id = 0;
  }
  const int64_t step = std::clamp(static_cast<int64_t>(number.scalar.bits.value), -kOffsetMax, kOffsetMax);
  const int64_t fixed = pointer.off + (op == BPF_ADD ? step : -step);
  if (number.scalar.is_const() && fixed == static_cast<int32_t>(fixed)) {
    result.off = static_cast<int32_t>(fixed);
  } else {
    vary(engine, result, op, number);
  }
  if (!is_sane(engine, number_reg, result, type)) return false;
  const uint32_t made_at = pointer.made_at;
  const uint32_t lost_at = number.lost_at != 0 ? number.lost_at : number.made_at;
  set(engine, reg, result, number.scalar.is_const() ? pointer.lost_at : lost_at);
  engine.state.reg(reg).made_at = made_at;  // where the object comes from
  return true;
}

bool combine_pointers(Engine& engine, const Insn& insn) {
  const uint8_t op = BPF_OP(insn.code);
  if ((op != BPF_SUB || !engine.request.options.allow_pointer_leaks) &&
      !engine.refuse_register(Rule::kTYP003, insn.dst_reg,
                              std::string("`") + symbol(op) + "` between the pointers in " +
                                  name(insn.dst_reg) + " and " + name(insn.src_reg),
                              linux_name(insn.dst_reg) + " pointer " + symbol(op) + " pointer prohibited"))
    return false;
  set(engine, insn.dst_reg, Value::of(Scalar::unknown()), engine.insn_index);
  return true;
}

// Constants that have a meaning but that Linux calls mistakes.
bool check_constant(Engine& engine, const Insn& insn) {
  const uint8_t op = BPF_OP(insn.code);
  if ((op == BPF_DIV || op == BPF_MOD) && insn.imm == 0)
    return engine.refuse(Rule::kTYP008, "division by the constant 0", "div by zero");
  const int32_t width = is_32(insn) ? 32 : 64;
  const bool shifts = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
  if (shifts && (insn.imm < 0 || insn.imm >= width)) {
    return engine.refuse(
        Rule::kTYP008, "a shift of a " + std::to_string(width) + "-bit number by " + std::to_string(insn.imm),
        "invalid shift " + std::to_string(insn.imm));
  }
  return true;
}

bool operate(Engine& engine, const Insn& insn) {
  if (!uses_register(insn) && !check_constant(engine, insn)) return false;

  const Value left = engine.state.reg(insn.dst_reg);
  Value right = Value::of(Scalar::constant(static_cast<uint64_t>(static_cast<int64_t>(insn.imm))));
  if (uses_register(insn)) right = engine.state.reg(insn.src_reg);
  if (left.is_pointer() && right.is_pointer()) return combine_pointers(engine, insn);
  if (right.is_pointer()) return move_pointer(engine, insn, right, left, true);
  if (left.is_pointer()) return move_pointer(engine, insn, left, right, false);
  compute(engine, insn, right);
  return true;
}

// ---- ld_imm64 ----

bool load_map_value(Engine& engine, const Insn& insn, uint32_t offset) {
  const MapConstraint& map = engine.request.maps[static_cast<uint32_t>(insn.imm)];
  if (map.spec.type != BPF_MAP_TYPE_ARRAY || map.spec.max_entries != 1) {
    if (!engine.refuse(Rule::kFUN004, "only the value of an array of one entry has an address of its own",
                       "no direct value access support for this map type"))
      return false;
  }
  if (offset >= map.spec.value_size &&
      !engine.refuse(Rule::kMEM009,
                     "offset " + std::to_string(offset) + " in a map value of " +
                         std::to_string(map.spec.value_size) + " bytes",
                     offset >= static_cast<uint32_t>(kOffsetMax)
                         ? "direct value offset of " + std::to_string(offset) + " is not allowed"
                         : "invalid access to map value pointer, value_size=" +
                               std::to_string(map.spec.value_size) + " off=" + std::to_string(offset)))
    return false;
  Value value = Value::pointer(Kind::kMapValue);
  value.index = static_cast<uint32_t>(insn.imm);
  value.off = static_cast<int32_t>(offset);
  value.read_only = (map.spec.flags & BPF_F_RDONLY_PROG) != 0;
  set(engine, insn.dst_reg, value);
  return true;
}

bool load_function(Engine& engine, const Insn& insn) {
  const auto target = program::call_target(insn, engine.insn_index);
  const uint32_t start = static_cast<uint32_t>(target.value_or(0));
  const uint32_t index = start < engine.flow.subprogram_of.size() ? engine.flow.subprogram_of[start] : 0;
  if (engine.request.func_info.empty() &&
      !engine.refuse(Rule::kFUN009, "callbacks need the program's function information",
                     "missing btf func_info"))
    return false;
  if (engine.flow.subprograms[index].is_global &&
      !engine.refuse(Rule::kFUN009, "the callback is not static", "callback function not static"))
    return false;
  Value value = Value::pointer(Kind::kFunction);
  value.index = index;
  set(engine, insn.dst_reg, value);
  return true;
}

}  // namespace

bool check_readable(Engine& engine, uint32_t reg) {
  if (engine.state.reg(reg).kind != Kind::kUninitialised) return true;
  if (!engine.refuse_register(Rule::kTYP001, reg, name(reg) + " has no value here",
                              linux_name(reg) + " !read_ok"))
    return false;
  engine.state.reg(reg) = Value::of(Scalar::unknown());
  return true;
}

bool step_arithmetic(Engine& engine) {
  const Insn insn = engine.insn();
  switch (BPF_OP(insn.code)) {
    case BPF_MOV:
      return move(engine, insn);
    case BPF_NEG:
    case BPF_END:
      return change_in_place(engine, insn);
    default:
      return operate(engine, insn);
  }
}

bool step_load_immediate(Engine& engine) {
  const Insn insn = engine.insn();
  const Insn& second = engine.request.program.insns[engine.insn_index + 1];
  switch (insn.src_reg) {
    case 0:
      set(engine, insn.dst_reg, Value::of(Scalar::constant(program::imm64(insn, second))));
      return true;
    case BPF_PSEUDO_MAP_FD:
    case BPF_PSEUDO_MAP_VALUE: {
      if (static_cast<uint32_t>(insn.imm) >= engine.request.maps.size())
        return engine.refuse(Rule::kENC001, "there is no such map", "fd is not pointing to valid bpf_map");
      if (insn.src_reg == BPF_PSEUDO_MAP_VALUE)
        return load_map_value(engine, insn, static_cast<uint32_t>(second.imm));
      Value map = Value::pointer(Kind::kMap);
      map.index = static_cast<uint32_t>(insn.imm);
      set(engine, insn.dst_reg, map);
      return true;
    }
    case BPF_PSEUDO_FUNC:
      return load_function(engine, insn);
    case BPF_PSEUDO_BTF_ID:
      if (engine.request.constraints != nullptr) return load_host_global(engine);
      [[fallthrough]];
    default:
      return engine.refuse(Rule::kFUN006, "an address inside the kernel", "invalid bpf_ld_imm64 insn");
  }
}

}  // namespace bpftime::verifier

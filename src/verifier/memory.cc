// Access through a register: which memory it is, whether the access lies inside, may be done, and what it gives.
//
// Two rules hold throughout. An access is allowed only by the branch of its kind of memory: what falls through is refused.
// And `off + scalar` is always the whole offset: `off` is what was added as constants, `scalar` the variable rest.
#include "verifier/memory.h"

#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "program/instructions.h"

namespace bpftime::verifier {
namespace {

using program::Insn;

constexpr uint32_t kSpinLockBytes = 4, kTimerBytes = 16;
// The network stack puts packets two bytes beyond an 8-byte boundary (NET_IP_ALIGN) where alignment matters.
constexpr int64_t kPacketAlignment = 2;

const wire::MapSpec& value_spec(const Engine& engine, const Value& value) {
  const MapConstraint& map = engine.request.maps[value.index];
  // Elements of a map of maps are maps, so a value with its index is one of an inner map.
  return map.inner ? *map.inner : map.spec;
}

// ---- regions with a known size ----

// "invalid access to map value, value_size=48 off=48 size=8"
std::string outside(const Value& base, uint32_t reg, int64_t offset, uint32_t size, uint32_t region) {
  const std::string place = " off=" + std::to_string(offset) + " size=" + std::to_string(size);
  switch (base.kind) {
    case Kind::kMapValue:
      return "invalid access to map value, value_size=" + std::to_string(region) + place;
    case Kind::kMapKey:
      return "invalid access to map key, key_size=" + std::to_string(region) + place;
    case Kind::kPacket:
    case Kind::kPacketMeta:
      return "invalid access to packet, off=" + std::to_string(offset) + " size=" + std::to_string(size) +
             ", " + reg_name(reg) + "(id=" + std::to_string(base.id) + ",off=" + std::to_string(offset) +
             ",r=" + std::to_string(region) + ")";
    default:
      return "invalid access to memory, mem_size=" + std::to_string(region) + place;
  }
}

std::string region_name(const Engine& engine, const Value& base, uint32_t region) {
  switch (base.kind) {
    case Kind::kMapValue:
      return "the " + std::to_string(region) + "-byte value of map `" + engine.request.maps[base.index].name +
             "`";
    case Kind::kMapKey:
      return "the " + std::to_string(region) + "-byte key of map `" + engine.request.maps[base.index].name +
             "`";
    case Kind::kPacket:
    case Kind::kPacketMeta:
      return "the " + std::to_string(region) + " bytes that are proved to be in the packet";
    case Kind::kHostBuffer:
      return "the " + std::to_string(region) + " bytes that are proved to be in the buffer";
    default:
      return "a memory of " + std::to_string(region) + " bytes";
  }
}

bool within(int64_t offset, uint32_t size, uint32_t region) {
  return offset >= 0 && static_cast<uint64_t>(offset) + size <= region;
}

bool refuse_negative(Engine& engine, uint32_t reg) {
  return engine.refuse_register(
      Rule::kMEM001, reg, "the offset may be negative",
      reg_name(reg) + " min value is negative, either use unsigned index or do a if (index >=0) check.");
}

// Linux: check_mem_region_access.
bool check_region(Engine& engine, uint32_t reg, const Value& base, int64_t offset, uint32_t size,
                  uint32_t region) {
  const Scalar& variable = base.scalar;
  const int64_t low =
      static_cast<int64_t>(static_cast<uint64_t>(variable.smin) + static_cast<uint64_t>(offset));
  const bool low_fits = low == static_cast<int32_t>(low);
  if (variable.smin < 0 && (variable.smin == INT64_MIN || !low_fits || low < 0)) {
    if (variable.is_const())
      return engine.refuse_register(
          Rule::kMEM001, reg, bytes_at(size, low) + " of " + region_name(engine, base, region),
          reg_name(reg) + " min value is negative, either use unsigned index or do a if (index >=0) check.");
    return refuse_negative(engine, reg);
  }
  if (!within(low, size, region)) {
    return engine.refuse_register(low < 0 ? Rule::kMEM001 : Rule::kMEM002, reg,
                                  bytes_at(size, low) + " of " + region_name(engine, base, region),
                                  outside(base, reg, low, size, region) + "\n" + reg_name(reg) +
                                      " min value is outside of the allowed memory range");
  }
  if (variable.umax >= static_cast<uint64_t>(kOffsetMax)) {
    return engine.refuse_register(
        Rule::kMEM003, reg, "the offset into " + region_name(engine, base, region) + " has no upper bound",
        reg_name(reg) + " unbounded memory access, make sure to bounds check any such access");
  }
  const int64_t high = static_cast<int64_t>(variable.umax) + offset;
  if (!within(high, size, region)) {
    return engine.refuse_register(
        Rule::kMEM002, reg, "up to " + bytes_at(size, high) + " of " + region_name(engine, base, region),
        outside(base, reg, high, size, region) + "\n" + reg_name(reg) +
            " max value is outside of the allowed memory range");
  }
  return true;
}

// Linux: check_packet_access. What is proved counts from the packet pointer with its variable part, so only the
// fixed offset matters.
bool check_packet(Engine& engine, uint32_t reg, const Value& base, int64_t offset, uint32_t size) {
  if (base.scalar.smin < 0) return refuse_negative(engine, reg);
  if (within(offset, size, base.size)) return true;
  return engine.refuse_register(offset < 0 ? Rule::kMEM001 : Rule::kMEM002, reg,
                                bytes_at(size, offset) + " of " + region_name(engine, base, base.size),
                                outside(base, reg, offset, size, base.size) + "\n" + reg_name(reg) +
                                    " offset is outside of the packet");
}

// ---- map values ----

bool check_map_rights(Engine& engine, uint32_t reg, const Value& base, int64_t offset, uint32_t size,
                      Access access) {
  const wire::MapSpec& spec = value_spec(engine, base);
  const bool write = access == Access::kWrite;
  if (!(spec.flags & (write ? BPF_F_RDONLY_PROG : BPF_F_WRONLY_PROG))) return true;
  const std::string place = ", value_size=" + std::to_string(spec.value_size) +
                            " off=" + std::to_string(static_cast<int64_t>(base.scalar.smin) + offset) +
                            " size=" + std::to_string(size);
  return engine.refuse_register(Rule::kMEM005, reg,
                                "map `" + engine.request.maps[base.index].name + "` is " +
                                    (write ? "read-only" : "write-only") + " for programs",
                                (write ? "write into map forbidden" : "read from map forbidden") + place);
}

bool check_special_field(Engine& engine, uint32_t reg, const Value& base, int64_t offset, uint32_t size,
                         std::optional<uint32_t> field, uint32_t field_size, const char* name) {
  if (!field) return true;
  const int64_t low = base.scalar.smin + offset;
  const int64_t high = static_cast<int64_t>(base.scalar.umax) + offset + size;
  if (low >= static_cast<int64_t>(*field) + field_size || static_cast<int64_t>(*field) >= high) return true;
  return engine.refuse_register(
      Rule::kLCK002, reg,
      std::string("the access touches the ") + name + " at offset " + std::to_string(*field),
      std::string(name) + " cannot be accessed directly by load/store");
}

bool check_map_value(Engine& engine, uint32_t reg, const Value& base, int64_t offset, uint32_t size,
                     Access access) {
  const MapConstraint& map = engine.request.maps[base.index];
  if (!check_map_rights(engine, reg, base, offset, size, access) ||
      !check_region(engine, reg, base, offset, size, value_spec(engine, base).value_size))
    return false;
  if (map.inner) return true;
  return check_special_field(engine, reg, base, offset, size, map.spin_lock, kSpinLockBytes,
                             "bpf_spin_lock") &&
         check_special_field(engine, reg, base, offset, size, map.timer, kTimerBytes, "bpf_timer");
}

// The bytes of a frozen read-only map are constants of the program.
Value load_map_value(const Engine& engine, const Value& base, int64_t offset, uint32_t size) {
  const MapConstraint& map = engine.request.maps[base.index];
  const bool constant = !map.inner && map.frozen && (map.spec.flags & BPF_F_RDONLY_PROG) &&
                        map.spec.type == BPF_MAP_TYPE_ARRAY && base.scalar.is_const();
  const uint64_t place = base.scalar.value() + static_cast<uint64_t>(offset);
  // Only the first element's bytes are known; a pointer from a look-up may be to another one.
  const bool first_element = base.instance == 0 || map.spec.max_entries == 1;
  if (!constant || !first_element || place > map.contents.size() || size > map.contents.size() - place)
    return loaded_number(engine, size);
  uint64_t number = 0;
  std::memcpy(&number, map.contents.data() + place, size);
  Value value = Value::of(Scalar::constant(number));
  value.made_at = engine.insn_index;
  return value;
}

// ---- all kinds ----

// Linux: check_ptr_alignment. x86 and arm64 take any address, so this matters where the kinds of bytes are tracked
// (the stack), for atomics, and when the loader asks for strictness.
bool check_alignment(Engine& engine, const Value& base, const Touch& touch) {
  const bool strict = engine.request.options.strict_alignment || touch.atomic || base.kind == Kind::kStack;
  if (!strict || touch.size == 1) return true;
  const bool packet = base.kind == Kind::kPacket || base.kind == Kind::kPacketMeta;
  const int64_t fixed = base.off + touch.offset + (packet ? kPacketAlignment : 0);
  const uint64_t low_bits = touch.size - 1;
  const bool aligned =
      ((base.scalar.bits.mask | (base.scalar.bits.value + static_cast<uint64_t>(fixed))) & low_bits) == 0;
  if (aligned) return true;
  const char* what = base.kind == Kind::kStack      ? "stack "
                     : base.kind == Kind::kContext  ? "context "
                     : base.kind == Kind::kMapValue ? "value "
                     : base.kind == Kind::kMapKey   ? "key "
                     : packet                       ? "packet "
                                                    : "";
  std::string linux_message = std::string("misaligned ") + what + "access off ";
  if (packet) linux_message += std::to_string(kPacketAlignment) + "+";
  linux_message += describe_bits(base.scalar.bits) + "+" + std::to_string(base.off) + "+" +
                   std::to_string(touch.offset) + " size " + std::to_string(touch.size);
  return engine.refuse_register(base.kind == Kind::kStack ? Rule::kSTK003 : Rule::kMEM006, touch.reg,
                                std::to_string(touch.size) +
                                    " bytes at an address that may not be a multiple of " +
                                    std::to_string(touch.size),
                                linux_message);
}

bool check_leak(Engine& engine, const Touch& touch, const char* where) {
  if (!touch.stored || !touch.stored->is_pointer() || engine.request.options.allow_pointer_leaks) return true;
  return engine.refuse(Rule::kTYP006, std::string("a pointer would be stored in ") + where,
                       reg_name(engine.insn().src_reg) + " leaks addr into " + where);
}

bool refuse_no_pointer(Engine& engine, const Value& base, uint32_t reg) {
  const std::string linux_message = reg_name(reg) + " invalid mem access '" + linux_type_name(base) + "'";
  if (base.may_be_null)
    return engine.refuse_register(Rule::kNUL001, reg, "`r" + std::to_string(reg) + "` may be null",
                                  linux_message);
  if (base.is_null())
    return engine.refuse_register(Rule::kNUL001, reg, "`r" + std::to_string(reg) + "` is null",
                                  linux_message);
  if (base.is_number())
    return engine.refuse_register(Rule::kMEM004, reg, "`r" + std::to_string(reg) + "` is a number",
                                  linux_message);
  return engine.refuse_register(Rule::kMEM004, reg,
                                "`r" + std::to_string(reg) + "` is a " + linux_type_name(base) +
                                    ", which cannot be read or written directly",
                                linux_message);
}

// Linux: check_ptr_off_reg. The compiler may translate a context access only when it knows the field.
bool check_context_pointer(Engine& engine, const Value& base, uint32_t reg) {
  if (base.off < 0)
    return engine.refuse_register(
        Rule::kCTX002, reg, "the context pointer was moved by " + std::to_string(base.off),
        "negative offset ctx ptr " + reg_name(reg) + " off=" + std::to_string(base.off) + " disallowed");
  if (base.off != 0)
    return engine.refuse_register(Rule::kCTX002, reg,
                                  "the context pointer was moved by " + std::to_string(base.off),
                                  "dereference of modified ctx ptr " + reg_name(reg) +
                                      " off=" + std::to_string(base.off) + " disallowed");
  if (!base.scalar.is_const() || base.scalar.value() != 0)
    return engine.refuse_register(
        Rule::kCTX002, reg, "the context pointer was moved by an unknown number",
        "variable ctx access var_off=" + describe_bits(base.scalar.bits) + " disallowed");
  return true;
}

bool access_context(Engine& engine, const Value& base, const Touch& touch) {
  if (touch.access == Access::kWrite && !check_leak(engine, touch, "ctx")) return false;
  if (!check_context_pointer(engine, base, touch.reg)) return false;
  const int64_t offset = touch.offset + base.off;
  if (touch.access == Access::kRead) return read_context(engine, touch.reg, offset, touch.size, touch.loaded);
  return write_context(engine, touch.reg, offset, touch.size,
                       touch.stored ? *touch.stored : loaded_number(engine, touch.size));
}

bool access_packet(Engine& engine, const Value& base, const Touch& touch) {
  const uint32_t type = engine.request.program.type;
  const bool may_write =
      type == BPF_PROG_TYPE_XDP || type == BPF_PROG_TYPE_SCHED_CLS || type == BPF_PROG_TYPE_SCHED_ACT;
  if (touch.access == Access::kWrite && !may_write &&
      !engine.refuse_register(Rule::kMEM005, touch.reg, "programs of this type may not write to packets",
                              "cannot write into packet"))
    return false;
  if (touch.access == Access::kWrite && !check_leak(engine, touch, "packet")) return false;
  return check_packet(engine, touch.reg, base, touch.offset + base.off, touch.size);
}

bool access_by_kind(Engine& engine, const Value& base, const Touch& touch) {
  const int64_t offset = touch.offset + base.off;
  const bool write = touch.access == Access::kWrite;
  // What was read from the host may dangle, so that loads through it are repaired: a null pointer is only the harmless case of
  // that. `if (r->c) use(r->c->x)` loads the pointer twice, and no test of one says anything about the other.
  const bool repaired = base.walked && base.kind == Kind::kHostObject;
  if ((base.may_be_null && !repaired) || !base.is_pointer())
    return refuse_no_pointer(engine, base, touch.reg);
  switch (base.kind) {
    case Kind::kStack:
      return write ? write_stack(engine, touch.reg, base.frame, base.scalar, offset, touch.size, touch.stored)
                   : read_stack(engine, touch.reg, base.frame, base.scalar, offset, touch.size, touch.loaded);
    case Kind::kContext:
      return access_context(engine, base, touch);
    case Kind::kMapValue:
      if (write && !check_leak(engine, touch, "map")) return false;
      if (!check_map_value(engine, touch.reg, base, offset, touch.size, touch.access)) return false;
      if (touch.loaded) *touch.loaded = load_map_value(engine, base, offset, touch.size);
      return true;
    case Kind::kMapKey:
      if (write && !engine.refuse_register(Rule::kMEM005, touch.reg, "keys of a map cannot be changed",
                                           "write to change key " + reg_name(touch.reg) + " not allowed"))
        return false;
      return check_region(engine, touch.reg, base, offset, touch.size, value_spec(engine, base).key_size);
    case Kind::kMemory:
      if (write && base.read_only &&
          !engine.refuse_register(Rule::kMEM005, touch.reg, "the memory is read-only",
                                  reg_name(touch.reg) + " cannot write into " + linux_type_name(base)))
        return false;
      if (write && !check_leak(engine, touch, "mem")) return false;
      return check_region(engine, touch.reg, base, offset, touch.size, base.size);
    case Kind::kPacket:
    case Kind::kPacketMeta:
      return access_packet(engine, base, touch);
    case Kind::kHostObject:
      return access_object(engine, base, touch);
    case Kind::kHostBuffer:
      return access_buffer(engine, base, touch);
    default:
      return refuse_no_pointer(engine, base, touch.reg);
  }
}

bool access_memory(Engine& engine, const Touch& touch) {
  if (!check_readable(engine, touch.reg)) return false;
  const Value base = engine.state.reg(touch.reg);
  if (touch.loaded) *touch.loaded = loaded_number(engine, touch.size);
  if (base.is_pointer() && !check_alignment(engine, base, touch)) return false;
  if (!access_by_kind(engine, base, touch)) return false;
  if (!touch.loaded || !touch.loaded->is_number() || touch.size == 8) return true;
  Value& loaded = *touch.loaded;
  if (touch.sign_extended) {
    // The number is no longer the one it was linked with.
    loaded.scalar = sign_extend(loaded.scalar, 8 * touch.size, true);
    loaded.id = 0;
    loaded.off = 0;
    loaded.delta32 = false;
    loaded.length_id = 0;
    loaded.length_slack = 0;
  }
  return true;
}

// Kinds whose accesses are compiled differently from all others.
bool has_own_code(Kind kind) { return kind == Kind::kContext || kind == Kind::kKernelObject; }

// Remembers what the current instruction accesses, for all paths. Linux: save_aux_ptr_type.
bool remember_kind(Engine& engine, const Value& base) {
  if (engine.accessed.size() <= engine.insn_index) engine.accessed.resize(engine.insn_index + 1);
  Kind& first = engine.accessed[engine.insn_index];
  InsnFacts& facts = engine.facts.insns[engine.insn_index];
  const bool own_map = base.kind == Kind::kMapValue && !engine.request.maps[base.index].inner;
  if (first == Kind::kUninitialised) {
    first = base.kind;
    facts.same_map = own_map;
    facts.map = own_map ? base.index : 0;
    return true;
  }
  if (!own_map || facts.map != base.index) facts.same_map = false;
  if (first == base.kind || (!has_own_code(first) && !has_own_code(base.kind))) return true;
  return engine.refuse_register(Rule::kTYP005,
                                engine.insn().code & BPF_STX ? engine.insn().dst_reg : engine.insn().src_reg,
                                "another path accesses a different kind of memory here",
                                "same insn cannot be used with different pointers");
}

bool writable_register(Engine& engine, uint32_t reg) {
  return reg != program::kFrameRegister ||
         engine.refuse(Rule::kTYP007, "a load would change `r10`", "frame pointer is read only");
}

// Loads through `address` into `target`.
bool load_register(Engine& engine, uint32_t address, uint32_t target, bool sign_extended, bool atomic) {
  if (!check_readable(engine, address) || !writable_register(engine, target)) return false;
  const Insn& insn = engine.insn();
  const Value base = engine.state.reg(address);
  Value loaded;
  Touch touch{address, insn.off, program::access_bytes(insn), Access::kRead};
  touch.sign_extended = sign_extended;
  touch.atomic = atomic;
  touch.loaded = &loaded;
  if (!access_memory(engine, touch) || !remember_kind(engine, base)) return false;
  engine.state.reg(target) = loaded;
  return true;
}

// A number that is about to be spilled gets an id, so that what is learnt of it later reaches the copy on the stack.
void link_before_spill(Engine& engine, Value& source, const Value& target, uint32_t size) {
  if (target.kind != Kind::kStack || !source.is_number() || source.id != 0 || source.scalar.is_const())
    return;
  if (size < 8 && source.scalar.umax >= 1ull << (8 * size)) return;
  source.id = engine.new_id();
  source.off = 0;
  source.delta32 = false;
}

bool store_register(Engine& engine, bool atomic) {
  const Insn& insn = engine.insn();
  if (!check_readable(engine, insn.src_reg) || !check_readable(engine, insn.dst_reg)) return false;
  const Value base = engine.state.reg(insn.dst_reg);
  const uint32_t size = program::access_bytes(insn);
  link_before_spill(engine, engine.state.reg(insn.src_reg), base, size);
  const Value stored = engine.state.reg(insn.src_reg);
  Touch touch{insn.dst_reg, insn.off, size, Access::kWrite};
  touch.atomic = atomic;
  touch.stored = &stored;
  return access_memory(engine, touch) && remember_kind(engine, base);
}

// BPF_LD_ABS and BPF_LD_IND end the program when the packet is too short.
bool step_legacy_load(Engine& engine) {
  const Insn& insn = engine.insn();
  const uint32_t type = engine.request.program.type;
  const bool has_packet = type == BPF_PROG_TYPE_SOCKET_FILTER || type == BPF_PROG_TYPE_SCHED_CLS ||
                          type == BPF_PROG_TYPE_SCHED_ACT;
  if (!has_packet && !engine.refuse(Rule::kENC001, "packet loads do not exist in programs of this type",
                                    "BPF_LD_[ABS|IND] instructions not allowed for this program type"))
    return false;
  constexpr uint32_t kPacketContext = 6;
  if (!check_readable(engine, kPacketContext)) return false;
  if (!check_no_references(engine, "BPF_LD_[ABS|IND]")) return false;
  if (engine.state.lock.held &&
      !engine.refuse(Rule::kLCK001, "a packet load may end the program while the lock is held",
                     "BPF_LD_[ABS|IND] cannot be used inside bpf_spin_lock-ed region"))
    return false;
  const Value context = engine.state.reg(kPacketContext);
  if (context.kind != Kind::kContext)
    return refuse_register_as(engine, EINVAL, Rule::kTYP002, kPacketContext,
                              "packet loads need the context in `r6`",
                              "at the time of BPF_LD_ABS|IND R6 != pointer to skb");
  if (BPF_MODE(insn.code) == BPF_IND && !check_readable(engine, insn.src_reg)) return false;
  if (!check_context_pointer(engine, context, kPacketContext)) return false;
  engine.facts.context_escapes = true;
  for (uint32_t reg = 0; reg <= 5; ++reg) engine.state.reg(reg) = Value();
  engine.state.reg(0) = loaded_number(engine, 8);
  return true;
}

bool check_atomic_target(Engine& engine, uint32_t reg, const char* does) {
  const Value& base = engine.state.reg(reg);
  const Kind kind = base.kind;
  if (kind != Kind::kContext && kind != Kind::kPacket && kind != Kind::kPacketMeta &&
      kind != Kind::kPacketEnd)
    return true;
  return engine.refuse_register(
      Rule::kMEM004, reg, std::string("atomic operations on ") + linux_type_name(base) + " do not exist",
      std::string("BPF_ATOMIC ") + does + " " + reg_name(reg) + " " + linux_type_name(base) +
          " is not allowed");
}

bool check_atomic_operand(Engine& engine, uint32_t reg) {
  if (!check_readable(engine, reg)) return false;
  return engine.state.reg(reg).is_number() || engine.request.options.allow_pointer_leaks ||
         engine.refuse_register(Rule::kTYP006, reg, "a pointer would be stored",
                                reg_name(reg) + " leaks addr into mem");
}

// `lock *(u32 *)(r1 + 8) |= r2`, which changes the bits that may be set in r2, and `&=`, those that may be clear.
std::optional<bool> step_change_of_bits(Engine& engine, const Value& base, const Touch& touch) {
  const Insn& insn = engine.insn();
  const Value& operand = engine.state.reg(insn.src_reg);
  if (base.kind != Kind::kHostObject || base.may_be_null || !operand.is_number()) return std::nullopt;
  const Tnum& bits = operand.scalar.bits;
  if (insn.imm != BPF_OR && insn.imm != BPF_AND) return std::nullopt;
  const uint64_t changed = insn.imm == BPF_OR ? bits.value | bits.mask : ~bits.value;
  return change_bits(engine, base, touch, changed & size_bits(touch.size));
}

bool step_atomic_update(Engine& engine) {
  const Insn& insn = engine.insn();
  const bool fetches = insn.imm & BPF_FETCH;
  const bool exchanges_compared = insn.imm == BPF_CMPXCHG;
  if (!check_readable(engine, insn.src_reg) || !check_readable(engine, insn.dst_reg)) return false;
  if (exchanges_compared && !check_atomic_operand(engine, 0)) return false;
  if (!check_atomic_operand(engine, insn.src_reg) ||
      !check_atomic_target(engine, insn.dst_reg, "stores into"))
    return false;
  if (fetches && !exchanges_compared && !writable_register(engine, insn.src_reg)) return false;

  const Value base = engine.state.reg(insn.dst_reg);
  const bool host = base.kind == Kind::kHostObject || base.kind == Kind::kHostBuffer;
  if (host && engine.state.reg(insn.src_reg).is_pointer() &&
      !engine.refuse_register(Rule::kTYP006, insn.src_reg, "a pointer would be stored in memory of the host",
                              reg_name(insn.src_reg) + " leaks addr into mem"))
    return false;
  Touch touch{insn.dst_reg, insn.off, program::access_bytes(insn), Access::kRead};
  touch.atomic = true;
  if (const auto answer = step_change_of_bits(engine, base, touch))
    return *answer && check_alignment(engine, base, touch) && remember_kind(engine, base);
  if (!access_memory(engine, touch)) return false;
  Value loaded;
  if (fetches) {
    touch.loaded = &loaded;
    if (!access_memory(engine, touch)) return false;
    touch.loaded = nullptr;
  }
  // What is written counts as unknown. The old value is in the register before the write is checked, as on Linux: `fetch add [r1], r1` is refused.
  if (fetches) engine.state.reg(exchanges_compared ? 0 : insn.src_reg) = loaded;
  touch.access = Access::kWrite;
  return access_memory(engine, touch) && remember_kind(engine, base);
}

}  // namespace

std::string reg_name(uint32_t reg) { return "R" + std::to_string(reg); }

std::string bytes_at(uint32_t size, int64_t offset) {
  return std::to_string(size) + (size == 1 ? " byte at offset " : " bytes at offset ") +
         std::to_string(offset);
}

std::string describe_bits(const Tnum& bits) {
  char text[64];
  const auto value = static_cast<unsigned long long>(bits.value);
  if (bits.mask != 0) {
    std::snprintf(text, sizeof(text), "(0x%llx; 0x%llx)", value, static_cast<unsigned long long>(bits.mask));
  } else {
    std::snprintf(text, sizeof(text), value <= UINT16_MAX ? "%llu" : "0x%llx", value);
  }
  return text;
}

std::string linux_type_name(const Value& value) {
  std::string name;
  switch (value.kind) {
    case Kind::kUninitialised:
      return "?";
    case Kind::kScalar:
      return "scalar";
    case Kind::kContext:
      name = "ctx";
      break;
    case Kind::kStack:
      name = "fp";
      break;
    case Kind::kMap:
      name = "map_ptr";
      break;
    case Kind::kMapValue:
      name = "map_value";
      break;
    case Kind::kMapKey:
      name = "map_key";
      break;
    case Kind::kMemory:
      name = value.alloc_record ? "ringbuf_mem" : value.read_only ? "rdonly_mem" : "mem";
      break;
    case Kind::kPacket:
      name = "pkt";
      break;
    case Kind::kPacketEnd:
      name = "pkt_end";
      break;
    case Kind::kPacketMeta:
      name = "pkt_meta";
      break;
    case Kind::kFunction:
      name = "func";
      break;
    case Kind::kDynptr:
      name = "dynptr_ptr";
      break;
    case Kind::kKernelObject:
      name = "ptr_";
      break;
    case Kind::kHostObject:
      name = "host_object";
      break;
    case Kind::kHostBuffer:
      name = "host_buffer";
      break;
    case Kind::kHandle:
      name = "host_handle";
      break;
  }
  return value.may_be_null ? name + "_or_null" : name;
}

bool refuse_as(Engine& engine, int error, Rule rule, std::string message, std::string linux_message) {
  if (engine.refuse(rule, std::move(message), std::move(linux_message))) return true;
  if (!engine.verdict.diagnoses.empty()) engine.verdict.diagnoses.back().error = error;
  if (engine.verdict.error != 0) engine.verdict.error = error;
  return false;
}

bool refuse_register_as(Engine& engine, int error, Rule rule, uint32_t number, std::string message,
                        std::string linux_message) {
  if (engine.refuse_register(rule, number, std::move(message), std::move(linux_message))) return true;
  if (!engine.verdict.diagnoses.empty()) engine.verdict.diagnoses.back().error = error;
  if (engine.verdict.error != 0) engine.verdict.error = error;
  return false;
}

Value loaded_number(const Engine& engine, uint32_t bytes) {
  Value value = Value::of(Scalar::loaded(bytes, false));
  value.made_at = engine.insn_index;
  return value;
}

bool step_load(Engine& engine) {
  const Insn& insn = engine.insn();
  if (BPF_CLASS(insn.code) == BPF_LD) return step_legacy_load(engine);
  return load_register(engine, insn.src_reg, insn.dst_reg, BPF_MODE(insn.code) == program::kModeMemSx, false);
}

bool step_store(Engine& engine) {
  const Insn& insn = engine.insn();
  if (BPF_CLASS(insn.code) == BPF_STX) return store_register(engine, false);
  if (!check_readable(engine, insn.dst_reg)) return false;
  const Value base = engine.state.reg(insn.dst_reg);
  Value stored = Value::of(Scalar::constant(static_cast<uint64_t>(static_cast<int64_t>(insn.imm))));
  stored.made_at = engine.insn_index;
  Touch touch{insn.dst_reg, insn.off, program::access_bytes(insn), Access::kWrite};
  touch.stored = &stored;
  return access_memory(engine, touch) && remember_kind(engine, base);
}

bool step_atomic(Engine& engine) {
  // Newer than the installed linux/bpf.h.
  constexpr int32_t kLoadAcquire = 0x100, kStoreRelease = 0x110;
  const Insn& insn = engine.insn();
  if (insn.imm == kLoadAcquire) {
    return check_readable(engine, insn.src_reg) && check_atomic_target(engine, insn.src_reg, "loads from") &&
           load_register(engine, insn.src_reg, insn.dst_reg, false, true);
  }
  if (insn.imm == kStoreRelease) {
    return check_readable(engine, insn.dst_reg) && check_atomic_target(engine, insn.dst_reg, "stores into") &&
           store_register(engine, true);
  }
  return step_atomic_update(engine);
}

bool check_access(Engine& engine, uint32_t reg, int32_t offset, uint32_t size, Access access, Value* loaded,
                  const Value* stored) {
  Touch touch{reg, offset, size, access};
  touch.loaded = loaded;
  touch.stored = stored;
  return access_memory(engine, touch);
}

bool check_buffer(Engine& engine, uint32_t reg, const Scalar& size, bool zero_allowed, Access access,
                  bool must_be_initialised) {
  if (!check_readable(engine, reg)) return false;
  const Value base = engine.state.reg(reg);
  const auto bytes = static_cast<uint32_t>(std::min<uint64_t>(size.umax, kSizeMax));
  const bool write = access == Access::kWrite;
  if (bytes == 0 && zero_allowed && base.is_null()) return true;
  if (bytes == 0 && !zero_allowed &&
      !engine.refuse_register(Rule::kMEM007, reg, "the buffer has no bytes", "invalid zero-sized read"))
    return false;
  const auto refuse_kind = [&] {
    return engine.refuse_register(base.may_be_null ? Rule::kNUL001 : Rule::kTYP002, reg,
                                  base.may_be_null ? "`r" + std::to_string(reg) + "` may be null"
                                                   : "`r" + std::to_string(reg) + "` points to no buffer",
                                  reg_name(reg) + " type=" + linux_type_name(base) + " expected=fp");
  };
  if (base.may_be_null || !base.is_pointer()) return refuse_kind();
  Touch touch{reg, 0, bytes, access};
  switch (base.kind) {
    case Kind::kStack:
      return check_stack_buffer(engine, reg, base, bytes, access, !must_be_initialised && size.is_const());
    case Kind::kMapValue:
      return check_map_value(engine, reg, base, base.off, bytes, access);
    case Kind::kMapKey:
    case Kind::kMemory:
      if (write && (base.read_only || base.kind == Kind::kMapKey) &&
          !engine.refuse_register(Rule::kMEM005, reg, "the helper would write to read-only memory",
                                  reg_name(reg) + " cannot write into " + linux_type_name(base)))
        return false;
      return check_region(engine, reg, base, base.off, bytes,
                          base.kind == Kind::kMemory ? base.size : value_spec(engine, base).key_size);
    case Kind::kPacket:
    case Kind::kPacketMeta:
      if (write) return access_packet(engine, base, touch);
      return check_packet(engine, reg, base, base.off, bytes);
    case Kind::kHostObject:
      return access_object(engine, base, touch);
    case Kind::kHostBuffer:
      return access_buffer(engine, base, touch);
    default:
      return refuse_kind();
  }
}

}  // namespace bpftime::verifier

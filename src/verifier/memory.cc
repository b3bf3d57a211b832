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

struct Touch {
  uint32_t reg;    // holds the address
  int64_t offset;  // of the instruction
  uint32_t size;
  Access access;
  bool sign_extended = false;
  bool atomic = false;  // must be aligned whatever the memory
  Value* loaded = nullptr;
  const Value* stored = nullptr;
};

std::string reg_name(uint32_t reg) { return "R" + std::to_string(reg); }
std::string bytes_at(uint32_t size, int64_t offset) {
  return std::to_string(size) + (size == 1 ? " byte at offset " : " bytes at offset ") +
         std::to_string(offset);
}

uint32_t access_bytes(uint8_t code) {
  switch (BPF_SIZE(code)) {
    case BPF_B:
      return 1;
    case BPF_H:
      return 2;
    case BPF_W:
      return 4;
    default:
      return 8;
  }
}

bool readable(Engine& engine, uint32_t reg) {
  return engine.state.reg(reg).kind != Kind::kUninitialised ||
         engine.refuse_register(Rule::kTYP001, reg, "`r" + std::to_string(reg) + "` has no value here",
                                reg_name(reg) + " !read_ok");
}

const wire::MapSpec& map_spec(const Engine& engine, const Value& value) {
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

// Linux: check_packet_access. What is proved counts from the packet pointer with its variable part, so only the fixed
// offset matters.
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
  const wire::MapSpec& spec = map_spec(engine, base);
  const std::string place = ", value_size=" + std::to_string(spec.value_size) +
                            " off=" + std::to_string(static_cast<int64_t>(base.scalar.smin) + offset) +
                            " size=" + std::to_string(size);
  const std::string name = "map `" + engine.request.maps[base.index].name + "`";
  if (access == Access::kWrite && (spec.flags & BPF_F_RDONLY_PROG))
    return engine.refuse_register(Rule::kMEM005, reg, name + " is read-only for programs",
                                  "write into map forbidden" + place);
  if (access == Access::kRead && (spec.flags & BPF_F_WRONLY_PROG))
    return engine.refuse_register(Rule::kMEM005, reg, name + " is write-only for programs",
                                  "read from map forbidden" + place);
  return true;
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
      !check_region(engine, reg, base, offset, size, map_spec(engine, base).value_size))
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

// ---- host objects ----

enum class Containment : uint8_t { kOutside, kStraddles, kInside };

// Where [low, high + size) lies in the member, for all offsets of the variable part.
Containment contained(const View::Member& member, const Value& base, int64_t offset, uint32_t size) {
  const int64_t low = base.scalar.smin + offset;
  const int64_t high = static_cast<int64_t>(base.scalar.umax) + offset;
  const int64_t start = member.offset, end = start + member.size;
  if (low < start || high + size > end) {
    return low < end && high + size > start ? Containment::kStraddles : Containment::kOutside;
  }
  if (member.element_size == 0 || member.element_size >= member.size) return Containment::kInside;
  // Elements start at multiples of `grain`; an access that stays within one grain stays within one element.
  const uint64_t grain = member.element_size & -member.element_size;
  if (base.scalar.is_const()) {
    const uint64_t within_element = static_cast<uint64_t>(low - start) % member.element_size;
    return within_element + size <= member.element_size ? Containment::kInside : Containment::kStraddles;
  }
  // Low bits of start-relative offsets: those of the variable part plus a constant. Unknown bits below the grain may carry,
  // so they are only used when all of them that count are known or the access is aligned by them.
  const uint64_t unknown = base.scalar.bits.mask & (grain - 1);
  const uint64_t known_multiple =
      unknown == 0 ? grain : unknown & -unknown;  // variable is a multiple, plus known bits
  const uint64_t rest =
      (base.scalar.bits.value + static_cast<uint64_t>(offset - start)) & (known_multiple - 1);
  return rest + size <= known_multiple ? Containment::kInside : Containment::kStraddles;
}

bool exact(const View::Member& member, const Value& base, int64_t offset, uint32_t size) {
  const uint32_t unit = member.element_size ? member.element_size : member.size;
  if (size != unit || contained(member, base, offset, size) != Containment::kInside) return false;
  return member.element_size == 0 || !base.scalar.is_const() ||
         (base.scalar.value() + static_cast<uint64_t>(offset - member.offset)) % unit == 0;
}

// The least the length can be, from every number that is bounded by it.
uint32_t proved_length(State& state, uint32_t length_id) {
  uint64_t least = 0;
  if (length_id == 0) return 0;
  state.for_each_value([&](const Value& value) {
    if (!value.is_number() || value.length_id != length_id) return;
    if (value.length_slack < 0 &&
        value.scalar.umin < static_cast<uint64_t>(-static_cast<int64_t>(value.length_slack)))
      return;
    least =
        std::max(least, value.scalar.umin + static_cast<uint64_t>(static_cast<int64_t>(value.length_slack)));
  });
  return static_cast<uint32_t>(std::min<uint64_t>(least, UINT32_MAX));
}

bool is_length_member(const View& view, uint32_t index) {
  for (const View::Member& member : view.members)
    if (member.gives == View::Member::Gives::kBuffer && member.buffer_length_member == index) return true;
  return false;
}

Value load_member(Engine& engine, const Value& base, uint32_t member_index, const Touch& request) {
  const View& view = engine.request.constraints->views[base.index];
  const View::Member& member = view.members[member_index];
  using Gives = View::Member::Gives;
  Value value = loaded_number(engine, request.size);
  switch (member.gives) {
    case Gives::kNumber: {
      // The promise is about the value as the C type orders it; it helps when this load extends the same way.
      const Scalar loaded = Scalar::loaded(request.size, request.sign_extended);
      if (loaded.contains(member.number)) value.scalar = member.number;
      // A length that the program itself may overwrite names nothing.
      if (!member.write && !request.sign_extended && is_length_member(view, member_index)) {
        value.length_id = length_id_of(base.instance, member_index);
        value.length_slack = 0;
      }
      break;
    }
    case Gives::kObject:
    case Gives::kOpaque:
      value = Value::pointer(Kind::kHostObject);
      value.index = member.gives == Gives::kObject ? member.view : kNone;
      value.may_be_null = true;
      value.id = engine.new_id();
      value.instance = engine.new_id();
      value.walked = true;
      break;
    case Gives::kBuffer:
      value = Value::pointer(Kind::kHostBuffer);
      value.walked = true;
      value.read_only = base.walked || !member.buffer_writable;
      value.index = base.index;
      if (member.buffer_length_member != kNone)
        value.length_id = length_id_of(base.instance, member.buffer_length_member);
      value.length_slack = 0;
      value.size = proved_length(engine.state, value.length_id);
      break;
  }
  value.made_at = engine.insn_index;
  return value;
}

std::string member_list(const View& view, const Value& base, int64_t offset, uint32_t size) {
  std::string names;
  for (const View::Member& member : view.members) {
    if (contained(member, base, offset, size) == Containment::kOutside) continue;
    names += (names.empty() ? "`" : ", `") + member.name + "`";
  }
  return names;
}

std::string object_place(const View& view, const Value& base, int64_t offset, uint32_t size) {
  if (!base.scalar.is_const())
    return std::to_string(size) + " bytes at a variable offset of `" + view.type + "`";
  std::string text =
      bytes_at(size, static_cast<int64_t>(base.scalar.value()) + offset) + " of `" + view.type + "`";
  const std::string names = member_list(view, base, offset, size);
  return names.empty() ? text : text + " (" + names + ")";
}

bool check_stored_member(Engine& engine, const Value& base, const View& view, const View::Member& member,
                         const Touch& request) {
  const Value* stored = request.stored;
  const std::string name = "`" + member.name + "` of `" + view.type + "`";
  if (stored && stored->is_pointer())
    return engine.refuse(Rule::kTYP006, "a pointer would be stored in " + name,
                         reg_name(engine.insn().src_reg) + " leaks addr into mem");
  if (member.gives != View::Member::Gives::kNumber &&
      !(stored && stored->is_null() && exact(member, base, request.offset + base.off, request.size)))
    return engine.refuse(Rule::kEIM002, name + " is a pointer: only null may be stored in it");
  if (member.number == Scalar::unknown()) return true;
  // Other code relies on the range that the type promises.
  const bool whole = exact(member, base, request.offset + base.off, request.size);
  const bool in_range = whole && stored && stored->is_number() &&
                        (member.number.contains(truncate(stored->scalar, request.size)) ||
                         member.number.contains(sign_extend(stored->scalar, 8 * request.size, true)));
  return in_range || engine.refuse(Rule::kEIM005, "the value stored may be none that " + name + " can have");
}

bool access_object(Engine& engine, const Value& base, const Touch& request) {
  const Constraints* constraints = engine.request.constraints;
  const int64_t offset = request.offset + base.off;
  const bool write = request.access == Access::kWrite;
  const Rule rule = write ? Rule::kEIM002 : Rule::kEIM001;
  if (!constraints || base.index >= constraints->views.size())
    return engine.refuse_register(rule, request.reg, "nothing is granted behind this pointer");
  const View& view = constraints->views[base.index];
  if (base.scalar.smin < -kOffsetMax || base.scalar.umax >= static_cast<uint64_t>(kOffsetMax))
    return engine.refuse_register(Rule::kMEM003, request.reg,
                                  "the offset into `" + view.type + "` has no bounds");
  if (write && base.walked &&
      !engine.refuse_register(Rule::kEIM003, request.reg,
                              "write to " + object_place(view, base, offset, request.size)))
    return false;
  uint32_t found = kNone;
  bool straddles = false;
  for (uint32_t i = 0; i < view.members.size(); ++i) {
    const View::Member& member = view.members[i];
    if (!(write ? member.write && !member.bit_field : member.read)) continue;
    const Containment where = contained(member, base, offset, request.size);
    straddles = straddles || where == Containment::kStraddles;
    if (where != Containment::kInside) continue;
    const bool whole = exact(member, base, offset, request.size);
    // Part of a pointer is no number either.
    if (!write && member.gives != View::Member::Gives::kNumber && !whole) continue;
    if (found == kNone || (whole && !exact(view.members[found], base, offset, request.size))) found = i;
  }
  if (found == kNone) {
    std::string message = (write ? "write to " : "read of ") + object_place(view, base, offset, request.size);
    if (straddles) message += ": not within one granted member";
    return engine.refuse_register(rule, request.reg, message);
  }
  if (base.walked) engine.facts.insns[engine.insn_index].needs_fault_table = true;
  if (write) return check_stored_member(engine, base, view, view.members[found], request);
  if (request.loaded) *request.loaded = load_member(engine, base, found, request);
  return true;
}

// [variable + offset, … + size) lies within the buffer, by its symbolic length or by what is known to be there.
bool access_buffer(Engine& engine, const Value& base, const Touch& request) {
  const int64_t offset = request.offset + base.off;
  if (request.access == Access::kWrite && base.read_only &&
      !engine.refuse_register(base.walked ? Rule::kEIM003 : Rule::kEIM002, request.reg,
                              "the buffer may only be read"))
    return false;
  if (request.access == Access::kWrite && request.stored && request.stored->is_pointer() &&
      !engine.refuse(Rule::kTYP006, "a pointer would be stored in a buffer of the host",
                     reg_name(engine.insn().src_reg) + " leaks addr into mem"))
    return false;
  const bool by_length = base.length_id != 0 && base.length_slack != kLengthSlackUnknown && offset >= 0 &&
                         offset + request.size <= base.length_slack;
  const int64_t high = static_cast<int64_t>(std::min<uint64_t>(base.scalar.umax, kOffsetMax)) + offset;
  const bool by_size = base.scalar.umax < static_cast<uint64_t>(kOffsetMax) &&
                       base.scalar.smin + offset >= 0 && within(high, request.size, base.size);
  if (!by_length && !by_size &&
      !engine.refuse_register(
          Rule::kEIM007, request.reg,
          (base.scalar.is_const() ? bytes_at(request.size, high)
                                  : std::to_string(request.size) + " bytes at a variable offset") +
              " of a host buffer are not proved to lie below its length"))
    return false;
  if (base.walked) engine.facts.insns[engine.insn_index].needs_fault_table = true;
  if (request.loaded) *request.loaded = loaded_number(engine, request.size);
  return true;
}

// ---- all kinds ----

// Linux: check_ptr_alignment. x86 and arm64 take any address, so this matters where the kinds of bytes are tracked
// (the stack), for atomics, and when the loader asks for strictness.
bool check_alignment(Engine& engine, const Value& base, const Touch& request) {
  const bool strict = engine.request.options.strict_alignment || request.atomic || base.kind == Kind::kStack;
  if (!strict || request.size == 1) return true;
  const bool packet = base.kind == Kind::kPacket || base.kind == Kind::kPacketMeta;
  const int64_t fixed = base.off + request.offset + (packet ? kPacketAlignment : 0);
  const uint64_t low_bits = request.size - 1;
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
                   std::to_string(request.offset) + " size " + std::to_string(request.size);
  return engine.refuse_register(base.kind == Kind::kStack ? Rule::kSTK003 : Rule::kMEM006, request.reg,
                                std::to_string(request.size) +
                                    " bytes at an address that may not be a multiple of " +
                                    std::to_string(request.size),
                                linux_message);
}

bool check_leak(Engine& engine, const Touch& request, const char* where) {
  if (!request.stored || !request.stored->is_pointer() || engine.request.options.allow_pointer_leaks)
    return true;
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

bool access_context(Engine& engine, const Value& base, const Touch& request) {
  if (request.access == Access::kWrite && !check_leak(engine, request, "ctx")) return false;
  if (!check_context_pointer(engine, base, request.reg)) return false;
  const int64_t offset = request.offset + base.off;
  if (request.access == Access::kRead)
    return read_context(engine, request.reg, offset, request.size, request.loaded);
  return write_context(engine, request.reg, offset, request.size,
                       request.stored ? *request.stored : loaded_number(engine, request.size));
}

bool access_packet(Engine& engine, const Value& base, const Touch& request) {
  const uint32_t type = engine.request.program.type;
  const bool may_write =
      type == BPF_PROG_TYPE_XDP || type == BPF_PROG_TYPE_SCHED_CLS || type == BPF_PROG_TYPE_SCHED_ACT;
  if (request.access == Access::kWrite && !may_write &&
      !engine.refuse_register(Rule::kMEM005, request.reg, "programs of this type may not write to packets",
                              "cannot write into packet"))
    return false;
  if (request.access == Access::kWrite && !check_leak(engine, request, "packet")) return false;
  return check_packet(engine, request.reg, base, request.offset + base.off, request.size);
}

bool access_by_kind(Engine& engine, const Value& base, const Touch& request) {
  const int64_t offset = request.offset + base.off;
  const bool write = request.access == Access::kWrite;
  if (base.may_be_null || !base.is_pointer()) return refuse_no_pointer(engine, base, request.reg);
  switch (base.kind) {
    case Kind::kStack:
      return write ? write_stack(engine, request.reg, base.frame, base.scalar, offset, request.size,
                                 request.stored)
                   : read_stack(engine, request.reg, base.frame, base.scalar, offset, request.size,
                                request.loaded);
    case Kind::kContext:
      return access_context(engine, base, request);
    case Kind::kMapValue:
      if (write && !check_leak(engine, request, "map")) return false;
      if (!check_map_value(engine, request.reg, base, offset, request.size, request.access)) return false;
      if (request.loaded) *request.loaded = load_map_value(engine, base, offset, request.size);
      return true;
    case Kind::kMapKey:
      if (write && !engine.refuse_register(Rule::kMEM005, request.reg, "keys of a map cannot be changed",
                                           "write to change key " + reg_name(request.reg) + " not allowed"))
        return false;
      return check_region(engine, request.reg, base, offset, request.size,
                          map_spec(engine, base).key_size);
    case Kind::kMemory:
      if (write && base.read_only &&
          !engine.refuse_register(Rule::kMEM005, request.reg, "the memory is read-only",
                                  reg_name(request.reg) + " cannot write into " + linux_type_name(base)))
        return false;
      if (write && !check_leak(engine, request, "mem")) return false;
      return check_region(engine, request.reg, base, offset, request.size, base.size);
    case Kind::kPacket:
    case Kind::kPacketMeta:
      return access_packet(engine, base, request);
    case Kind::kHostObject:
      return access_object(engine, base, request);
    case Kind::kHostBuffer:
      return access_buffer(engine, base, request);
    default:
      return refuse_no_pointer(engine, base, request.reg);
  }
}

bool access_memory(Engine& engine, const Touch& request) {
  if (!readable(engine, request.reg)) return false;
  const Value base = engine.state.reg(request.reg);
  if (request.loaded) *request.loaded = loaded_number(engine, request.size);
  if (base.is_pointer() && !check_alignment(engine, base, request)) return false;
  if (!access_by_kind(engine, base, request)) return false;
  if (!request.loaded || !request.loaded->is_number() || request.size == 8) return true;
  Value& loaded = *request.loaded;
  if (request.sign_extended) {
    // The number is no longer the one it was linked with.
    loaded.scalar = sign_extend(loaded.scalar, 8 * request.size, true);
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
  if (!readable(engine, address) || !writable_register(engine, target)) return false;
  const Insn& insn = engine.insn();
  const Value base = engine.state.reg(address);
  Value loaded;
  Touch request{address, insn.off, access_bytes(insn.code), Access::kRead};
  request.sign_extended = sign_extended;
  request.atomic = atomic;
  request.loaded = &loaded;
  if (!access_memory(engine, request) || !remember_kind(engine, base)) return false;
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
  if (!readable(engine, insn.src_reg) || !readable(engine, insn.dst_reg)) return false;
  const Value base = engine.state.reg(insn.dst_reg);
  const uint32_t size = access_bytes(insn.code);
  link_before_spill(engine, engine.state.reg(insn.src_reg), base, size);
  const Value stored = engine.state.reg(insn.src_reg);
  Touch request{insn.dst_reg, insn.off, size, Access::kWrite};
  request.atomic = atomic;
  request.stored = &stored;
  return access_memory(engine, request) && remember_kind(engine, base);
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
  if (!readable(engine, kPacketContext)) return false;
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
  if (BPF_MODE(insn.code) == BPF_IND && !readable(engine, insn.src_reg)) return false;
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
  if (!readable(engine, reg)) return false;
  return engine.state.reg(reg).is_number() || engine.request.options.allow_pointer_leaks ||
         engine.refuse_register(Rule::kTYP006, reg, "a pointer would be stored",
                                reg_name(reg) + " leaks addr into mem");
}

bool step_atomic_update(Engine& engine) {
  const Insn& insn = engine.insn();
  const bool fetches = insn.imm & BPF_FETCH;
  const bool exchanges_compared = insn.imm == BPF_CMPXCHG;
  if (!readable(engine, insn.src_reg) || !readable(engine, insn.dst_reg)) return false;
  if (exchanges_compared && !check_atomic_operand(engine, 0)) return false;
  if (!check_atomic_operand(engine, insn.src_reg) ||
      !check_atomic_target(engine, insn.dst_reg, "stores into"))
    return false;
  if (fetches && !exchanges_compared && !writable_register(engine, insn.src_reg)) return false;

  const Value base = engine.state.reg(insn.dst_reg);
  Touch request{insn.dst_reg, insn.off, access_bytes(insn.code), Access::kRead};
  request.atomic = true;
  if (!access_memory(engine, request)) return false;
  Value loaded;
  if (fetches) {
    request.loaded = &loaded;
    if (!access_memory(engine, request)) return false;
    request.loaded = nullptr;
  }
  // The old value is in the register before the write is checked, as on Linux: `fetch add [r1], r1` is refused.
  const Value operand = engine.state.reg(insn.src_reg);
  if (fetches) engine.state.reg(exchanges_compared ? 0 : insn.src_reg) = loaded;
  request.access = Access::kWrite;
  // Host memory takes no pointers; elsewhere the result counts as unknown.
  const bool host = base.kind == Kind::kHostObject || base.kind == Kind::kHostBuffer;
  if (host) request.stored = &operand;
  return access_memory(engine, request) && remember_kind(engine, base);
}

// `smaller` is below `larger` (strictly or not): what bounds the larger bounds it too.
void bound_by(State& state, Value& smaller, const Value& larger, bool strictly) {
  if (!smaller.is_number() || !larger.is_number() || larger.length_id == 0) return;
  const int64_t slack = static_cast<int64_t>(larger.length_slack) + strictly;
  if (slack > INT32_MAX) return;
  const auto learn = [&](Value& value) {
    if (value.length_id != 0 && (value.length_id != larger.length_id || value.length_slack >= slack)) return;
    value.length_id = larger.length_id;
    value.length_slack = static_cast<int32_t>(slack);
  };
  const uint32_t id = smaller.id;
  const int32_t off = smaller.off;
  const bool delta32 = smaller.delta32;
  learn(smaller);
  if (id == 0) return;
  state.for_each_value([&](Value& copy) {
    if (copy.is_number() && copy.id == id && copy.off == off && copy.delta32 == delta32) learn(copy);
  });
}

void grow_buffers(State& state) {
  state.for_each_value([&](Value& value) {
    if (value.kind == Kind::kHostBuffer && value.length_id != 0)
      value.size = std::max(value.size, proved_length(state, value.length_id));
  });
}

}  // namespace

uint32_t length_id_of(uint32_t instance, uint32_t member) {
  constexpr uint32_t kMemberBits = 10, kInstancesMax = 1u << (32 - kMemberBits);
  if (instance == 0 || instance >= kInstancesMax || member >= (1u << kMemberBits)) return 0;
  return instance << kMemberBits | member;
}

uint32_t entry_instance(uint32_t index) { return (1u << 22) - 1 - index; }

// Instance 0 names no object, so these are nobody else's.
uint32_t entry_length_id(uint32_t index) { return index < 1023 ? index + 1 : 0; }

void learn_lengths(State& state, uint8_t op, bool is64, bool taken, Value& a, Value& b) {
  if (a.length_id == 0 && b.length_id == 0) return;
  if (!a.is_number() || !b.is_number()) return;
  const bool is_signed = op == BPF_JSLT || op == BPF_JSLE || op == BPF_JSGT || op == BPF_JSGE;
  // Where all views of both order alike, one relation speaks for all.
  const uint64_t limit = is64 ? (is_signed ? static_cast<uint64_t>(INT64_MAX) : UINT64_MAX)
                              : (is_signed ? static_cast<uint64_t>(INT32_MAX) : UINT32_MAX);
  if (a.scalar.umax <= limit && b.scalar.umax <= limit) {
    const bool below = op == BPF_JLT || op == BPF_JSLT, below_equal = op == BPF_JLE || op == BPF_JSLE;
    const bool above = op == BPF_JGT || op == BPF_JSGT, above_equal = op == BPF_JGE || op == BPF_JSGE;
    if ((below && taken) || (above_equal && !taken)) bound_by(state, a, b, true);
    if ((below_equal && taken) || (above && !taken)) bound_by(state, a, b, false);
    if ((above && taken) || (below_equal && !taken)) bound_by(state, b, a, true);
    if ((above_equal && taken) || (below && !taken)) bound_by(state, b, a, false);
    if ((op == BPF_JEQ && taken) || (op == BPF_JNE && !taken)) {
      const Value before = a;
      bound_by(state, a, b, false);
      bound_by(state, b, before, false);
    }
  }
  grow_buffers(state);
}

void shift_length(const Value& before, int64_t addend, Value& result) {
  result.length_id = 0;
  result.length_slack = 0;
  if (before.length_id == 0 || !before.is_number()) return;
  const uint64_t magnitude = addend < 0 ? 0 - static_cast<uint64_t>(addend) : static_cast<uint64_t>(addend);
  const bool wraps =
      addend < 0 ? before.scalar.umin < magnitude : before.scalar.umax > UINT64_MAX - magnitude;
  if (wraps || magnitude > INT32_MAX) return;
  const int64_t slack = before.length_slack - addend;
  if (slack <= INT32_MIN || slack > INT32_MAX) return;
  result.length_id = before.length_id;
  result.length_slack = static_cast<int32_t>(slack);
}

void index_buffer(Value& pointer, const Value& index) {
  const bool at_start = pointer.scalar.is_const() && pointer.scalar.value() == 0;
  const bool tied = index.is_number() && index.length_id != 0 && index.length_id == pointer.length_id;
  pointer.length_slack = at_start && tied ? index.length_slack : kLengthSlackUnknown;
}

void forget_lengths(State& state) {
  state.for_each_value([](Value& value) {
    value.length_id = 0;
    value.length_slack = 0;
    if (value.kind == Kind::kHostBuffer && value.walked) value.size = 0;
  });
}

std::string describe_bits(const Tnum& bits) {
  char text[64];
  std::snprintf(text, sizeof(text), "(0x%llx; 0x%llx)", static_cast<unsigned long long>(bits.value),
                static_cast<unsigned long long>(bits.mask));
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
  if (!readable(engine, insn.dst_reg)) return false;
  const Value base = engine.state.reg(insn.dst_reg);
  Value stored = Value::of(Scalar::constant(static_cast<uint64_t>(static_cast<int64_t>(insn.imm))));
  stored.made_at = engine.insn_index;
  Touch request{insn.dst_reg, insn.off, access_bytes(insn.code), Access::kWrite};
  request.stored = &stored;
  return access_memory(engine, request) && remember_kind(engine, base);
}

bool step_atomic(Engine& engine) {
  // Newer than the installed linux/bpf.h.
  constexpr int32_t kLoadAcquire = 0x100, kStoreRelease = 0x110;
  const Insn& insn = engine.insn();
  if (insn.imm == kLoadAcquire) {
    return readable(engine, insn.src_reg) && check_atomic_target(engine, insn.src_reg, "loads from") &&
           load_register(engine, insn.src_reg, insn.dst_reg, false, true);
  }
  if (insn.imm == kStoreRelease) {
    return readable(engine, insn.dst_reg) && check_atomic_target(engine, insn.dst_reg, "stores into") &&
           store_register(engine, true);
  }
  return step_atomic_update(engine);
}

bool check_access(Engine& engine, uint32_t reg, int32_t offset, uint32_t size, Access access, Value* loaded,
                  const Value* stored) {
  Touch request{reg, offset, size, access};
  request.loaded = loaded;
  request.stored = stored;
  return access_memory(engine, request);
}

bool check_buffer(Engine& engine, uint32_t reg, const Scalar& size, bool zero_allowed, Access access,
                  bool must_be_initialised) {
  if (!readable(engine, reg)) return false;
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
  Touch request{reg, 0, bytes, access};
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
      return check_region(
          engine, reg, base, base.off, bytes,
          base.kind == Kind::kMemory ? base.size : map_spec(engine, base).key_size);
    case Kind::kPacket:
    case Kind::kPacketMeta:
      if (write) return access_packet(engine, base, request);
      return check_packet(engine, reg, base, base.off, bytes);
    case Kind::kHostObject:
      return access_object(engine, base, request);
    case Kind::kHostBuffer:
      return access_buffer(engine, base, request);
    default:
      return refuse_kind();
  }
}

}  // namespace bpftime::verifier

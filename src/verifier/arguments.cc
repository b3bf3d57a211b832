// The arguments of helpers, one register after the other, in Linux's order: initialised, of a type the prototype takes, with an
// offset that type may have, then whatever the kind demands.
#include <linux/bpf.h>

#include <algorithm>
#include <cctype>

#include "verifier/calls.h"
#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

bool takes_null(ArgKind kind) {
  switch (kind) {
    case ArgKind::kMapValueOrNull:
    case ArgKind::kMemOrNull:
    case ArgKind::kUninitMemOrNull:
    case ArgKind::kContextOrNull:
    case ArgKind::kStackOrNull:
    case ArgKind::kKernelObjectOrNull:
      return true;
    default:
      return false;
  }
}

bool only_reads(ArgKind kind) {
  switch (kind) {
    case ArgKind::kMem:
    case ArgKind::kMemOrNull:
    case ArgKind::kIp4Header:
    case ArgKind::kIp6Header:
    case ArgKind::kTcpHeader:
      return true;
    default:
      return false;
  }
}

// get_current_task_btf is the only source of kernel objects here, so they are all tasks.
bool takes_task(uint32_t id) {
  switch (id) {
    case BPF_FUNC_task_storage_get:
    case BPF_FUNC_task_storage_delete:
    case BPF_FUNC_get_task_stack:
    case BPF_FUNC_task_pt_regs:
    case BPF_FUNC_find_vma:
    case BPF_FUNC_copy_from_user_task:
      return true;
    default:
      return false;
  }
}

bool type_fits(const Call& call, ArgKind kind, const Value& value) {
  if (value.may_be_null && !takes_null(kind)) return false;
  switch (kind) {
    case ArgKind::kConstMap:
      return value.kind == Kind::kMap;
    case ArgKind::kSize:
    case ArgKind::kSizeOrZero:
    case ArgKind::kAllocSize:
      return value.is_number();
    case ArgKind::kContext:
    case ArgKind::kContextOrNull:
      return value.kind == Kind::kContext;
    case ArgKind::kConstString:
    case ArgKind::kTimer:
    case ArgKind::kSpinLock:
    case ArgKind::kKernelPointerSlot:
      return value.kind == Kind::kMapValue;
    case ArgKind::kRingbufRecord:
      return value.kind == Kind::kMemory && value.alloc_record;
    case ArgKind::kFunction:
      return value.kind == Kind::kFunction;
    case ArgKind::kStackOrNull:
      return value.kind == Kind::kStack;
    case ArgKind::kDynptr:
    case ArgKind::kUninitLocalDynptr:
    case ArgKind::kUninitRecordDynptr:
    case ArgKind::kRecordDynptr:
      return value.kind == Kind::kStack || value.kind == Kind::kDynptr;
    case ArgKind::kKernelObject:
    case ArgKind::kKernelObjectOrNull:
      return value.kind == Kind::kKernelObject && takes_task(call.id());
    case ArgKind::kSocket:
    case ArgKind::kSocketOnly:
    case ArgKind::kPerCpuObject:
      return false;
    default:
      switch (value.kind) {
        case Kind::kStack:
        case Kind::kPacket:
        case Kind::kPacketMeta:
        case Kind::kMapKey:
        case Kind::kMapValue:
        case Kind::kHostBuffer:
          return true;
        case Kind::kMemory:
          return !value.read_only || only_reads(kind);
        default:
          return false;
      }
  }
}

bool may_have_offset(const Value& value) {
  switch (value.kind) {
    case Kind::kScalar:
    case Kind::kStack:
    case Kind::kPacket:
    case Kind::kPacketMeta:
    case Kind::kMapKey:
    case Kind::kMapValue:
    case Kind::kMemory:
    case Kind::kHostBuffer:
      return true;
    default:
      return false;
  }
}

bool check_offset(Engine& engine, uint32_t number, ArgKind kind, const Value& value) {
  const std::string reg = reg_name(number), type = type_name(value);
  const bool is_released = kind == ArgKind::kRingbufRecord;
  if (is_released) {
    if (value.off != 0 &&
        !engine.refuse_register(
            Rule::kREF002, number, "the record is released through a pointer into it, not to its start",
            reg + " must have zero offset when passed to release func or trusted arg to kfunc"))
      return false;
  } else if (may_have_offset(value)) {
    return true;
  }
  const Rule rule = value.kind == Kind::kContext ? Rule::kCTX002 : Rule::kTYP002;
  if (value.off < 0 && !engine.refuse_register(rule, number, "the pointer was moved before it was passed on",
                                               "negative offset " + type + " ptr " + reg +
                                                   " off=" + std::to_string(value.off) + " disallowed"))
    return false;
  if (value.off != 0 && !engine.refuse_register(rule, number, "the pointer was moved before it was passed on",
                                                "dereference of modified " + type + " ptr " + reg +
                                                    " off=" + std::to_string(value.off) + " disallowed"))
    return false;
  const bool is_variable = !value.scalar.is_const() || value.scalar.value() != 0;
  return !is_variable ||
         engine.refuse_register(
             rule, number, "the pointer was moved by an unknown distance before it was passed on",
             "variable " + type + " access var_off=" + describe_bits(value.scalar.bits) + " disallowed");
}

// The key, when it lies on the stack as a constant of exactly its size: what Linux recognises, no more.
std::optional<uint64_t> constant_key(const Engine& engine, const Value& key, uint32_t key_size) {
  if (key.kind != Kind::kStack || !key.scalar.is_const() || key.frame >= engine.state.frames.size())
    return {};
  const int64_t offset = key.off + static_cast<int64_t>(key.scalar.value());
  if (offset >= 0 || offset < -int64_t{kStackBytes}) return {};
  const size_t index = static_cast<size_t>((-offset - 1) / kSlotBytes);
  const std::vector<Slot>& stack = engine.state.frames[key.frame].stack;
  if (index >= stack.size()) return {};
  const Slot& slot = stack[index];
  const size_t first = static_cast<size_t>(offset + int64_t{kSlotBytes} * (static_cast<int64_t>(index) + 1));
  const auto run_of = [&](Byte byte) {
    size_t length = 0;
    while (first + length < kSlotBytes && slot.bytes[first + length] == byte) ++length;
    return length;
  };
  if (run_of(Byte::kZero) >= key_size) return 0;
  if (slot.bytes[0] != Byte::kSpill || run_of(Byte::kSpill) != key_size || !slot.value.is_constant())
    return {};
  // A key in the upper half of a spilled number: in range only if the number is, and then the half is zero.
  return slot.value.scalar.value();
}

bool check_fixed(Engine& engine, uint32_t number, uint32_t size, Access access) {
  return check_buffer(engine, number, Scalar::constant(size), false, access, access == Access::kRead);
}

bool check_aligned_out(Engine& engine, uint32_t number, uint32_t size) {
  const Value& value = engine.state.reg(number);
  const uint64_t offset = static_cast<uint64_t>(int64_t{value.off}) + value.scalar.bits.value;
  if (((offset | value.scalar.bits.mask) & (size - 1)) != 0 &&
      !engine.refuse_register(Rule::kMEM006, number,
                              "the result is written to a place that is not aligned to its size",
                              "misaligned access off " + std::to_string(static_cast<int64_t>(offset)) +
                                  " size " + std::to_string(size)))
    return false;
  return check_fixed(engine, number, size, Access::kWrite);
}

bool is_frozen_constant(const MapConstraint& map) {
  return (map.spec.flags & BPF_F_RDONLY_PROG) != 0 && map.frozen;
}

bool check_spin_lock(Engine& engine, const Call& call, uint32_t number) {
  const Value& value = engine.state.reg(number);
  const bool locks = call.id() == BPF_FUNC_spin_lock;
  if (!value.scalar.is_const())
    return engine.refuse_register(
        Rule::kLCK001, number, "the lock's place in the value is not known",
        reg_name(number) + " doesn't have constant offset. bpf_spin_lock has to be at the constant offset");
  const MapConstraint& map = engine.request.maps[value.index];
  if (map.btf.empty() && !map.spin_lock)
    return engine.refuse_register(Rule::kLCK001, number,
                                  "nothing says where the lock is in the values of map `" + map.name + "`",
                                  "map '" + map.name + "' has to have BTF in order to use bpf_spin_lock");
  if (!map.spin_lock)
    return engine.refuse_register(Rule::kLCK001, number, "the values of map `" + map.name + "` have no lock",
                                  "map '" + map.name + "' has no valid bpf_spin_lock");
  const int64_t offset = value.off + static_cast<int64_t>(value.scalar.value());
  if (offset != int64_t{*map.spin_lock})
    return engine.refuse_register(
        Rule::kLCK001, number, "this is not where the lock is in the values of map `" + map.name + "`",
        "off " + std::to_string(offset) + " doesn't point to 'struct bpf_spin_lock' that is at " +
            std::to_string(*map.spin_lock));
  Lock& lock = engine.state.lock;
  if (locks) {
    if (lock.held && !engine.refuse(Rule::kLCK001, "a second lock is taken while one is held",
                                    "Locking two bpf_spin_locks are not allowed"))
      return false;
    lock = {true, true, value.index, value.instance};
    return true;
  }
  if (!lock.held &&
      !engine.refuse(Rule::kLCK001, "no lock is held here", "bpf_spin_unlock without taking a lock"))
    return false;
  if (lock.held && (lock.map != value.index || lock.instance != value.instance) &&
      !engine.refuse(Rule::kLCK001, "this is not the lock that is held", "bpf_spin_unlock of different lock"))
    return false;
  lock = {};
  return true;
}

bool check_map_key(Engine& engine, Call& call, uint32_t number) {
  const Value& map = engine.state.reg(call.map_register);
  const wire::MapSpec& spec = spec_of_map(engine, map);
  if (!check_fixed(engine, number, spec.key_size, Access::kRead)) return false;
  if (spec.type == BPF_MAP_TYPE_ARRAY || spec.type == BPF_MAP_TYPE_PERCPU_ARRAY)
    call.constant_key = constant_key(engine, engine.state.reg(number), spec.key_size);
  return true;
}

bool check_map_value(Engine& engine, const Call& call, uint32_t number, ArgKind kind) {
  const Value& map = engine.state.reg(call.map_register);
  const uint32_t size = spec_of_map(engine, map).value_size;
  return check_fixed(engine, number, size, kind == ArgKind::kUninitMapValue ? Access::kWrite : Access::kRead);
}

// What the kind demands of a register whose type and offset fit.
bool check_kind(Engine& engine, Call& call, uint32_t number, ArgKind kind) {
  const Value& value = engine.state.reg(number);
  const ArgKind before = number > 1 ? call.prototype.arguments[number - 2] : ArgKind::kNone;
  switch (kind) {
    case ArgKind::kConstMap:
      call.map_register = number;
      return true;
    case ArgKind::kMapKey:
      return call.map_register == 0 || check_map_key(engine, call, number);
    case ArgKind::kMapValue:
    case ArgKind::kMapValueOrNull:
    case ArgKind::kUninitMapValue:
      return call.map_register == 0 || value.is_null() || check_map_value(engine, call, number, kind);
    case ArgKind::kSize:
    case ArgKind::kSizeOrZero: {
      const bool writes = before == ArgKind::kUninitMem || before == ArgKind::kUninitMemOrNull;
      call.size_max = value.scalar.umax;
      return check_size(engine, number, number - 1, kind == ArgKind::kSizeOrZero,
                        writes ? Access::kWrite : Access::kRead, writes);
    }
    case ArgKind::kIntOut:
      return check_aligned_out(engine, number, 4);
    case ArgKind::kLongOut:
      return check_aligned_out(engine, number, 8);
    case ArgKind::kIp4Header:
    case ArgKind::kTcpHeader:
      return check_fixed(engine, number, 20, Access::kRead);
    case ArgKind::kIp6Header:
      return check_fixed(engine, number, 40, Access::kRead);
    case ArgKind::kAllocSize:
      if (!value.scalar.is_const() &&
          !engine.refuse_register(Rule::kTYP002, number, "the size must be a constant",
                                  reg_name(number) + " is not a known constant'"))
        return false;
      call.memory_size = value.scalar.is_const() ? value.scalar.value() : 0;
      return true;
    case ArgKind::kConstString:
      return constant_string(engine, number).has_value();
    case ArgKind::kFunction:
      call.subprogram = value.index;
      return true;
    case ArgKind::kSpinLock:
      return check_spin_lock(engine, call, number);
    case ArgKind::kTimer:
      return engine.refuse(Rule::kFUN008, "timers are not supported yet", "bpf_timer is not supported");
    case ArgKind::kKernelPointerSlot:
      return engine.refuse(Rule::kFUN008, "there are no kernel objects in user space",
                           "map '" + engine.request.maps[value.index].name + "' has no valid kptr");
    case ArgKind::kDynptr:
    case ArgKind::kUninitLocalDynptr:
    case ArgKind::kUninitRecordDynptr:
    case ArgKind::kRecordDynptr:
      return check_dynptr_argument(engine, call, number, kind);
    default:
      return true;
  }
}

}  // namespace

bool check_argument(Engine& engine, Call& call, uint32_t index) {
  const uint32_t number = index + 1;
  const ArgKind kind = call.prototype.arguments[index];
  if (kind == ArgKind::kNone) return true;
  const Value& value = engine.state.reg(number);
  const std::string reg = reg_name(number);
  if (value.kind == Kind::kUninitialised &&
      !engine.refuse_register(Rule::kTYP001, number, "argument " + std::to_string(number) + " has no value",
                              reg + " !read_ok"))
    return false;
  // A class that was granted a helper which takes addresses of the host may pass what the host handed over.
  const Constraints* constraints = engine.request.constraints;
  const bool takes_address =
      constraints != nullptr && call.id() != BPF_FUNC_override_return &&
      std::find(constraints->helpers_granted.begin(), constraints->helpers_granted.end(), call.id()) !=
          constraints->helpers_granted.end();
  if (kind == ArgKind::kAnything && takes_address &&
      (value.kind == Kind::kHostObject || value.kind == Kind::kHostBuffer))
    return true;
  if (kind == ArgKind::kAnything)
    return !value.is_pointer() || engine.request.options.allow_pointer_leaks ||
           engine.refuse_register(Rule::kTYP006, number,
                                  "a pointer is handed to a helper that takes a number",
                                  reg + " leaks addr into helper function");
  if ((value.kind == Kind::kPacket || value.kind == Kind::kPacketMeta) &&
      (call.prototype.flags & Prototype::kPacketAccess) == 0 &&
      !engine.refuse_register(Rule::kTYP002, number, "this helper takes no pointers into the packet",
                              "helper access to the packet is not allowed"))
    return false;
  if (!(value.is_null() && takes_null(kind))) {
    if (!type_fits(call, kind, value)) {
      const std::string type = type_name(value);
      const bool may_be_null = value.may_be_null;
      if (!engine.refuse_register(may_be_null ? Rule::kNUL001 : Rule::kTYP002, number,
                                  may_be_null
                                      ? "argument " + std::to_string(number) + " may be null"
                                      : "argument " + std::to_string(number) + " of " +
                                            std::string(call.prototype.name) + " is of the wrong kind",
                                  reg + " type=" + type + " expected=" + std::string(expected_types(kind))))
        return false;
      return true;  // the rule is switched off: nothing below makes sense of this value
    }
    if (!check_offset(engine, number, kind, value)) return false;
    // A bad address is repaired in the program's own loads, not inside a helper.
    if (value.kind == Kind::kHostBuffer && value.walked &&
        !engine.refuse_register(Rule::kEIM005, number,
                                "the buffer's address was read from the host's memory and may dangle: copy "
                                "what is needed of it, byte by byte, and pass the copy"))
      return false;
  }
  if (kind == ArgKind::kRingbufRecord) {
    if (value.reference == 0 &&
        !engine.refuse_register(Rule::kREF002, number, "the record is not owned here",
                                reg + " must be referenced when passed to release function"))
      return false;
    call.released_register = number;
  }
  if (value.reference != 0) call.reference = value.reference;
  return check_kind(engine, call, number, kind);
}

bool check_size(Engine& engine, uint32_t size_register, uint32_t pointer_register, bool zero_allowed,
                Access access, bool may_be_uninitialised) {
  const Scalar size = engine.state.reg(size_register).scalar;
  const std::string reg = reg_name(size_register);
  if (size.smin < 0 &&
      !engine.refuse_register(Rule::kMEM003, size_register, "the size may be negative",
                              reg + " min value is negative, either use unsigned or 'var &= const'"))
    return false;
  if (size.umin == 0 && !zero_allowed &&
      !engine.refuse_register(Rule::kMEM007, size_register, "the size may be zero",
                              reg + " invalid zero-sized read: u64=[" +
                                  std::to_string(static_cast<int64_t>(size.umin)) + "," +
                                  std::to_string(static_cast<int64_t>(size.umax)) + "]"))
    return false;
  if (size.umax >= kSizeMax) {
    if (!engine.refuse_register(Rule::kMEM003, size_register, "the size has no bound",
                                reg + " unbounded memory access, use 'var &= const' or 'if (var < const)'"))
      return false;
    return true;
  }
  const Value& pointer = engine.state.reg(pointer_register);
  if (pointer.is_null()) {  // let through because the helper takes null: then there must be no bytes either
    if (size.umax == 0 && zero_allowed) return true;
    return engine.refuse_register(
        Rule::kNUL001, pointer_register, "null is passed with a size that is not zero",
        reg_name(pointer_register) + " type=scalar expected=" + std::string(expected_types(ArgKind::kMem)));
  }
  // How much of the buffer is written is known only for constant sizes; the rest stays what it was.
  return check_buffer(engine, pointer_register, size, zero_allowed, access,
                      !(may_be_uninitialised && size.is_const()));
}

std::optional<std::string> constant_string(Engine& engine, uint32_t number) {
  const Value& value = engine.state.reg(number);
  const std::string reg = reg_name(number);
  const auto refuse = [&](std::string message, std::string linux_message,
                          int error = EACCES) -> std::optional<std::string> {
    if (refuse_as(engine, error, Rule::kTYP002, std::move(message), std::move(linux_message)))
      return std::string();
    return {};
  };
  if (value.kind != Kind::kMapValue || !is_frozen_constant(engine.request.maps[value.index]))
    return refuse("the string does not lie in a frozen read-only map",
                  reg + " does not point to a readonly map'");
  if (!value.scalar.is_const())
    return refuse("the string's place is not known", reg + " is not a constant address'");
  const MapConstraint& map = engine.request.maps[value.index];
  if (map.contents.empty())
    return refuse("the map's values have no fixed place", "no direct value access support for this map type");
  const int64_t offset = value.off + static_cast<int64_t>(value.scalar.value());
  if (offset < 0 || static_cast<uint64_t>(offset) >= map.contents.size())
    return refuse("the string lies outside of the map's value",
                  "invalid access to map value, value_size=" + std::to_string(map.spec.value_size) +
                      " off=" + std::to_string(offset) +
                      " size=" + std::to_string(int64_t{map.spec.value_size} - offset));
  std::string text(map.contents.begin() + offset, map.contents.end());
  const size_t end = text.find('\0');
  if (end == std::string::npos)
    return refuse("the string has no end", "string is not zero-terminated", EINVAL);
  text.resize(end);
  return text;
}

bool format_valid(std::string_view format, uint32_t values) {
  const auto at = [&](size_t i) { return i < format.size() ? static_cast<unsigned char>(format[i]) : '\0'; };
  const auto ends_word = [&](size_t i) {
    return at(i) == 0 || std::isspace(at(i)) != 0 || std::ispunct(at(i)) != 0;
  };
  uint32_t used = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (at(i) >= 0x80 || (std::isprint(at(i)) == 0 && std::isspace(at(i)) == 0)) return false;
    if (at(i) != '%') continue;
    if (at(i + 1) == '%') {
      ++i;
      continue;
    }
    if (used++ >= values) return false;
    ++i;
    while (at(i) == '0' || at(i) == '+' || at(i) == '-' || at(i) == ' ') ++i;
    if (at(i) >= '1' && at(i) <= '9')
      while (std::isdigit(at(i)) != 0) ++i;
    if (at(i) == 'p') {
      if (ends_word(i + 1)) continue;
      const auto next = at(i + 1);
      if ((next == 'k' || next == 'u') && at(i + 2) == 's') {
        i += 2;
        if (!ends_word(i + 1)) return false;
      } else if (next == 'K' || next == 'x' || next == 's' || next == 'S' || next == 'B') {
        ++i;
      } else if ((next == 'i' || next == 'I') && (at(i + 2) == '4' || at(i + 2) == '6')) {
        i += 2;
      } else {
        return false;
      }
      continue;
    }
    if (at(i) == 's') {
      if (!ends_word(i + 1)) return false;
      continue;
    }
    if (at(i) == 'c') continue;
    if (at(i) == 'l') ++i;
    if (at(i) == 'l') ++i;
    if (std::string_view("iduxX").find(static_cast<char>(at(i))) == std::string_view::npos || at(i) == 0)
      return false;
  }
  return true;
}

}  // namespace bpftime::verifier

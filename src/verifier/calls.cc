// Calls of helpers: whether the program may call it, its arguments (arguments.cc), what the call does to ownership and locks, and
// what r0 is afterwards. The order of checks is Linux's, because the first that fails decides errno and message.
#include "verifier/calls.h"

#include <linux/bpf.h>

#include <algorithm>
#include <string>

#include "maps/types.h"
#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

constexpr int64_t kErrnoMax = 4095;           // MAX_ERRNO
constexpr int kEnotsupp = 524;                // not in userspace's errno.h
constexpr uint64_t kProcessorsMax = 1 << 13;  // NR_CPUS at its largest
constexpr uint32_t kConflict = UINT32_MAX;    // InsnFacts::map when different maps were seen

bool is_tracing(uint32_t type) {
  switch (type) {
    case BPF_PROG_TYPE_KPROBE:
    case BPF_PROG_TYPE_TRACEPOINT:
    case BPF_PROG_TYPE_PERF_EVENT:
    case BPF_PROG_TYPE_RAW_TRACEPOINT:
    case BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE:
      return true;
    default:
      return false;
  }
}

bool is_sleepable(const Engine& engine) { return (engine.request.flags & BPF_F_SLEEPABLE) != 0; }

bool works_in_sleepable(uint32_t map_type) {
  switch (map_type) {  // those we do not have
    case BPF_MAP_TYPE_INODE_STORAGE:
    case BPF_MAP_TYPE_SK_STORAGE:
    case BPF_MAP_TYPE_TASK_STORAGE:
    case 32:  // BPF_MAP_TYPE_CGRP_STORAGE
    case 33:  // BPF_MAP_TYPE_ARENA
      return true;
    default:
      return maps::type_facts(map_type).in_sleepable;
  }
}

// Licences as Linux's license_is_gpl_compatible() reads them.
bool is_gpl_compatible(std::string_view license) {
  for (std::string_view known :
       {"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"})
    if (license == known) return true;
  return false;
}

bool contains(const std::vector<uint32_t>& list, uint32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

bool needs_grant(uint32_t id) { return id == BPF_FUNC_probe_write_user || id == BPF_FUNC_override_return; }

// There is no prototype to check the call by.
bool refuse_unknown(Engine& engine, uint32_t id) {
  const std::string number = std::to_string(static_cast<int32_t>(id));
  const std::string name(id == 0 ? "bpf_unspec" : helper_name(id));
  if (name == "unknown")
    return engine.refuse(Rule::kFUN001, "there is no helper number " + number,
                         "invalid func unknown#" + number);
  return engine.refuse(Rule::kFUN002, name + " is not for programs of this type",
                       "program of this type cannot use helper " + name + "#" + number);
}

// The prototype, if programs of this type have the helper.
const Prototype* prototype_for(const Engine& engine, uint32_t id) {
  if (needs_grant(id) && engine.request.constraints == nullptr && !engine.request.options.probe_write_user)
    return nullptr;
  // Linux ends functions at probes alone; a class for a system call may let its programs answer in the kernel's place.
  const bool ends_system_call = id == BPF_FUNC_override_return && engine.request.constraints != nullptr &&
                                engine.request.program.type == BPF_PROG_TYPE_TRACEPOINT;
  return find_prototype(id, ends_system_call ? uint32_t{BPF_PROG_TYPE_KPROBE} : engine.request.program.type);
}

// Whether a program of this licence and class may call it.
bool check_permission(Engine& engine, const Prototype& prototype) {
  const uint32_t id = prototype.id;
  const Constraints* constraints = engine.request.constraints;
  if (prototype.gpl && !is_gpl_compatible(engine.request.license) &&
      !engine.refuse(Rule::kFUN003,
                     std::string(prototype.name) + " is only for programs with a GPL-compatible licence",
                     "cannot call GPL-restricted function from non-GPL compatible program"))
    return false;
  if ((prototype.flags & Prototype::kMightSleep) != 0 && !is_sleepable(engine) &&
      !engine.refuse(Rule::kFUN008, std::string(prototype.name) + " may sleep, and this program must not",
                     "helper call might sleep in a non-sleepable prog"))
    return false;
  if (constraints == nullptr) return true;
  const bool is_denied = contains(constraints->helpers_denied, id) ||
                         (needs_grant(id) && !contains(constraints->helpers_granted, id));
  if (!is_denied || engine.refuse(Rule::kEIM008, "class `" + constraints->class_name + "` does not grant " +
                                                     std::string(prototype.name)))
    return true;
  if (!engine.verdict.diagnoses.empty()) engine.verdict.diagnoses.back().grant = prototype.name;
  return false;
}

void note_map(Engine& engine, const Value& map) {
  if (engine.insn_index >= engine.facts.insns.size()) return;
  InsnFacts& facts = engine.facts.insns[engine.insn_index];
  const bool is_first = !facts.same_map && facts.map != kConflict;
  if (map.instance == 0 && (is_first || (facts.same_map && facts.map == map.index))) {
    facts.same_map = true;
    facts.map = map.index;
  } else {
    facts.same_map = false;
    facts.map = kConflict;
  }
}

void note_context(Engine& engine, uint32_t id) {
  // These take the context as a token; what is in it does not matter to them.
  if (id == BPF_FUNC_perf_event_output || id == BPF_FUNC_get_func_ip || id == BPF_FUNC_get_attach_cookie)
    return;
  engine.facts.context_escapes = true;
}

bool check_arguments(Engine& engine, Call& call) {
  // The output of bpf_snprintf is the only one before its inputs; written, it would count as initialised.
  constexpr std::array<uint32_t, 5> kInOrder{0, 1, 2, 3, 4}, kOutputLast{0, 2, 3, 4, 1};
  for (const uint32_t i : call.id() == BPF_FUNC_snprintf ? kOutputLast : kInOrder) {
    if (call.prototype.arguments[i] == ArgKind::kContext) note_context(engine, call.id());
    if (!check_argument(engine, call, i)) return false;
  }
  return true;
}

// Before anything else is done with the map. Whether the helper is made for it comes last, as on Linux.
bool check_map_writes(Engine& engine, const Call& call) {
  if (call.map_register == 0) return true;
  const Value& map = engine.state.reg(call.map_register);
  const wire::MapSpec& spec = spec_of_map(engine, map);
  const uint32_t id = call.id();
  note_map(engine, map);
  const bool writes = id == BPF_FUNC_map_update_elem || id == BPF_FUNC_map_delete_elem ||
                      id == BPF_FUNC_map_push_elem || id == BPF_FUNC_map_pop_elem;
  if (writes && (spec.flags & BPF_F_RDONLY_PROG) != 0 &&
      !engine.refuse(Rule::kMEM005,
                     "map `" + engine.request.maps[map.index].name + "` is read-only for programs",
                     "write into map forbidden"))
    return false;
  return id != BPF_FUNC_tail_call || spec.type == BPF_MAP_TYPE_PROG_ARRAY ||
         engine.refuse(Rule::kFUN004,
                       "tail calls go through a map of programs, which `" +
                           engine.request.maps[map.index].name + "` is not",
                       "expected prog array map for tail call");
}

bool check_map_type(Engine& engine, const Call& call) {
  if (call.map_register == 0) return true;
  const Value& map = engine.state.reg(call.map_register);
  const uint32_t type = spec_of_map(engine, map).type;
  return takes_map(call.id(), type) ||
         engine.refuse(Rule::kFUN004,
                       std::string(call.prototype.name) + " does not work with map `" +
                           engine.request.maps[map.index].name + "`",
                       "cannot pass map_type " + std::to_string(type) + " into func " +
                           std::string(call.prototype.name) + "#" + std::to_string(call.id()));
}

// r2 of bpf_override_return becomes the host function's result.
bool check_override(Engine& engine) {
  const Constraints* constraints = engine.request.constraints;
  if (constraints == nullptr) return true;
  if (!constraints->may_return && !engine.refuse(Rule::kEIM005, "class `" + constraints->class_name +
                                                                    "` may not end the host's function"))
    return false;
  if (constraints->return_is_void) return true;
  const Value& value = engine.state.reg(BPF_REG_2);
  const Scalar& number = value.scalar;
  const auto holds = [&](const Range& range) {
    if (range.low <= range.high && range.low <= number.umin && number.umax <= range.high) return true;
    const auto low = static_cast<int64_t>(range.low), high = static_cast<int64_t>(range.high);
    return low <= high && low <= number.smin && number.smax <= high;
  };
  const auto& ranges = constraints->return_values;
  if (value.is_number() && std::any_of(ranges.begin(), ranges.end(), holds)) return true;
  return engine.refuse_register(
      Rule::kEIM005, BPF_REG_2,
      "the value to return is not proved to be one that class `" + constraints->class_name + "` may return");
}

bool check_format(Engine& engine) {
  const auto format = constant_string(engine, BPF_REG_3);
  if (!format) return false;
  const Scalar& bytes = engine.state.reg(BPF_REG_5).scalar;
  return format_valid(*format, static_cast<uint32_t>(bytes.bits.value / 8)) ||
         refuse_as(engine, EINVAL, Rule::kTYP002, "the format string is not valid for these values",
                   "Invalid format string");
}

// What the callback of this helper gets. Linux explores it any number of times; what it returns decides whether it goes on.
bool call_back(Engine& engine, const Call& call) {
  const Scalar result = Scalar::unsigned_range(0, 1);
  std::array<Value, 5> arguments;
  switch (call.id()) {
    case BPF_FUNC_loop:
      arguments[0] = Value::of(Scalar::unknown());
      arguments[1] = engine.state.reg(BPF_REG_3);
      break;
    case BPF_FUNC_for_each_map_elem: {
      const Value map = engine.state.reg(BPF_REG_1);
      const wire::MapSpec& spec = spec_of_map(engine, map);
      if (!maps::type_facts(spec.type).for_each &&
          !refuse_as(engine, kEnotsupp, Rule::kFUN004, "elements of this type of map cannot be listed",
                     "callback function not allowed for map"))
        return false;
      arguments[0] = map;
      arguments[1] = Value::pointer(Kind::kMapKey);
      arguments[1].index = map.index;
      arguments[1].size = spec.key_size;
      arguments[1].read_only = true;
      arguments[2] = Value::pointer(Kind::kMapValue);
      arguments[2].index = map.index;
      arguments[2].size = spec.value_size;
      arguments[2].read_only = (spec.flags & BPF_F_RDONLY_PROG) != 0;
      arguments[3] = engine.state.reg(BPF_REG_3);
      break;
    }
    case BPF_FUNC_find_vma:
      arguments[0] = engine.state.reg(BPF_REG_1);
      arguments[1] = Value::pointer(Kind::kKernelObject);
      arguments[2] = engine.state.reg(BPF_REG_4);
      break;
    case BPF_FUNC_user_ringbuf_drain:
      arguments[0] = Value::pointer(Kind::kDynptr);
      arguments[0].instance = engine.new_id();
      arguments[1] = engine.state.reg(BPF_REG_3);
      break;
    default:
      return true;
  }
  for (Value& argument : arguments) argument.made_at = engine.insn_index;
  return enter_callback(engine, call.subprogram, arguments, result);
}

// What single helpers demand beyond their prototype.
bool check_special(Engine& engine, const Call& call) {
  switch (call.id()) {
    case BPF_FUNC_tail_call:
      return check_no_references(engine, "tail_call");
    case BPF_FUNC_get_local_storage:
      return engine.state.reg(BPF_REG_2).is_null() ||
             refuse_as(engine, EINVAL, Rule::kTYP002, "the flags must be zero",
                       "get_local_storage() doesn't support non-zero flags");
    case BPF_FUNC_snprintf:
      return check_format(engine);
    case BPF_FUNC_dynptr_from_mem:
      return engine.state.reg(BPF_REG_1).kind == Kind::kMapValue ||
             refuse_register_as(engine, EACCES, Rule::kDYN001, BPF_REG_1,
                                "a dynptr can be made of map values only",
                                "Unsupported reg type " + type_name(engine.state.reg(BPF_REG_1)) +
                                    " for bpf_dynptr_from_mem data");
    case BPF_FUNC_override_return:
      return check_override(engine);
    case BPF_FUNC_loop:
    case BPF_FUNC_for_each_map_elem:
    case BPF_FUNC_find_vma:
    case BPF_FUNC_user_ringbuf_drain:
      return call_back(engine, call);
    default:
      return true;
  }
}

// nr_cpu_ids: known from any map with a part for each processor.
uint64_t processors(const Engine& engine) {
  uint64_t count = kProcessorsMax;
  for (const MapConstraint& map : engine.request.maps)
    if (map.spec.cpu_count != 0 && map.spec.type != BPF_MAP_TYPE_BLOOM_FILTER)  // there it is map_extra
      count = std::min<uint64_t>(count, map.spec.cpu_count);
  return count;
}

Value integer_result(const Engine& engine, const Call& call) {
  switch (call.id()) {
    case BPF_FUNC_get_stack:
    case BPF_FUNC_get_task_stack:
    case BPF_FUNC_probe_read_str:
    case BPF_FUNC_probe_read_kernel_str:
    case BPF_FUNC_probe_read_user_str:
      if (call.size_max < kSizeMax)
        return Value::of(Scalar::signed_range(-kErrnoMax, static_cast<int64_t>(call.size_max)));
      break;
    case BPF_FUNC_get_smp_processor_id:
      return Value::of(Scalar::unsigned_range(0, processors(engine) - 1));
    default:
      break;
  }
  return Value::of(Scalar::unknown());
}

Value looked_up(Engine& engine, const Call& call, const Value& map, bool may_be_null) {
  const wire::MapSpec& spec = spec_of_map(engine, map);
  const MapConstraint& constraint = engine.request.maps[map.index];
  const bool is_outer = map.instance == 0 &&
                        (spec.type == BPF_MAP_TYPE_ARRAY_OF_MAPS || spec.type == BPF_MAP_TYPE_HASH_OF_MAPS);
  // A per-CPU array, or one made with BPF_F_INNER_MAP, may stand in a map of maps for one of another size.
  const bool size_known = map.instance == 0 ||
                          (spec.type == BPF_MAP_TYPE_ARRAY && (spec.flags & (1u << 12 /* INNER_MAP */)) == 0);
  if (size_known && call.constant_key && *call.constant_key < spec.max_entries &&
      (call.id() == BPF_FUNC_map_lookup_elem || call.id() == BPF_FUNC_map_lookup_percpu_elem))
    may_be_null = false;
  Value value = Value::pointer(is_outer ? Kind::kMap : Kind::kMapValue);
  value.index = map.index;
  value.may_be_null = may_be_null;
  if (may_be_null) value.id = engine.new_id();
  if (is_outer) {
    value.instance = engine.new_id();
    return value;
  }
  value.size = spec.value_size;
  value.read_only = (spec.flags & BPF_F_RDONLY_PROG) != 0;
  const bool is_inner = map.instance != 0;
  if (!is_inner && (constraint.spin_lock || constraint.timer)) value.instance = engine.new_id();
  return value;
}

Value memory_result(const Call& call) {
  Value value = Value::pointer(Kind::kMemory);
  value.may_be_null = true;
  value.size = static_cast<uint32_t>(std::min<uint64_t>(call.memory_size, UINT32_MAX));
  return value;
}

Value result_of(Engine& engine, const Call& call) {
  switch (call.prototype.result) {
    case ResultKind::kVoid:
      return Value{};
    case ResultKind::kInteger:
      return integer_result(engine, call);
    case ResultKind::kMapValue:
    case ResultKind::kMapValueOrNull:
      return looked_up(engine, call, engine.state.reg(call.map_register),
                       call.prototype.result == ResultKind::kMapValueOrNull);
    case ResultKind::kRecordOrNull: {
      Value value = memory_result(call);
      value.alloc_record = true;
      value.id = value.reference = acquire_reference(engine, 0);
      return value;
    }
    case ResultKind::kDynptrMemoryOrNull: {
      Value value = memory_result(call);
      value.id = engine.new_id();
      value.instance = call.dynptr_id;
      value.reference = call.dynptr_reference;
      return value;
    }
    case ResultKind::kKernelObject:
    case ResultKind::kKernelMemory:
      return Value::pointer(Kind::kKernelObject);
    case ResultKind::kSocketOrNull:
    case ResultKind::kKernelObjectOrNull:
    case ResultKind::kKernelMemoryOrNull: {
      Value value = Value::pointer(Kind::kKernelObject);
      value.may_be_null = true;
      value.id = engine.new_id();
      return value;
    }
  }
  return Value{};
}

// Ends what the call releases.
bool release_argument(Engine& engine, const Call& call) {
  if (call.released_register == 0) return true;
  const uint32_t reference = call.reference;
  if (reference != 0 && release_reference(engine, reference)) {
    end_dynptrs_of(engine, reference);
    return true;
  }
  return engine.refuse(Rule::kREF002, "what is released here is not owned",
                       "func " + std::string(call.prototype.name) + "#" + std::to_string(call.id()) +
                           " reference has not been acquired before");
}

}  // namespace

const wire::MapSpec& spec_of_map(const Engine& engine, const Value& map) {
  const MapConstraint& constraint = engine.request.maps[map.index];
  return map.instance != 0 && constraint.inner ? *constraint.inner : constraint.spec;
}

uint32_t acquire_reference(Engine& engine, uint32_t kind) {
  const uint32_t id = engine.new_id();
  const auto frame = static_cast<uint8_t>(engine.state.frames.size() - 1);
  engine.state.references.push_back({id, engine.insn_index, kind, frame});
  return id;
}

bool check_reference_limit(Engine& engine) {
  const uint32_t limit = engine.request.options.limits.references;
  return engine.state.references.size() < limit ||
         engine.refuse(Rule::kLIM004, "more than " + std::to_string(limit) + " references are open at once");
}

void invalidate(const Engine& engine, Value& value) {
  const uint32_t made_at = engine.insn_index;
  value = engine.request.options.allow_pointer_leaks ? Value::of(Scalar::unknown()) : Value{};
  value.made_at = made_at;
}

bool release_reference(Engine& engine, uint32_t id) {
  if (std::erase_if(engine.state.references,
                    [id](const Reference& reference) { return reference.id == id; }) == 0)
    return false;
  invalidate_where(engine, [id](const Value& value) { return value.reference == id; });
  return true;
}

bool check_no_references(Engine& engine, std::string_view where) {
  if (!engine.state.references.empty()) {
    const Reference& first = engine.state.references.front();
    std::string words;
    for (const Reference& reference : engine.state.references)
      words += "Unreleased reference id=" + std::to_string(reference.id) +
               " alloc_insn=" + std::to_string(reference.acquired_at) + "\n";
    if (!engine.refuse(Rule::kREF001, "what was acquired is not released on this path",
                       words + std::string(where) + " would lead to reference leak",
                       {{first.acquired_at, "acquired here"}}))
      return false;
  }
  return !engine.state.lock.held ||
         engine.refuse(Rule::kLCK001, "a lock is still held here",
                       std::string(where) + " cannot be used inside bpf_spin_lock-ed region");
}

void forget_arguments(Engine& engine) {
  for (uint32_t number = BPF_REG_1; number <= BPF_REG_5; ++number) engine.state.reg(number) = Value{};
}

// An address inside the only value of an array: whether there is one, and the offset lies in it.
bool check_direct_value(Engine& engine, const MapConstraint& map, uint32_t offset) {
  const wire::MapSpec& spec = map.spec;
  if (offset >= kOffsetMax)
    return refuse_as(engine, EINVAL, Rule::kMEM009, "the offset into map `" + map.name + "` is too large",
                     "direct value offset of " + std::to_string(offset) + " is not allowed");
  if (spec.type != BPF_MAP_TYPE_ARRAY)
    return refuse_as(engine, EINVAL, Rule::kMEM004,
                     "the values of map `" + map.name + "` have no fixed address",
                     "no direct value access support for this map type");
  if (spec.max_entries == 1 && offset < spec.value_size) return true;
  return refuse_as(
      engine, spec.max_entries == 1 ? EINVAL : kEnotsupp, Rule::kMEM009,
      "offset " + std::to_string(offset) + " is not inside the only value of map `" + map.name + "`",
      "invalid access to map value pointer, value_size=" + std::to_string(spec.value_size) +
          " off=" + std::to_string(offset));
}

bool check_maps(Engine& engine) {
  const auto& insns = engine.request.program.insns;
  const uint32_t type = engine.request.program.type;
  for (uint32_t i = 0; i + 1 < insns.size(); ++i) {
    if (insns[i].code != (BPF_LD | BPF_IMM | BPF_DW)) continue;
    engine.insn_index = i++;
    const program::Insn& insn = engine.insn();
    const auto offset = static_cast<uint32_t>(insns[i].imm);
    if (insn.src_reg != BPF_PSEUDO_MAP_FD && insn.src_reg != BPF_PSEUDO_MAP_VALUE) continue;
    const auto index = static_cast<uint32_t>(insn.imm);
    if (index >= engine.request.maps.size()) {
      if (!refuse_as(engine, EBADF, Rule::kENC001, "there is no map number " + std::to_string(index),
                     "fd " + std::to_string(insn.imm) + " is not pointing to valid bpf_map"))
        return false;
      continue;
    }
    const MapConstraint& map = engine.request.maps[index];
    if (insn.src_reg == BPF_PSEUDO_MAP_VALUE && !check_direct_value(engine, map, offset)) return false;
    const auto refuse = [&](const char* what, const char* words) {
      return engine.refuse(Rule::kFUN005, std::string(what) + " in map `" + map.name + "`", words);
    };
    if (map.spin_lock && type == BPF_PROG_TYPE_SOCKET_FILTER &&
        !refuse("socket filters may not use locks", "socket filter progs cannot use bpf_spin_lock yet"))
      return false;
    if (map.spin_lock && is_tracing(type) &&
        !refuse("tracing programs may not use locks", "tracing progs cannot use bpf_spin_lock yet"))
      return false;
    if (map.timer && is_tracing(type) &&
        !refuse("tracing programs may not use timers", "tracing progs cannot use bpf_timer yet"))
      return false;
    if (is_sleepable(engine) && !works_in_sleepable(map.spec.type) &&
        !refuse("sleepable programs may not use this type of map",
                "Sleepable programs can only use array, hash, ringbuf and local storage maps"))
      return false;
  }
  engine.insn_index = 0;
  return true;
}

bool step_helper_call(Engine& engine) {
  const auto id = static_cast<uint32_t>(engine.insn().imm);
  if (engine.state.lock.held && id != BPF_FUNC_spin_unlock &&
      !engine.refuse(Rule::kFUN008, "nothing may be called while a lock is held",
                     "function calls are not allowed while holding a lock"))
    return false;
  const Prototype* prototype = prototype_for(engine, id);
  if (prototype == nullptr) {
    if (!refuse_unknown(engine, id)) return false;
    forget_arguments(engine);
    engine.state.reg(BPF_REG_0) = Value::of(Scalar::unknown());
    return true;
  }
  if (!check_permission(engine, *prototype)) return false;
  Call call{*prototype};
  if (!check_arguments(engine, call)) return false;
  if (!check_map_writes(engine, call) || !release_argument(engine, call) || !check_special(engine, call) ||
      !check_map_type(engine, call))
    return false;
  if (prototype->result == ResultKind::kRecordOrNull && !check_reference_limit(engine)) return false;
  Value result = result_of(engine, call);
  result.made_at = engine.insn_index;
  if ((prototype->flags & Prototype::kChangesPacket) != 0)
    invalidate_where(engine, [](const Value& value) {
      return value.kind == Kind::kPacket || value.kind == Kind::kPacketMeta || value.kind == Kind::kPacketEnd;
    });
  forget_arguments(engine);
  engine.state.reg(BPF_REG_0) = result;
  return true;
}

}  // namespace bpftime::verifier

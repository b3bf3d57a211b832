// The context: what r1 points to on entry, which of its fields may be accessed, what they give; and what a program returns.
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "program/instructions.h"
#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

enum class Gives : uint8_t { kNumber, kPacket, kPacketEnd, kPacketMeta, kSocket };

struct Field {
  uint32_t type;  // enum bpf_prog_type
  uint16_t first, end;
  uint8_t reads, writes;  // sums of allowed sizes
  Gives gives;
};

constexpr Field kFields[] = {
#define BPFTIME_CONTEXT_FIELD(type, first, end, reads, writes, gives) \
  {BPF_PROG_TYPE_##type, first, end, reads, writes, Gives::gives},
#include "verifier/context_fields.def"
#undef BPFTIME_CONTEXT_FIELD
};

constexpr uint32_t kSlotsTracked = 64;  // Facts::context_slots_read

const Field* find_field(uint32_t type, int64_t offset, uint32_t size, Access access) {
  if (offset < 0 || offset % size != 0) return nullptr;
  for (const Field& field : kFields) {
    if (field.type != type || offset < field.first || offset + size > field.end) continue;
    return (access == Access::kRead ? field.reads : field.writes) & size ? &field : nullptr;
  }
  return nullptr;
}

void note_read(Engine& engine, int64_t offset, uint32_t size) {
  engine.facts.context_end = std::max(engine.facts.context_end, static_cast<uint64_t>(offset) + size);
  for (int64_t slot = offset / 8; slot <= (offset + size - 1) / 8; ++slot) {
    if (slot < kSlotsTracked) {
      engine.facts.context_slots_read |= 1ull << slot;
    } else {
      engine.facts.context_escapes = true;
    }
  }
}

bool refuse_field(Engine& engine, uint32_t reg, int64_t offset, uint32_t size, const char* verb) {
  return engine.refuse_register(
      Rule::kCTX001, reg,
      std::string("programs of this type cannot ") + verb + " " + std::to_string(size) +
          (size == 1 ? " byte" : " bytes") + " at offset " + std::to_string(offset) + " of their context",
      "invalid bpf_context access off=" + std::to_string(offset) + " size=" + std::to_string(size));
}

Value field_value(Engine& engine, const Field& field, uint32_t size) {
  Value value = loaded_number(engine, size);
  switch (field.gives) {
    case Gives::kNumber:
      return value;
    case Gives::kPacket:
      value = Value::pointer(Kind::kPacket);
      break;
    case Gives::kPacketEnd:
      value = Value::pointer(Kind::kPacketEnd);
      break;
    case Gives::kPacketMeta:
      value = Value::pointer(Kind::kPacketMeta);
      break;
    case Gives::kSocket:
      value = Value::pointer(Kind::kKernelObject);
      value.may_be_null = true;
      value.id = engine.new_id();
      break;
  }
  value.made_at = engine.insn_index;
  return value;
}

// ---- typed entries: an array of 8-byte slots, one per argument of the host function ----

bool is_typed(const Engine& engine) {
  return engine.request.constraints && engine.request.constraints->typed_entry;
}

// Slots are copies that do not change, so a pointer that was tested once stays tested when it is loaded again.
bool known_non_null(Engine& engine, Kind kind, uint32_t instance) {
  bool found = false;
  engine.state.for_each_value([&](const Value& value) {
    found =
        found || (instance != 0 && value.kind == kind && value.instance == instance && !value.may_be_null);
  });
  return found;
}

Value argument_pointer(Engine& engine, const Argument& argument, uint32_t index) {
  const bool buffer = argument.kind == Argument::Kind::kBuffer;
  Value value = Value::pointer(buffer ? Kind::kHostBuffer : Kind::kHostObject);
  value.instance = entry_instance(index);
  value.made_at = engine.insn_index;
  value.may_be_null = argument.may_be_null && !known_non_null(engine, value.kind, value.instance);
  if (value.may_be_null) value.id = engine.new_id();
  if (!buffer) {
    value.index = argument.kind == Argument::Kind::kObject ? argument.view : kNone;
    return value;
  }
  value.read_only = !argument.out;
  value.size = argument.length;
  if (argument.length_argument != kNone) {
    value.length_id = entry_length_id(argument.length_argument);
    value.size = proved_length(engine.state, value.length_id);
  }
  return value;
}

bool is_length_argument(const Constraints& constraints, uint32_t index) {
  return std::any_of(constraints.entry.begin(), constraints.entry.end(), [&](const Argument& argument) {
    return argument.kind == Argument::Kind::kBuffer && argument.length_argument == index;
  });
}

// The number in slot `index`. The caller of the host function leaves the bits above the C type's width undefined (the ABI
// promises nothing), but whoever fills the slots extends them by the type.
Value argument_number(const Engine& engine, const Argument& argument, uint32_t index, uint32_t size) {
  Value value = loaded_number(engine, size);
  Scalar whole = Scalar::loaded(std::clamp(argument.bytes, 1u, 8u), argument.is_signed);
  if (whole.contains(argument.number)) whole = argument.number;
  value.scalar = size == 8 ? whole : truncate(whole, size);
  const bool all_of_it = size == 8 || whole.umax < 1ull << (8 * size);
  if (all_of_it && is_length_argument(*engine.request.constraints, index))
    value.length_id = entry_length_id(index);
  return value;
}

bool read_argument(Engine& engine, uint32_t reg, int64_t offset, uint32_t size, Value* loaded) {
  const Constraints& constraints = *engine.request.constraints;
  const int64_t slot = offset / 8;
  if (offset < 0 || slot >= static_cast<int64_t>(constraints.entry.size()))
    return engine.refuse_register(
        Rule::kCTX001, reg,
        "there is no argument at offset " + std::to_string(offset) + " of the entry, which has " +
            std::to_string(constraints.entry.size()),
        "invalid bpf_context access off=" + std::to_string(offset) + " size=" + std::to_string(size));
  const auto index = static_cast<uint32_t>(slot);
  const Argument& argument = constraints.entry[index];
  const bool number = argument.kind == Argument::Kind::kNumber;
  // Compilers narrow the load of a slot that is cast to a narrower type.
  if (offset % 8 != 0 || (size != 8 && !number))
    return engine.refuse_register(
        Rule::kEIM009, reg,
        std::to_string(size) + " bytes at offset " + std::to_string(offset) + " are not argument " +
            std::to_string(index) + " `" + argument.name + "`",
        "invalid bpf_context access off=" + std::to_string(offset) + " size=" + std::to_string(size));
  if (number && !argument.granted &&
      !engine.refuse_register(Rule::kEIM001, reg, "read of argument `" + argument.name + "`")) {
    if (!engine.verdict.diagnoses.empty())
      engine.verdict.diagnoses.back().grant = "read(" + argument.name + ")";
    return false;
  }
  note_read(engine, offset, size);
  if (!loaded) return true;
  *loaded =
      number ? argument_number(engine, argument, index, size) : argument_pointer(engine, argument, index);
  return true;
}

// ---- results ----

// The range of r0 that this type of program may return; first > second: any number.
namespace program_type {
#define BPFTIME_TYPE(name) constexpr uint32_t name = BPF_PROG_TYPE_##name
BPFTIME_TYPE(KPROBE);
BPFTIME_TYPE(CGROUP_SKB);
BPFTIME_TYPE(CGROUP_SOCK);
BPFTIME_TYPE(SOCK_OPS);
BPFTIME_TYPE(CGROUP_DEVICE);
BPFTIME_TYPE(CGROUP_SYSCTL);
BPFTIME_TYPE(CGROUP_SOCK_ADDR);
BPFTIME_TYPE(SK_REUSEPORT);
BPFTIME_TYPE(CGROUP_SOCKOPT);
BPFTIME_TYPE(SK_LOOKUP);
#undef BPFTIME_TYPE
constexpr uint32_t NETFILTER = 32;  // not in every linux/bpf.h
}  // namespace program_type

struct ReturnValues {
  uint32_t type, attach_type;
  int64_t low, high;
};
constexpr uint32_t kOthers = UINT32_MAX;
constexpr ReturnValues kReturnValues[] = {
#define BPFTIME_RETURN_VALUES(type, attach_type, low, high) {program_type::type, attach_type, low, high},
#include "verifier/return_values.def"
#undef BPFTIME_RETURN_VALUES
};

// The row for the program; nullptr: none names its attach type. `any`: whether its type has rows at all.
const ReturnValues* find_return_values(const verifier::Request& request, bool* any) {
  const ReturnValues* others = nullptr;
  *any = false;
  for (const ReturnValues& row : kReturnValues) {
    if (row.type != request.program.type) continue;
    *any = true;
    if (row.attach_type == request.expected_attach_type) return &row;
    if (row.attach_type == kOthers) others = &row;
  }
  return others;
}

std::pair<int64_t, int64_t> return_range(const verifier::Request& request) {
  bool any;
  const ReturnValues* row = find_return_values(request, &any);
  return row == nullptr ? std::pair<int64_t, int64_t>{0, -1} : std::pair{row->low, row->high};
}

}  // namespace

bool read_context(Engine& engine, uint32_t reg, int64_t offset, uint32_t size, Value* loaded) {
  if (is_typed(engine)) return read_argument(engine, reg, offset, size, loaded);
  const Field* field = find_field(engine.request.program.type, offset, size, Access::kRead);
  if (!field) return refuse_field(engine, reg, offset, size, "read");
  // A pointer cannot be sign-extended.
  const bool sign_extends =
      BPF_CLASS(engine.insn().code) == BPF_LDX && BPF_MODE(engine.insn().code) == program::kModeMemSx;
  if (sign_extends && field->gives != Gives::kNumber) return refuse_field(engine, reg, offset, size, "read");
  note_read(engine, offset, size);
  if (loaded) *loaded = field_value(engine, *field, size);
  return true;
}

bool write_context(Engine& engine, uint32_t reg, int64_t offset, uint32_t size, const Value&) {
  const bool allowed =
      !engine.request.constraints && find_field(engine.request.program.type, offset, size, Access::kWrite);
  return allowed || refuse_field(engine, reg, offset, size, "write");
}

Value entry_context(const Engine&) { return Value::pointer(Kind::kContext); }

bool attach_type_exists(const verifier::Request& request) {
  bool any;
  return find_return_values(request, &any) != nullptr || !any;
}

bool check_return(Engine& engine) {
  const Value result = engine.state.reg(0);
  if (result.kind == Kind::kUninitialised)
    return engine.refuse_register(Rule::kTYP001, 0, "the program ends without a result: `r0` has no value",
                                  "R0 !read_ok");
  if (result.is_pointer() && !engine.request.options.allow_pointer_leaks)
    return engine.refuse_register(Rule::kTYP006, 0, "the program would return a pointer",
                                  "R0 leaks addr as return value");
  const auto [low, high] = return_range(engine.request);
  if (low > high) return true;
  const std::string range = "[" + std::to_string(low) + ", " + std::to_string(high) + "]";
  if (!result.is_number())
    return engine.refuse_register(
        Rule::kRET001, 0, "the program returns a pointer, where a number in " + range + " is expected",
        "At program exit the register R0 is not a known value (" + linux_type_name(result) + ")");
  if (result.scalar.smin >= low && result.scalar.smax <= high) return true;
  return engine.refuse_register(
      Rule::kRET001, 0, "the result may lie outside " + range,
      "At program exit the register R0 " + result.scalar.describe_outside(low, high));
}

}  // namespace bpftime::verifier

// Memory of the host: objects of which members are granted, buffers whose length is known only as the value of another member.
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>

#include "verifier/memory.h"

namespace bpftime::verifier {
namespace {

// A length id is an instance and, in the low bits, the index of the length member (or argument).
constexpr uint32_t kMemberBits = 10, kMemberMask = (1u << kMemberBits) - 1;
constexpr uint32_t kInstancesMax = 1u << (32 - kMemberBits);
constexpr uint32_t kEntryInstances = 64;

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

bool is_length_member(const View& view, uint32_t index) {
  for (const View::Member& member : view.members)
    if (member.gives == View::Member::Gives::kBuffer && member.buffer_length_member == index) return true;
  return false;
}

Value load_member(Engine& engine, const Value& base, uint32_t member_index, const Touch& touch) {
  const View& view = engine.request.constraints->views[base.index];
  const View::Member& member = view.members[member_index];
  using Gives = View::Member::Gives;
  Value value = loaded_number(engine, touch.size);
  switch (member.gives) {
    case Gives::kNumber: {
      // The promise is about the value as the C type orders it; it helps when this load extends the same way.
      const Scalar loaded = Scalar::loaded(touch.size, touch.sign_extended);
      if (loaded.contains(member.number)) value.scalar = member.number;
      // A length that the program itself may overwrite names nothing.
      if (!member.write && !touch.sign_extended && is_length_member(view, member_index)) {
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
      if (is_entry_instance(value.instance)) value.instance = 0;  // after millions: no identity, no lengths
      value.walked = true;
      break;
    case Gives::kBuffer:
      value = Value::pointer(Kind::kHostBuffer);
      value.walked = true;
      value.read_only = true;  // the pointer itself was read from the host
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
                         const Touch& touch) {
  const Value* stored = touch.stored;
  const std::string name = "`" + member.name + "` of `" + view.type + "`";
  if (stored && stored->is_pointer())
    return engine.refuse(Rule::kTYP006, "a pointer would be stored in " + name,
                         reg_name(engine.insn().src_reg) + " leaks addr into mem");
  if (member.gives != View::Member::Gives::kNumber &&
      !(stored && stored->is_null() && exact(member, base, touch.offset + base.off, touch.size)))
    return engine.refuse(Rule::kEIM002, name + " is a pointer: only null may be stored in it");
  if (member.number == Scalar::unknown()) return true;
  // Other code relies on the range that the type promises.
  const bool whole = exact(member, base, touch.offset + base.off, touch.size);
  const bool in_range = whole && stored && stored->is_number() &&
                        (member.number.contains(truncate(stored->scalar, touch.size)) ||
                         member.number.contains(sign_extend(stored->scalar, 8 * touch.size, true)));
  return in_range || engine.refuse(Rule::kEIM005, "the value stored may be none that " + name + " can have");
}

// "read(r.headers_in.cookie)", when the bytes are those of one member that a policy could grant.
std::string missing_grant(const View& view, const Value& base, int64_t offset, uint32_t size, bool write) {
  for (const View::Member& member : view.members) {
    if (contained(member, base, offset, size) != Containment::kInside) continue;
    if (write ? member.write || member.bit_field : member.read) continue;
    return std::string(write ? "write(" : "read(") + (view.path.empty() ? view.type : view.path) + "." +
           member.name + ")";
  }
  return {};
}

bool refuse_member(Engine& engine, Rule rule, uint32_t reg, std::string message, std::string grant) {
  if (engine.refuse_register(rule, reg, std::move(message))) return true;
  if (!engine.verdict.diagnoses.empty()) engine.verdict.diagnoses.back().grant = std::move(grant);
  return false;
}

}  // namespace

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

bool access_object(Engine& engine, const Value& base, const Touch& touch) {
  const Constraints* constraints = engine.request.constraints;
  const int64_t offset = touch.offset + base.off;
  const bool write = touch.access == Access::kWrite;
  const Rule rule = write ? Rule::kEIM002 : Rule::kEIM001;
  if (!constraints || base.index >= constraints->views.size())
    return engine.refuse_register(rule, touch.reg, "nothing is granted behind this pointer");
  const View& view = constraints->views[base.index];
  if (base.scalar.smin < -kOffsetMax || base.scalar.umax >= static_cast<uint64_t>(kOffsetMax))
    return engine.refuse_register(Rule::kMEM003, touch.reg,
                                  "the offset into `" + view.type + "` has no bounds");
  if (write && base.walked &&
      !engine.refuse_register(Rule::kEIM003, touch.reg,
                              "write to " + object_place(view, base, offset, touch.size)))
    return false;
  uint32_t found = kNone;
  bool straddles = false;
  for (uint32_t i = 0; i < view.members.size(); ++i) {
    const View::Member& member = view.members[i];
    if (!(write ? member.write && !member.bit_field : member.read)) continue;
    const Containment where = contained(member, base, offset, touch.size);
    straddles = straddles || where == Containment::kStraddles;
    if (where != Containment::kInside) continue;
    const bool whole = exact(member, base, offset, touch.size);
    // Part of a pointer is no number either.
    if (!write && member.gives != View::Member::Gives::kNumber && !whole) continue;
    if (found == kNone || (whole && !exact(view.members[found], base, offset, touch.size))) found = i;
  }
  if (found == kNone) {
    std::string message = (write ? "write to " : "read of ") + object_place(view, base, offset, touch.size);
    if (straddles) message += ": not within one granted member";
    return refuse_member(engine, rule, touch.reg, std::move(message),
                         missing_grant(view, base, offset, touch.size, write));
  }
  if (base.walked) engine.facts.insns[engine.insn_index].needs_fault_table = true;
  if (write) return check_stored_member(engine, base, view, view.members[found], touch);
  if (touch.loaded) *touch.loaded = load_member(engine, base, found, touch);
  return true;
}

std::optional<bool> change_bits(Engine& engine, const Value& base, const Touch& touch, uint64_t changed) {
  const Constraints* constraints = engine.request.constraints;
  if (!constraints || base.index >= constraints->views.size() || !base.scalar.is_const()) return std::nullopt;
  const View& view = constraints->views[base.index];
  const int64_t offset = static_cast<int64_t>(base.scalar.value()) + base.off + touch.offset;
  if (offset < 0 || offset + touch.size > view.size) return std::nullopt;
  bool any = false;
  uint64_t granted = 0;
  const View::Member* refused = nullptr;
  for (const View::Member& member : view.members) {
    const int64_t distance = 8 * (int64_t{member.offset} - offset);  // bits
    if (!member.bit_field || distance >= 64 || distance <= -64) continue;
    const uint64_t bits = distance >= 0 ? member.bits << distance : member.bits >> -distance;
    if ((bits & size_bits(touch.size)) == 0) continue;
    any = true;
    if (member.write) granted |= bits;
    if (!member.write && (bits & changed) != 0) refused = &member;
  }
  if (!any) return std::nullopt;
  const std::string place =
      object_place(view, base, offset - static_cast<int64_t>(base.scalar.value()), touch.size);
  if (base.walked && !engine.refuse_register(Rule::kEIM003, touch.reg, "write to " + place)) return false;
  if ((changed & ~granted) == 0) return true;
  const std::string grant =
      refused == nullptr ? std::string()
                         : "write(" + (view.path.empty() ? view.type : view.path) + "." + refused->name + ")";
  return refuse_member(engine, Rule::kEIM002, touch.reg,
                       "bits " + describe_bits(Tnum{changed, 0}) + " of " + place +
                           " would change, not all of them of a bit-field that may be written",
                       grant);
}

// [variable + offset, … + size) lies within the buffer, by its symbolic length or by what is known to be there.
bool access_buffer(Engine& engine, const Value& base, const Touch& touch) {
  const int64_t offset = touch.offset + base.off;
  if (touch.access == Access::kWrite && base.read_only &&
      !engine.refuse_register(base.walked ? Rule::kEIM003 : Rule::kEIM002, touch.reg,
                              "the buffer may only be read"))
    return false;
  if (touch.access == Access::kWrite && touch.stored && touch.stored->is_pointer() &&
      !engine.refuse(Rule::kTYP006, "a pointer would be stored in a buffer of the host",
                     reg_name(engine.insn().src_reg) + " leaks addr into mem"))
    return false;
  const bool by_length = base.length_id != 0 && base.length_slack != kLengthSlackUnknown && offset >= 0 &&
                         offset + touch.size <= base.length_slack;
  const int64_t high = static_cast<int64_t>(std::min<uint64_t>(base.scalar.umax, kOffsetMax)) + offset;
  const bool by_size = base.scalar.umax < static_cast<uint64_t>(kOffsetMax) &&
                       base.scalar.smin + offset >= 0 && high >= 0 && high + touch.size <= base.size;
  if (!by_length && !by_size &&
      !engine.refuse_register(
          Rule::kEIM007, touch.reg,
          (base.scalar.is_const() ? bytes_at(touch.size, high)
                                  : std::to_string(touch.size) + " bytes at a variable offset") +
              " of a host buffer are not proved to lie below its length"))
    return false;
  if (base.walked) engine.facts.insns[engine.insn_index].needs_fault_table = true;
  if (touch.loaded) *touch.loaded = loaded_number(engine, touch.size);
  return true;
}

// ---- symbolic lengths ----

namespace {

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
  if (instance == 0 || instance >= kInstancesMax || member > kMemberMask) return 0;
  return instance << kMemberBits | member;
}

// The last ones, so that they cannot meet those of new_id().
uint32_t entry_instance(uint32_t index) { return index < kEntryInstances ? kInstancesMax - 1 - index : 0; }
bool is_entry_instance(uint32_t instance) {
  return instance >= kInstancesMax - kEntryInstances && instance < kInstancesMax;
}

// Instance 0 names no object, so these are nobody else's.
uint32_t entry_length_id(uint32_t index) { return index < kMemberMask ? index + 1 : 0; }

uint32_t length_instance(uint32_t length_id) { return length_id >> kMemberBits; }
bool is_same_length_member(uint32_t a, uint32_t b) { return ((a ^ b) & kMemberMask) == 0; }

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
    if (value.length_id == 0 || length_instance(value.length_id) == 0) return;
    value.length_id = 0;
    value.length_slack = 0;
    if (value.kind == Kind::kHostBuffer) value.size = 0;
  });
}

}  // namespace bpftime::verifier

#include "verifier/state.h"

#include <cstdio>

#include "verifier/verifier.h"

namespace bpftime::verifier {
namespace {

std::string number_text(int64_t number) { return Scalar::constant(static_cast<uint64_t>(number)).describe(); }

const char* base_name(Kind kind) {
  switch (kind) {
    case Kind::kUninitialised:
      return "?";
    case Kind::kScalar:
      return "scalar";
    case Kind::kContext:
      return "ctx";
    case Kind::kStack:
      return "fp";
    case Kind::kMap:
      return "map_ptr";
    case Kind::kMapValue:
      return "map_value";
    case Kind::kMapKey:
      return "map_key";
    case Kind::kMemory:
      return "mem";
    case Kind::kPacket:
      return "pkt";
    case Kind::kPacketEnd:
      return "pkt_end";
    case Kind::kPacketMeta:
      return "pkt_meta";
    case Kind::kFunction:
      return "func";
    case Kind::kDynptr:
      return "dynptr_ptr";
    case Kind::kKernelObject:
      return "ptr_";
    case Kind::kHostObject:
      return "host_object";
    case Kind::kHostBuffer:
      return "host_buffer";
    case Kind::kHandle:
      return "handle";
  }
  return "?";
}

// The inside of the brackets behind a pointer's or unknown number's name.
class Attributes {
 public:
  void add(const std::string& attribute) {
    if (attribute.empty()) return;
    if (!text_.empty()) text_ += ',';
    text_ += attribute;
  }
  void append(const std::string& more) { text_ += more; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void add_map(Attributes& attributes, const Value& value, const std::vector<MapConstraint>* maps) {
  if (value.kind != Kind::kMap && value.kind != Kind::kMapValue && value.kind != Kind::kMapKey) return;
  if (maps == nullptr || value.index >= maps->size()) return;
  const MapConstraint& map = (*maps)[value.index];
  // A value of a map of maps is a map like the inner one, which has no name.
  const bool is_inner = value.kind == Kind::kMap && value.instance != 0 && map.inner;
  const wire::MapSpec& spec = is_inner ? *map.inner : map.spec;
  if (!is_inner && !map.name.empty()) attributes.add("map=" + map.name);
  attributes.add("ks=" + std::to_string(spec.key_size) + ",vs=" + std::to_string(spec.value_size));
}

char byte_letter(Byte byte) {
  switch (byte) {
    case Byte::kUninitialised:
      return '?';
    case Byte::kMisc:
      return 'm';
    case Byte::kZero:
      return '0';
    case Byte::kSpill:
      return 'r';
    case Byte::kDynptr:
      return 'd';
    case Byte::kIterator:
      return 'i';
  }
  return '?';
}

std::string slot_text(const Slot& slot, const std::vector<MapConstraint>* maps, uint32_t frame) {
  // A slot with a narrow spill names the other bytes by letter.
  std::string letters;
  bool any = false, spilled = false;
  for (int i = kSlotBytes - 1; i >= 0; --i) {
    const Byte byte = slot.bytes[static_cast<size_t>(i)];
    any |= byte != Byte::kUninitialised;
    spilled |= byte == Byte::kSpill;
    letters += byte_letter(byte);
  }
  if (!any) return {};
  if (!spilled) return letters;
  const size_t others = letters.find_last_not_of('r');
  if (others == std::string::npos) return describe(slot.value, maps, frame);
  return letters.substr(0, others + 1) + describe(slot.value, maps, frame);
}

}  // namespace

Value Value::of(const Scalar& number) {
  Value value;
  value.kind = Kind::kScalar;
  value.scalar = number;
  return value;
}

Value Value::pointer(Kind kind) {
  Value value;
  value.kind = kind;
  value.scalar = Scalar::constant(0);
  return value;
}

std::string type_name(const Value& value) {
  // A value of a map of maps is a map only once it is known not to be null.
  const bool is_untested_map = value.kind == Kind::kMap && value.may_be_null;
  std::string name = base_name(is_untested_map ? Kind::kMapValue : value.kind);
  if (value.kind == Kind::kMemory && value.alloc_record) name = "ringbuf_" + name;
  if (value.kind == Kind::kMemory && value.read_only) name = "rdonly_" + name;
  if (value.kind == Kind::kKernelObject) name = (value.walked ? "untrusted_" : "trusted_") + name;
  if (value.may_be_null) name += value.kind == Kind::kKernelObject ? "or_null_" : "_or_null";
  return name;
}

std::string describe(const Value& value, const std::vector<MapConstraint>* maps, uint32_t frame) {
  if (value.is_constant()) return value.scalar.describe();
  std::string name = type_name(value);
  if (value.kind == Kind::kStack) {
    if (value.frame != frame) name += "[" + std::to_string(value.frame) + "]";
    if (value.scalar.is_const())
      return name + number_text(value.off + static_cast<int64_t>(value.scalar.value()));
  }
  Attributes inside;
  if (value.id != 0) {
    inside.add("id=" + std::to_string(value.id));
    char delta[16];
    std::snprintf(delta, sizeof(delta), "%+d", value.off);
    if (value.is_number() && value.off != 0) inside.append(delta);
  }
  if (value.reference != 0) inside.add("ref_obj_id=" + std::to_string(value.reference));
  add_map(inside, value, maps);
  if (value.is_pointer() && value.off != 0) inside.add("off=" + number_text(value.off));
  if (value.kind == Kind::kPacket || value.kind == Kind::kPacketMeta)
    inside.add("r=" + number_text(value.size));
  if (value.kind == Kind::kMemory || value.kind == Kind::kHostBuffer)
    inside.add("sz=" + number_text(value.size));
  if (!value.scalar.is_const()) {
    inside.add(ranges_text(value.scalar));
  } else if (value.scalar.value() != 0) {
    inside.add("imm=" + value.scalar.describe());
  }
  return name + "(" + inside.text() + ")";
}

std::string State::describe(const std::vector<MapConstraint>* maps) const {
  std::string text;
  const uint32_t frame = static_cast<uint32_t>(frames.size()) - 1;
  if (frame != 0) text += " frame" + std::to_string(frame) + ":";
  for (uint32_t number = 0; number < current().registers.size(); ++number) {
    if (reg(number).kind == Kind::kUninitialised) continue;
    text += " R" + std::to_string(number) + "=" + verifier::describe(reg(number), maps, frame);
  }
  for (size_t i = 0; i < current().stack.size(); ++i) {
    const std::string slot = slot_text(current().stack[i], maps, frame);
    if (!slot.empty()) text += " fp-" + std::to_string((i + 1) * kSlotBytes) + "=" + slot;
  }
  if (!references.empty()) {
    text += " refs=";
    for (size_t i = 0; i < references.size(); ++i) text += (i ? "," : "") + std::to_string(references[i].id);
  }
  return text;
}

}  // namespace bpftime::verifier

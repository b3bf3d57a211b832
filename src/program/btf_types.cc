// Each record by itself: sizes, flags, names, counts. The rules are those of the kernel's BTF loader.
#include "program/btf_types.h"

#include <bit>
#include <optional>

namespace bpftime::program::btf {
namespace {

constexpr uint32_t kTypesMax = 0x000fffff;  // BTF_MAX_TYPE
constexpr uint32_t kInfoMask = 0x9f00ffff;  // kind flag, kind, vlen
constexpr uint32_t kIntMask = 0x0fffffff;   // encoding, offset, bits
constexpr uint32_t kIntBitsMax = 128;
constexpr size_t kNameLengthMax = 511;  // KSYM_NAME_LEN - 1
constexpr int kErrorNotSupported = 524;

struct Refusal {
  const char* why = nullptr;
  int code = EINVAL;
};
using Check = std::optional<Refusal>;

Check refuse(const char* why, int code = EINVAL) { return Refusal{why, code}; }
constexpr std::nullopt_t kFine = std::nullopt;

bool is_section_name(std::string_view name) {
  if (name.empty() || name.size() > kNameLengthMax) return false;
  for (const char c : name) {
    // The kernel's isprint() counts Latin-1's upper half in.
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || (byte >= 0x7f && byte < 0xa0)) return false;
  }
  return true;
}

// Bytes that follow the fixed part, by kind.
uint64_t extra_size(const Type& type) {
  const uint64_t vlen = type.vlen();
  switch (type.kind()) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
      return 4;
    case BTF_KIND_ARRAY:
      return sizeof(btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
      return vlen * sizeof(btf_member);
    case BTF_KIND_ENUM:
      return vlen * sizeof(btf_enum);
    case BTF_KIND_ENUM64:
      return vlen * sizeof(btf_enum64);
    case BTF_KIND_FUNC_PROTO:
      return vlen * sizeof(btf_param);
    case BTF_KIND_DATASEC:
      return vlen * sizeof(btf_var_secinfo);
    default:
      return 0;
  }
}

class RecordChecker {
 public:
  RecordChecker(const Types& types, const Type& type) : types_(types), type_(type), fixed_(type.fixed) {}

  Check run() const {
    switch (type_.kind()) {
      case BTF_KIND_INT:
        return integer();
      case BTF_KIND_PTR:
      case BTF_KIND_VOLATILE:
      case BTF_KIND_CONST:
      case BTF_KIND_RESTRICT:
      case BTF_KIND_TYPEDEF:
      case BTF_KIND_TYPE_TAG:
        return reference();
      case BTF_KIND_ARRAY:
        return array();
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
        return composite();
      case BTF_KIND_ENUM:
        return enumeration<btf_enum>();
      case BTF_KIND_ENUM64:
        return enumeration<btf_enum64>();
      case BTF_KIND_FWD:
        if (type_.vlen() != 0 || fixed_.type != 0) return refuse("forward declaration with content");
        return has_identifier() ? kFine : refuse("invalid name");
      case BTF_KIND_FUNC:
        if (!has_identifier()) return refuse("invalid name");
        if (type_.vlen() > BTF_FUNC_GLOBAL) return refuse("invalid linkage");
        return type_.kflag() ? refuse("unexpected kind flag") : kFine;
      case BTF_KIND_FUNC_PROTO:
        if (fixed_.name_off != 0) return refuse("unexpected name");
        return type_.kflag() ? refuse("unexpected kind flag") : kFine;
      case BTF_KIND_VAR:
        return variable();
      case BTF_KIND_DATASEC:
        return section();
      case BTF_KIND_FLOAT:
        return floating();
      case BTF_KIND_DECL_TAG:
        return declaration_tag();
      default:
        return refuse("unknown kind");
    }
  }

 private:
  bool has_identifier() const { return is_identifier(types_.name(fixed_.name_off)); }
  bool nameless_or_identifier() const { return fixed_.name_off == 0 || has_identifier(); }
  bool is_plain() const { return type_.vlen() == 0 && !type_.kflag(); }

  static bool usable_id(uint32_t id) { return id != 0 && id <= kTypesMax; }

  Check integer() const {
    if (!is_plain()) return refuse("integer with count or kind flag");
    const auto data = type_.element<uint32_t>(0);
    if (data & ~kIntMask) return refuse("unknown integer bits");
    const uint32_t bits = BTF_INT_BITS(data) + BTF_INT_OFFSET(data);
    if (bits > kIntBitsMax || (bits + 7) / 8 > fixed_.size) return refuse("integer bits exceed its size");
    const uint32_t encoding = BTF_INT_ENCODING(data);
    if (encoding != 0 && !std::has_single_bit(encoding))
      return refuse("unknown integer encoding", kErrorNotSupported);
    return encoding > BTF_INT_BOOL ? refuse("unknown integer encoding", kErrorNotSupported) : kFine;
  }

  Check reference() const {
    if (type_.vlen() != 0) return refuse("reference with count");
    if (type_.kflag() && type_.kind() != BTF_KIND_TYPE_TAG) return refuse("unexpected kind flag");
    if (fixed_.type > kTypesMax) return refuse("invalid type id");
    switch (type_.kind()) {
      case BTF_KIND_TYPEDEF:
        return has_identifier() ? kFine : refuse("invalid name");
      case BTF_KIND_TYPE_TAG:
        return types_.name(fixed_.name_off).empty() ? refuse("empty tag") : kFine;
      default:
        return fixed_.name_off == 0 ? kFine : refuse("unexpected name");
    }
  }

  Check array() const {
    if (fixed_.name_off != 0 || !is_plain() || fixed_.size != 0)
      return refuse("array with name, count, flag or size");
    const auto array = type_.element<btf_array>(0);
    return usable_id(array.type) && usable_id(array.index_type) ? kFine : refuse("invalid type id");
  }

  Check composite() const {
    if (!nameless_or_identifier()) return refuse("invalid name");
    uint32_t last_offset = 0;
    for (uint32_t i = 0; i < type_.vlen(); ++i) {
      const auto member = type_.element<btf_member>(i);
      if (!types_.name_in_range(member.name_off)) return refuse("invalid member name offset");
      if (member.name_off != 0 && !is_identifier(types_.name(member.name_off)))
        return refuse("invalid member name");
      if (!usable_id(member.type)) return refuse("invalid member type id");
      // With the kind flag the upper eight bits are a bit field's width.
      const uint32_t offset = type_.kflag() ? BTF_MEMBER_BIT_OFFSET(member.offset) : member.offset;
      if (type_.kind() == BTF_KIND_UNION && offset != 0) return refuse("union member with offset");
      if (offset < last_offset) return refuse("members out of order");
      if (offset / 8 + (offset % 8 != 0) > fixed_.size) return refuse("member outside its struct");
      last_offset = offset;
    }
    return kFine;
  }

  template <typename Enumerator>
  Check enumeration() const {
    if (fixed_.size > 8 || !std::has_single_bit(fixed_.size)) return refuse("unexpected size");
    if (!nameless_or_identifier()) return refuse("invalid name");
    for (uint32_t i = 0; i < type_.vlen(); ++i) {
      const uint32_t name_off = type_.element<Enumerator>(i).name_off;
      if (!types_.name_in_range(name_off) || !is_identifier(types_.name(name_off)))
        return refuse("invalid value name");
    }
    return kFine;
  }

  Check variable() const {
    if (!is_plain()) return refuse("variable with count or kind flag");
    if (!has_identifier()) return refuse("invalid name");
    if (!usable_id(fixed_.type)) return refuse("invalid type id");
    return type_.element<uint32_t>(0) <= BTF_VAR_GLOBAL_ALLOCATED ? kFine : refuse("unsupported linkage");
  }

  Check section() const {
    if (fixed_.size == 0 || type_.kflag()) return refuse("section without size or with kind flag");
    if (!is_section_name(types_.name(fixed_.name_off))) return refuse("invalid name");
    uint64_t last_end = 0;
    for (uint32_t i = 0; i < type_.vlen(); ++i) {
      const auto entry = type_.element<btf_var_secinfo>(i);
      if (!usable_id(entry.type)) return refuse("invalid variable type id");
      if (entry.offset < last_end || entry.offset >= fixed_.size) return refuse("invalid variable offset");
      last_end = uint64_t{entry.offset} + entry.size;
      if (entry.size == 0 || last_end > fixed_.size) return refuse("invalid variable size");
    }
    return kFine;
  }

  Check floating() const {
    if (!is_plain()) return refuse("float with count or kind flag");
    switch (fixed_.size) {
      case 2:
      case 4:
      case 8:
      case 12:
      case 16:
        return kFine;
      default:
        return refuse("invalid float size");
    }
  }

  Check declaration_tag() const {
    if (types_.name(fixed_.name_off).empty()) return refuse("empty tag");
    if (type_.vlen() != 0) return refuse("tag with count");
    return type_.element<int32_t>(0) >= -1 ? kFine : refuse("invalid component index");
  }

  const Types& types_;
  const Type& type_;
  const btf_type& fixed_;
};

}  // namespace

Error type_error(uint32_t id, const char* why, int code) {
  return Error{code, "BTF: type " + std::to_string(id) + ": " + why};
}

bool is_identifier(std::string_view name) {
  if (name.empty() || name.size() > kNameLengthMax) return false;
  // The kernel's isalpha() counts Latin-1 letters in; 0xd7 and 0xf7 are × and ÷.
  const auto is_letter = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
           (byte >= 0xc0 && byte != 0xd7 && byte != 0xf7);
  };
  if (!is_letter(name[0])) return false;
  for (const char c : name) {
    if (!is_letter(c) && !(c >= '0' && c <= '9')) return false;
  }
  return true;
}

Result<void> read_types(Bytes section, Types& types) {
  ByteReader reader(section);
  while (!reader.at_end()) {
    const auto id = static_cast<uint32_t>(types.records.size());
    if (id > kTypesMax) return type_error(id, "too many types", E2BIG);
    Type type;
    const auto fixed = reader.read<btf_type>();
    if (!fixed) return type_error(id, "cut off");
    type.fixed = *fixed;
    if (type.fixed.info & ~kInfoMask) return type_error(id, "unknown bits in info");
    if (!types.name_in_range(type.fixed.name_off)) return type_error(id, "invalid name offset");
    const auto extra = reader.read_bytes(extra_size(type));
    if (!extra) return type_error(id, "cut off");
    type.extra = *extra;
    if (const Check check = RecordChecker(types, type).run()) return type_error(id, check->why, check->code);
    types.records.push_back(type);
  }
  return {};
}

}  // namespace bpftime::program::btf

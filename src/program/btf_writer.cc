// A TypeTable into BTF.
#include <linux/btf.h>

#include <algorithm>
#include <limits>
#include <map>

#include "program/btf.h"
#include "program/type_table.h"

namespace bpftime::program {
namespace {

constexpr size_t kElementsMax = BTF_MAX_VLEN;
constexpr uint64_t kFlaggedOffsetMax = 0xffffff;  // bits, of a struct that has bit-fields

class Writer {
 public:
  Writer(const TypeTable& table, const std::string& prefix, const BtfBase& base)
      : table_(table), prefix_(prefix), base_(base), strings_(base.strings == 0 ? 1 : 0, '\0') {}

  Result<std::vector<uint8_t>> run(const std::vector<NamedType>& names, const std::string& data_section,
                                   std::vector<uint32_t>* ids) {
    // Ids are known before anything is written: type `i` of the table becomes first_ + i - 1, helpers come behind.
    first_ = base_.types == 0 ? 1 : base_.types;
    next_ = first_ + static_cast<uint32_t>(table_.types.size()) - 1;
    uint64_t named = 0;
    for (uint32_t id = 1; id < table_.types.size(); ++id) emit(table_.types[id]);
    flush_extras();
    std::vector<std::pair<uint32_t, uint32_t>> variables;  // id, size
    for (const NamedType& entry : names) {
      const uint32_t id = next_++;
      if (ids != nullptr) ids->push_back(id);
      put(btf_type{
          string(prefix_ + identifier(entry.name)),
          info(entry.is_function ? BTF_KIND_FUNC : BTF_KIND_VAR, entry.is_function ? BTF_FUNC_GLOBAL : 0),
          {map(entry.type)}});
      if (!entry.is_function) {
        put(uint32_t{BTF_VAR_GLOBAL_ALLOCATED});
        variables.emplace_back(id, static_cast<uint32_t>(std::max<uint64_t>(1, table_.size_of(entry.type))));
      }
      if (++named > kTypesMax) return Error{E2BIG, "BTF: too many names"};
    }
    if (!variables.empty()) section(data_section, variables);
    return finish();
  }

 private:
  static uint32_t info(uint32_t kind, size_t vlen, bool flag = false) {
    return kind << 24 | static_cast<uint32_t>(vlen) | (flag ? 1u << 31 : 0);
  }
  uint32_t map(uint32_t id) const { return id == 0 || id >= table_.types.size() ? 0 : first_ + id - 1; }
  // Where BTF allows no void (array elements, members): a byte.
  uint32_t map_object(uint32_t id) {
    return table_.resolve(id) == 0 ? extra_integer("unsigned char", 1) : map(id);
  }

  template <typename T>
  void put(const T& value) {
    const Bytes bytes = as_bytes(value);
    types_.insert(types_.end(), bytes.begin(), bytes.end());
  }

  uint32_t string(const std::string& text) {
    if (text.empty()) return 0;
    const auto [entry, added] =
        offsets_.try_emplace(text, base_.strings + static_cast<uint32_t>(strings_.size()));
    if (added) strings_ += text + '\0';
    return entry->second;
  }

  // C++ names hold what C does not allow: "ns::list<int>" becomes "ns__list_int_".
  static std::string identifier(const std::string& name) {
    std::string out;
    for (size_t i = 0; i < name.size() && out.size() < 400; ++i) {
      const char c = name[i];
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
      out += letter || (c >= '0' && c <= '9' && !out.empty()) ? c : '_';
    }
    return out;
  }
  uint32_t tag(const std::string& name) { return name.empty() ? 0 : string(prefix_ + identifier(name)); }

  uint32_t extra_integer(const std::string& name, uint32_t size) {
    const auto [entry, added] = extra_integers_.try_emplace(name, 0);
    if (added) {
      entry->second = next_++;
      extras_.push_back({name, size});
    }
    return entry->second;
  }
  void flush_extras() {
    for (const Extra& extra : extras_) {
      put(btf_type{string(extra.name), info(BTF_KIND_INT, 0), {extra.size}});
      put(uint32_t{extra.size * 8});
    }
  }

  void emit(const CType& type) {
    switch (type.kind) {
      case TypeKind::kVoid:
        return filler();
      case TypeKind::kInteger:
        return integer(type);
      case TypeKind::kFloat:
        if (type.size != 2 && type.size != 4 && type.size != 8 && type.size != 12 && type.size != 16)
          return filler();
        return put(btf_type{string(type.name), info(BTF_KIND_FLOAT, 0), {static_cast<uint32_t>(type.size)}});
      case TypeKind::kPointer:
        return put(btf_type{0, info(BTF_KIND_PTR, 0), {map(type.target)}});
      case TypeKind::kArray:
        put(btf_type{0, info(BTF_KIND_ARRAY, 0), {0}});
        return put(btf_array{map_object(type.target), extra_integer("unsigned int", 4),
                             static_cast<uint32_t>(std::min<uint64_t>(type.count, UINT32_MAX))});
      case TypeKind::kStruct:
      case TypeKind::kUnion:
        return composite(type);
      case TypeKind::kEnum:
        return enumeration(type);
      case TypeKind::kForward:
        if (type.name.empty()) return filler();
        return put(btf_type{tag(type.name), info(BTF_KIND_FWD, 0, type.is_union), {0}});
      case TypeKind::kTypedef:
        if (type.name.empty()) return put(btf_type{0, info(BTF_KIND_VOLATILE, 0), {map(type.target)}});
        return put(btf_type{tag(type.name), info(BTF_KIND_TYPEDEF, 0), {map(type.target)}});
      case TypeKind::kConst:
        return put(btf_type{0, info(BTF_KIND_CONST, 0), {map(type.target)}});
      case TypeKind::kVolatile:
        return put(btf_type{0, info(BTF_KIND_VOLATILE, 0), {map(type.target)}});
      case TypeKind::kRestrict:
        return put(btf_type{0, info(BTF_KIND_RESTRICT, 0), {map(type.target)}});
      case TypeKind::kFunction:
        return prototype(type);
    }
  }

  // Keeps ids in step where a type cannot be said.
  void filler() { put(btf_type{0, info(BTF_KIND_CONST, 0), {0}}); }

  void integer(const CType& type) {
    const uint64_t size = type.size;
    const bool sizeable = size == 1 || size == 2 || size == 4 || size == 8 || size == 16;
    if (!sizeable) return filler();
    const std::string name = identifier_of_base(type);
    put(btf_type{string(name), info(BTF_KIND_INT, 0), {static_cast<uint32_t>(size)}});
    const uint32_t encoding = type.is_bool ? BTF_INT_BOOL : type.is_signed ? BTF_INT_SIGNED : 0;
    put(static_cast<uint32_t>(encoding << 24 | size * 8));
  }
  // Base types keep the spaces of their names ("unsigned long"): so does everyone's BTF.
  static std::string identifier_of_base(const CType& type) {
    return type.name.empty() ? "int" + std::to_string(type.size * 8) : type.name;
  }

  void composite(const CType& type) {
    const bool is_union = type.kind == TypeKind::kUnion;
    const uint64_t size = std::min<uint64_t>(type.size, UINT32_MAX);
    const bool flag =
        std::any_of(type.members.begin(), type.members.end(), [](const auto& m) { return m.bit_size != 0; });
    std::vector<btf_member> members;
    uint64_t last = 0;
    for (const CType::Member& member : type.members) {
      // BTF wants members in order and inside; what is not (hostile debug information, C++'s oddities) is left out.
      const uint64_t bits = member.bit_offset;
      if (members.size() == kElementsMax || bits < last || (is_union && bits != 0) || (bits + 7) / 8 > size ||
          (flag && bits > kFlaggedOffsetMax) || bits > UINT32_MAX || member.bit_size > 255)
        continue;
      if (member.bit_size == 0 && !fits(member, size)) continue;
      last = bits;
      const auto offset = static_cast<uint32_t>(flag ? bits | uint64_t{member.bit_size} << 24 : bits);
      members.push_back(
          {member.name.empty() ? 0 : string(identifier(member.name)), map_object(member.type), offset});
    }
    put(btf_type{tag(type.name),
                 info(is_union ? BTF_KIND_UNION : BTF_KIND_STRUCT, members.size(), flag),
                 {static_cast<uint32_t>(size)}});
    for (const btf_member& member : members) put(member);
  }

  bool fits(const CType::Member& member, uint64_t size) const {
    const uint64_t bytes = table_.size_of(member.type);
    return member.bit_offset % 8 == 0 && bytes <= size && member.bit_offset / 8 <= size - bytes;
  }

  void enumeration(const CType& type) {
    const uint64_t size =
        type.size == 1 || type.size == 2 || type.size == 4 || type.size == 8 ? type.size : 4;
    const bool wide = size == 8;
    std::vector<const CType::Enumerator*> values;
    for (const auto& value : type.enumerators) {
      if (!value.name.empty() && values.size() < kElementsMax) values.push_back(&value);
    }
    put(btf_type{tag(type.name),
                 info(wide ? BTF_KIND_ENUM64 : BTF_KIND_ENUM, values.size(), type.is_signed),
                 {static_cast<uint32_t>(size)}});
    for (const auto* value : values) {
      const auto bits = static_cast<uint64_t>(value->value);
      const uint32_t name = string(prefix_ + identifier(value->name));
      if (wide) {
        put(btf_enum64{name, static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)});
      } else {
        put(btf_enum{name, static_cast<int32_t>(static_cast<uint32_t>(bits))});
      }
    }
  }

  void prototype(const CType& type) {
    const size_t count = std::min(type.parameters.size(), kElementsMax - 1);
    put(btf_type{0, info(BTF_KIND_FUNC_PROTO, count + (type.is_variadic ? 1 : 0)), {map(type.target)}});
    for (size_t i = 0; i < count; ++i) {
      const auto& parameter = type.parameters[i];
      put(btf_param{parameter.name.empty() ? 0 : string(identifier(parameter.name)),
                    map_object(parameter.type)});
    }
    if (type.is_variadic) put(btf_param{0, 0});
  }

  void section(const std::string& name, const std::vector<std::pair<uint32_t, uint32_t>>& variables) {
    uint64_t size = 0;
    std::vector<btf_var_secinfo> places;
    for (const auto& [id, bytes] : variables) {
      places.push_back({id, static_cast<uint32_t>(size), bytes});
      size = (size + bytes + 7) / 8 * 8;
      if (size > UINT32_MAX / 2 || places.size() == kElementsMax) break;
    }
    put(btf_type{string(name), info(BTF_KIND_DATASEC, places.size()), {static_cast<uint32_t>(size)}});
    for (const btf_var_secinfo& place : places) put(place);
  }

  Result<std::vector<uint8_t>> finish() const {
    const size_t total = sizeof(btf_header) + types_.size() + strings_.size();
    if (total > kBtfSizeMax || table_.types.size() > kTypesMax)
      return Error{E2BIG, "BTF: the host's types do not fit"};
    btf_header header = {};
    header.magic = BTF_MAGIC;
    header.version = BTF_VERSION;
    header.hdr_len = sizeof(header);
    header.type_len = static_cast<uint32_t>(types_.size());
    header.str_off = header.type_len;
    header.str_len = static_cast<uint32_t>(strings_.size());
    std::vector<uint8_t> blob;
    blob.reserve(total);
    const Bytes head = as_bytes(header);
    blob.insert(blob.end(), head.begin(), head.end());
    blob.insert(blob.end(), types_.begin(), types_.end());
    blob.insert(blob.end(), strings_.begin(), strings_.end());
    return blob;
  }

  struct Extra {
    std::string name;
    uint32_t size;
  };

  const TypeTable& table_;
  const std::string& prefix_;
  const BtfBase base_;
  uint32_t first_ = 1, next_ = 1;
  std::vector<uint8_t> types_;
  std::string strings_;
  std::map<std::string, uint32_t> offsets_, extra_integers_;
  std::vector<Extra> extras_;  // in order of ids, behind the table's own
};

}  // namespace

Result<std::vector<uint8_t>> write_btf(const TypeTable& table, const std::vector<NamedType>& names,
                                       const std::string& prefix, const std::string& data_section,
                                       const BtfBase& base, std::vector<uint32_t>* ids) {
  return Writer(table, prefix, base).run(names, data_section, ids);
}

}  // namespace bpftime::program

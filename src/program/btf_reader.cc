// BTF into a TypeTable. Ids stay those of the blob: records that are no types (FUNC, VAR, …) become void.
#include <algorithm>

#include "program/btf.h"
#include "program/btf_types.h"
#include "program/type_table.h"

namespace bpftime::program {
namespace {

class Reader {
 public:
  explicit Reader(const btf::Types& types) : types_(types) {}

  Result<BtfContents> run() {
    if (types_.records.size() > kTypesMax) return Error{E2BIG, "BTF: more types than anyone can have"};
    contents_.table.types.resize(types_.records.size());
    for (uint32_t id = 1; id < types_.records.size(); ++id) read(id);
    return std::move(contents_);
  }

 private:
  std::string name(uint32_t offset) const { return std::string(types_.name(offset)); }

  void read(uint32_t id) {
    const btf::Type& record = types_.records[id];
    CType& type = contents_.table.types[id];
    const uint32_t kind = record.kind();
    if (kind == BTF_KIND_FUNC || kind == BTF_KIND_VAR) {
      contents_.names.push_back({name(record.fixed.name_off), record.fixed.type, kind == BTF_KIND_FUNC});
      return;
    }
    type.name = name(record.fixed.name_off);
    switch (kind) {
      case BTF_KIND_INT:
        return integer(record, type);
      case BTF_KIND_FLOAT:
        type.kind = TypeKind::kFloat;
        type.size = record.fixed.size;
        return;
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
        return composite(record, type);
      case BTF_KIND_ENUM:
      case BTF_KIND_ENUM64:
        return enumeration(record, type);
      case BTF_KIND_FWD:
        type.kind = TypeKind::kForward;
        type.is_union = record.kflag();
        return;
      case BTF_KIND_ARRAY: {
        const auto array = record.element<btf_array>(0);
        type.kind = TypeKind::kArray;
        type.target = array.type;
        type.count = array.nelems;
        return;
      }
      case BTF_KIND_FUNC_PROTO:
        return prototype(record, type);
      default:
        return reference(kind, record, type);
    }
  }

  static void integer(const btf::Type& record, CType& type) {
    const uint32_t encoding = BTF_INT_ENCODING(record.element<uint32_t>(0));
    type.kind = TypeKind::kInteger;
    type.size = record.fixed.size;
    type.is_signed = (encoding & BTF_INT_SIGNED) != 0;
    type.is_bool = (encoding & BTF_INT_BOOL) != 0;
    type.is_char = (encoding & BTF_INT_CHAR) != 0;
  }

  void composite(const btf::Type& record, CType& type) const {
    type.kind = record.kind() == BTF_KIND_STRUCT ? TypeKind::kStruct : TypeKind::kUnion;
    type.size = record.fixed.size;
    for (uint32_t i = 0; i < record.vlen(); ++i) {
      const auto member = record.element<btf_member>(i);
      const bool flag = record.kflag();
      type.members.push_back({name(member.name_off), member.type,
                              flag ? BTF_MEMBER_BIT_OFFSET(member.offset) : member.offset,
                              flag ? BTF_MEMBER_BITFIELD_SIZE(member.offset) : 0});
    }
  }

  void enumeration(const btf::Type& record, CType& type) const {
    type.kind = TypeKind::kEnum;
    type.size = record.fixed.size;
    type.is_signed = record.kflag();
    for (uint32_t i = 0; i < record.vlen(); ++i) {
      if (record.kind() == BTF_KIND_ENUM64) {
        const auto value = record.element<btf_enum64>(i);
        type.enumerators.push_back(
            {name(value.name_off), static_cast<int64_t>(uint64_t{value.val_hi32} << 32 | value.val_lo32)});
      } else {
        const auto value = record.element<btf_enum>(i);
        // Older writers do not set the flag: a negative value tells.
        type.enumerators.push_back({name(value.name_off), value.val});
        if (value.val < 0 && !record.kflag()) type.is_signed = true;
      }
    }
  }

  void prototype(const btf::Type& record, CType& type) const {
    type.kind = TypeKind::kFunction;
    type.target = record.fixed.type;
    for (uint32_t i = 0; i < record.vlen(); ++i) {
      const auto parameter = record.element<btf_param>(i);
      if (i + 1 == record.vlen() && parameter.type == 0) {
        type.is_variadic = true;
      } else {
        type.parameters.push_back({name(parameter.name_off), parameter.type});
      }
    }
  }

  static void reference(uint32_t kind, const btf::Type& record, CType& type) {
    type.target = record.fixed.type;
    switch (kind) {
      case BTF_KIND_PTR:
        type.kind = TypeKind::kPointer;
        break;
      case BTF_KIND_TYPEDEF:
        type.kind = TypeKind::kTypedef;
        break;
      case BTF_KIND_CONST:
        type.kind = TypeKind::kConst;
        break;
      case BTF_KIND_RESTRICT:
        type.kind = TypeKind::kRestrict;
        break;
      case BTF_KIND_VOLATILE:
      case BTF_KIND_TYPE_TAG:  // no meaning here; a qualifier that changes nothing
        type.kind = TypeKind::kVolatile;
        type.name.clear();
        break;
      default:  // DATASEC, DECL_TAG
        type = CType{};
        break;
    }
  }

  const btf::Types& types_;
  BtfContents contents_;
};

}  // namespace

Result<BtfContents> read_btf(Bytes blob) {
  if (auto valid = validate_btf(blob); !valid) return valid.error();
  // Validated: the header is whole, the types come right behind it, the strings behind the types.
  const auto header = *read_at<btf_header>(blob, 0);
  const Bytes rest = blob.subspan(header.hdr_len);
  btf::Types types;
  types.strings = rest.subspan(header.str_off);
  if (auto read = btf::read_types(rest.first(header.type_len), types); !read) return read.error();
  return Reader(types).run();
}

}  // namespace bpftime::program

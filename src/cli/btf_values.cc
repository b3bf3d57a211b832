#include "cli/btf_values.h"

#include <bpf/btf.h>
#include <fmt/core.h>

#include <cmath>
#include <cstring>

namespace bpftime::cli {
namespace {

// Types of hostile BTF may be nested without end; bpf(2) refuses loops by value only.
constexpr int kDepthMax = 32;

OrderedJson integer(uint64_t value, uint32_t bits, uint32_t encoding) {
  if (bits < 64) value &= (uint64_t{1} << bits) - 1;
  if ((encoding & BTF_INT_BOOL) != 0) return value != 0;
  if ((encoding & BTF_INT_SIGNED) != 0 && bits > 0 && bits < 64 && (value >> (bits - 1)) != 0)
    return static_cast<int64_t>(value | ~((uint64_t{1} << bits) - 1));
  if ((encoding & BTF_INT_SIGNED) != 0) return static_cast<int64_t>(value);
  return value;
}

// Little-endian, 8 bytes at most.
uint64_t word_of_bytes(Bytes bytes) {
  uint64_t value = 0;
  if (!bytes.empty()) std::memcpy(&value, bytes.data(), std::min<size_t>(bytes.size(), sizeof value));
  return value;
}

// One character as bpftool shows it: itself, or its number.
OrderedJson character(uint8_t byte) {
  if (byte >= 0x20 && byte < 0x7f) return std::string(1, static_cast<char>(byte));
  return fmt::format("0x{:02x}", byte);
}

std::string hex_of(Bytes bytes) {
  std::string out = "0x";
  for (size_t i = bytes.size(); i > 0; --i) out += fmt::format("{:02x}", bytes[i - 1]);
  return out;
}

}  // namespace

void BtfTypes::Free::operator()(btf* types) const { btf__free(types); }

Result<BtfTypes> BtfTypes::fetch(uint32_t btf_id) {
  auto blob = btf_blob(btf_id);
  if (!blob) return blob.error();
  BtfTypes out;
  out.types_.reset(btf__new(blob->data(), static_cast<uint32_t>(blob->size())));
  if (!out.types_) return Error{EINVAL, "read BTF: id " + std::to_string(btf_id) + ": libbpf refuses it"};
  return out;
}

std::string BtfTypes::text(uint32_t offset) const {
  const char* found = btf__str_by_offset(types_.get(), offset);
  return found == nullptr ? std::string() : std::string(found);
}

OrderedJson BtfTypes::value(uint32_t type_id, Bytes bytes) const { return value_at(type_id, bytes, 0); }

OrderedJson BtfTypes::value_at(uint32_t type_id, Bytes bytes, int depth) const {
  const int resolved = btf__resolve_type(types_.get(), type_id);
  const btf_type* type = resolved < 0 || depth > kDepthMax
                             ? nullptr
                             : btf__type_by_id(types_.get(), static_cast<uint32_t>(resolved));
  const int64_t size =
      type == nullptr ? -1 : btf__resolve_size(types_.get(), static_cast<uint32_t>(resolved));
  if (size < 0 || static_cast<uint64_t>(size) > bytes.size()) return nullptr;
  bytes = bytes.first(static_cast<size_t>(size));
  const auto id = static_cast<uint32_t>(resolved);
  switch (btf_kind(type)) {
    case BTF_KIND_INT:
      if (bytes.size() > 8) return hex_of(bytes);
      if ((btf_int_encoding(type) & BTF_INT_CHAR) != 0 && bytes.size() == 1) return character(bytes[0]);
      return integer(word_of_bytes(bytes) >> btf_int_offset(type), btf_int_bits(type),
                     btf_int_encoding(type));
    case BTF_KIND_ENUM: {
      const auto value = static_cast<int32_t>(word_of_bytes(bytes));
      for (uint16_t i = 0; i < btf_vlen(type); ++i)
        if (btf_enum(type)[i].val == value) return text(btf_enum(type)[i].name_off);
      return value;
    }
    case BTF_KIND_ENUM64: {
      const uint64_t value = word_of_bytes(bytes);
      for (uint16_t i = 0; i < btf_vlen(type); ++i)
        if (btf_enum64_value(&btf_enum64(type)[i]) == value) return text(btf_enum64(type)[i].name_off);
      return value;
    }
    case BTF_KIND_PTR:
      return fmt::format("{:#x}", word_of_bytes(bytes));
    case BTF_KIND_FLOAT: {
      double wide = 0;
      float narrow = 0;
      if (bytes.size() == sizeof wide) std::memcpy(&wide, bytes.data(), sizeof wide);
      if (bytes.size() == sizeof narrow) {
        std::memcpy(&narrow, bytes.data(), sizeof narrow);
        wide = narrow;
      }
      return std::isfinite(wide) ? OrderedJson(wide) : OrderedJson(fmt::format("{}", wide));
    }
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_DATASEC:
      return members(id, bytes, depth);
    case BTF_KIND_ARRAY:
      return elements(id, bytes, depth);
    default:
      return nullptr;
  }
}

OrderedJson BtfTypes::bit_field(uint32_t type_id, Bytes bytes, uint32_t bit, uint32_t bits) const {
  const int resolved = btf__resolve_type(types_.get(), type_id);
  const btf_type* type =
      resolved < 0 ? nullptr : btf__type_by_id(types_.get(), static_cast<uint32_t>(resolved));
  if (type == nullptr || bits > 64 || (uint64_t{bit} + bits + 7) / 8 > bytes.size()) return nullptr;
  uint64_t value = 0;
  for (uint32_t i = 0; i < bits; ++i) {
    const uint32_t at = bit + i;
    value |= static_cast<uint64_t>((bytes[at / 8] >> (at % 8)) & 1) << i;
  }
  return integer(value, bits, btf_is_int(type) ? btf_int_encoding(type) : 0);
}

OrderedJson BtfTypes::members(uint32_t type_id, Bytes bytes, int depth) const {
  const btf_type* type = btf__type_by_id(types_.get(), type_id);
  const auto part = [&](uint64_t offset) {
    return offset <= bytes.size() ? bytes.subspan(static_cast<size_t>(offset)) : Bytes();
  };
  if (btf_kind(type) == BTF_KIND_DATASEC) {  // { ".bss": [ { "name": value }, … ] }
    OrderedJson variables = OrderedJson::array();
    for (uint16_t i = 0; i < btf_vlen(type); ++i) {
      const btf_var_secinfo& each = btf_var_secinfos(type)[i];
      const btf_type* variable = btf__type_by_id(types_.get(), each.type);
      if (variable == nullptr || !btf_is_var(variable)) continue;
      variables.push_back(
          OrderedJson{{text(variable->name_off), value_at(variable->type, part(each.offset), depth + 1)}});
    }
    return OrderedJson{{text(type->name_off), variables}};
  }
  OrderedJson out = OrderedJson::object();
  for (uint16_t i = 0; i < btf_vlen(type); ++i) {
    const btf_member& each = btf_members(type)[i];
    const uint32_t bit = btf_member_bit_offset(type, i), bits = btf_member_bitfield_size(type, i);
    const std::string name = text(each.name_off);
    OrderedJson value =
        bits != 0 ? bit_field(each.type, bytes, bit, bits) : value_at(each.type, part(bit / 8), depth + 1);
    out[name.empty() ? "(anon)" : name] = std::move(value);
  }
  return out;
}

OrderedJson BtfTypes::elements(uint32_t type_id, Bytes bytes, int depth) const {
  const struct btf_array* array = ::btf_array(btf__type_by_id(types_.get(), type_id));
  const int64_t size = btf__resolve_size(types_.get(), array->type);
  const int resolved = btf__resolve_type(types_.get(), array->type);
  OrderedJson out = OrderedJson::array();
  if (size <= 0 || resolved < 0) return out;
  const btf_type* element = btf__type_by_id(types_.get(), static_cast<uint32_t>(resolved));
  const Bytes used = bytes.first(std::min<size_t>(bytes.size(), static_cast<size_t>(size) * array->nelems));
  // Text is shown as text.
  if (btf_is_int(element) && size == 1 && text(element->name_off) == "char") {
    std::string shown;
    for (size_t i = 0; i < used.size() && used[i] != 0; ++i) {
      if (used[i] < 0x20 || used[i] >= 0x7f) {
        shown.clear();
        break;
      }
      shown.push_back(static_cast<char>(used[i]));
    }
    if (!shown.empty()) return shown;
  }
  for (uint32_t i = 0; i < array->nelems && (i + 1) * static_cast<size_t>(size) <= used.size(); ++i)
    out.push_back(value_at(array->type, used.subspan(i * static_cast<size_t>(size)), depth + 1));
  return out;
}

std::string BtfTypes::type_text(uint32_t type_id, int depth) const {
  const btf_type* type = btf__type_by_id(types_.get(), type_id);
  if (type == nullptr || type_id == 0 || depth > kDepthMax) return "void";
  const std::string name = text(type->name_off);
  switch (btf_kind(type)) {
    case BTF_KIND_STRUCT:
      return "struct " + name;
    case BTF_KIND_UNION:
      return "union " + name;
    case BTF_KIND_FWD:
      return (btf_kflag(type) ? "union " : "struct ") + name;
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      return "enum " + name;
    case BTF_KIND_PTR:
      return type_text(type->type, depth + 1) + " *";
    case BTF_KIND_CONST:
      return "const " + type_text(type->type, depth + 1);
    case BTF_KIND_VOLATILE:
      return "volatile " + type_text(type->type, depth + 1);
    default:
      return name;
  }
}

std::string BtfTypes::prototype(uint32_t function_id) const {
  const btf_type* function = btf__type_by_id(types_.get(), function_id);
  if (function == nullptr || !btf_is_func(function)) return {};
  const btf_type* type = btf__type_by_id(types_.get(), function->type);
  if (type == nullptr || !btf_is_func_proto(type)) return {};
  std::string arguments;
  for (uint16_t i = 0; i < btf_vlen(type); ++i) {
    const btf_param& each = btf_params(type)[i];
    if (i != 0) arguments += ", ";
    arguments += each.type == 0 ? "..." : type_text(each.type, 0) + " " + text(each.name_off);
  }
  return type_text(type->type, 0) + " " + text(function->name_off) + "(" + arguments + ")";
}

}  // namespace bpftime::cli

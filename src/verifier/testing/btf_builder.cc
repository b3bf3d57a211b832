#include "verifier/testing/btf_builder.h"

#include <linux/btf.h>

#include <cstring>

namespace bpftime::verifier::testing {

void BtfBuilder::word(uint32_t value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  types_.insert(types_.end(), bytes, bytes + sizeof(value));
}

uint32_t BtfBuilder::add_string(std::string_view text) {
  if (text.empty()) return 0;
  const auto offset = static_cast<uint32_t>(strings_.size());
  strings_.append(text).push_back('\0');
  return offset;
}

uint32_t BtfBuilder::add_type(std::string_view name, uint32_t kind, uint32_t vlen, uint32_t size_or_type) {
  word(add_string(name));
  word(kind << 24 | vlen);
  word(size_or_type);
  return ++count_;
}

uint32_t BtfBuilder::add_int(std::string_view name, uint32_t bytes, bool is_signed) {
  const uint32_t id = add_type(name, BTF_KIND_INT, 0, bytes);
  word((is_signed ? BTF_INT_SIGNED : 0u) << 24 | bytes * 8);
  return id;
}

uint32_t BtfBuilder::add_pointer(uint32_t type) { return add_type("", BTF_KIND_PTR, 0, type); }

uint32_t BtfBuilder::add_struct(std::string_view name, uint32_t bytes, const std::vector<Member>& members) {
  const uint32_t id = add_type(name, BTF_KIND_STRUCT, static_cast<uint32_t>(members.size()), bytes);
  for (const Member& member : members) {
    word(add_string(member.name));
    word(member.type);
    word(member.offset * 8);
  }
  return id;
}

uint32_t BtfBuilder::add_prototype(uint32_t result, const std::vector<Parameter>& parameters) {
  const uint32_t id = add_type("", BTF_KIND_FUNC_PROTO, static_cast<uint32_t>(parameters.size()), result);
  for (const Parameter& parameter : parameters) {
    word(add_string(parameter.name));
    word(parameter.type);
  }
  return id;
}

uint32_t BtfBuilder::add_function(std::string_view name, uint32_t prototype, uint32_t linkage) {
  return add_type(name, BTF_KIND_FUNC, linkage, prototype);
}

std::vector<uint8_t> BtfBuilder::blob() const {
  btf_header header;
  std::memset(&header, 0, sizeof(header));
  header.magic = BTF_MAGIC;
  header.version = BTF_VERSION;
  header.hdr_len = sizeof(header);
  header.type_len = static_cast<uint32_t>(types_.size());
  header.str_off = header.type_len;
  header.str_len = static_cast<uint32_t>(strings_.size());
  std::vector<uint8_t> out(sizeof(header) + types_.size() + strings_.size());
  std::memcpy(out.data(), &header, sizeof(header));
  if (!types_.empty()) std::memcpy(out.data() + sizeof(header), types_.data(), types_.size());
  std::memcpy(out.data() + sizeof(header) + types_.size(), strings_.data(), strings_.size());
  return out;
}

}  // namespace bpftime::verifier::testing

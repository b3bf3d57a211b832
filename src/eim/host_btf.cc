#include "eim/host_btf.h"

#include <linux/btf.h>

#include "program/btf.h"

namespace bpftime::eim {

std::string host_name(const std::string& name) {
  std::string out = kHostPrefix;
  for (const char c : name) {
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    out += word ? c : '_';
  }
  return out;
}

std::string without_host_prefix(std::string text) {
  for (size_t at = 0; (at = text.find(kHostPrefix, at)) != std::string::npos;)
    text.erase(at, sizeof(kHostPrefix) - 1);
  return text;
}

Result<HostBtf> make_host_btf(const Manifest& manifest, const program::BtfBase& base) {
  program::TypeTable table = manifest.types;
  std::vector<program::NamedType> names;
  for (const Function& function : manifest.functions) {
    program::CType prototype = table.at(function.prototype);
    for (size_t i = 0; i < prototype.parameters.size(); ++i)
      prototype.parameters[i].name = function.arguments[i];
    names.push_back({function.name, table.add(std::move(prototype)), true});
  }
  HostBtf host;
  host.base = base;
  for (const State& state : manifest.states) {
    // Two capabilities, to read and to write, are one variable.
    if (host.variables.try_emplace(state.expression, 0).second)
      names.push_back({state.expression, state.type, false});
  }
  std::vector<uint32_t> ids;
  auto blob = program::write_btf(table, names, kHostPrefix, kHostDataSection, base, &ids);
  if (!blob) return blob.error();
  host.blob = std::move(*blob);
  for (size_t i = 0; i < names.size(); ++i)
    (names[i].is_function ? host.functions : host.variables)[names[i].name] = ids[i];
  return host;
}

Result<program::BtfBase> btf_base_of(Bytes blob) {
  const auto damaged = [](const char* why) {
    return Error{EINVAL, std::string("read the kernel's BTF: ") + why};
  };
  const auto header = read_at<btf_header>(blob, 0);
  if (!header || header->magic != BTF_MAGIC || header->hdr_len > blob.size()) return damaged("no header");
  const Bytes rest = blob.subspan(header->hdr_len);
  if (header->type_off > rest.size() || header->type_len > rest.size() - header->type_off)
    return damaged("truncated");
  ByteReader reader(rest.subspan(header->type_off, header->type_len));
  program::BtfBase base{1, header->str_len};
  while (const auto type = reader.read<btf_type>()) {
    const uint64_t count = BTF_INFO_VLEN(type->info);
    uint64_t extra = 0;
    switch (BTF_INFO_KIND(type->info)) {
      case BTF_KIND_INT:
      case BTF_KIND_VAR:
      case BTF_KIND_DECL_TAG:
        extra = 4;
        break;
      case BTF_KIND_ARRAY:
        extra = sizeof(btf_array);
        break;
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION:
      case BTF_KIND_ENUM64:
      case BTF_KIND_DATASEC:
        extra = 12 * count;
        break;
      case BTF_KIND_ENUM:
      case BTF_KIND_FUNC_PROTO:
        extra = 8 * count;
        break;
      default:
        break;
    }
    if (!reader.read_bytes(extra)) return damaged("truncated");
    ++base.types;
  }
  return base;
}

}  // namespace bpftime::eim

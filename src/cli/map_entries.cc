#include "cli/map_entries.h"

#include <bpf/libbpf.h>
#include <fmt/core.h>

#include "cli/object_verbs.h"
#include "maps/types.h"

namespace bpftime::cli {
namespace {

constexpr size_t kWideBytes = 16;  // from here on keys and values stand on lines of their own
constexpr size_t kLineBytes = 24;  // of key and value together on one line

size_t stride_of(const OpenMap& map) { return (map.info.value_size + size_t{7}) / 8 * 8; }

// The value of one CPU.
Bytes of_cpu(const OpenMap& map, Bytes value, uint32_t cpu) {
  const size_t at = cpu * stride_of(map);
  return at + map.info.value_size <= value.size() ? value.subspan(at, map.info.value_size) : Bytes();
}

std::string labelled(const char* label, Bytes bytes, bool wide) {
  return std::string(label) + (wide ? "\n" : " ") + hex_text(bytes);
}

}  // namespace

uint32_t possible_cpus() {
  static const int count = libbpf_num_possible_cpus();
  return count > 0 ? static_cast<uint32_t>(count) : 1;
}

Result<OpenMap> OpenMap::of(Fd fd) {
  auto info = map_info(fd);
  if (!info) return info.error();
  OpenMap out{std::move(fd), *info, std::nullopt};
  if (info->btf_id != 0)
    if (auto types = BtfTypes::fetch(info->btf_id)) out.types = std::move(*types);
  return out;
}

bool OpenMap::per_cpu() const { return maps::type_facts(info.type).per_cpu; }

bool OpenMap::of_maps() const {
  return info.type == BPF_MAP_TYPE_ARRAY_OF_MAPS || info.type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

size_t OpenMap::user_value_size() const {
  return per_cpu() ? stride_of(*this) * possible_cpus() : info.value_size;
}

OrderedJson formatted_json(const OpenMap& map, Bytes key, std::optional<Bytes> value) {
  OrderedJson out = OrderedJson::object();
  // A map of data sections is an array with one element, whose key says nothing.
  if (map.info.btf_key_type_id != 0) out["key"] = map.types->value(map.info.btf_key_type_id, key);
  if (!value) {
    out["error"] = "no entry";
  } else if (!map.per_cpu()) {
    out["value"] = map.types->value(map.info.btf_value_type_id, *value);
  } else {
    out["values"] = OrderedJson::array();
    for (uint32_t cpu = 0; cpu < possible_cpus(); ++cpu)
      out["values"].push_back(OrderedJson{
          {"cpu", cpu}, {"value", map.types->value(map.info.btf_value_type_id, of_cpu(map, *value, cpu))}});
  }
  return out;
}

OrderedJson entry_json(const OpenMap& map, Bytes key, std::optional<Bytes> value) {
  OrderedJson out{{"key", hex_json(key)}};
  if (!value) {
    out["value"] = OrderedJson{{"error", "no entry"}};
  } else if (!map.per_cpu()) {
    out["value"] = hex_json(*value);
  } else {
    out["values"] = OrderedJson::array();
    for (uint32_t cpu = 0; cpu < possible_cpus(); ++cpu)
      out["values"].push_back(OrderedJson{{"cpu", cpu}, {"value", hex_json(of_cpu(map, *value, cpu))}});
  }
  if (map.of_maps() && value) out["inner_map_id"] = read_at<uint32_t>(*value, 0).value_or(0);
  if (map.has_types()) out["formatted"] = formatted_json(map, key, value);
  return out;
}

std::string entry_text(const OpenMap& map, Bytes key, std::optional<Bytes> value) {
  const bool wide = map.info.key_size > kWideBytes || map.info.value_size > kWideBytes;
  if (map.per_cpu()) {
    std::string out = key.empty() ? "" : "key:\n" + hex_text(key) + "\n";
    for (uint32_t cpu = 0; cpu < possible_cpus(); ++cpu) {
      const std::string label = fmt::format("value (CPU {:02}):", cpu);
      out += value ? labelled(label.c_str(), of_cpu(map, *value, cpu), map.info.value_size > kWideBytes)
                   : label + " <no entry>";
      out += "\n";
    }
    return out;
  }
  std::string out;
  if (!key.empty()) {
    out = labelled("key:", key, wide);
    out += !wide && map.info.key_size + map.info.value_size <= kLineBytes ? "  " : "\n";
  }
  if (map.of_maps() && value)
    return out + fmt::format("inner_map_id: {}\n", read_at<uint32_t>(*value, 0).value_or(0));
  return out +
         (value ? labelled("value:", *value, wide)
                : "value:" + std::string(wide ? "\n" : " ") + "<no entry>") +
         "\n";
}

}  // namespace bpftime::cli

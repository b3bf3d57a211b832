// Entries of a map as `bpftool map dump` shows them.
#pragma once

#include <optional>

#include "cli/bpf_door.h"
#include "cli/btf_values.h"

namespace bpftime::cli {

// A map, opened, with what is needed to read its entries.
struct OpenMap {
  Fd fd;
  bpf_map_info info{};
  std::optional<BtfTypes> types;  // of key and value, when the map has them

  static Result<OpenMap> of(Fd fd);

  bool per_cpu() const;
  bool of_maps() const;
  bool has_types() const { return types && info.btf_value_type_id != 0; }
  // Bytes of a whole value as bpf(2) gives it: one per possible CPU, padded to 8, in per-CPU maps.
  size_t user_value_size() const;
};

uint32_t possible_cpus();

// Key and value; without the latter, an entry that is gone.
OrderedJson entry_json(const OpenMap& map, Bytes key, std::optional<Bytes> value);
std::string entry_text(const OpenMap& map, Bytes key, std::optional<Bytes> value);
// What maps with types are shown as in text, and "formatted" in JSON.
OrderedJson formatted_json(const OpenMap& map, Bytes key, std::optional<Bytes> value);

}  // namespace bpftime::cli

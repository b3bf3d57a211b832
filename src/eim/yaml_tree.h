// YAML as a small tree with positions: no aliases, no tags, bounded in depth and size. The only includer of the YAML library.
#pragma once

#include <string>
#include <vector>

#include "eim/policy.h"

namespace bpftime::eim {

struct YamlNode {
  enum class Kind : uint8_t { kNull, kScalar, kSequence, kMap } kind = Kind::kNull;
  std::string value;              // of a scalar
  std::vector<std::string> keys;  // of a map, beside `children`
  std::vector<Position> key_positions;
  std::vector<YamlNode> children;
  bool is_flow = false;  // written with brackets
  Position position;
};

inline constexpr size_t kYamlDepthMax = 12;
inline constexpr size_t kYamlNodesMax = 20'000;

// Exactly one document. Errors: "PATH:LINE:COLUMN: why".
Result<YamlNode> parse_yaml(const std::string& text, const std::string& path);

}  // namespace bpftime::eim

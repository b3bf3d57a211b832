// Rights over host objects, by paths of members, and the verifier's views made of them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "eim/grant.h"

namespace bpftime::eim {

// What is granted at and below one place of an object. Rights given to a place hold for all that lies in it, not for what pointers
// in it lead to.
struct Rights {
  bool read = false, write = false;
  Position position;  // of the grant that named this place
  std::map<std::string, Rights> members;

  bool grants_anything() const { return read || write || !members.empty(); }
};

struct ViewMaker {
  const Manifest& manifest;
  const Policy& policy;
  std::vector<verifier::View>& views;
  std::vector<Grant::ViewOrigin>& origins;

  // Adds the view of an object of `type` and of all that its granted pointers lead to; its index. `path`: how a policy names the
  // object; empty: not at all. `depth`: pointers followed. `label`: what messages call an object that has no members.
  Result<uint32_t> make(uint32_t type, const Rights& rights, const std::string& path, uint32_t depth,
                        const std::string& label = "");
  // The same of an object of which nothing is granted: good for passing to host functions, and for saying what was refused.
  Result<uint32_t> ungranted(uint32_t type, const std::string& path, uint32_t depth);
  // Of a type that no path leads to. One view per type.
  uint32_t opaque(uint32_t type);

 private:
  struct Flattening;
};

inline constexpr size_t kNamedViewsMax = 512;      // later ones only have their types
inline constexpr size_t kMembersMax = 8192;        // of one view
inline constexpr uint32_t kPointersMax = 16;       // followed in one path
inline constexpr uint64_t kElementsExpanded = 64;  // of an array of structs

// Checks `path` (from its second word on) member by member against `type`, adds it to `rights`. `what`: "read" or "write".
Result<void> add_path(const Manifest& manifest, const Policy& policy, const Capability& capability,
                      uint32_t type, Rights& rights);

}  // namespace bpftime::eim

// The maps that test programs refer to, by the names the corpora use. Test-only.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

// Geometry as the corpora describe it; nullopt for kinds that exist in the kernel only.
std::optional<MapConstraint> standard_map(std::string_view kind);

// Every kind standard_map() knows, in a fixed order.
const std::vector<std::string_view>& standard_map_kinds();

// An array of one entry, frozen, read-only to programs, holding `contents`: loads from it are constants.
MapConstraint frozen_array(std::vector<uint8_t> contents);

}  // namespace bpftime::verifier::testing

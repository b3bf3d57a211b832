#include "helpers/table.h"

#include <algorithm>
#include <array>

#include "maps/types.h"

namespace bpftime::helpers {
namespace {

constexpr auto kRows = [] {
  using enum Helper::Use;
  std::array rows{
#define BPFTIME_HELPER(id, name, uses, differs) \
  Helper(id, "bpf_" #name, "bpftime_helper_" #name, uses, differs),
#include "helpers/helpers.def"
#undef BPFTIME_HELPER
  };
  std::sort(rows.begin(), rows.end(), [](const Helper& a, const Helper& b) { return a.id < b.id; });
  return rows;
}();

struct MapRow {
  std::string_view symbol;
  uint32_t type;
  std::string_view symbol_for_type;
};
// runtime/maps.cc has a body per map type for these.
constexpr MapRow kMapRows[] = {
#define BPFTIME_OF_TYPE(number, name, Type)                                                          \
  {"bpftime_helper_map_lookup_elem", number, "bpftime_helper_map_lookup_elem_of_type_" #number},     \
      {"bpftime_helper_map_update_elem", number, "bpftime_helper_map_update_elem_of_type_" #number}, \
      {"bpftime_helper_map_lookup_percpu_elem", number,                                              \
       "bpftime_helper_map_lookup_percpu_elem_of_type_" #number},
    BPFTIME_MAP_TYPES(BPFTIME_OF_TYPE)
#undef BPFTIME_OF_TYPE
};

static_assert(std::adjacent_find(kRows.begin(), kRows.end(),
                                 [](const Helper& a, const Helper& b) { return a.id == b.id; }) ==
                  kRows.end(),
              "two rows with one id");

}  // namespace

std::span<const Helper> all() { return kRows; }

const Helper* find(uint32_t id) {
  const auto* row =
      std::lower_bound(kRows.begin(), kRows.end(), id,
                       [](const Helper& helper, uint32_t wanted) { return helper.id < wanted; });
  return row != kRows.end() && row->id == id ? row : nullptr;
}

std::string_view symbol_for_map(const Helper& helper, uint32_t map_type) {
  for (const MapRow& row : kMapRows)
    if (row.symbol == helper.symbol && row.type == map_type) return row.symbol_for_type;
  return helper.symbol;
}

bool needs_system_calls(uint32_t id) {
  const Helper* helper = find(id);
  return helper != nullptr && (helper->uses & Helper::kNeedsSystemCalls & ~Helper::kSystemCalls) != 0;
}

bool needs_task_facts(uint32_t id) {
  const Helper* helper = find(id);
  return helper != nullptr && (helper->uses & Helper::kTaskFacts) != 0;
}

}  // namespace bpftime::helpers

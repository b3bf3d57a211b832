#include "helpers/table.h"

#include <linux/bpf.h>

#include <algorithm>
#include <array>

namespace bpftime::helpers {
namespace {

// Not in older linux/bpf.h.
constexpr uint32_t kGetCurrentTaskBtf = 158, kTraceVprintk = 177;

constexpr auto kRows = [] {
  std::array rows{
#define BPFTIME_HELPER(id, name, system_call, repairs_faults, differs) \
  Helper{id, "bpf_" #name, "bpftime_helper_" #name, system_call, repairs_faults, differs},
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
constexpr MapRow kMapRows[] = {
#define BPFTIME_MAP_HELPER(helper, type, number) \
  {"bpftime_helper_" #helper, number, "bpftime_helper_" #helper "_of_type_" #number},
#include "helpers/map_types.def"
#undef BPFTIME_MAP_HELPER
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
  switch (id) {
    case BPF_FUNC_get_current_uid_gid:
    case BPF_FUNC_get_current_comm:
    case BPF_FUNC_trace_printk:
    case kTraceVprintk:
    case BPF_FUNC_send_signal:
    case BPF_FUNC_send_signal_thread:
    case BPF_FUNC_perf_event_output:
    case BPF_FUNC_ringbuf_output:
    case BPF_FUNC_ringbuf_submit:
    case BPF_FUNC_ringbuf_discard:
      return true;
    default:
      return false;
  }
}

bool needs_task_facts(uint32_t id) {
  switch (id) {
    case BPF_FUNC_get_current_task:
    case kGetCurrentTaskBtf:
    case BPF_FUNC_get_current_cgroup_id:
    case BPF_FUNC_get_current_ancestor_cgroup_id:
    case BPF_FUNC_current_task_under_cgroup:
    case BPF_FUNC_get_ns_current_pid_tgid:
    case BPF_FUNC_jiffies64:
      return true;
    default:
      return false;
  }
}

}  // namespace bpftime::helpers

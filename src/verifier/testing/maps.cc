#include "verifier/testing/maps.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "verifier/testing/btf_builder.h"

namespace bpftime::verifier::testing {
namespace {

struct Row {
  std::string_view kind;
  uint32_t type, key_size, value_size, max_entries, flags;
};

constexpr Row kRows[] = {
    {"map_hash_8b", BPF_MAP_TYPE_HASH, 8, 8, 1, 0},
    {"map_hash_16b", BPF_MAP_TYPE_HASH, 8, 16, 1, 0},
    {"map_hash_48b", BPF_MAP_TYPE_HASH, 8, 48, 1, 0},
    {"map_array_48b", BPF_MAP_TYPE_ARRAY, 4, 48, 1, 0},
    {"map_array_ro", BPF_MAP_TYPE_ARRAY, 4, 48, 1, BPF_F_RDONLY_PROG},
    {"map_array_wo", BPF_MAP_TYPE_ARRAY, 4, 48, 1, BPF_F_WRONLY_PROG},
    {"map_array_small", BPF_MAP_TYPE_ARRAY, 4, 1, 1, 0},
    {"map_stacktrace", BPF_MAP_TYPE_STACK_TRACE, 4, 8, 1, 0},
    {"prog1", BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0},
    {"prog2", BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 8, 0},
    {"map_in_map", BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, 0},
    {"map_spin_lock", BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0},
    {"map_timer", BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0},
    {"map_event_output", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 1, 0},
    {"map_ringbuf", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0},
    // Beyond the corpora's portable part, for the generator.
    {"map_array_many", BPF_MAP_TYPE_ARRAY, 4, 32, 16, 0},
    {"map_percpu_array", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 2, 0},
    {"map_lru_hash", BPF_MAP_TYPE_LRU_HASH, 4, 24, 8, 0},
    {"map_percpu_hash", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 4, 0},
    {"map_queue", BPF_MAP_TYPE_QUEUE, 0, 8, 4, 0},
    // Kinds of the corpora that only the kernel has.
    {"sk_storage_map", BPF_MAP_TYPE_SK_STORAGE, 4, 8, 0, BPF_F_NO_PREALLOC},
    {"map_reuseport_array", BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 8, 1, 0},
    {"map_sockmap", BPF_MAP_TYPE_SOCKMAP, 4, 4, 1, 0},
    {"map_sockhash", BPF_MAP_TYPE_SOCKHASH, 4, 4, 1, 0},
    {"map_xskmap", BPF_MAP_TYPE_XSKMAP, 4, 4, 1, 0},
    {"cgroup_storage", BPF_MAP_TYPE_CGROUP_STORAGE, 16, 64, 0, 0},
    {"percpu_cgroup_storage", BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, 16, 64, 0, 0},
};

// What the kernel has, which bounds bpf_get_smp_processor_id() by it.
uint32_t processors() {
  static const auto count = static_cast<uint32_t>(std::max(1l, sysconf(_SC_NPROCESSORS_CONF)));
  return count;
}

void add_lock(MapConstraint& map) {
  BtfBuilder btf;
  const uint32_t integer = btf.add_int("int", 4, true);
  const uint32_t lock = btf.add_struct("bpf_spin_lock", 4, {{"val", integer, 0}});
  map.btf_key_type_id = integer;
  map.btf_value_type_id = btf.add_struct("val", 8, {{"cnt", integer, 0}, {"l", lock, 4}});
  map.btf = btf.blob();
  map.spin_lock = 4;
}

void add_timer(MapConstraint& map) {
  BtfBuilder btf;
  const uint32_t integer = btf.add_int("int", 4, true);
  const uint32_t word = btf.add_int("unsigned long long", 8, false);
  const uint32_t timer = btf.add_struct("bpf_timer", 16, {{"a", word, 0}, {"b", word, 8}});
  map.btf_key_type_id = integer;
  map.btf_value_type_id = btf.add_struct("timer_value", 16, {{"t", timer, 0}});
  map.btf = btf.blob();
  map.timer = 0;
}

// A value of 48 bytes as the kernel's own suite fills it: an index of 28, and a known word where it leads.
std::vector<uint8_t> test_value() {
  std::vector<uint8_t> value(48, 0);
  const uint32_t index = 28, word = 0xabcdef12;
  std::memcpy(value.data(), &index, sizeof(index));
  std::memcpy(value.data() + index, &word, sizeof(word));
  return value;
}

}  // namespace

std::optional<MapConstraint> standard_map(std::string_view kind) {
  const auto row =
      std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) { return r.kind == kind; });
  if (row == std::end(kRows)) return std::nullopt;
  MapConstraint map;
  map.name = std::string(kind).substr(0, wire::kNameMax - 1);
  map.spec = {row->type, row->key_size, row->value_size, row->max_entries, row->flags, processors()};
  if (kind == "map_spin_lock" || kind == "sk_storage_map") add_lock(map);
  if (kind == "map_timer") add_timer(map);
  if (kind == "map_in_map") map.inner = wire::MapSpec{BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, processors()};
  if (row->type == BPF_MAP_TYPE_ARRAY && row->value_size == 48) map.contents = test_value();
  return map;
}

const std::vector<std::string_view>& standard_map_kinds() {
  static const std::vector<std::string_view> kinds = [] {
    std::vector<std::string_view> all;
    for (const Row& row : kRows) all.push_back(row.kind);
    return all;
  }();
  return kinds;
}

MapConstraint frozen_array(std::vector<uint8_t> contents) {
  MapConstraint map;
  map.name = "rodata";
  map.spec = {BPF_MAP_TYPE_ARRAY, 4,           static_cast<uint32_t>(contents.size()), 1,
              BPF_F_RDONLY_PROG,  processors()};
  map.frozen = true;
  map.contents = std::move(contents);
  return map;
}

}  // namespace bpftime::verifier::testing

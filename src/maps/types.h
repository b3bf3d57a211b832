// The table of map types. A type is one file with a struct in it (map_type.h) and one row here: its include and its line in
// BPFTIME_MAP_TYPES. Every switch over types is made from these rows; docs/adding-a-map.md goes through an example.
#pragma once

#include "maps/array.h"
#include "maps/bloom_filter.h"
#include "maps/cgroup_array.h"
#include "maps/hash_types.h"
#include "maps/lpm_trie.h"
#include "maps/map_of_maps.h"
#include "maps/percpu_array.h"
#include "maps/perf_event_array.h"
#include "maps/prog_array.h"
#include "maps/queue_stack.h"
#include "maps/ringbuf.h"
#include "maps/stack_trace.h"
#include "maps/user_ringbuf.h"

// Number (enum bpf_map_type), name as bpftool writes it, struct.
#define BPFTIME_MAP_TYPES(ROW)                 \
  ROW(1, hash, HashType)                       \
  ROW(2, array, ArrayType)                     \
  ROW(3, prog_array, ProgArrayType)            \
  ROW(4, perf_event_array, PerfEventArrayType) \
  ROW(5, percpu_hash, PercpuHashType)          \
  ROW(6, percpu_array, PercpuArrayType)        \
  ROW(7, stack_trace, StackTraceType)          \
  ROW(8, cgroup_array, CgroupArrayType)        \
  ROW(9, lru_hash, LruHashType)                \
  ROW(10, lru_percpu_hash, LruPercpuHashType)  \
  ROW(11, lpm_trie, LpmTrieType)               \
  ROW(12, array_of_maps, ArrayOfMapsType)      \
  ROW(13, hash_of_maps, HashOfMapsType)        \
  ROW(22, queue, QueueType)                    \
  ROW(23, stack, StackType)                    \
  ROW(27, ringbuf, RingbufType)                \
  ROW(30, bloom_filter, BloomFilterType)       \
  ROW(31, user_ringbuf, UserRingbufType)

namespace bpftime::maps {

// Calls `visit` with a value of the type's struct; MapType's for a number that is in no row. Folds when `type` is a constant.
template <typename Visit>
BPFTIME_MAPS_FOLD constexpr auto with_type(uint32_t type, Visit visit) {
  switch (type) {
#define BPFTIME_MAP_CASE(number, name, Type) \
  case number:                               \
    return visit(Type{});
    BPFTIME_MAP_TYPES(BPFTIME_MAP_CASE)
#undef BPFTIME_MAP_CASE
    default:
      return visit(MapType{});
  }
}

// What a struct says of its type, as data. Of a number that is in no row: `name` is empty, the rest as MapType says.
struct MapTypeFacts {
  const char* name;
  HelperSet own_helpers, other_helpers;
  bool every_other_helper, in_sleepable, for_each, may_be_inner, per_cpu, descriptors, spin_locks, timers,
      buckets;
  MapBtf btf;
  uint32_t batches;
  const char *differs, *remark;
};

constexpr const char* type_name(uint32_t type) {
  switch (type) {
#define BPFTIME_MAP_NAME(number, name, Type) \
  case number:                               \
    return #name;
    BPFTIME_MAP_TYPES(BPFTIME_MAP_NAME)
#undef BPFTIME_MAP_NAME
    default:
      return "";
  }
}

constexpr MapTypeFacts type_facts(uint32_t type) {
  return with_type(type, [type](auto kind) {
    using Type = decltype(kind);
    return MapTypeFacts{type_name(type),    Type::kOwnHelpers, Type::kOtherHelpers, Type::kEveryOtherHelper,
                        Type::kInSleepable, Type::kForEach,    Type::kMayBeInner,   Type::kPerCpu,
                        Type::kDescriptors, Type::kSpinLocks,  Type::kTimers,       Type::kBuckets,
                        Type::kBtf,         Type::kBatches,    Type::kDiffers,      Type::kRemark};
  });
}

// What is asked at every bpf(2) call, without making the rest.
constexpr bool has_descriptors(uint32_t type) {
  return with_type(type, [](auto kind) { return decltype(kind)::kDescriptors; });
}

// Whether the compiler may use update_unchanged for maps like this.
constexpr bool updates_unchanged(const MapSpec& spec) {
  return spec.value_size == 8 &&
         with_type(spec.type, [](auto kind) { return decltype(kind)::kUpdatesUnchanged; });
}

// All numbers that are in a row, in its order.
inline constexpr uint32_t kMapTypes[] = {
#define BPFTIME_MAP_NUMBER(number, name, Type) number,
    BPFTIME_MAP_TYPES(BPFTIME_MAP_NUMBER)
#undef BPFTIME_MAP_NUMBER
};

// The type's kExample as a spec for `cpu_count` CPUs.
constexpr MapSpec example_spec(uint32_t type, uint32_t cpu_count) {
  switch (type) {
#define BPFTIME_MAP_EXAMPLE(number, name, Type) \
  case number:                                  \
    return {number,                             \
            Type::kExample.key_size,            \
            Type::kExample.value_size,          \
            Type::kExample.max_entries,         \
            Type::kExample.flags,               \
            cpu_count};
    BPFTIME_MAP_TYPES(BPFTIME_MAP_EXAMPLE)
#undef BPFTIME_MAP_EXAMPLE
    default:
      return {};
  }
}

}  // namespace bpftime::maps

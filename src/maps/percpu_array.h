// BPF_MAP_TYPE_PERCPU_ARRAY: one array of values per possible CPU. Each CPU's values lie together, apart from
// the others' cache lines; the stride between CPUs is a power of two while small, so that the address is
// shift and add.
#pragma once

#include "maps/array.h"

namespace bpftime::maps {

inline constexpr uint64_t kPercpuValueMax =
    32768;  // PCPU_MIN_UNIT_SIZE: the kernel's limit for one per-CPU value

inline int64_t percpu_array_check(const MapSpec& spec) {
  int64_t error = array_like_check(spec);
  if (error != 0) return error;
  if (spec.cpu_count == 0) return -kErrInvalid;
  if (align_up(spec.value_size, 8) > kPercpuValueMax) return -kErrTooBig;
  return 0;
}

BPFTIME_MAPS_FOLD uint64_t percpu_array_cpu_stride(const MapSpec& spec) {
  uint64_t bytes = array_stride(spec) * spec.max_entries;
  if (bytes > kPage) return align_up(bytes, 128);
  // power_of_two_at_least(max(bytes, 128)), unrolled so that it folds at -O1.
  return bytes <= 128    ? 128
         : bytes <= 256  ? 256
         : bytes <= 512  ? 512
         : bytes <= 1024 ? 1024
         : bytes <= 2048 ? 2048
                         : 4096;
}

inline uint64_t percpu_array_size(const MapSpec& spec) {
  return percpu_array_cpu_stride(spec) * spec.cpu_count;
}

// `cpu` comes from memory the application can write (rseq), hence the clamp.
BPFTIME_MAPS_FOLD void* percpu_array_lookup(MapView map, const void* key, uint32_t cpu) {
  uint32_t index = array_index(key);
  if (index >= map.spec->max_entries) return nullptr;
  if (cpu >= map.spec->cpu_count) cpu = 0;
  return map.base + cpu * percpu_array_cpu_stride(*map.spec) + index * array_stride(*map.spec);
}

BPFTIME_MAPS_FOLD int64_t percpu_array_update(MapView map, const void* key, const void* value, uint64_t flags,
                                              uint32_t cpu) {
  int64_t error = array_update_check(*map.spec, array_index(key), flags);
  if (error != 0) return error;
  copy_bytes(percpu_array_lookup(map, key, cpu), value, map.spec->value_size);
  return 0;
}

inline int64_t percpu_array_user_lookup(MapView map, const void* key, void* values) {
  if (array_index(key) >= map.spec->max_entries) return -kErrNoEntry;
  uint64_t stride = array_stride(*map.spec);
  for (uint32_t cpu = 0; cpu < map.spec->cpu_count; cpu++) {
    copy_bytes(static_cast<uint8_t*>(values) + cpu * stride, percpu_array_lookup(map, key, cpu), stride);
  }
  return 0;
}

inline int64_t percpu_array_user_update(MapView map, const void* key, const void* values, uint64_t flags) {
  int64_t error = array_update_check(*map.spec, array_index(key), flags);
  if (error != 0) return error;
  uint64_t stride = array_stride(*map.spec);
  for (uint32_t cpu = 0; cpu < map.spec->cpu_count; cpu++) {
    copy_bytes(percpu_array_lookup(map, key, cpu), static_cast<const uint8_t*>(values) + cpu * stride,
               stride);
  }
  return 0;
}

struct PercpuArrayType : ValuesType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_map_lookup_percpu_elem};
  static constexpr bool kPerCpu = true;
  static constexpr const char* kDiffers =
      "a thread may move to another CPU while its program runs: both then write the same slot, and of two "
      "plain additions at once one can be lost (measured with 4 and 16 threads on 2 CPUs: none of 36 "
      "million); "
      "atomic additions are never lost. A look-up, a computation and an update by the helpers is exact for "
      "values of 8 bytes ([decision 42](decisions/0042-what-was-seen-is-replaced.md) says where not: a "
      "thread "
      "that then is held up in between overwrites what others of its CPU have counted meanwhile, 14 to 26 % "
      "of "
      "the counts of eight threads on one CPU)";

  static int64_t check(const MapSpec& spec) { return percpu_array_check(spec); }
  static uint64_t size(const MapSpec& spec) { return percpu_array_size(spec); }
  BPFTIME_MAPS_FOLD static void* lookup(MapView map, const void* key, uint32_t cpu) {
    return percpu_array_lookup(map, key, cpu);
  }
  BPFTIME_MAPS_FOLD static int64_t update(MapView map, const void* key, const void* value, uint64_t flags,
                                          uint32_t cpu, uint32_t) {
    return percpu_array_update(map, key, value, flags, cpu);
  }
  BPFTIME_MAPS_FOLD static bool each_next(MapView map, MapCursor* cursor) {
    if (!array_each_next(map, cursor)) return false;
    cursor->value = percpu_array_lookup(map, &cursor->index, cursor->cpu);
    return true;
  }
  static int64_t user_lookup(MapView map, const void* key, void* values) {
    return percpu_array_user_lookup(map, key, values);
  }
  static int64_t user_update(MapView map, const void* key, const void* values, uint64_t flags, uint32_t) {
    return percpu_array_user_update(map, key, values, flags);
  }
};

}  // namespace bpftime::maps

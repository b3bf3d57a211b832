// Where the value of a hash element lies: in the element, or, for the per-CPU types, one slot per CPU in that CPU's own
// region behind the elements. A region belongs to one CPU, so that no two CPUs write to the same cache line, and pages of
// CPUs that never run a program are never touched.
#pragma once

#include "maps/hash_pool.h"

namespace bpftime::maps {

// Who gives a value: one CPU's program (the others' slots of a new element become zero), or bpf(2), with a buffer of
// cpu_count slots of align_up(value_size, 8) bytes each.
inline constexpr uint32_t kAllCpus = 0xffffffff;

// `cpu` comes from memory the application can write (rseq), hence the clamp. Types without per-CPU values ignore it.
BPFTIME_MAPS_FOLD uint64_t* hash_value_at(MapView map, const HashGeometry& g, uint32_t number, uint32_t cpu) {
  if (g.cpus == 0) return element_value(element_at(map, g, number));
  uint32_t index = number - 1;
  if (index >= g.elements) index = 0;
  if (cpu >= g.cpus) cpu = 0;
  return reinterpret_cast<uint64_t*>(map.base + g.percpu_offset + cpu * g.cpu_stride +
                                     index * align_up(g.value_size, 8));
}

// Gives the element the value, as `cpu` (or kAllCpus) does; other CPUs' slots stay as they are.
BPFTIME_MAPS_FOLD void hash_put_value(MapView map, const HashGeometry& g, uint32_t number, const void* value,
                                      uint32_t cpu) {
  if (g.cpus == 0 || cpu != kAllCpus) {
    copy_in_padded(hash_value_at(map, g, number, cpu), value, g.value_size);
    return;
  }
  const uint8_t* bytes = static_cast<const uint8_t*>(value);
  const uint32_t slot = static_cast<uint32_t>(align_up(g.value_size, 8));
  for (uint32_t i = 0; i < g.cpus; i++)
    copy_in_padded(hash_value_at(map, g, number, i), bytes + i * uint64_t{slot}, slot);
}

// The first value of an element that nobody else can see yet.
BPFTIME_MAPS_FOLD void hash_first_value(MapView map, const HashGeometry& g, uint32_t number,
                                        const void* value, uint32_t cpu) {
  if (g.cpus != 0 && cpu != kAllCpus) {
    if (cpu >= g.cpus) cpu = 0;
    const uint32_t words = static_cast<uint32_t>(align_up(g.value_size, 8) / 8);
    for (uint32_t i = 0; i < g.cpus; i++) {
      if (i == cpu) continue;
      uint64_t* slot = hash_value_at(map, g, number, i);
      // Zeroed memory is left alone: writing would make a page of that CPU's region resident.
      for (uint32_t word = 0; word < words; word++) {
        if (load_relaxed(&slot[word]) != 0) store_relaxed(&slot[word], uint64_t{0});
      }
    }
  }
  hash_put_value(map, g, number, value, cpu);
}

// To a caller's buffer: value_size bytes, or all CPUs' slots.
BPFTIME_MAPS_FOLD void hash_get_value(MapView map, const HashGeometry& g, uint32_t number, void* value) {
  if (g.cpus == 0) {
    copy_out(value, hash_value_at(map, g, number, 0), g.value_size);
    return;
  }
  uint8_t* bytes = static_cast<uint8_t*>(value);
  const uint32_t slot = static_cast<uint32_t>(align_up(g.value_size, 8));
  for (uint32_t i = 0; i < g.cpus; i++)
    copy_out(bytes + i * uint64_t{slot}, hash_value_at(map, g, number, i), slot);
}

}  // namespace bpftime::maps

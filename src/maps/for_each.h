// bpf_for_each_map_elem: the elements of a map one after the other, as a program visits them.
#pragma once

#include "maps/hash.h"
#include "maps/percpu_array.h"

namespace bpftime::maps {

// Starts zeroed, `cpu` set. What it points to is the map's own memory, but for the key of an array.
struct MapCursor {
  uint64_t position;  // of the next element
  void* key;
  void* value;
  uint32_t index;  // an array's key
  uint32_t cpu;    // whose values of a per-CPU type
};

// Hash types go by element number: each element there is all the while is visited once, whatever happens to others, the one
// just visited included.
BPFTIME_MAPS_FOLD bool hash_each_next(MapView map, MapCursor* cursor) {
  const HashGeometry g = hash_geometry(*map.spec);
  const uint64_t used = load_acquire(pool_high_water(map));
  while (cursor->position < used && cursor->position < g.elements) {
    const auto number = static_cast<uint32_t>(++cursor->position);
    Element* element = element_at(map, g, number);
    if (control_owner(load_acquire(&element->control)) != kLinked ||
        link_marked(load_acquire(&element->next)))
      continue;
    cursor->key = element_key(g, element);
    cursor->value = hash_value_at(map, g, number, cursor->cpu);
    return true;
  }
  return false;
}

BPFTIME_MAPS_FOLD bool array_each_next(MapView map, MapCursor* cursor) {
  if (cursor->position >= map.spec->max_entries) return false;
  cursor->index = static_cast<uint32_t>(cursor->position++);
  cursor->key = &cursor->index;
  cursor->value = map.spec->type == kTypeArray ? array_lookup(map, &cursor->index)
                                               : percpu_array_lookup(map, &cursor->index, cursor->cpu);
  return true;
}

// The types of Linux's map_for_each_callback; the verifier refuses others.
BPFTIME_MAPS_FOLD bool each_next(MapView map, MapCursor* cursor) {
  switch (map.spec->type) {
    case kTypeArray:
    case kTypePercpuArray:
      return array_each_next(map, cursor);
    case kTypeHash:
    case kTypePercpuHash:
    case kTypeLruHash:
    case kTypeLruPercpuHash:
      return hash_each_next(map, cursor);
    default:
      return false;
  }
}

}  // namespace bpftime::maps

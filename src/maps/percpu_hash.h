// BPF_MAP_TYPE_PERCPU_HASH: the hash (hash.h) with one value per possible CPU (hash_values.h).
//
// An existing key's value changes in place, in one CPU's slot, as in Linux. A slot is not part of the element's control
// word: who is held up between finding the key and writing may write to the slot of an element that has meanwhile been
// deleted and taken for another key. Programs that keep a pointer from a look-up can do the same, here and in Linux.
#pragma once

#include "maps/hash.h"
#include "maps/percpu_array.h"

namespace bpftime::maps {

inline int64_t percpu_hash_check(const MapSpec& spec) {
  if ((spec.flags & kFlagNumaNode) != 0 || spec.cpu_count == 0) return -kErrInvalid;
  int64_t error = hash_check(spec);
  if (error != 0) return error;
  return align_up(spec.value_size, 8) > kPercpuValueMax ? -kErrTooBig : 0;
}

BPFTIME_MAPS_FOLD void* percpu_hash_lookup(MapView map, const void* key, uint32_t cpu) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  return number == 0 ? nullptr : hash_value_at(map, g, number, cpu);
}

// An existing key's value on `cpu`. False: not possible this way, nothing has happened, hash_update knows.
BPFTIME_MAPS_FOLD bool percpu_hash_update_in_place(MapView map, const void* key, const void* value,
                                                   uint64_t flags, uint32_t cpu) {
  if (flags != kUpdateAny && flags != kUpdateExist) return false;
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  if (number == 0) return false;
  if (map.spec->type == kTypeLruPercpuHash) element_mark_used(element_at(map, g, number));
  hash_put_value(map, g, number, value, cpu);
  return true;
}

}  // namespace bpftime::maps

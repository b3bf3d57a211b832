// Updates that only replace what was seen: for programs that look a value up, compute another from it and store that
// (src/compiler/read_modify_write.h). Whoever came between is noticed, and nothing is done: the program looks again.
//
// Values of 8 bytes, in maps whose values stay where they are while their key does. A slot of "this CPU's" is changed by a
// locked instruction, too: a thread may have moved to another CPU since it asked where it is.
#pragma once

#include "maps/hash.h"

namespace bpftime::maps {

// `place`: what a look-up of the key gave, not null. A key that is elsewhere by now, or nowhere, has changed. Of the order of
// reads see hash_update_in_place.
BPFTIME_MAPS_FOLD int64_t hash_update_unchanged(MapView map, const void* key, uint64_t* place, uint64_t seen,
                                                const void* value, uint32_t cpu) {
  HashGeometry g = hash_geometry(*map.spec);
  uint32_t number = hash_lookup_number(map, g, key, hash_key(key, g.key_size));
  if (number == 0 || hash_value_at(map, g, number, cpu) != place) return kChanged;
  Element* element = element_at(map, g, number);
  if (map.spec->type == kTypeLruHash || map.spec->type == kTypeLruPercpuHash) element_mark_used(element);
  if (g.cpus != 0) return compare_exchange(place, seen, read_word(value)) ? 0 : kChanged;
  uint64_t control = load_acquire(&element->control);
  if (control_owner(control) != kLinked || compare_key(element_key(g, element), key, g.key_size) != 0)
    return kChanged;
  WordPair expected = {control, seen};
  return compare_exchange_pair(reinterpret_cast<WordPair*>(&element->control), expected,
                               {control, read_word(value)})
             ? 0
             : kChanged;
}

}  // namespace bpftime::maps

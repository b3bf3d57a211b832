// What the *_BATCH commands of bpf(2) need beyond single elements: the keys of one bucket. Linux hands hash maps out bucket
// by bucket, and says by a bucket's number where to go on. Host only.
#pragma once

#include "maps/hash_user.h"

namespace bpftime::maps {

// Copies the keys in `bucket` (below g.buckets) to `keys`, at most `capacity` of them; returns how many there are, never
// more than the map has elements. Tolerates concurrent change: what it returns was in the map at some moment.
inline uint32_t hash_bucket_keys(MapView map, const HashGeometry& g, uint32_t bucket, uint8_t* keys,
                                 uint32_t capacity) {
  uint32_t count = 0, budget = step_budget(g);
  uint64_t word = load_acquire(hash_bucket(map, bucket).head);
  while (count < g.elements) {
    const uint32_t number = hash_first_from(map, g, word, &budget);
    if (number == 0) break;
    Element* element = element_at(map, g, number);
    if (count < capacity) copy_out(keys + uint64_t{count} * g.key_size, element_key(g, element), g.key_size);
    ++count;
    word = load_acquire(&element->next);
  }
  return count;
}

}  // namespace bpftime::maps

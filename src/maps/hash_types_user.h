// What bpf(2) calls do to the hash types (hash_types.h). Host only.
#pragma once

#include "maps/hash_types.h"
#include "maps/hash_user.h"

namespace bpftime::maps {

inline int64_t HashType::user_lookup(MapView map, const void* key, void* value) {
  return hash_user_lookup(map, key, value);
}
inline int64_t HashType::user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder*) {
  return hash_next_key(map, key_or_null, next_key);
}
inline void HashType::repair(MapView map, uint32_t owner) { hash_repair(map, owner); }

}  // namespace bpftime::maps

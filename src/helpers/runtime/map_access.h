// How helpers come from what programs hand them to the map core (src/maps).
#pragma once

#include "helpers/runtime/runtime.h"
#include "maps/program_side.h"

namespace bpftime::runtime {

namespace core = maps::program_side;

inline maps::MapView view(const MapRef* map) { return {map->base, &map->spec}; }
inline maps::MapView view(uint64_t map) { return view(pointer<const MapRef>(map)); }

// Asked for only by the type that needs it: with a constant map the test is gone.
inline uint32_t cpu_for(maps::MapView map) { return core::is_percpu(map.spec->type) ? current_cpu() : 0; }

}  // namespace bpftime::runtime

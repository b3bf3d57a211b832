// bpf_for_each_map_elem's walk. The compiler makes the loop around it, which calls the program's function.
#include "helpers/runtime/runtime.h"
#include "maps/program_side.h"

namespace bpftime::runtime {

// 1: the cursor has the next element, 0: there is none.
extern "C" __attribute__((visibility("hidden"))) uint64_t bpftime_map_next(const MapRef* map,
                                                                           maps::MapCursor* cursor) {
  return maps::program_side::each_next({map->base, &map->spec}, cursor) ? 1 : 0;
}

}  // namespace bpftime::runtime

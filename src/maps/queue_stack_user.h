// Repair of a queue or stack. Host only.
#pragma once

#include <new>

#include "maps/queue_stack.h"

namespace bpftime::maps {

inline constexpr uint32_t kQueueScanTriesMax = 1000;

// Frees what the dead left: elements that no position names, held by nobody alive. What the queue holds is known when it
// did not change during a scan; under unbroken traffic that may fail, and the next repair tries again.
inline void queue_repair(MapView map, uint32_t owner) {
  HashGeometry g = queue_geometry(*map.spec);
  if (owner == kFree || owner == kLinked) owner = kOrphan;
  bool suspects = false;
  pool_each_used(map, g, [&](uint32_t number) {
    Element* element = element_at(map, g, number);
    uint64_t control = load_acquire(&element->control);
    // The dead one's id may be given to another process: what it held gets a name of its own.
    if (control_owner(control) == owner)
      compare_exchange(&element->control, control, make_control(control_generation(control), kOrphan));
    suspects |= control_owner(control) != kFree;
    return true;
  });
  if (!suspects) return;
  const uint32_t positions_max = map.spec->max_entries;
  // Per element: its control word before the scan, and whether a position names it.
  struct Seen {
    uint64_t control;
    bool reachable;
  };
  const uint32_t used = pool_used(map, g);
  Seen* seen = new (std::nothrow) Seen[uint64_t{used} + 1];
  if (seen == nullptr) return;
  for (uint32_t attempt = 0; attempt < kQueueScanTriesMax; attempt++) {
    for (uint32_t number = 1; number <= used; number++)
      seen[number] = {load_acquire(&element_at(map, g, number)->control), false};
    QueueState state = queue_read(map);
    if (state.count() > positions_max) continue;
    for (uint32_t i = 0; i < state.count(); i++) {
      uint32_t number = queue_number(map, g, state, state.head() + i);
      if (number <= used) seen[number].reachable = true;
    }
    if (!queue_still(map, state)) continue;
    for (uint32_t number = 1; number <= used; number++) {
      uint64_t control = seen[number].control;
      uint32_t holder = control_owner(control);
      if (seen[number].reachable || (holder != kLinked && holder != kOrphan)) continue;
      queue_free_cell(map, g, number, control_generation(control));
    }
    break;
  }
  delete[] seen;
}

inline void QueueType::repair(MapView map, uint32_t owner) { queue_repair(map, owner); }

}  // namespace bpftime::maps

// Maps, rings and perf events: the map core (src/maps) with this process's CPU and owner filled in.
#include "helpers/runtime/runtime.h"
#include "maps/program_side.h"

namespace bpftime::runtime {
namespace {

namespace core = maps::program_side;

inline maps::MapView view(const MapRef* map) { return {map->base, &map->spec}; }
inline maps::MapView view(uint64_t map) { return view(pointer<const MapRef>(map)); }

// What only some types need is asked for only then: with a constant map the test is gone.
inline uint32_t cpu_for(maps::MapView map) { return map.spec->type == maps::kTypePercpuArray ? current_cpu() : 0; }
inline uint32_t owner_for(maps::MapView map) { return map.spec->type == maps::kTypeHash ? current_tgid() : 0; }

}  // namespace

__attribute__((noinline, cold)) void wake(uint32_t* word) {
  constexpr uint64_t kFutexWake = 1, kEveryone = 0x7fffffff;  // not PRIVATE: the consumer is another process
  if (may_call_system()) system_call(kSysFutex, reinterpret_cast<uint64_t>(word), kFutexWake, kEveryone);
}

BPFTIME_HELPER_FUNCTION(map_lookup_elem) {
  const maps::MapView map = view(r1);
  return reinterpret_cast<uint64_t>(core::lookup_percpu(map, pointer(r2), cpu_for(map)));
}

BPFTIME_HELPER_FUNCTION(map_update_elem) {
  const maps::MapView map = view(r1);
  return core::update(map, pointer(r2), pointer(r3), r4, cpu_for(map), owner_for(map));
}

BPFTIME_HELPER_FUNCTION(map_delete_elem) { return core::remove(view(r1), pointer(r2)); }

// r1 context, r2 map, r3 flags, r4 data, r5 size.
BPFTIME_HELPER_FUNCTION(perf_event_output) {
  const maps::MapView map = view(r2);
  bool must_wake = false;
  const int64_t result = core::perf_output(map, r3, pointer(r4), r5, current_cpu(), current_tgid(), &must_wake);
  if (__builtin_expect(must_wake, 0)) wake(core::ring_wake_word(map));
  return result;
}

BPFTIME_HELPER_FUNCTION(ringbuf_output) {
  const maps::MapView map = view(r1);
  bool must_wake = false;
  const int64_t result = core::ring_output(map, pointer(r2), r3, r4, current_tgid(), &must_wake);
  if (__builtin_expect(must_wake, 0)) wake(core::ring_wake_word(map));
  return result;
}

BPFTIME_HELPER_FUNCTION(ringbuf_reserve) {
  return reinterpret_cast<uint64_t>(core::ring_reserve(view(r1), r2, r3, current_tgid()));
}

namespace {

inline void commit(uint64_t record, uint64_t flags, bool discard) {
  const MapRef* ring = bpftime_ring_of(pointer(record));
  if (ring == nullptr) return;  // never in a verified program
  const maps::MapView map = view(ring);
  if (__builtin_expect(core::ring_commit(map, pointer(record), flags, discard), 0)) wake(core::ring_wake_word(map));
}

}  // namespace

BPFTIME_HELPER_FUNCTION(ringbuf_submit) {
  commit(r1, r2, false);
  return 0;
}

BPFTIME_HELPER_FUNCTION(ringbuf_discard) {
  commit(r1, r2, true);
  return 0;
}

BPFTIME_HELPER_FUNCTION(ringbuf_query) { return core::ring_query(view(r1), r2); }

}  // namespace bpftime::runtime

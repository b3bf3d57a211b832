// The large map operations; see called.cc.
#include "helpers/runtime/runtime.h"
#include "maps/program_side.h"

namespace bpftime::runtime {
namespace {

namespace core = maps::program_side;

inline maps::MapView view(const MapRef* map) { return {map->base, &map->spec}; }

}  // namespace

extern "C" {

int64_t bpftime_hash_update(const MapRef* map, const void* key, const void* value, uint64_t flags) {
  return maps::hash_update(view(map), key, value, flags, current_tgid());
}

int64_t bpftime_hash_remove(const MapRef* map, const void* key) { return maps::hash_remove(view(map), key, nullptr); }

void bpftime_wake(uint32_t* word) {
  constexpr uint64_t kFutexWake = 1, kEveryone = 0x7fffffff;  // not PRIVATE: the consumer is another process
  if (may_call_system()) system_call(kSysFutex, reinterpret_cast<uint64_t>(word), kFutexWake, kEveryone);
}

}  // extern "C"

// r1 context, r2 map, r3 flags, r4 data, r5 size.
BPFTIME_HELPER_FUNCTION(perf_event_output) {
  const maps::MapView map = view(pointer<const MapRef>(r2));
  bool must_wake = false;
  const int64_t result = core::perf_output(map, r3, pointer(r4), r5, current_cpu(), current_tgid(), &must_wake);
  if (__builtin_expect(must_wake, 0)) bpftime_wake(core::ring_wake_word(map));
  return result;
}

BPFTIME_HELPER_FUNCTION(ringbuf_output) {
  const maps::MapView map = view(pointer<const MapRef>(r1));
  bool must_wake = false;
  const int64_t result = core::ring_output(map, pointer(r2), r3, r4, current_tgid(), &must_wake);
  if (__builtin_expect(must_wake, 0)) bpftime_wake(core::ring_wake_word(map));
  return result;
}

}  // namespace bpftime::runtime

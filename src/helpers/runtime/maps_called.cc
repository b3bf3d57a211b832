// The large map operations; see called.cc.
#include "helpers/runtime/map_access.h"

namespace bpftime::runtime {

extern "C" {

int64_t bpftime_hash_update(const MapRef* map, const void* key, const void* value, uint64_t flags) {
  return maps::hash_update(view(map), key, value, flags, current_tgid());
}

int64_t bpftime_hash_remove(const MapRef* map, const void* key) {
  return maps::hash_remove(view(map), key, nullptr, current_tgid());
}

void* bpftime_map_lookup(const MapRef* map, const void* key) {
  return core::lookup_percpu(view(map), key, cpu_for(view(map)));
}

int64_t bpftime_map_update(const MapRef* map, const void* key, const void* value, uint64_t flags) {
  return core::update(view(map), key, value, flags, cpu_for(view(map)), current_tgid());
}

int64_t bpftime_map_remove(const MapRef* map, const void* key) {
  return core::remove(view(map), key, current_tgid());
}

// The ring inside a map of maps that a record lies in. Entries are used in order and never again.
__attribute__((visibility("hidden"))) const maps::MapReference* bpftime_inner_ring_of(
    const void* record, const maps::MapReference* table) {
  for (uint32_t i = 0; i < maps::kReferencesMax; i++) {
    const uint8_t* base = maps::load_acquire(&table[i].base);
    if (base == nullptr) return nullptr;
    const uint64_t distance = reinterpret_cast<uint64_t>(record) - reinterpret_cast<uint64_t>(base);
    if (table[i].spec.type == maps::kTypeRingbuf && distance < maps::ring_memory(table[i].spec.max_entries))
      return &table[i];
  }
  return nullptr;
}

void* bpftime_ring_reserve(const MapRef* ring, uint64_t size, uint64_t flags) {
  return core::ring_reserve(view(ring), size, flags, current_tgid());
}

void bpftime_ring_commit_rest(const MapRef* ring, uint64_t flags, uint64_t start, uint64_t end,
                              uint32_t ticket) {
  const maps::MapView map = view(ring);
  if (core::ring_commit_rest(map, flags, {start, end, ticket})) bpftime_wake(core::ring_wake_word(map));
}

void bpftime_wake(uint32_t* word) {
  constexpr uint64_t kFutexWake = 1, kEveryone = 0x7fffffff;  // not PRIVATE: the consumer is another process
  if (may_call_system()) system_call(kSysFutex, reinterpret_cast<uint64_t>(word), kFutexWake, kEveryone);
}

}  // extern "C"

BPFTIME_HELPER_FUNCTION(map_push_elem) { return core::push(view(r1), pointer(r2), r3, current_tgid()); }
BPFTIME_HELPER_FUNCTION(map_pop_elem) { return core::pop(view(r1), pointer(r2)); }
BPFTIME_HELPER_FUNCTION(map_peek_elem) { return core::peek(view(r1), pointer(r2)); }

// r1 context, r2 map, r3 flags, r4 data, r5 size.
BPFTIME_HELPER_FUNCTION(perf_event_output) {
  const maps::MapView map = view(r2);
  bool must_wake = false;
  const int64_t result =
      core::perf_output(map, r3, pointer(r4), r5, current_cpu(), current_tgid(), &must_wake);
  if (__builtin_expect(must_wake, 0)) bpftime_wake(core::ring_wake_word(map));
  return result;
}

BPFTIME_HELPER_FUNCTION(ringbuf_output) {
  const maps::MapView map = view(r1);
  bool must_wake = false;
  const int64_t result = core::ring_output(map, pointer(r2), r3, r4, current_tgid(), &must_wake);
  if (__builtin_expect(must_wake, 0)) bpftime_wake(core::ring_wake_word(map));
  return result;
}

}  // namespace bpftime::runtime

// The map core as a host library: dispatch by type over the headers beside this file.
#include "maps/map.h"

#include <unistd.h>

#include "maps/batch.h"
#include "maps/hash_types_user.h"
#include "maps/lpm_trie_user.h"
#include "maps/program_side.h"
#include "maps/queue_stack_user.h"

namespace bpftime::maps {
namespace {

static_assert(sizeof(PerfRecordHeader) == 8 && offsetof(PerfRecordHeader, slot) == 0);

// Type-independent refusals of BPF_MAP_CREATE, then the type's own.
int64_t check_attributes(const MapSpec& spec) {
  constexpr uint32_t kBothUser = kFlagReadOnly | kFlagWriteOnly;
  if ((spec.flags & kBothUser) == kBothUser) return -kErrInvalid;
  return with_type(spec.type, [&](auto type) { return decltype(type)::check(spec); });
}

// Bytes before the trailer, unrounded. No overflow: every product of two 32-bit numbers below 2^63.
uint64_t content_size(const MapSpec& spec) {
  return with_type(spec.type, [&](auto type) { return decltype(type)::size(spec); });
}

}  // namespace

int64_t check_spec(const MapSpec& spec) {
  int64_t error = check_attributes(spec);
  if (error != 0) return error;
  uint64_t size = memory_size(spec);
  uint64_t memory =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  bool lazy = (spec.flags & kFlagNoPrealloc) != 0;  // accepted of types that know it only
  if (size == 0 || size >= wire::kWindowSize || (!lazy && size > memory)) return -kErrNoMemory;
  return 0;
}

uint64_t memory_size(const MapSpec& spec) {
  uint64_t size = content_size(spec);
  if (size == 0 || size > (uint64_t{1} << 62)) return 0;
  return align_up(size, kPage) + wire::kTrailerSize;
}

// Every type's initial state is zeroed memory, so that pages nobody used cost nothing.
void initialize(MapView) {}

void* lookup(MapView map, const void* key) { return program_side::lookup(map, key); }
void* lookup_percpu(MapView map, const void* key, uint32_t cpu) {
  return program_side::lookup_percpu(map, key, cpu);
}
int64_t update(MapView map, const void* key, const void* value, uint64_t flags, uint32_t cpu,
               uint32_t owner) {
  return program_side::update(map, key, value, flags, cpu, owner);
}
int64_t remove(MapView map, const void* key, uint32_t owner) { return program_side::remove(map, key, owner); }

uint64_t user_value_size(const MapSpec& spec) {
  return program_side::is_percpu(spec.type) ? array_stride(spec) * spec.cpu_count : spec.value_size;
}

int64_t push(MapView map, const void* value, uint64_t flags, uint32_t owner) {
  return program_side::push(map, value, flags, owner);
}
int64_t pop(MapView map, void* value) { return program_side::pop(map, value); }
int64_t peek(MapView map, void* value) { return program_side::peek(map, value); }

int64_t user_lookup(MapView map, const void* key, void* value, uint64_t flags) {
  if (flags != 0) return -kErrInvalid;
  return with_type(map.spec->type, [&](auto type) { return decltype(type)::user_lookup(map, key, value); });
}

int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags, uint32_t owner) {
  if ((flags & kUpdateLock) != 0) return -kErrInvalid;  // bpf(2) asks for the lock first: there is none
  return with_type(map.spec->type,
                   [&](auto type) { return decltype(type)::user_update(map, key, value, flags, owner); });
}

int64_t user_delete(MapView map, const void* key, uint32_t owner) {
  return with_type(map.spec->type, [&](auto type) { return decltype(type)::user_delete(map, key, owner); });
}

int64_t user_lookup_and_delete(MapView map, const void* key, void* value, uint64_t flags, uint32_t owner) {
  if (flags != 0) return -kErrInvalid;
  return with_type(map.spec->type,
                   [&](auto type) { return decltype(type)::user_lookup_and_delete(map, key, value, owner); });
}

int64_t user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder* order) {
  return with_type(map.spec->type, [&](auto type) {
    return decltype(type)::user_next_key(map, key_or_null, next_key, order);
  });
}

uint32_t batch_buckets(const MapSpec& spec) {
  return type_facts(spec.type).buckets ? hash_geometry(spec).buckets : 0;
}
uint32_t bucket_keys(MapView map, uint32_t bucket, void* keys, uint32_t capacity) {
  return hash_bucket_keys(map, hash_geometry(*map.spec), bucket, static_cast<uint8_t*>(keys), capacity);
}

void* ring_reserve(MapView map, uint64_t size, uint64_t flags, uint32_t owner) {
  return program_side::ring_reserve(map, size, flags, owner);
}
bool ring_commit(MapView map, void* record, uint64_t flags, bool discard) {
  return program_side::ring_commit(map, record, flags, discard);
}
int64_t ring_output(MapView map, const void* data, uint64_t size, uint64_t flags, uint32_t owner,
                    bool* wake) {
  return program_side::ring_output(map, data, size, flags, owner, wake);
}
uint64_t ring_query(MapView map, uint64_t flags) { return program_side::ring_query(map, flags); }
uint32_t* ring_wake_word(MapView map) {
  if (map.spec->type == kTypeUserRingbuf) return &user_ring_at(map).consumer->wake_word;
  return program_side::ring_wake_word(map);
}
bool ring_has_data(MapView map) { return ring_has_data_at(program_side::ring_of(map)); }
int64_t ring_consume(MapView map, void* buffer, uint64_t capacity) {
  return ring_consume_at(program_side::ring_of(map), buffer, capacity);
}
uint32_t ring_prepare_wait(MapView map, bool* has_data) {
  if (map.spec->type == kTypeUserRingbuf) return user_ring_prepare_wait(user_ring_at(map), has_data);
  return ring_prepare_wait_at(program_side::ring_of(map), has_data);
}
void ring_end_wait(MapView map) { ring_end_wait_at(program_side::ring_of(map)); }
bool ring_unread_wakes(MapView map, uint64_t* unread) {
  return ring_unread_wakes_at(program_side::ring_of(map), unread);
}

int64_t perf_output(MapView map, uint64_t flags, const void* data, uint64_t size, uint32_t cpu,
                    uint32_t owner, bool* wake) {
  return program_side::perf_output(map, flags, data, size, cpu, owner, wake);
}
uint64_t perf_set_slot(MapView map, uint32_t slot, bool present) {
  return perf_event_set_slot(map, slot, present);
}
uint64_t perf_take_lost(MapView map, uint32_t slot) { return perf_event_take_lost(map, slot); }

void repair(MapView map, uint32_t owner) {
  with_type(map.spec->type, [&](auto type) { decltype(type)::repair(map, owner); });
}

}  // namespace bpftime::maps

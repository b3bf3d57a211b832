// Maps over shared memory: one freestanding core, compiled into daemon, loader and (as LLVM
// bitcode) every program.
//
// Rules for whoever edits src/maps:
//  1. The core (everything a program calls) uses only <stdint.h>/<stddef.h>, general registers, no
//  allocation, no locks,
//     no system calls, no recursion, and loops whose bound is a constant of the geometry.
//  2. Geometry comes from a trusted MapSpec (the caller's own copy), never from shared memory. Every index,
//     link and position read from shared memory is masked or clamped before use: a hostile peer causes wrong
//     values, nothing else.
//  3. A process may die between any two instructions: whatever it held half done is skipped by others and
//     repaired by the daemon (repair), never waited for.
//  4. Errno and flag semantics are those of Linux 6.18 (kernel/bpf/*.c); tests/differential
//     compares every result.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "maps/array.h"
#include "wire/object.h"

namespace bpftime::maps {

// MapSpec, and MapView {base, spec}: a mapped map, its base the first byte of its memfd, its spec trusted.

// Who holds an element half done (a process id below 2^22), for `repair`. User-side callers that give none:
inline constexpr uint32_t kUserOwner = 0x7fffffff;

// ---- geometry ----
// 0, or -errno exactly as BPF_MAP_CREATE answers for these attributes (type not supported here: -EINVAL as an
// old kernel). -ENOMEM: larger than this machine's memory.
int64_t check_spec(const MapSpec& spec);
// Bytes of the memfd, trailer page included; page multiple. 0 when it would overflow.
uint64_t memory_size(const MapSpec& spec);
// Writes the initial state into zeroed memory (not the trailer).
void initialize(MapView map);

// ---- what programs call (helpers) ----
void* lookup(MapView map,
             const void* key);  // nullptr: absent. Per-CPU arrays: this CPU's slot, `cpu` from the caller
void* lookup_percpu(MapView map, const void* key, uint32_t cpu);
int64_t update(MapView map, const void* key, const void* value, uint64_t flags, uint32_t cpu, uint32_t owner);
int64_t remove(MapView map, const void* key, uint32_t owner);
// Queues and stacks; a bloom filter's peek reads `value`.
int64_t push(MapView map, const void* value, uint64_t flags, uint32_t owner);
int64_t pop(MapView map, void* value);
int64_t peek(MapView map, void* value);

// ---- what bpf(2) calls do. Value buffers are user_value_size() bytes (per-CPU: cpu_count ×
// round_up(value_size, 8)) ----
uint64_t user_value_size(const MapSpec& spec);
// Types without keys ignore `key`: lookup is peek (of a bloom filter: of the value given), update push, lookup and delete pop.
int64_t user_lookup(MapView map, const void* key, void* value, uint64_t flags);
int64_t user_update(MapView map, const void* key, const void* value, uint64_t flags,
                    uint32_t owner = kUserOwner);
int64_t user_delete(MapView map, const void* key, uint32_t owner = kUserOwner);
int64_t user_lookup_and_delete(MapView map, const void* key, void* value, uint64_t flags,
                               uint32_t owner = kUserOwner);
// `order`: the caller's own, of this map, zero or kept since an earlier call; not used by two threads at once. May be null.
class KeyOrder;
int64_t user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder* order = nullptr);

// ---- batches ----
// Buckets of a type that Linux hands out bucket by bucket; 0: its batches go from key to key.
uint32_t batch_buckets(const MapSpec& spec);
// The keys of one bucket (below batch_buckets), `capacity` at most; returns how many it has.
uint32_t bucket_keys(MapView map, uint32_t bucket, void* keys, uint32_t capacity);

// ---- rings: BPF_MAP_TYPE_RINGBUF, and the staging ring of BPF_MAP_TYPE_PERF_EVENT_ARRAY ----
// `owner` identifies the producer (its tgid), so that records of the dead can be discarded. nullptr: full.
void* ring_reserve(MapView map, uint64_t size, uint64_t flags, uint32_t owner);
// Commits a record from ring_reserve. Returns true when a waiting consumer must be woken
// (FUTEX_WAKE on wake_word).
bool ring_commit(MapView map, void* record, uint64_t flags, bool discard);
int64_t ring_output(MapView map, const void* data, uint64_t size, uint64_t flags, uint32_t owner, bool* wake);
uint64_t ring_query(MapView map, uint64_t flags);
uint32_t* ring_wake_word(MapView map);
// Consumer side, for the daemon (staging and trace rings) and readiness checks.
bool ring_has_data(MapView map);
// Copies the oldest committed record's payload to `buffer` (at most `capacity` bytes) and consumes it.
// Returns its size, -EAGAIN when there is none, -EBADMSG when the ring makes no sense (hostile; the ring is
// reset to empty).
int64_t ring_consume(MapView map, void* buffer, uint64_t capacity);
// Consumer announces it will sleep: returns the wake word's value to FUTEX_WAIT on, or has_data = true: do
// not sleep. User rings: the same for a producer that waits for room.
uint32_t ring_prepare_wait(MapView map, bool* has_data);
// Takes the announcement back. Between this and the next one no commit costs a wake-up, so for what came meanwhile ask, after
// that next one: whether the consumer has not read a record whose commit would have woken it. `unread`: where it stands.
// Not for user rings.
void ring_end_wait(MapView map);
bool ring_unread_wakes(MapView map, uint64_t* unread);

// ---- perf event arrays: which slots have an event (maintained by the daemon), records for them staged in
// the map ----
struct PerfRecordHeader {
  uint32_t slot;  // index in the array
  uint32_t size;  // bytes of data following
};
// As bpf_perf_event_output: 0, -ENOENT (empty slot), -E2BIG (slot out of range), -ENOSPC (staging ring full;
// counted).
int64_t perf_output(MapView map, uint64_t flags, const void* data, uint64_t size, uint32_t cpu,
                    uint32_t owner, bool* wake);
// Returns how many records came while the slot was empty, when it no longer is.
uint64_t perf_set_slot(MapView map, uint32_t slot, bool present);
uint64_t perf_take_lost(MapView map, uint32_t slot);  // records dropped since last asked

// ---- repair ---- After process `owner` died: discards its unfinished records, returns leaked elements. Safe
// while others run.
void repair(MapView map, uint32_t owner);

}  // namespace bpftime::maps

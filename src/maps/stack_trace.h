// BPF_MAP_TYPE_STACK_TRACE: call stacks found again by their hash. A bucket per hash value, each with room for one trace:
//
//   +0   control[2^n]: apart from the traces, so that a walk touches no page of traces never stored
//   then 2^n times: count, instruction pointers[value_size / 8]
//
// Rules for whoever edits this file:
//  1. `control` {generation:8, state:2, owner:22, hash:32} decides: empty, being written by a process, or full. Whoever
//     writes a trace first makes the word his by CAS; readers copy, then look whether the word is still the same.
//  2. A process may die while it writes: its bucket looks taken until stack_trace_repair empties it. Nobody waits.
//  3. `count` is read from shared memory: clamped to what the trusted spec has room for.
//
// Differs from Linux: a map holds as many traces as it has buckets, not only max_entries; so with BPF_F_REUSE_STACKID a
// full one never answers -ENOMEM.
#pragma once

#include "maps/array.h"

namespace bpftime::maps {

// Flags of bpf_get_stackid that say how to store; the others say what to collect.
inline constexpr uint64_t kStackFastCompare = 1u << 9, kStackReuseId = 1u << 10;
inline constexpr uint32_t kFlagStackBuildId = 1u << 5;
inline constexpr uint32_t kStackDepthMax = 127;  // PERF_MAX_STACK_DEPTH, sysctl kernel.perf_event_max_stack
inline constexpr uint32_t kStackCopyTriesMax = 16;

// stack_map_alloc. Build ids instead of addresses are not supported: refused as by a kernel before 4.17.
inline int64_t stack_trace_check(const MapSpec& spec) {
  constexpr uint32_t kAllowed = kFlagNumaNode | kFlagReadOnly | kFlagWriteOnly;
  if ((spec.flags & ~kAllowed) != 0) return -kErrInvalid;
  if (spec.max_entries == 0 || spec.key_size != 4 || spec.value_size < 8 || spec.value_size % 8 != 0 ||
      spec.value_size / 8 > kStackDepthMax)
    return -kErrInvalid;
  if (spec.max_entries > (1u << 31)) return -kErrTooBig;
  return 0;
}

BPFTIME_MAPS_FOLD uint64_t stack_trace_buckets(const MapSpec& spec) {
  return spec.max_entries <= 1 ? 1 : uint64_t{1} << (32 - __builtin_clz(spec.max_entries - 1));
}
// Of one trace: its count and room for all its pointers.
BPFTIME_MAPS_FOLD uint64_t stack_trace_stride(const MapSpec& spec) { return 8 + uint64_t{spec.value_size}; }
inline uint64_t stack_trace_size(const MapSpec& spec) {
  return stack_trace_buckets(spec) * (8 + stack_trace_stride(spec));
}
BPFTIME_MAPS_FOLD uint32_t stack_trace_depth(const MapSpec& spec) { return spec.value_size / 8; }

struct StackBucket {
  uint64_t* control;
  uint64_t* count;  // of pointers
  uint64_t* ips;
};
// `id` below stack_trace_buckets.
BPFTIME_MAPS_FOLD StackBucket stack_trace_bucket(MapView map, uint32_t id) {
  auto* count = reinterpret_cast<uint64_t*>(map.base + stack_trace_buckets(*map.spec) * 8 +
                                            id * stack_trace_stride(*map.spec));
  return {reinterpret_cast<uint64_t*>(map.base) + id, count, count + 1};
}

// ---- control words ----
inline constexpr uint32_t kStackEmpty = 0, kStackWriting = 1, kStackFull = 2;
inline constexpr uint32_t kStackOwnerMax = (1u << 22) - 1;
BPFTIME_MAPS_FOLD uint32_t stack_state(uint64_t control) { return (control >> 54) & 3; }
BPFTIME_MAPS_FOLD uint32_t stack_hash(uint64_t control) { return static_cast<uint32_t>(control); }
BPFTIME_MAPS_FOLD uint32_t stack_owner(uint64_t control) { return (control >> 32) & kStackOwnerMax; }
// The word that follows `control`, in the next generation.
BPFTIME_MAPS_FOLD uint64_t stack_control_after(uint64_t control, uint32_t state, uint32_t owner,
                                               uint32_t hash) {
  const uint64_t generation = ((control >> 56) + 1) & 0xff;
  return generation << 56 | uint64_t{state} << 54 | uint64_t{owner & kStackOwnerMax} << 32 | hash;
}

// ---- what programs do (bpf_get_stackid) ----

// Whether the bucket holds just these pointers. False when it was replaced under our eyes, too.
inline bool stack_trace_equal(const StackBucket& bucket, uint64_t control, const uint64_t* ips,
                              uint32_t count) {
  if (load_relaxed(bucket.count) != count) return false;
  for (uint32_t i = 0; i < count; i++)
    if (load_relaxed(&bucket.ips[i]) != ips[i]) return false;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return load_relaxed(bucket.control) == control;
}

// Stores a trace of `count` pointers (more than the map has room for are cut off), unless the map has it already.
// `flags`: kStackFastCompare, kStackReuseId; others are ignored. `owner`: the process (tgid) that stores.
// Returns the id, or -EEXIST: another trace has this bucket and may not be replaced.
inline int64_t stack_trace_store(MapView map, const uint64_t* ips, uint32_t count, uint64_t flags,
                                 uint32_t owner) {
  const uint32_t depth = stack_trace_depth(*map.spec);
  if (count > depth) count = depth;
  const uint32_t hash = hash_key(ips, count * 8);
  const uint32_t id = hash & static_cast<uint32_t>(stack_trace_buckets(*map.spec) - 1);
  const StackBucket bucket = stack_trace_bucket(map, id);
  for (uint32_t attempt = 0; attempt < kStackCopyTriesMax; attempt++) {
    const uint64_t control = load_acquire(bucket.control);
    const uint32_t state = stack_state(control);
    const bool matches = state != kStackEmpty && stack_hash(control) == hash;
    if (matches && (flags & kStackFastCompare) != 0) return id;
    // Somebody stores a trace of this hash just now: as if ours had come before, and his took its place.
    if (state == kStackWriting) return matches || (flags & kStackReuseId) != 0 ? id : -kErrExists;
    if (matches && stack_trace_equal(bucket, control, ips, count)) return id;
    if (state == kStackFull && (flags & kStackReuseId) == 0) {
      if (load_acquire(bucket.control) != control) continue;
      return -kErrExists;
    }
    const uint64_t ours = stack_control_after(control, kStackWriting, owner, hash);
    if (!compare_exchange(bucket.control, control, ours)) continue;
    store_relaxed(bucket.count, uint64_t{count});
    for (uint32_t i = 0; i < count; i++) store_relaxed(&bucket.ips[i], ips[i]);
    // Fails when a repairer took us for dead; then the trace is not there.
    return compare_exchange(bucket.control, ours, stack_control_after(ours, kStackFull, 0, hash))
               ? static_cast<int64_t>(id)
               : -kErrExists;
  }
  return -kErrExists;
}

// ---- what bpf(2) does ----

// The pointers, then zeroes.
inline void stack_trace_copy(MapView map, const StackBucket& bucket, void* value) {
  const uint32_t depth = stack_trace_depth(*map.spec);
  const uint64_t stored = load_relaxed(bucket.count);
  const uint32_t count = stored < depth ? static_cast<uint32_t>(stored) : depth;
  for (uint32_t i = 0; i < depth; i++)
    write_word(static_cast<uint8_t*>(value) + uint64_t{i} * 8, i < count ? load_relaxed(&bucket.ips[i]) : 0);
}

inline int64_t stack_trace_user_lookup(MapView map, const void* key, void* value) {
  const uint32_t id = array_index(key);
  if (id >= stack_trace_buckets(*map.spec)) return -kErrNoEntry;
  const StackBucket bucket = stack_trace_bucket(map, id);
  for (uint32_t attempt = 0; attempt < kStackCopyTriesMax; attempt++) {
    const uint64_t control = load_acquire(bucket.control);
    if (stack_state(control) != kStackFull) return -kErrNoEntry;
    stack_trace_copy(map, bucket, value);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (load_relaxed(bucket.control) == control) return 0;
  }
  return -kErrBusy;
}

// `value` may be null; else it receives what was deleted.
inline int64_t stack_trace_take(MapView map, const void* key, void* value) {
  const uint32_t id = array_index(key);
  if (id >= stack_trace_buckets(*map.spec)) return value != nullptr ? -kErrNoEntry : -kErrTooBig;
  const StackBucket bucket = stack_trace_bucket(map, id);
  for (uint32_t attempt = 0; attempt < kStackCopyTriesMax; attempt++) {
    const uint64_t control = load_acquire(bucket.control);
    if (stack_state(control) != kStackFull) return -kErrNoEntry;
    if (value != nullptr) stack_trace_copy(map, bucket, value);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (compare_exchange(bucket.control, control, stack_control_after(control, kStackEmpty, 0, 0))) return 0;
  }
  return -kErrBusy;
}

// An absent or unknown key starts over (stack_map_get_next_key).
inline int64_t stack_trace_next_key(MapView map, const void* key_or_null, void* next_key) {
  const uint64_t buckets = stack_trace_buckets(*map.spec);
  const auto full = [&](uint64_t id) {
    return stack_state(load_acquire(stack_trace_bucket(map, static_cast<uint32_t>(id)).control)) ==
           kStackFull;
  };
  uint64_t id = 0;
  if (key_or_null != nullptr) {
    const uint32_t key = array_index(key_or_null);
    if (key < buckets && full(key)) id = uint64_t{key} + 1;
  }
  while (id < buckets && !full(id)) id++;
  if (id >= buckets) return -kErrNoEntry;
  const uint32_t found = static_cast<uint32_t>(id);
  __builtin_memcpy(next_key, &found, 4);
  return 0;
}

// What a dead process left half written becomes empty.
inline void stack_trace_repair(MapView map, uint32_t owner) {
  for (uint64_t id = 0; id < stack_trace_buckets(*map.spec); id++) {
    const StackBucket bucket = stack_trace_bucket(map, static_cast<uint32_t>(id));
    const uint64_t control = load_acquire(bucket.control);
    if (stack_state(control) != kStackWriting || stack_owner(control) != (owner & kStackOwnerMax)) continue;
    compare_exchange(bucket.control, control, stack_control_after(control, kStackEmpty, 0, 0));
  }
}

struct StackTraceType : MapType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_get_stackid};
  static constexpr bool kMayBeInner = true;
  static constexpr MapBtf kBtf = MapBtf::kNone;
  static constexpr MapExample kExample = {4, 80, 50, 0};
  static constexpr const char* kDiffers =
      "holds as many traces as it has buckets (max_entries rounded up to a power of two); no build ids "
      "(BPF_F_STACK_BUILD_ID is refused)";

  static int64_t check(const MapSpec& spec) { return stack_trace_check(spec); }
  static uint64_t size(const MapSpec& spec) { return stack_trace_size(spec); }
  static int64_t user_lookup(MapView map, const void* key, void* value) {
    return stack_trace_user_lookup(map, key, value);
  }
  static int64_t user_update(MapView, const void*, const void*, uint64_t, uint32_t) {
    return -kErrInvalid;  // stack_map_update_elem
  }
  static int64_t user_delete(MapView map, const void* key, uint32_t) {
    return stack_trace_take(map, key, nullptr);
  }
  static int64_t user_lookup_and_delete(MapView map, const void* key, void* value, uint32_t) {
    return stack_trace_take(map, key, value);
  }
  static int64_t user_next_key(MapView map, const void* key_or_null, void* next_key, KeyOrder*) {
    return stack_trace_next_key(map, key_or_null, next_key);
  }
  static void repair(MapView map, uint32_t owner) { stack_trace_repair(map, owner); }
};

}  // namespace bpftime::maps

// BPF_MAP_TYPE_QUEUE and STACK: values in the order they came, taken from the oldest or the newest end; nobody ever waits.
//
//   +0    control: one pair of words, changed by one CAS: {head:32, tail:32} {newest:32, tag:32}
//   +64   slots: per position (modulo their number) the element's number, and the tag of the push that put it there
//   then  the pool's levels and elements (hash_pool.h)
//
// Rules for whoever edits this file:
//  1. The positions in [head, tail) hold values. Pushing, taking and replacing the oldest are each one CAS of the control
//     pair: the count is exact at every moment, and who dies has either done it or not.
//  2. A push cannot write its slot in the same CAS, so the control pair carries the element that belongs to position
//     tail - 1; whoever comes next writes it to its slot (settle) before doing anything else. Slot words carry the tag, so
//     a settler that slept cannot write over a later push.
//  3. A value is filled before its push and copied out before its element is taken: the CAS says whether the copy is whole.
//  4. An element that is not free belongs to who fills it (owner), or is in the queue, or was taken by somebody who died
//     before freeing it: then no slot in [head, tail) names it, and queue_repair frees it.
#pragma once

#include "maps/hash_pool.h"

namespace bpftime::maps {

inline constexpr uint32_t kQueueTriesMax = 4096;
inline constexpr uint32_t kQueueEntriesMax =
    1u << 27;  // more than any machine has memory for, and no sum overflows
// Holds what a process died filling, until a repair finds time to prove it unreachable.
inline constexpr uint32_t kOrphan = 0xfffffffe;

BPFTIME_MAPS_FOLD HashGeometry queue_geometry(const MapSpec& spec) {
  const MapSpec plain = {kTypeHash, 0, spec.value_size, spec.max_entries, 0, 0};
  return hash_geometry(plain);  // its buckets are the slots
}

inline int64_t queue_stack_check(const MapSpec& spec) {
  constexpr uint32_t kBothProgram = kFlagReadOnlyProgram | kFlagWriteOnlyProgram;
  if (spec.max_entries == 0 || spec.value_size == 0 || spec.key_size != 0) return -kErrInvalid;
  if ((spec.flags & ~(kFlagNumaNode | kFlagsAccess)) != 0 || (spec.flags & kBothProgram) == kBothProgram)
    return -kErrInvalid;
  return spec.value_size > (4u << 20) ? -kErrTooBig : 0;  // KMALLOC_MAX_SIZE
}

struct QueueState {
  WordPair words;
  uint32_t head() const { return static_cast<uint32_t>(words.low); }
  uint32_t tail() const { return static_cast<uint32_t>(words.low >> 32); }
  uint32_t newest() const { return static_cast<uint32_t>(words.high); }
  uint32_t tag() const { return static_cast<uint32_t>(words.high >> 32); }
  uint32_t count() const { return tail() - head(); }
};
BPFTIME_MAPS_FOLD QueueState queue_state(uint32_t head, uint32_t tail, uint32_t newest, uint32_t tag) {
  return {{uint64_t{tail} << 32 | head, uint64_t{tag} << 32 | newest}};
}

BPFTIME_MAPS_FOLD WordPair* queue_control(MapView map) { return reinterpret_cast<WordPair*>(map.base); }
// May be torn; whoever acts on it does so by CAS of the pair, whoever only reads compares with queue_is.
BPFTIME_MAPS_FOLD QueueState queue_read(MapView map) {
  QueueState state;
  for (uint32_t attempt = 0; attempt < 64; attempt++) {
    state.words.low = load_acquire(&queue_control(map)->low);
    state.words.high = load_acquire(&queue_control(map)->high);
    if (load_acquire(&queue_control(map)->low) == state.words.low) break;
  }
  return state;
}
BPFTIME_MAPS_FOLD bool queue_is(MapView map, const QueueState& state) {
  WordPair expected = state.words;
  return compare_exchange_pair(queue_control(map), expected, expected);
}
BPFTIME_MAPS_FOLD bool queue_change(MapView map, const QueueState& from, const QueueState& to) {
  WordPair expected = from.words;
  return compare_exchange_pair(queue_control(map), expected, to.words);
}

BPFTIME_MAPS_FOLD uint64_t* queue_slot(MapView map, const HashGeometry& g, uint32_t position) {
  return reinterpret_cast<uint64_t*>(map.base + kHashBucketsOffset) + (position & (g.buckets - 1));
}
// Of the element in a settled slot.
BPFTIME_MAPS_FOLD uint32_t queue_number(MapView map, const HashGeometry& g, uint32_t position) {
  return static_cast<uint32_t>(load_acquire(queue_slot(map, g, position)));
}

// Writes the newest element to its slot. False: the state is an old one.
BPFTIME_MAPS_FOLD bool queue_settle(MapView map, const HashGeometry& g, const QueueState& state) {
  if (state.count() == 0) return true;
  uint64_t* slot = queue_slot(map, g, state.tail() - 1);
  uint64_t before = load_acquire(slot);
  if (before == state.words.high) return true;
  // Still the state after `before` was read: then nobody but settlers of this very state changes the slot until its CAS.
  if (load_acquire(&queue_control(map)->high) != state.words.high ||
      load_acquire(&queue_control(map)->low) != state.words.low)
    return false;
  return compare_exchange(slot, before, state.words.high) || load_acquire(slot) == state.words.high;
}

// `flags`: BPF_EXIST makes room in a full map by dropping the oldest value.
inline int64_t queue_push(MapView map, const void* value, uint64_t flags, uint32_t owner) {
  if (flags != kUpdateAny && flags != kUpdateExist) return -kErrInvalid;
  HashGeometry g = queue_geometry(*map.spec);
  uint32_t number = 0;
  uint64_t filled = 0;
  int64_t result = -kErrBusy;
  for (uint32_t attempt = 0; attempt < kQueueTriesMax; attempt++) {
    QueueState state = queue_read(map);
    const bool full = state.count() >= map.spec->max_entries;
    if (full && flags != kUpdateExist) {
      if (!queue_is(map, state)) continue;
      result = -kErrTooBig;
      break;
    }
    if (number == 0) {
      number = pool_allocate(map, g, owner);
      if (number == 0) break;
      filled = load_acquire(&element_at(map, g, number)->control);
      copy_in_padded(element_value(element_at(map, g, number)), value, g.value_size);
    }
    if (!queue_settle(map, g, state)) continue;
    uint32_t oldest = full ? queue_number(map, g, state.head()) : 0;
    uint32_t generation = full ? control_generation(load_acquire(&element_at(map, g, oldest)->control)) : 0;
    if (!queue_change(map, state,
                      queue_state(state.head() + full, state.tail() + 1, number, state.tag() + 1)))
      continue;
    if (full) pool_free(map, g, oldest, generation);
    // Fails when somebody has taken the value already.
    compare_exchange(&element_at(map, g, number)->control, filled,
                     make_control(control_generation(filled), kLinked));
    return 0;
  }
  if (number != 0) pool_free(map, g, number, control_generation(filled));
  return result;
}

// Pop (`take`) or peek, at the end the type says. An empty map's value is zeroes, as Linux leaves it.
inline int64_t queue_read_out(MapView map, void* value, bool take) {
  HashGeometry g = queue_geometry(*map.spec);
  const bool stack = map.spec->type == kTypeStack;
  for (uint32_t attempt = 0; attempt < kQueueTriesMax; attempt++) {
    QueueState state = queue_read(map);
    if (state.count() == 0) {
      if (!queue_is(map, state)) continue;
      uint8_t* bytes = static_cast<uint8_t*>(value);
      for (uint32_t i = 0; i < g.value_size; i++) bytes[i] = 0;
      return -kErrNoEntry;
    }
    if (!queue_settle(map, g, state)) continue;
    uint32_t number = queue_number(map, g, stack ? state.tail() - 1 : state.head());
    Element* element = element_at(map, g, number);
    uint32_t generation = control_generation(load_acquire(&element->control));
    copy_out(value, element_value(element), g.value_size);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!take) {
      if (queue_is(map, state)) return 0;
      continue;
    }
    // A queue's tag need not change: its head never comes back.
    const QueueState after =
        stack ? queue_state(state.head(), state.tail() - 1,
                            state.count() > 1 ? queue_number(map, g, state.tail() - 2) : 0, state.tag() + 1)
              : queue_state(state.head() + 1, state.tail(), state.newest(), state.tag());
    if (!queue_change(map, state, after)) continue;
    pool_free(map, g, number, generation);
    return 0;
  }
  return -kErrBusy;
}

}  // namespace bpftime::maps

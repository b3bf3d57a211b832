// BPF_MAP_TYPE_QUEUE and STACK: values in the order they came, taken from the oldest or the newest end; nobody ever waits.
//
//   +0    control: one pair of words, changed by one CAS: {head:32, tail:32} {newest:32, tag:32}
//   +64   slots: per position (modulo their number) the element's number, and the tag of the push that put it there
//   then  cells: elements as of a pool (hash_pool.h), as many as slots
//
// Rules for whoever edits this file:
//  1. The positions in [head, tail) hold values. Pushing, taking and replacing the oldest are each one CAS of the control
//     pair: the count is exact at every moment, and who dies has either done it or not.
//  2. A push cannot write its slot in the same CAS, so the control pair carries the element that belongs to position
//     tail - 1; the next push writes it to its slot (settle) before it moves the tail. So all positions below tail - 1 are in
//     their slots. Slot words carry the tag, so a settler that slept cannot write over a later push. Every push and every
//     pop of a stack raises the tag; a queue's pop moves its head, which never comes back.
//  3. A value is filled before its push and copied out before its element is taken: the CAS says whether the copy is whole.
//  4. An element that is not free belongs to who fills it (owner), or is in the queue, or was taken by somebody who died
//     before freeing it: then no slot in [head, tail) names it, and queue_repair frees it.
#pragma once

#include "maps/hash_pool.h"

namespace bpftime::maps {

inline constexpr uint32_t kQueueTriesMax = 4096;
inline constexpr uint32_t kCellTriesMax = 1024;  // taken cells lie together, elsewhere
inline constexpr uint32_t kQueueEntriesMax =
    1u << 27;  // more than any machine has memory for, and no sum overflows
// Holds what a process died filling, until a repair finds time to prove it unreachable.
inline constexpr uint32_t kOrphan = 0xfffffffe;

// Cells are the pool's elements, without its bitmaps: there are twice as many as values, so that the one a push looks at first
// is nearly always free.
BPFTIME_MAPS_FOLD HashGeometry queue_geometry(const MapSpec& spec) {
  const MapSpec plain = {kTypeHash, 0, spec.value_size, spec.max_entries < 32 ? 32 : spec.max_entries, 0, 0};
  HashGeometry g = hash_geometry(plain);  // its buckets are the slots
  g.elements = g.buckets;
  g.elements_offset = g.levels_offset;
  g.size = g.elements_offset + g.stride * g.elements;
  return g;
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
// May be torn: whoever acts on it does so by CAS of the pair, whoever only reads asks queue_still afterwards.
BPFTIME_MAPS_FOLD QueueState queue_read(MapView map) {
  QueueState state;
  state.words.low = load_acquire(&queue_control(map)->low);
  state.words.high = load_acquire(&queue_control(map)->high);
  return state;
}
// The state held from queue_read until now. Only reads: clients map what they look at read-only. Tags rise, and where they do
// not (rule 2) positions do, so that two equal words, the second read first, mean that neither changed.
BPFTIME_MAPS_FOLD bool queue_still(MapView map, const QueueState& state) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return load_acquire(&queue_control(map)->low) == state.words.low &&
         load_acquire(&queue_control(map)->high) == state.words.high &&
         load_acquire(&queue_control(map)->low) == state.words.low;
}
BPFTIME_MAPS_FOLD bool queue_change(MapView map, const QueueState& from, const QueueState& to) {
  WordPair expected = from.words;
  return compare_exchange_pair(queue_control(map), expected, to.words);
}

BPFTIME_MAPS_FOLD uint64_t* queue_slot(MapView map, const HashGeometry& g, uint32_t position) {
  return reinterpret_cast<uint64_t*>(map.base + kHashBucketsOffset) + (position & (g.buckets - 1));
}
// Of the element at a position; clamped, for it is read from shared memory.
BPFTIME_MAPS_FOLD uint32_t queue_number(MapView map, const HashGeometry& g, const QueueState& state,
                                        uint32_t position) {
  uint32_t number = position == state.tail() - 1
                        ? state.newest()
                        : static_cast<uint32_t>(load_acquire(queue_slot(map, g, position)));
  return number - 1 < g.elements ? number : 1;
}

// Writes the newest element to its slot. False: the state is an old one.
BPFTIME_MAPS_FOLD bool queue_settle(MapView map, const HashGeometry& g, const QueueState& state) {
  if (state.count() == 0) return true;
  uint64_t* slot = queue_slot(map, g, state.tail() - 1);
  uint64_t before = load_acquire(slot);
  if (before == state.words.high) return true;
  // Still the state after `before` was read: then nobody but settlers of this very state changes the slot until its CAS.
  if (!queue_still(map, state)) return false;
  return compare_exchange(slot, before, state.words.high) || load_acquire(slot) == state.words.high;
}

// A free cell, now held by `owner`; 0 when none was found. Looks first where the queue has not been for longest.
BPFTIME_MAPS_FOLD uint32_t queue_take_cell(MapView map, const HashGeometry& g, uint32_t position,
                                           uint32_t owner) {
  for (uint32_t attempt = 0; attempt < kCellTriesMax; attempt++) {
    uint32_t number = ((position + attempt) & (g.elements - 1)) + 1;
    Element* element = element_at(map, g, number);
    uint64_t control = load_acquire(&element->control);
    if (control_owner(control) != kFree) continue;
    pool_raise_high_water(map, number);
    if (compare_exchange(&element->control, control, make_control(control_generation(control) + 1, owner)))
      return number;
  }
  return 0;
}

// Frees a cell of the given generation, whoever holds it; a no-op when someone else did.
BPFTIME_MAPS_FOLD void queue_free_cell(MapView map, const HashGeometry& g, uint32_t number,
                                       uint32_t generation) {
  Element* element = element_at(map, g, number);
  for (uint32_t attempt = 0; attempt < 4; attempt++) {  // the owner may say "linked" once meanwhile
    uint64_t control = load_acquire(&element->control);
    if (control_generation(control) != generation || control_owner(control) == kFree) return;
    if (compare_exchange(&element->control, control, make_control(generation, kFree))) return;
  }
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
      if (!queue_still(map, state)) continue;
      result = -kErrTooBig;
      break;
    }
    if (number == 0) {
      number = queue_take_cell(map, g, state.tail(), owner);
      if (number == 0) break;
      filled = load_acquire(&element_at(map, g, number)->control);
      copy_in_padded(element_value(element_at(map, g, number)), value, g.value_size);
    }
    if (!queue_settle(map, g, state)) continue;
    uint32_t oldest = full ? queue_number(map, g, state, state.head()) : 0;
    uint32_t generation = full ? control_generation(load_acquire(&element_at(map, g, oldest)->control)) : 0;
    if (!queue_change(map, state,
                      queue_state(state.head() + full, state.tail() + 1, number, state.tag() + 1)))
      continue;
    if (full) queue_free_cell(map, g, oldest, generation);
    // Fails when somebody has taken the value already.
    compare_exchange(&element_at(map, g, number)->control, filled,
                     make_control(control_generation(filled), kLinked));
    return 0;
  }
  if (number != 0) queue_free_cell(map, g, number, control_generation(filled));
  return result;
}

// Pop (`take`) or peek, at the end the type says. An empty map's value is zeroes, as Linux leaves it.
inline int64_t queue_read_out(MapView map, void* value, bool take) {
  HashGeometry g = queue_geometry(*map.spec);
  const bool stack = map.spec->type == kTypeStack;
  for (uint32_t attempt = 0; attempt < kQueueTriesMax; attempt++) {
    QueueState state = queue_read(map);
    if (state.count() == 0) {
      if (!queue_still(map, state)) continue;
      uint8_t* bytes = static_cast<uint8_t*>(value);
      for (uint32_t i = 0; i < g.value_size; i++) bytes[i] = 0;
      return -kErrNoEntry;
    }
    uint32_t number = queue_number(map, g, state, stack ? state.tail() - 1 : state.head());
    Element* element = element_at(map, g, number);
    uint32_t generation = control_generation(load_acquire(&element->control));
    copy_out(value, element_value(element), g.value_size);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!take) {
      if (queue_still(map, state)) return 0;
      continue;
    }
    const QueueState after =
        stack ? queue_state(state.head(), state.tail() - 1,
                            state.count() > 1 ? queue_number(map, g, state, state.tail() - 2) : 0,
                            state.tag() + 1)
              : queue_state(state.head() + 1, state.tail(), state.newest(), state.tag());
    if (!queue_change(map, state, after)) continue;
    queue_free_cell(map, g, number, generation);
    return 0;
  }
  return -kErrBusy;
}

struct QueueType : MapType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_map_push_elem, BPF_FUNC_map_pop_elem,
                                            BPF_FUNC_map_peek_elem};
  static constexpr bool kInSleepable = true, kMayBeInner = true;
  static constexpr MapExample kExample = {0, 8, 50, 0};

  static int64_t check(const MapSpec& spec) { return queue_stack_check(spec); }
  static uint64_t size(const MapSpec& spec) {
    return spec.max_entries > kQueueEntriesMax ? 0 : queue_geometry(spec).size;
  }
  BPFTIME_MAPS_FOLD static int64_t push(MapView map, const void* value, uint64_t flags, uint32_t owner) {
    return queue_push(map, value, flags, owner);
  }
  BPFTIME_MAPS_FOLD static int64_t pop(MapView map, void* value) {
    return queue_read_out(map, value, /*take=*/true);
  }
  BPFTIME_MAPS_FOLD static int64_t peek(MapView map, void* value) {
    return queue_read_out(map, value, /*take=*/false);
  }
  static int64_t user_lookup(MapView map, const void*, void* value) { return peek(map, value); }
  static int64_t user_update(MapView map, const void*, const void* value, uint64_t flags, uint32_t owner) {
    return push(map, value, flags, owner);
  }
  static int64_t user_delete(MapView, const void*, uint32_t) { return -kErrInvalid; }
  static int64_t user_lookup_and_delete(MapView map, const void*, void* value, uint32_t) {
    return pop(map, value);
  }
  static int64_t user_next_key(MapView, const void*, void*, KeyOrder*) { return -kErrInvalid; }
  static void repair(MapView map, uint32_t owner);  // queue_stack_user.h
};

struct StackType : QueueType {};

}  // namespace bpftime::maps

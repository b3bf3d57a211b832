// BPF_MAP_TYPE_USER_RINGBUF: records go the other way, from a client (libbpf's user_ring_buffer) to a program that drains them.
//
//   +0          consumer page   u64 consumer position, then what only we know: who drains, who waits for room. Clients map it
//                               read-only
//   +4096       producer page   u64 producer position; clients map from here on read-write: page, data, copy of data
//   +8192       data            `size` bytes
//   +8192+size  copy            where a sample that reaches the end of the data is simply continued (as in ring.h)
//
// Rules for whoever edits this file:
//  1. The producer is a stranger: positions and lengths are read once, compared with each other and with the size, and
//     masked before they become an address. A sample may change while a program looks at it; it cannot move or grow.
//  2. One process drains at a time: its id stands in `drainer`, which `repair` clears after a death. Nobody waits for it.
#pragma once

#include "maps/ringbuf.h"

namespace bpftime::maps {

inline constexpr uint32_t kUserRingSamplesMax = 128 * 1024;  // BPF_MAX_USER_RINGBUF_SAMPLES
inline constexpr uint32_t kSampleSizeMax = (1u << 24) - 1;   // what a dynptr can describe

struct UserRingConsumer {
  uint64_t position;
  uint64_t padding[7];
  uint32_t drainer;    // process id; 0: nobody
  uint32_t wake_word;  // as in RingProducer: bit 0: a producer waits for room
};

struct UserRing {
  UserRingConsumer* consumer;
  uint64_t* producer;
  uint8_t* data;
  uint32_t size;  // of the data; power of two
};

// One drain while it runs; in the program's frame.
struct UserRingCursor {
  uint64_t
      sample;  // this and the next two words are the dynptr that the callback gets (helpers/runtime/dynptr.h)
  uint32_t sample_size;
  uint32_t sample_offset;
  uint64_t taken;  // bytes of the ring that the sample occupies
  int64_t error;   // why the drain ended, or 0
  uint32_t samples, discarded;
};
static_assert(sizeof(UserRingCursor) == 40);

BPFTIME_MAPS_FOLD UserRing user_ring_at(MapView map) {
  return {reinterpret_cast<UserRingConsumer*>(map.base), reinterpret_cast<uint64_t*>(map.base + kPage),
          map.base + 2 * kPage, map.spec->max_entries};
}
constexpr uint64_t user_ring_memory(uint32_t size) { return 2 * kPage + 2 * uint64_t{size}; }

// 0, or why there is no draining now: unknown flags, somebody else drains.
inline int64_t user_ring_begin(const UserRing& ring, uint64_t flags, uint32_t owner) {
  if ((flags & ~(kRingNoWakeup | kRingForceWakeup)) != 0) return -kErrInvalid;
  return compare_exchange(&ring.consumer->drainer, 0u, owner) ? 0 : -kErrBusy;
}

// Finds the next sample and describes it in the cursor. False: there is none, or `error` says what is wrong with it.
inline bool user_ring_next(const UserRing& ring, UserRingCursor* cursor) {
  for (; cursor->samples < kUserRingSamplesMax; cursor->samples++, cursor->discarded++) {
    const uint64_t end = load_acquire(ring.producer);
    const uint64_t start = load_acquire(&ring.consumer->position);
    if (end % 8 != 0) return cursor->error = -kErrInvalid, false;
    if (start >= end) return false;
    const uint64_t mask = ring.size - 8;  // a position is a multiple of 8 unless a peer wrote it
    const uint32_t header = load_acquire(reinterpret_cast<const uint32_t*>(ring.data + (start & mask)));
    const uint32_t length = header & ~(kRecordBusy | kRecordDiscarded);
    cursor->taken = align_up(uint64_t{length} + kRecordHeaderSize, 8);
    if (cursor->taken > end - start) return cursor->error = -kErrInvalid, false;
    if (cursor->taken > ring.size || length > kSampleSizeMax) return cursor->error = -kErrTooBig, false;
    if (header & kRecordDiscarded) {
      store_release(&ring.consumer->position, start + cursor->taken);
      continue;
    }
    if (header & kRecordBusy) return false;
    cursor->sample = reinterpret_cast<uint64_t>(ring.data + ((start + kRecordHeaderSize) & mask));
    cursor->sample_size = length;
    cursor->sample_offset = 0;
    return true;
  }
  return false;
}

// The program has seen the sample: its room is the producer's again.
inline void user_ring_release(const UserRing& ring, UserRingCursor* cursor) {
  store_release(&ring.consumer->position, load_relaxed(&ring.consumer->position) + cursor->taken);
  cursor->samples++;
}

// What bpf_user_ringbuf_drain returns; `wake`: a producer that waits for room must be woken (FUTEX_WAKE on wake_word).
inline int64_t user_ring_end(const UserRing& ring, const UserRingCursor& cursor, uint64_t flags, bool* wake) {
  __atomic_store_n(&ring.consumer->drainer, 0u, __ATOMIC_SEQ_CST);
  const bool wanted =
      (flags & kRingForceWakeup) != 0 || ((flags & kRingNoWakeup) == 0 && cursor.samples != 0);
  const uint32_t word = load_acquire(&ring.consumer->wake_word);
  *wake = wanted && (word & 1) != 0 &&
          compare_exchange(&ring.consumer->wake_word, word, (word + 2) & ~uint32_t{1});
  return cursor.error != 0 ? cursor.error : int64_t{cursor.samples} - cursor.discarded;
}

// Whether a producer has room for anything at all: what poll(2) answers.
inline bool user_ring_has_room(const UserRing& ring) {
  return load_acquire(ring.producer) - load_acquire(&ring.consumer->position) < ring.size;
}
inline uint32_t user_ring_prepare_wait(const UserRing& ring, bool* has_room) {
  const uint32_t word = __atomic_fetch_or(&ring.consumer->wake_word, 1u, __ATOMIC_SEQ_CST) | 1;
  *has_room = user_ring_has_room(ring);
  return word;
}

// After the death of `owner`. The sample it looked at is met again.
inline void user_ring_repair(const UserRing& ring, uint32_t owner) {
  compare_exchange(&ring.consumer->drainer, owner, 0u);
}

struct UserRingbufType : MapType {
  static constexpr HelperSet kOwnHelpers = {BPF_FUNC_user_ringbuf_drain};
  static constexpr bool kInSleepable = true, kMayBeInner = true;
  static constexpr MapExample kExample = {0, 0, 4096, 0};
  static constexpr const char* kDiffers =
      "the data is not mapped twice: a sample that reaches its end is to be written on behind it, as libbpf "
      "does";

  static int64_t check(const MapSpec& spec) { return ringbuf_check(spec); }
  static uint64_t size(const MapSpec& spec) { return user_ring_memory(spec.max_entries); }
  static int64_t user_delete(MapView, const void*, uint32_t) { return -kErrNotSupported; }
  static void repair(MapView map, uint32_t owner) { user_ring_repair(user_ring_at(map), owner); }
};

}  // namespace bpftime::maps

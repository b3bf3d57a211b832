// The ring core: BPF_MAP_TYPE_RINGBUF, and the staging ring of BPF_MAP_TYPE_PERF_EVENT_ARRAY.
//
//   +0          consumer page   u64 consumer position (clients map it read-write)
//   +4096       producer page   RingProducer; clients map from here on read-only: page, data, copy of data
//   +8192       data            `size` bytes
//   +8192+size  copy            where a record that reaches the end of the data is simply continued: the kernel
//                               maps the data twice, a memfd cannot, and a consumer that reads on past the end
//                               sees the same
//   then        reservations    Reservation[window]
//
// Rules for whoever edits this file:
//  1. Positions are byte counts since creation, multiples of 8, and only rise. Offset in the data:
//     position & (size-1).
//  2. Reserving is one cmpxchg16b on `control` = {reserved position, last reservation: its size, owner, ticket}. If the
//     previous reservation is still open (the published position is not the reserved one), it is entered in the reservation
//     table before that. So at any moment the size and owner of every open reservation is known, whoever died where: the last
//     one's from `control`, the others' from the table; and one that is alone, as usual, never touches the table.
//  3. The table is indexed by ticket. An entry is reused only when the reservation in it is published. Entering is a
//     cmpxchg16b from an older entry, which a late helper cannot repeat; then only the owner (or the repairer, for the dead)
//     writes to it, and only kDone. Nobody but those ever writes to the data.
//  4. The producer position, which consumers read, passes a reservation only when its header and payload are final: its owner
//     moves it when the reservation is the oldest open one, whoever published the one before it when its entry says kDone.
//     So consumers never meet a hole or a busy record, and a dead producer delays them until repair, as a busy one.
//  5. Committing CASes the producer position, or stores kDone and then CASes it (a full barrier on both sides): of two
//     producers finishing neighbouring records at least one sees the other. Others may finish records as fast as one
//     publishes them; after kPublishMax it leaves the rest to whoever commits next (`handover`).
//  6. A consumer that sleeps is announced by bit 0 of the wake word; commits look at how far it has read, a line it writes all
//     the time, only then. So who watches a ring for a consumer takes the announcement back while the consumer runs
//     (ring_end_wait), and asks afterwards for what came meanwhile (ring_unread_wakes): a finished record's header tells
//     whether its commit would have woken anybody, and one that must (kRingForceWakeup) changes the word.
//  7. An open reservation begins less than a ring behind the published position: offsets in the data tell them apart.
#pragma once

#include "maps/array.h"

namespace bpftime::maps {

inline constexpr uint32_t kRecordBusy = 1u << 31, kRecordDiscarded = 1u << 30;
inline constexpr uint32_t kRecordHeaderSize = 8;
inline constexpr uint32_t kRecordSizeMax = 0xffffffffu / 4;
inline constexpr uint64_t kRingNoWakeup = 1, kRingForceWakeup = 2;
inline constexpr uint64_t kRingQueryAvailable = 0, kRingQuerySize = 1, kRingQueryConsumer = 2,
                          kRingQueryProducer = 3;
inline constexpr uint32_t kRingWindowMax = 4096;  // reservations open at once (a power of two)
inline constexpr uint32_t kRingTriesMax = 4096;   // lost races of one reservation before it reports "full"
inline constexpr uint32_t kPublishMax = 65536;    // records one commit publishes for others
inline constexpr uint32_t kHandover = 1u << 31;
inline constexpr uint32_t kTicketBits = 15, kOwnerBits = 22;  // PID_MAX_LIMIT is 2^22

struct RingProducer {
  uint64_t position;  // published; read by consumers
  uint64_t padding[7];
  WordPair control;  // low: reserved position; high: last reservation, see pack_last
  // A consumer position some producer has read: the line the consumer writes is left to it.
  uint64_t consumer_seen;
  uint64_t padding2[5];
  uint32_t wake_word;  // bit 0: a consumer sleeps; the rest counts wake-ups
  // kHandover | ticket of the record at `position`: whoever commits next publishes on from it.
  uint32_t handover;
};
static_assert(offsetof(RingProducer, control) == 64 && offsetof(RingProducer, wake_word) == 128 &&
              offsetof(RingProducer, handover) == 132);  // commits read both as one word

// low: (start + 8) | done; 0: never used. high: size (with header) << 32 | owner.
using Reservation = WordPair;
inline constexpr uint64_t kDone = 1;

struct Ring {
  uint64_t* consumer;
  RingProducer* producer;
  uint8_t* data;
  Reservation* table;
  uint32_t size;    // of the data; power of two
  uint32_t window;  // entries of the table; power of two
};

constexpr uint32_t ring_window(uint32_t size) {
  return size / 8 < kRingWindowMax ? size / 8 : kRingWindowMax;
}
constexpr uint64_t ring_memory(uint32_t size) {
  return 2 * kPage + 2 * uint64_t{size} + align_up(ring_window(size) * sizeof(Reservation), kPage);
}

BPFTIME_MAPS_FOLD Ring ring_at(uint8_t* base, uint32_t size) {
  Ring ring;
  ring.consumer = reinterpret_cast<uint64_t*>(base);
  ring.producer = reinterpret_cast<RingProducer*>(base + kPage);
  ring.data = base + 2 * kPage;
  ring.table = reinterpret_cast<Reservation*>(base + 2 * kPage + 2 * uint64_t{size});
  ring.size = size;
  ring.window = ring_window(size);
  return ring;
}

BPFTIME_MAPS_FOLD uint64_t pack_last(uint64_t total, uint32_t owner, uint32_t ticket) {
  return total / 8 << (kTicketBits + kOwnerBits) | uint64_t{owner & ((1u << kOwnerBits) - 1)} << kTicketBits |
         (ticket & ((1u << kTicketBits) - 1));
}
BPFTIME_MAPS_FOLD uint64_t last_total(uint64_t last) { return (last >> (kTicketBits + kOwnerBits)) * 8; }
BPFTIME_MAPS_FOLD uint32_t last_owner(uint64_t last) {
  return (last >> kTicketBits) & ((1u << kOwnerBits) - 1);
}
BPFTIME_MAPS_FOLD uint32_t last_ticket(uint64_t last) { return last & ((1u << kTicketBits) - 1); }

BPFTIME_MAPS_FOLD Reservation* ring_entry(const Ring& ring, uint32_t ticket) {
  return &ring.table[ticket & (ring.window - 1)];
}
BPFTIME_MAPS_FOLD uint64_t entry_start(uint64_t low) { return (low & ~uint64_t{7}) - 8; }

// Enters the reservation that `control` names last into the table, unless somebody has, or the table moved on.
inline void ring_enter_last(const Ring& ring, WordPair control) {
  if (control.high == 0) return;
  const uint64_t start = control.low - last_total(control.high);
  Reservation* entry = ring_entry(ring, last_ticket(control.high));
  // Fails when a late helper enters an older one, which it cannot repeat. Bounded, for the memory may be somebody's who lies.
  for (uint32_t attempt = 0; attempt < kRingTriesMax; attempt++) {
    Reservation expected = {load_acquire(&entry->low), load_acquire(&entry->high)};
    if ((expected.low & ~uint64_t{7}) >= start + 8) return;
    if (compare_exchange_pair(entry, expected,
                              {start + 8, last_total(control.high) << 32 | last_owner(control.high)}))
      return;
  }
}

BPFTIME_MAPS_FOLD bool same(WordPair a, WordPair b) { return a.low == b.low && a.high == b.high; }
// One atomic read of both words.
BPFTIME_MAPS_FOLD WordPair ring_read_control(const Ring& ring) {
  WordPair control = {0, 0};
  compare_exchange_pair(&ring.producer->control, control, control);
  return control;
}

// Whether [start, start + total) overlaps what the consumer has not read. What one producer saw of the consumer another may
// act upon: release and acquire, so that it writes where the consumer has read, not where it is about to.
BPFTIME_MAPS_FOLD bool ring_is_full(const Ring& ring, uint64_t start, uint64_t total) {
  uint64_t behind = start + total - load_acquire(&ring.producer->consumer_seen);
  if (__builtin_expect(behind <= ring.size - 1, 1)) return false;
  uint64_t consumer = load_acquire(ring.consumer);
  store_release(&ring.producer->consumer_seen, consumer);
  return start + total - consumer > ring.size - 1;
}

// Before a reservation with `ticket` is added to open ones: enters the last of them, which `control` names, and looks whether
// the entry is free.
enum class RingRoom { kYes, kNo, kControlChanged };
BPFTIME_MAPS_COLD RingRoom ring_make_room(Ring ring, WordPair control, uint32_t ticket) {
  // The two halves may have been read apart.
  if (!same(ring_read_control(ring), control)) return RingRoom::kControlChanged;
  ring_enter_last(ring, control);
  uint64_t occupant = load_acquire(&ring_entry(ring, ticket)->low);
  if (occupant == 0 || entry_start(occupant) < load_acquire(&ring.producer->position)) return RingRoom::kYes;
  return same(ring_read_control(ring), control) ? RingRoom::kNo : RingRoom::kControlChanged;
}

// Takes [start, start + total), which the checks have allowed. nullptr: somebody was faster; `control` is what stands there now.
BPFTIME_MAPS_FOLD void* ring_take(const Ring& ring, WordPair& control, uint64_t start, uint64_t total,
                                  uint64_t size, uint32_t owner) {
  const uint32_t ticket = last_ticket(control.high) + 1;
  if (!compare_exchange_pair(&ring.producer->control, control,
                             {start + total, pack_last(total, owner, ticket)}))
    return nullptr;
  uint8_t* header = ring.data + (start & (ring.size - 1));
  // The second word holds the ticket until committed, afterwards kRingNoWakeup or 0.
  store_release(reinterpret_cast<uint64_t*>(header),
                uint64_t{ticket & (ring.window - 1)} << 32 | kRecordBusy | static_cast<uint32_t>(size));
  return header + kRecordHeaderSize;
}

// A reservation that finds room and nothing open, as usual; small enough to be inlined into programs. nullptr: it is not so,
// nothing has happened, and ring_reserve_at knows.
BPFTIME_MAPS_FOLD void* ring_reserve_at_once(const Ring& ring, uint64_t size, uint64_t flags,
                                             uint32_t owner) {
  if (flags != 0 || size > kRecordSizeMax) return nullptr;
  const uint64_t total = align_up(size + kRecordHeaderSize, 8);
  // The position seen is hostile: it must not make room for what is larger than the ring.
  if (total > ring.size) return nullptr;
  RingProducer* producer = ring.producer;
  WordPair control = {load_acquire(&producer->control.low), load_acquire(&producer->control.high)};
  const uint64_t start = control.low & ~uint64_t{7};
  if (start + total - load_acquire(&producer->consumer_seen) > ring.size - 1 ||
      load_acquire(&producer->position) != start)
    return nullptr;
  return ring_take(ring, control, start, total, size, owner);
}

// nullptr: full (or too large, or unknown flags), as bpf_ringbuf_reserve.
BPFTIME_MAPS_FOLD void* ring_reserve_at(const Ring& ring, uint64_t size, uint64_t flags, uint32_t owner) {
  if (flags != 0 || size > kRecordSizeMax) return nullptr;
  uint64_t total = align_up(size + kRecordHeaderSize, 8);
  if (total > ring.size) return nullptr;
  RingProducer* producer = ring.producer;
  WordPair control = {load_acquire(&producer->control.low), load_acquire(&producer->control.high)};
  for (uint32_t attempt = 0; attempt < kRingTriesMax; attempt++) {
    uint64_t start = control.low & ~uint64_t{7};
    if (ring_is_full(ring, start, total)) {
      // The two halves may have been read apart: believe "full" only of an atomic read.
      WordPair again = ring_read_control(ring);
      if (same(again, control)) return nullptr;
      control = again;
      continue;
    }
    // Nothing is open, as usual: the table has nothing to say (rule 3).
    if (__builtin_expect(load_acquire(&producer->position) != start, 0)) {
      const RingRoom room = ring_make_room(ring, control, last_ticket(control.high) + 1);
      if (room == RingRoom::kNo) return nullptr;
      if (room == RingRoom::kControlChanged) {
        control = ring_read_control(ring);
        continue;
      }
    }
    if (void* record = ring_take(ring, control, start, total, size, owner)) return record;
  }
  return nullptr;
}

// Publishes the finished reservations from `start` (held by `ticket`) on, if `start` is the oldest open one.
// Returns the position behind the last one published; `start` when nothing was.
BPFTIME_MAPS_COLD uint64_t ring_publish(Ring ring, uint64_t start, uint32_t ticket,
                                        uint32_t limit = kPublishMax) {
  uint64_t position = start;
  for (uint32_t count = 0;; count++) {
    if (count == limit) {
      store_release(&ring.producer->handover, kHandover | ((ticket + count) & (ring.window - 1)));
      return position;
    }
    Reservation* entry = ring_entry(ring, ticket + count);
    if (load_acquire(&entry->low) != ((position + 8) | kDone)) return position;
    uint64_t total = load_relaxed(&entry->high) >> 32 & ~uint64_t{7};
    if (!compare_exchange(&ring.producer->position, position, position + total)) return position;
    position += total;
  }
  return position;
}

// Whether the sleeping consumer, if there is one, must be woken; takes the duty to do so.
BPFTIME_MAPS_FOLD bool ring_take_wake(RingProducer* producer) {
  uint32_t word = load_acquire(&producer->wake_word);
  return (word & 1) != 0 && compare_exchange(&producer->wake_word, word, (word + 2) & ~1u);
}

// Commits a reservation that is not the oldest open one, or was not a moment ago. As ring_publish.
BPFTIME_MAPS_COLD uint64_t ring_commit_open(Ring ring, uint64_t start, uint32_t ticket) {
  Reservation* entry = ring_entry(ring, ticket);
  // Not entered: it still is the last one.
  if ((load_acquire(&entry->low) & ~uint64_t{7}) != start + 8) ring_enter_last(ring, ring_read_control(ring));
  store_release(&entry->low, (start + 8) | kDone);
  return ring_publish(ring, start, ticket);
}

// How far a commit has come: it published [start, end), nothing when they are equal; `ticket` is of the record at `start`.
struct RingCommit {
  uint64_t start, end;
  uint32_t ticket;
};

// Commits a record. True: that was all, as usual. False: records may be left to publish, or the consumer to be woken,
// which ring_commit_rest does.
BPFTIME_MAPS_FOLD bool ring_commit_at_once(const Ring& ring, void* record, uint64_t flags, bool discard,
                                           RingCommit* commit) {
  RingProducer* producer = ring.producer;
  uint8_t* header = static_cast<uint8_t*>(record) - kRecordHeaderSize;
  // Plain: nobody else writes it, and the compiler may know it still from the reservation.
  uint64_t word = read_word(header);
  uint32_t ticket = static_cast<uint32_t>(word >> 32);
  uint32_t length = static_cast<uint32_t>(word) & ~(kRecordBusy | kRecordDiscarded);
  store_release(reinterpret_cast<uint64_t*>(header),
                (flags & kRingNoWakeup) << 32 | length | (discard ? kRecordDiscarded : 0));
  // The oldest open reservation, as usual: less than a ring lies between it and any other, so the offset tells (rule 7).
  const uint64_t offset = static_cast<uint64_t>(header - ring.data);
  uint64_t start = load_acquire(&producer->position);
  uint64_t end = start + align_up(uint64_t{length} + kRecordHeaderSize, 8);
  const bool oldest = (start & (ring.size - 1)) == offset;
  if (__builtin_expect(!oldest || !compare_exchange(&producer->position, start, end), 0)) {
    start += (offset - start) & (ring.size - 1);
    *commit = {start, start, ticket};
    return false;
  }
  *commit = {start, end, ticket};
  // Nobody sleeps, or is not to be woken: the usual case is a load of a line nobody writes. (The CAS that published is the
  // barrier between that and this read; a consumer announces itself before it looks at the position.)
  const uint64_t waiting = load_relaxed(reinterpret_cast<const uint64_t*>(&producer->wake_word));
  const uint64_t matters = uint64_t{kHandover} << 32 | ((flags & kRingNoWakeup) == 0 ? 1 : 0);
  return (flags & kRingForceWakeup) == 0 && load_acquire(&producer->control.low) == end &&
         (waiting & matters) == 0;
}

// Whether the consumer must be woken.
BPFTIME_MAPS_FOLD bool ring_commit_rest(const Ring& ring, uint64_t flags, RingCommit commit) {
  uint64_t start = commit.start, end = commit.end;
  if (end == start)
    end = ring_commit_open(ring, start, commit.ticket);
  else if (load_acquire(&ring.producer->control.low) != end)
    end = ring_publish(ring, end, commit.ticket + 1);
  if (load_relaxed(&ring.producer->handover) != 0) {
    uint32_t word = __atomic_exchange_n(&ring.producer->handover, 0u, __ATOMIC_SEQ_CST);
    uint64_t from = load_acquire(&ring.producer->position);
    // A stale ticket does no harm: the entry is not of this position then, and its owner publishes it.
    uint64_t to = word != 0 ? ring_publish(ring, from, word & ~kHandover) : from;
    if (to != from && end == start) start = from;
    if (to != from) end = to;
  }
  // Nobody announced: changing the word is the wake-up.
  if (flags & kRingForceWakeup)
    return ring_take_wake(ring.producer) ||
           (__atomic_fetch_add(&ring.producer->wake_word, 2u, __ATOMIC_SEQ_CST) & 1) != 0;
  if ((load_relaxed(&ring.producer->wake_word) & 1) == 0) return false;
  // As Linux: only when the consumer had read everything before what became visible now.
  if ((flags & kRingNoWakeup) || load_acquire(ring.consumer) - start >= end - start) return false;
  return ring_take_wake(ring.producer);
}

BPFTIME_MAPS_FOLD bool ring_commit_at(const Ring& ring, void* record, uint64_t flags, bool discard) {
  RingCommit commit;
  return !ring_commit_at_once(ring, record, flags, discard, &commit) && ring_commit_rest(ring, flags, commit);
}

BPFTIME_MAPS_FOLD uint64_t ring_query_at(const Ring& ring, uint64_t flags) {
  uint64_t consumer = load_acquire(ring.consumer);
  uint64_t reserved = load_acquire(&ring.producer->control.low);
  if (flags == kRingQueryAvailable) return reserved - consumer;
  if (flags == kRingQuerySize) return ring.size;
  if (flags == kRingQueryConsumer) return consumer;
  if (flags == kRingQueryProducer) return reserved;
  return 0;
}

// ---- the consumer's side ----
inline bool ring_has_data_at(const Ring& ring) {
  return load_acquire(&ring.producer->position) != load_acquire(ring.consumer);
}

inline uint32_t ring_prepare_wait_at(const Ring& ring, bool* has_data) {
  uint32_t word = __atomic_fetch_or(&ring.producer->wake_word, 1u, __ATOMIC_SEQ_CST) | 1;
  *has_data = ring_has_data_at(ring);
  return word;
}

// The consumer is about to run: nobody needs to wake it.
inline void ring_end_wait_at(const Ring& ring) {
  __atomic_fetch_and(&ring.producer->wake_word, ~1u, __ATOMIC_SEQ_CST);
}

// Whether the commit of the oldest unread record asked for a wake-up if the consumer had read everything before it. `unread`:
// where that record begins. To be asked after the consumer has been announced: who commits later sees that.
inline bool ring_unread_wakes_at(const Ring& ring, uint64_t* unread) {
  const uint64_t published = load_acquire(&ring.producer->position);
  *unread = load_acquire(ring.consumer);
  if (*unread == published) return false;
  // A consumer that has moved on meanwhile, so that this is another record, is awake and finds what it needs.
  const uint8_t* header = ring.data + (*unread & (ring.size - 8));
  return (load_acquire(reinterpret_cast<const uint64_t*>(header)) >> 32 & kRingNoWakeup) == 0;
}

// Every number below is hostile until it has been compared with `available`, which is at most
// the ring's size.
inline int64_t ring_consume_at(const Ring& ring, void* buffer, uint64_t capacity) {
  uint64_t published = load_acquire(&ring.producer->position);
  uint64_t position = load_relaxed(ring.consumer);
  for (uint32_t records = 0; records <= ring.size / 8; records++) {
    uint64_t available = published - position;
    if (available == 0) return -kErrAgain;
    uint32_t header = load_acquire(reinterpret_cast<uint32_t*>(ring.data + (position & (ring.size - 8))));
    uint32_t length = header & ~(kRecordBusy | kRecordDiscarded);
    uint64_t total = align_up(uint64_t{length} + kRecordHeaderSize, 8);
    if (available > ring.size || position % 8 != 0 || total > available) break;
    if (header & kRecordBusy) return -kErrAgain;
    const uint8_t* payload = ring.data + (position & (ring.size - 8)) + kRecordHeaderSize;
    position += total;
    if (!(header & kRecordDiscarded)) copy_bytes(buffer, payload, length < capacity ? length : capacity);
    store_release(ring.consumer, position);
    if (!(header & kRecordDiscarded)) return length;
  }
  store_release(ring.consumer, published & ~uint64_t{7});
  return -kErrBadMessage;
}

// After the death of `owner`: its open reservations become discarded records, and what is
// finished is published.
inline void ring_repair_at(const Ring& ring, uint32_t owner) {
  owner &= (1u << kOwnerBits) - 1;
  WordPair control = ring_read_control(ring);
  if (control.high == 0) return;
  ring_enter_last(ring, control);
  // Back from the last reservation to the oldest open one; their starts and sizes must join without a gap.
  uint32_t ticket = last_ticket(control.high);
  uint64_t end = control.low;
  uint64_t published = load_acquire(&ring.producer->position);
  uint32_t open = 0;
  while (open < ring.window && end > published) {
    Reservation* entry = ring_entry(ring, ticket - open);
    uint64_t low = load_acquire(&entry->low), high = load_acquire(&entry->high);
    uint64_t start = entry_start(low), total = high >> 32;
    if (start + total != end || total < kRecordHeaderSize || total > ring.size) break;
    if (!(low & kDone) && static_cast<uint32_t>(high) == owner) {
      store_release(reinterpret_cast<uint64_t*>(ring.data + (start & (ring.size - 8))),
                    (total - kRecordHeaderSize) | kRecordDiscarded);
      store_release(&entry->low, low | kDone);
    }
    end = start;
    open++;
  }
  if (open != 0) ring_publish(ring, end, ticket - open + 1);
}

}  // namespace bpftime::maps

// One random operation on a map of any type; used by the tests of deaths and of hostile peers.
#include "maps/cgroup_array.h"
#include "maps/key_order.h"
#include "maps/map_of_maps.h"
#include "maps/program_side.h"
#include "maps/stack_trace.h"
#include "maps/test_support.h"
#include "maps/user_ringbuf.h"

namespace bpftime::maps::test {
namespace {

// As libbpf's producer, and as a program that drains: what it is handed it reads and writes to its end.
void produce_and_drain(MapView map, std::mt19937_64& random, uint32_t owner) {
  const UserRing ring = user_ring_at(map);
  const uint64_t position = load_acquire(ring.producer) & ~uint64_t{7};
  const auto length = static_cast<uint32_t>(random() % 500);
  if (position - load_acquire(&ring.consumer->position) + length + 16 <= ring.size) {
    auto* header = reinterpret_cast<uint32_t*>(ring.data + (position & (ring.size - 8)));
    store_release(header, length | (random() % 5 == 0 ? kRecordDiscarded : 0));
    store_release(ring.producer, position + align_up(length + kRecordHeaderSize, 8));
  }
  UserRingCursor cursor = {};
  if (user_ring_begin(ring, random() % 3, owner) != 0) return;
  for (int samples = 0; samples < 20 && user_ring_next(ring, &cursor); samples++) {
    auto* sample = reinterpret_cast<volatile uint8_t*>(cursor.sample);
    for (uint32_t i = 0; i < cursor.sample_size; i++) sample[i] = static_cast<uint8_t>(sample[i] + 1);
    user_ring_release(ring, &cursor);
  }
  bool wake;
  user_ring_end(ring, cursor, random() % 3, &wake);
  user_ring_prepare_wait(ring, &wake);
}

// What programs read of maps of objects, and what the daemon, who alone writes to them, does.
void use_slots(MapView map, std::mt19937_64& random, const void* key, uint32_t number) {
  switch (map.spec->type) {
    case kTypeProgArray: {
      ProgArraySlot* slot = prog_array_slot(map, number);
      if (slot != nullptr) store_release(&slot->code, load_acquire(&slot->code) + 1);
      break;
    }
    case kTypeCgroupArray:
      if (const CgroupSlot* slot = cgroup_array_slot(map, number))
        cgroup_is_under(*slot, "/user.slice/session", static_cast<uint32_t>(random() % 20));
      break;
    default:
      lookup(map, key);
      if (number < map.spec->max_entries)
        map_of_maps_set(map, key, random() % 3 == 0 ? 0 : 0x1000 + number * 8);
  }
}

}  // namespace

void operate(MapView map, std::mt19937_64& random, uint32_t owner) {
  alignas(8) uint8_t key[64] = {}, value[4096] = {};
  uint32_t number = static_cast<uint32_t>(random() % 100);
  memcpy(key, &number, 4);
  uint32_t cpu = static_cast<uint32_t>(random());
  bool wake;
  switch (map.spec->type) {
    case kTypeRingbuf:
    case kTypePerfEventArray: {
      void* record = ring_reserve(map, 1 + random() % 600, 0, owner);
      if (record != nullptr) {
        memset(record, 1, 1);
        ring_commit(map, record, random() % 3, random() % 2 == 0);
      }
      ring_output(map, value, random() % sizeof(value), random() % 4, owner, &wake);
      if (owner == kOperatingTest) ring_consume(map, value, random() % sizeof(value));
      ring_has_data(map);
      ring_prepare_wait(map, &wake);
      ring_query(map, random() % 5);
      if (map.spec->type == kTypePerfEventArray) {
        perf_set_slot(map, number, true);
        perf_output(map, random() % 2 ? kPerfIndexMask : number, value, random() % sizeof(value), cpu, owner,
                    &wake);
        perf_take_lost(map, number);
        user_delete(map, key);
      }
      break;
    }
    case kTypeUserRingbuf:
      produce_and_drain(map, random, owner);
      break;
    case kTypeStackTrace: {
      const auto* frames = reinterpret_cast<const uint64_t*>(value);
      stack_trace_store(map, frames, static_cast<uint32_t>(random() % 10), random() % 2 ? kStackReuseId : 0,
                        owner);
      user_lookup(map, key, value, 0);
      user_next_key(map, random() % 2 ? key : nullptr, key);
      user_lookup_and_delete(map, key, value, 0, owner);
      break;
    }
    case kTypeProgArray:
    case kTypeCgroupArray:
    case kTypeArrayOfMaps:
    case kTypeHashOfMaps:
      use_slots(map, random, key, number);
      break;
    default: {
      if (map.spec->type == kTypeLpmTrie) memcpy(key + 4, &number, 4), key[0] %= 40;
      void* found = lookup_percpu(map, key, cpu);
      if (found != nullptr) memset(found, 7, map.spec->value_size);
      update(map, key, value, random() % 3, cpu, owner);
      user_update(map, key, value, 0, owner);
      user_lookup(map, key, value, 0);
      user_next_key(map, random() % 2 ? key : nullptr, key);
      KeyOrder order;
      for (int i = 0; i < 2; i++) user_next_key(map, random() % 2 ? key : nullptr, key, &order);
      user_lookup_and_delete(map, key, value, 0, owner);
      remove(map, key, owner);
      push(map, value, random() % 4, owner);
      pop(map, value);
      peek(map, value);
    }
  }
}

}  // namespace bpftime::maps::test

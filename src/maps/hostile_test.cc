// A peer that scribbles over a map: wrong values for everyone, but no access outside the mapping and no
// endless loop.
#include <csignal>
#include <vector>

#include "maps/hash_user.h"
#include "maps/program_side.h"
#include "maps/test_support.h"

namespace bpftime::maps::test {
namespace {

// Writes what does most harm: plausible indexes, marks, positions, lengths; and plain noise over every byte.
void scribble(const SharedMap& shared, std::mt19937_64& random) {
  uint8_t* base = shared.view().base;
  uint64_t words = shared.size() / 8;
  auto at = [&](uint64_t word) { return reinterpret_cast<uint64_t*>(base) + word; };
  static const uint64_t kNasty[] = {0,
                                    1,
                                    2,
                                    ~uint64_t{0},
                                    uint64_t{1} << 63,
                                    0x80000000,
                                    0x7fffffff,
                                    0xffffffff00000001,
                                    0x40000010,
                                    0x3fffffff,
                                    0xfffffff8,
                                    4096,
                                    0xffffffff};
  switch (random() % 4) {
    case 0:  // every byte
      for (uint64_t i = 0; i < words; i++) __atomic_store_n(at(i), random(), __ATOMIC_RELAXED);
      break;
    case 1:  // all link-like: small indexes with random tags, so that walks run in circles
      for (uint64_t i = 0; i < words; i++) {
        __atomic_store_n(at(i), (random() & 0xffffffff00000000 & ~(random() % 2 << 63)) | (random() % 80),
                         __ATOMIC_RELAXED);
      }
      break;
    case 2:
      for (int i = 0; i < 2000; i++)
        __atomic_store_n(at(random() % words), kNasty[random() % std::size(kNasty)], __ATOMIC_RELAXED);
      break;
    default:  // the control fields at the front and of the rings
      for (uint64_t offset : {0, 8, 16, 64, 72, 4096, 4104, 4160, 4168, 4224, 8192}) {
        if (offset / 8 < words)
          __atomic_store_n(at(offset / 8), kNasty[random() % std::size(kNasty)] + random() % 3,
                           __ATOMIC_RELAXED);
      }
  }
}

bool is_walked(uint32_t type) {
  return type == kTypeHash || type == kTypePercpuHash || type == kTypeLruHash || type == kTypeLruPercpuHash ||
         type == kTypeLpmTrie;
}

void operate(MapView map, std::mt19937_64& random) {
  alignas(8) uint8_t key[64] = {}, value[4096] = {};
  uint32_t number = static_cast<uint32_t>(random() % 100);
  memcpy(key, &number, 4);
  uint32_t cpu = static_cast<uint32_t>(random());
  bool wake;
  switch (map.spec->type) {
    case kTypeRingbuf:
    case kTypePerfEventArray: {
      void* record = ring_reserve(map, random() % 600, 0, 1);
      if (record != nullptr) {
        memset(record, 1, 1);
        ring_commit(map, record, random() % 3, random() % 2 == 0);
      }
      ring_output(map, value, random() % sizeof(value), random() % 4, 1, &wake);
      ring_consume(map, value, random() % sizeof(value));
      ring_has_data(map);
      ring_prepare_wait(map, &wake);
      ring_query(map, random() % 5);
      if (map.spec->type == kTypePerfEventArray) {
        perf_set_slot(map, number, true);
        perf_output(map, random() % 2 ? kPerfIndexMask : number, value, random() % sizeof(value), cpu, 1,
                    &wake);
        perf_take_lost(map, number);
        user_delete(map, key);
      }
      break;
    }
    case kTypeQueue:
    case kTypeStack:
    case kTypeBloomFilter:
      push(map, value, random() % 4, 1);
      pop(map, value);
      peek(map, value);
      user_lookup_and_delete(map, key, value, 0);
      break;
    default: {
      if (map.spec->type == kTypeLpmTrie) memcpy(key + 4, &number, 4), key[0] %= 40;
      void* found = lookup_percpu(map, key, cpu);
      if (found != nullptr) memset(found, 7, map.spec->value_size);
      update(map, key, value, random() % 3, cpu, 1);
      user_update(map, key, value, 0);
      user_lookup(map, key, value, 0);
      user_next_key(map, random() % 2 ? key : nullptr, key);
      user_lookup_and_delete(map, key, value, 0);
      remove(map, key, 1);
    }
  }
  if (random() % 16 == 0) repair(map, static_cast<uint32_t>(random() % 3));
}

class HostilePeer : public testing::TestWithParam<MapSpec> {};

TEST_P(HostilePeer, CausesWrongValuesOnly) {
  uint64_t seed = test_seed();
  SharedMap shared(GetParam());
  // The scribbler runs until it is killed; the operators must finish (SIGALRM ends them: a loop without
  // bound).
  pid_t scribbler = start_child([&] {
    std::mt19937_64 random(seed);
    for (;;) scribble(shared, random);
    return 0;
  });
  std::vector<pid_t> operators;
  for (uint64_t i = 1; i <= 2; i++) {
    operators.push_back(start_child([&] {
      std::mt19937_64 random(seed + i);
      uint64_t operations =
          is_walked(GetParam().type) ? 3000 : 100000;  // a hash's walks run into their budget
      for (uint64_t n = 0; n < test_rounds(operations); n++) operate(shared.view(), random);
      return 0;
    }));
  }
  for (pid_t pid : operators) EXPECT_EQ(wait_child(pid), 0);
  kill(scribbler, SIGKILL);
  EXPECT_EQ(wait_child(scribbler), 1000 + SIGKILL);
}

// The same with a map that holds still between scribbles: reaches states that a racing scribbler destroys too
// soon.
TEST_P(HostilePeer, EveryStateIsSurvived) {
  uint64_t seed = test_seed();
  SharedMap shared(GetParam());
  pid_t pid = start_child([&] {
    std::mt19937_64 random(seed);
    for (uint64_t n = 0; n < test_rounds(is_walked(GetParam().type) ? 150 : 2000); n++) {
      scribble(shared, random);
      for (int i = 0; i < 10; i++) operate(shared.view(), random);
    }
    return 0;
  });
  EXPECT_EQ(wait_child(pid), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Maps, HostilePeer,
    testing::Values(MapSpec{kTypeHash, 4, 8, 64, 0, 2}, MapSpec{kTypeHash, 13, 100, 7, 0, 2},
                    MapSpec{kTypeArray, 4, 20, 50, 0, 2}, MapSpec{kTypePercpuArray, 4, 20, 50, 0, 2},
                    MapSpec{kTypeRingbuf, 0, 0, 4096, 0, 2}, MapSpec{kTypePerfEventArray, 4, 4, 50, 0, 2},
                    MapSpec{kTypePercpuHash, 4, 20, 50, 0, 2}, MapSpec{kTypeLruHash, 4, 8, 50, 0, 2},
                    MapSpec{kTypeLruPercpuHash, 8, 8, 50, 0, 2},
                    MapSpec{kTypeLpmTrie, 8, 20, 50, kFlagNoPrealloc, 2},
                    MapSpec{kTypeLpmTrie, 20, 8, 50, kFlagNoPrealloc, 2}, MapSpec{kTypeQueue, 0, 8, 50, 0, 2},
                    MapSpec{kTypeStack, 0, 100, 7, 0, 2}, MapSpec{kTypeBloomFilter, 0, 8, 50, 0, 2}));

}  // namespace
}  // namespace bpftime::maps::test

// A peer that scribbles over a map: wrong values for everyone, but no access outside the mapping and
// no endless loop.
#include <algorithm>
#include <csignal>
#include <vector>

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
  return type == kTypeHash || type == kTypeHashOfMaps || type == kTypePercpuHash || type == kTypeLruHash ||
         type == kTypeLruPercpuHash || type == kTypeLpmTrie;
}

void operate_and_repair(MapView map, std::mt19937_64& random) {
  operate(map, random, kOperatingTest);
  if (random() % 16 == 0) repair(map, static_cast<uint32_t>(random() % 3));
}

class HostilePeer : public testing::TestWithParam<MapSpec> {};

TEST_P(HostilePeer, CausesWrongValuesOnly) {
  uint64_t seed = test_seed();
  SharedMap shared(GetParam());
  // The scribbler runs until it is killed; the operators must finish (SIGALRM ends them: a
  // loop without bound).
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
      for (uint64_t n = 0; n < test_rounds(operations); n++) operate_and_repair(shared.view(), random);
      return 0;
    }));
  }
  for (pid_t pid : operators) EXPECT_EQ(wait_child(pid), 0);
  kill(scribbler, SIGKILL);
  EXPECT_EQ(wait_child(scribbler), 1000 + SIGKILL);
}

// The same with a map that holds still between scribbles: reaches states that a racing scribbler
// destroys too soon.
TEST_P(HostilePeer, EveryStateIsSurvived) {
  uint64_t seed = test_seed();
  SharedMap shared(GetParam());
  pid_t pid = start_child([&] {
    std::mt19937_64 random(seed);
    for (uint64_t n = 0; n < test_rounds(is_walked(GetParam().type) ? 150 : 2000); n++) {
      scribble(shared, random);
      for (int i = 0; i < 10; i++) operate_and_repair(shared.view(), random);
    }
    return 0;
  });
  EXPECT_EQ(wait_child(pid), 0);
}

// The words a repair bounds its work by change between any two looks: what was checked is what must be used.
TEST_P(HostilePeer, NothingIsReadTwice) {
  uint64_t seed = test_seed();
  SharedMap shared(GetParam());
  std::mt19937_64 random(seed);
  scribble(shared, random);
  pid_t scribbler = start_child([&] {
    auto* words = reinterpret_cast<uint64_t*>(shared.view().base);
    for (;;) {
      for (uint64_t value : {uint64_t{1}, ~uint64_t{0}, uint64_t{1} << 60})
        for (int i = 0; i < 8; i++) __atomic_store_n(words + i, value, __ATOMIC_RELAXED);
    }
    return 0;
  });
  pid_t repairer = start_child([&] {
    for (uint64_t n = 0; n < test_rounds(is_walked(GetParam().type) ? 150 : 50000); n++)
      repair(shared.view(), static_cast<uint32_t>(n % 3));
    return 0;
  });
  EXPECT_EQ(wait_child(repairer), 0);
  kill(scribbler, SIGKILL);
  EXPECT_EQ(wait_child(scribbler), 1000 + SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(Maps, HostilePeer, testing::ValuesIn(every_type()));

// A type whose kExample is wrong is neither killed nor scribbled at by any test.
TEST(Coverage, EveryTypeIsHere) {
  for (const MapSpec& spec : every_type()) EXPECT_EQ(check_spec(spec), 0) << "map type " << spec.type;
  for (uint32_t type = 1; type < 256; type++) {
    const bool here = std::any_of(every_type().begin(), every_type().end(),
                                  [&](const MapSpec& spec) { return spec.type == type; });
    EXPECT_EQ(here, *type_name(type) != 0) << "map type " << type;
    if (here) continue;
    EXPECT_EQ(check_spec({type, 4, 8, 16, 0, 2}), -EINVAL) << "map type " << type;
  }
}

}  // namespace
}  // namespace bpftime::maps::test

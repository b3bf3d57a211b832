// Processes killed in the middle of operations, a thousand times: nothing is lost, nobody is blocked,
// counts are right.
#include <sys/ptrace.h>

#include <csignal>
#include <set>
#include <vector>

#include "maps/hash_user.h"
#include "maps/map_of_maps.h"
#include "maps/program_side.h"
#include "maps/queue_stack_user.h"
#include "maps/stack_trace.h"
#include "maps/test_support.h"
#include "maps/user_ringbuf.h"

namespace bpftime::maps::test {
namespace {

using Clock = std::chrono::steady_clock;

// 1000 kills over the types: 600 + 250 + 150.
constexpr uint64_t kHashKills = 600, kRingKills = 250, kPerfKills = 150;
// And 200 for each type that came later.
constexpr uint64_t kOtherKills = 200;
constexpr uint32_t kEntries = 48;

// Values prove themselves whole.
struct Proof {
  uint64_t key, nonce, check;
};
Proof make_proof(uint64_t key, uint64_t nonce) { return {key, nonce, key * 0x9e3779b97f4a7c15 ^ nonce}; }
bool is_whole(const Proof& proof) { return proof.check == (proof.key * 0x9e3779b97f4a7c15 ^ proof.nonce); }

// The hash types and the trie that is one. An LPM key of 8 bytes is {length, address}: all of them of full length.
MapSpec keyed_spec(uint32_t type) {
  return {type, 8, sizeof(Proof), kEntries, type == kTypeLpmTrie ? kFlagNoPrealloc : 0, 2};
}
uint64_t key_of(const MapSpec& spec, uint64_t number) {
  return spec.type == kTypeLpmTrie ? number << 32 | 32 : number;
}
int64_t full_error(const MapSpec& spec) { return spec.type == kTypeLpmTrie ? -ENOSPC : -E2BIG; }

// One random operation; false when the map answered what it must not.
bool hash_step(MapView map, std::mt19937_64& random, uint32_t owner) {
  uint64_t key = key_of(*map.spec, random() % (kEntries + 8));
  Proof proof = make_proof(key, random());
  int64_t result;
  switch (random() % 8) {
    case 0:
    case 1:
    case 2:
      result = remove(map, &key, owner);
      return result == 0 || result == -ENOENT;
    case 3:
      result = user_lookup(map, &key, &proof, 0);
      return result == -ENOENT || result == -EBUSY || (result == 0 && is_whole(proof) && proof.key == key);
    case 4:
      result = user_lookup_and_delete(map, &key, &proof, 0, owner);
      if (map.spec->type == kTypeLpmTrie) return result == -kErrNotSupported;
      return result == -ENOENT || (result == 0 && is_whole(proof) && proof.key == key);
    default:
      result = update(map, &key, &proof, random() % 3, 0, owner);
      return result == 0 || (result == full_error(*map.spec) && map.spec->type != kTypeLruHash) ||
             result == -EEXIST || result == -ENOENT;
  }
}

// Nobody runs: every element is free or reachable, hints and count agree, all values are whole.
void check_hash(MapView map) {
  HashGeometry g = hash_geometry(*map.spec);
  std::set<uint32_t> reachable;
  for (uint32_t bucket = 0; bucket < g.buckets; bucket++) {
    uint64_t word = *hash_bucket(map, bucket).head;
    while (is_element(g, link_index(word))) {
      ASSERT_TRUE(reachable.insert(link_index(word)).second) << "element in two lists";
      Element* element = element_at(map, g, link_index(word));
      word = element->next;
      ASSERT_FALSE(link_marked(word)) << "deleted element still linked";
      const Proof* proof = reinterpret_cast<Proof*>(element_value(element));
      ASSERT_TRUE(is_whole(*proof) && proof->key == *element_key(g, element));
    }
  }
  for (uint32_t number = 1; number <= g.elements; number++) {
    uint32_t holder = control_owner(element_at(map, g, number)->control);
    ASSERT_EQ(holder, reachable.count(number) != 0 ? kLinked : kFree) << "element " << number << " is lost";
    PoolLevel level = pool_level(map, g, 0);
    bool taken = level.words[(number - 1) / 64] >> ((number - 1) % 64) & 1;
    ASSERT_TRUE(taken || holder == kFree || holder == kLinked);
    ASSERT_FALSE(taken && holder == kFree) << "free element " << number << " cannot be found";
  }
  ASSERT_EQ(static_cast<uint32_t>(*hash_count_word(map)), reachable.size());
}

// Fills to capacity: exactly max_entries fit. Then leaves every other key.
void check_capacity(MapView map) {
  const bool forgets = map.spec->type == kTypeLruHash;
  auto remove_each = [&](uint64_t step) {
    for (uint64_t number = 0; number < kEntries + 8; number += step) {
      uint64_t key = key_of(*map.spec, number);
      remove(map, &key, 1);
    }
  };
  remove_each(1);
  uint64_t inserted = 0;
  for (uint64_t number = 0; number < kEntries + 8; number++) {
    uint64_t key = key_of(*map.spec, number);
    Proof proof = make_proof(key, number);
    int64_t result = update(map, &key, &proof, 0, 0, 1);
    ASSERT_EQ(result, inserted < kEntries || forgets ? 0 : full_error(*map.spec));
    if (result == 0) inserted++;
    ASSERT_EQ(static_cast<uint32_t>(*hash_count_word(map)), std::min<uint64_t>(inserted, kEntries));
  }
  remove_each(2);
}

// Waits a random while without sleeping, so that kills land anywhere, very early moments included.
void spin(uint64_t nanoseconds) {
  auto end = Clock::now() + std::chrono::nanoseconds(nanoseconds);
  while (Clock::now() < end) {
  }
}

void kill_child(pid_t pid) {
  kill(pid, SIGKILL);
  ASSERT_EQ(wait_child(pid), 1000 + SIGKILL) << "a child ended by itself";
}

// Starts a child that runs `body(random, pid)` until it is killed; it ends by itself only on a wrong answer.
// Returns once the child has begun.
pid_t start_hammer(uint64_t seed, uint32_t* started,
                   const std::function<bool(std::mt19937_64&, uint32_t)>& body) {
  uint32_t before = __atomic_load_n(started, __ATOMIC_ACQUIRE);
  pid_t pid = start_child([&] {
    std::mt19937_64 random(seed);
    uint32_t self = static_cast<uint32_t>(getpid());
    __atomic_fetch_add(started, 1u, __ATOMIC_RELEASE);
    while (body(random, self)) {
    }
    return 1;
  });
  while (__atomic_load_n(started, __ATOMIC_ACQUIRE) == before) sched_yield();
  return pid;
}

class KilledKeyed : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Maps, KilledKeyed, testing::Values(kTypeHash, kTypeLruHash, kTypeLpmTrie));

TEST_P(KilledKeyed, LosesNothing) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  MapSpec spec = keyed_spec(GetParam());
  SharedMap shared(spec);
  MapView map = shared.view();
  Shared<uint32_t> started;
  auto hammer = [&](std::mt19937_64& r, uint32_t self) { return hash_step(map, r, self); };
  for (uint64_t kills = 0; kills < test_rounds(GetParam() == kTypeHash ? kHashKills : kOtherKills);) {
    pid_t survivor = start_hammer(random(), &*started, hammer);
    // While the survivor hammers on, others die beside it; each is repaired at once.
    for (int i = 0; i < 4; i++, kills++) {
      pid_t victim = start_hammer(random(), &*started, hammer);
      spin(random() % 300000);
      kill_child(victim);
      repair(map, static_cast<uint32_t>(victim));
      for (int j = 0; j < 50; j++) ASSERT_TRUE(hash_step(map, random, 1));
    }
    kill_child(survivor);
    kills++;
    repair(map, static_cast<uint32_t>(survivor));
    check_hash(map);
    check_capacity(map);
    if (HasFatalFailure()) return;
  }
}

// The negative twin: without repair, deaths do leave traces (else the test above shows nothing).
TEST(KilledProcesses, DeathsLeaveTracesForRepairToFind) {
  std::mt19937_64 random(test_seed());
  MapSpec spec = {kTypeHash, 8, sizeof(Proof), kEntries, 0, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  HashGeometry g = hash_geometry(spec);
  Shared<uint32_t> started;
  std::vector<pid_t> dead;
  auto deadline = Clock::now() + std::chrono::seconds(30);
  while (!hash_in_flight(map, g) && Clock::now() < deadline) {
    dead.push_back(
        start_hammer(random(), &*started, [&](auto& r, uint32_t self) { return hash_step(map, r, self); }));
    spin(random() % 300000);
    kill_child(dead.back());
  }
  EXPECT_TRUE(hash_in_flight(map, g)) << "after " << dead.size() << " deaths";
  for (pid_t pid : dead) repair(map, static_cast<uint32_t>(pid));
  check_hash(map);
  check_capacity(map);
}

class KilledQueue : public testing::TestWithParam<uint32_t> {
 protected:
  MapSpec spec_ = {GetParam(), 0, sizeof(Proof), kEntries, 0, 2};
};
INSTANTIATE_TEST_SUITE_P(Maps, KilledQueue, testing::Values(kTypeQueue, kTypeStack));

bool queue_step(MapView map, std::mt19937_64& random, uint32_t owner) {
  Proof proof = make_proof(random() % 1000, random());
  int64_t result;
  switch (random() % 5) {
    case 0:
    case 1:
      result = pop(map, &proof);
      return result == -ENOENT || (result == 0 && is_whole(proof));
    case 2:
      result = peek(map, &proof);
      return result == -ENOENT || result == -EBUSY || (result == 0 && is_whole(proof));
    default:
      result = push(map, &proof, random() % 4 == 0 ? BPF_EXIST : BPF_ANY, owner);
      return result == 0 || result == -E2BIG;
  }
}

// Nobody runs: every element is free or in the queue, once; all values are whole; then exactly as many fit as shall.
void check_queue(MapView map) {
  HashGeometry g = queue_geometry(*map.spec);
  QueueState state = queue_read(map);
  ASSERT_LE(state.count(), kEntries);
  std::set<uint32_t> reachable;
  for (uint32_t i = 0; i < state.count(); i++)
    ASSERT_TRUE(reachable.insert(queue_number(map, g, state, state.head() + i)).second)
        << "element twice in the queue";
  for (uint32_t number = 1; number <= g.elements; number++) {
    bool held = control_owner(element_at(map, g, number)->control) != kFree;
    ASSERT_EQ(held, reachable.count(number) != 0) << "element " << number << " is lost";
  }
  Proof proof;
  for (uint32_t i = 0; i < state.count(); i++) {
    ASSERT_EQ(pop(map, &proof), 0);
    ASSERT_TRUE(is_whole(proof));
  }
  ASSERT_EQ(pop(map, &proof), -ENOENT);
  for (uint32_t i = 0; i < kEntries + 3; i++) {
    proof = make_proof(i, i);
    ASSERT_EQ(push(map, &proof, 0, 1), i < kEntries ? 0 : -E2BIG);
  }
  for (uint32_t i = 0; i < kEntries / 2; i++) ASSERT_EQ(pop(map, &proof), 0);
}

TEST_P(KilledQueue, LosesNothing) {
  std::mt19937_64 random(test_seed());
  SharedMap shared(spec_);
  MapView map = shared.view();
  Shared<uint32_t> started;
  auto hammer = [&](std::mt19937_64& r, uint32_t self) { return queue_step(map, r, self); };
  for (uint64_t kills = 0; kills < test_rounds(kOtherKills);) {
    pid_t survivor = start_hammer(random(), &*started, hammer);
    for (int i = 0; i < 4; i++, kills++) {
      pid_t victim = start_hammer(random(), &*started, hammer);
      spin(random() % 300000);
      kill_child(victim);
      repair(map, static_cast<uint32_t>(victim));
      for (int j = 0; j < 50; j++) ASSERT_TRUE(queue_step(map, random, 1));
    }
    kill_child(survivor);
    kills++;
    repair(map, static_cast<uint32_t>(survivor));
    check_queue(map);
    if (HasFatalFailure()) return;
  }
}

struct Payload {
  uint64_t length, nonce, check;
};

// Reserves and commits records of random length, several open at once, in any order. False on
// a corrupt answer.
bool ring_step(MapView map, std::mt19937_64& random, uint32_t owner) {
  Payload* open[3] = {};
  for (Payload*& record : open) {
    uint64_t length = sizeof(Payload) + random() % 300;
    record = static_cast<Payload*>(ring_reserve(map, length, 0, owner));
    if (record != nullptr) {
      uint64_t nonce = random();
      *record = {length, nonce, length ^ nonce};
    }
  }
  spin(random() % 1000);  // programs hold records for a while
  for (int i = static_cast<int>(random() % 3), n = 0; n < 3; n++, i = (i + 1) % 3) {
    if (open[i] != nullptr) ring_commit(map, open[i], 0, random() % 8 == 0);
  }
  return true;
}

// Consumes all there is; false when a record is not what its producer wrote.
bool drain(MapView map, uint64_t* records) {
  alignas(8) uint8_t buffer[1024];
  int64_t size;
  while ((size = ring_consume(map, buffer, sizeof(buffer))) >= 0) {
    Payload payload;
    memcpy(&payload, buffer, sizeof(payload));
    if (payload.check != (payload.length ^ payload.nonce) || static_cast<int64_t>(payload.length) != size)
      return false;
    ++*records;
  }
  return size == -EAGAIN;
}

// Whether `owner` has a reservation that it never committed: behind the published position, in the table without kDone or
// the last one.
bool holds_open(const Ring& ring, uint32_t owner) {
  const uint64_t published = load_acquire(&ring.producer->position);
  for (uint32_t i = 0; i < ring.window; i++) {
    const Reservation& entry = ring.table[i];
    if (entry.low != 0 && entry_start(entry.low) >= published && !(entry.low & kDone) &&
        static_cast<uint32_t>(entry.high) == owner)
      return true;
  }
  WordPair control = ring_read_control(ring);
  const uint64_t low = ring_entry(ring, last_ticket(control.high))->low;
  const bool done = low == ((control.low - last_total(control.high) + 8) | kDone);
  return control.low > published && last_owner(control.high) == owner && !done;
}

TEST(KilledProcesses, RingGoesOn) {
  std::mt19937_64 random(test_seed());
  MapSpec spec = {kTypeRingbuf, 0, 0, 8192, 0, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  Ring ring = program_side::ring_of(map);
  Shared<uint32_t> started;
  uint64_t records = 0, stuck = 0;
  auto hammer = [&](std::mt19937_64& r, uint32_t self) { return ring_step(map, r, self); };
  for (uint64_t kills = 0; kills < test_rounds(kRingKills);) {
    pid_t survivor = start_hammer(random(), &*started, hammer);
    for (int i = 0; i < 4; i++, kills++) {
      pid_t victim = start_hammer(random(), &*started, hammer);
      auto end = Clock::now() + std::chrono::nanoseconds(random() % 300000);
      while (Clock::now() < end) ASSERT_TRUE(drain(map, &records));
      // Killed while being drained: in a full ring there would be no moment between reserve and commit.
      kill(victim, SIGKILL);
      for (siginfo_t info = {}; info.si_pid == 0;
           waitid(P_PID, static_cast<id_t>(victim), &info, WEXITED | WNOHANG | WNOWAIT)) {
        ASSERT_TRUE(drain(map, &records));
      }
      kill_child(victim);
      if (holds_open(ring, static_cast<uint32_t>(victim))) stuck++;
      repair(map, static_cast<uint32_t>(victim));
      // The survivor gets through: more records arrive.
      uint64_t before = records;
      auto deadline = Clock::now() + std::chrono::seconds(20);
      while (records == before && Clock::now() < deadline) ASSERT_TRUE(drain(map, &records));
      ASSERT_GT(records, before) << "the ring is blocked";
    }
    kill_child(survivor);
    kills++;
    if (holds_open(ring, static_cast<uint32_t>(survivor))) stuck++;
    repair(map, static_cast<uint32_t>(survivor));
    // Nothing is open any more, nothing unread remains, and the whole ring can be used again.
    ASSERT_TRUE(drain(map, &records));
    ASSERT_EQ(ring.producer->position, ring.producer->control.low);
    ASSERT_EQ(ring_query(map, kRingQueryAvailable), 0u);
    void* large = ring_reserve(map, 8192 - 24, 0, 1);
    ASSERT_NE(large, nullptr);
    ring_commit(map, large, 0, true);
    ASSERT_TRUE(drain(map, &records));
  }
  printf("%llu records, %llu deaths left reservations open\n", static_cast<unsigned long long>(records),
         static_cast<unsigned long long>(stuck));
}

TEST(KilledProcesses, PerfStagingGoesOn) {
  std::mt19937_64 random(test_seed());
  MapSpec spec = {kTypePerfEventArray, 4, 4, 2, 0, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  perf_set_slot(map, 1, true);
  Shared<uint32_t> started;
  alignas(8) uint8_t buffer[512];
  for (uint64_t kills = 0; kills < test_rounds(kPerfKills); kills++) {
    pid_t victim = start_hammer(random(), &*started, [&](std::mt19937_64& r, uint32_t self) {
      uint8_t data[200];
      bool wake;
      uint64_t size = r() % sizeof(data);
      memset(data, static_cast<int>(size), sizeof(data));
      int64_t result = perf_output(map, kPerfIndexMask, data, size, 1, self, &wake);
      return result == 0 || result == -ENOSPC;
    });
    spin(random() % 200000);
    kill_child(victim);
    repair(map, static_cast<uint32_t>(victim));
    bool wake;
    int64_t size;
    while ((size = ring_consume(map, buffer, sizeof(buffer))) >= 0) {
      PerfRecordHeader header;
      memcpy(&header, buffer, sizeof(header));
      ASSERT_EQ(header.slot, 1u);
      ASSERT_EQ(header.size + sizeof(header), static_cast<uint64_t>(size));
      ASSERT_TRUE(header.size == 0 || buffer[size - 1] == static_cast<uint8_t>(header.size));
    }
    ASSERT_EQ(size, -EAGAIN);
    ASSERT_EQ(perf_output(map, 1, buffer, 8, 0, 1, &wake), 0);
    ASSERT_EQ(ring_consume(map, buffer, sizeof(buffer)), 16);
  }
}

// ---- every type ----

class KilledAnywhere : public testing::TestWithParam<MapSpec> {};
INSTANTIATE_TEST_SUITE_P(Maps, KilledAnywhere, testing::ValuesIn(every_type()));

// Emptied, the map answers as one that was never used.
void check_as_new(MapView map) {
  const SharedMap fresh(*map.spec);
  alignas(8) uint8_t key[64] = {}, value[256] = {}, got[256] = {}, expected[256] = {};
  ASSERT_LE(user_value_size(*map.spec), sizeof(value));
  ASSERT_LE(map.spec->key_size, sizeof(key));
  for (uint32_t i = 0; i <= map.spec->max_entries * 2 && pop(map, got) == 0; i++) {
  }
  for (uint32_t i = 0; i <= map.spec->max_entries * 2 && user_next_key(map, nullptr, key) == 0; i++)
    user_delete(map, key);
  for (uint32_t i = 0; i <= map.spec->max_entries; i++) {
    memcpy(key, &i, 4);
    memset(value, static_cast<int>(i), sizeof(value));
    ASSERT_EQ(user_update(map, key, value, 0), user_update(fresh.view(), key, value, 0)) << "element " << i;
    ASSERT_EQ(user_lookup(map, key, got, 0), user_lookup(fresh.view(), key, expected, 0)) << "element " << i;
    ASSERT_EQ(memcmp(got, expected, sizeof(got)), 0) << "element " << i;
  }
}

// What any type must be after deaths and repairs: as usable as a new one. (What exactly is kept, the suites above and below
// look at type by type.)
void check_usable(MapView map) {
  alignas(8) uint8_t key[64] = {}, value[256] = {}, got[256] = {};
  bool wake = false;
  switch (map.spec->type) {
    case kTypeArray:
    case kTypePercpuArray:
      for (uint32_t i = 0; i < map.spec->max_entries; i++) {
        memcpy(key, &i, 4);
        memset(value, static_cast<int>(i), sizeof(value));
        ASSERT_EQ(user_update(map, key, value, 0), 0);
        ASSERT_EQ(user_lookup(map, key, got, 0), 0);
        ASSERT_EQ(memcmp(value, got, map.spec->value_size), 0);
      }
      break;
    case kTypeHash:
    case kTypePercpuHash:
    case kTypeLruHash:
    case kTypeLruPercpuHash:
      while (user_next_key(map, nullptr, key) == 0) ASSERT_EQ(remove(map, key, 1), 0);
      for (uint32_t i = 0; i < map.spec->max_entries; i++) {
        memcpy(key, &i, 4);
        ASSERT_EQ(user_update(map, key, value, BPF_NOEXIST), 0) << "element " << i << " is lost";
      }
      break;
    case kTypeHashOfMaps:
      for (uint32_t i = 0; i < 100; i++) map_of_maps_set(map, &i, 0);
      for (uint32_t i = 0; i < map.spec->max_entries; i++) {
        ASSERT_TRUE(map_of_maps_set(map, &i, 0x1000 + i)) << "element " << i << " is lost";
        ASSERT_EQ(lookup(map, &i), reinterpret_cast<void*>(uint64_t{0x1000} + i));
      }
      break;
    case kTypeArrayOfMaps:
      for (uint32_t i = 0; i < map.spec->max_entries; i++) {
        ASSERT_TRUE(map_of_maps_set(map, &i, 0x1000 + i));
        ASSERT_EQ(lookup(map, &i), reinterpret_cast<void*>(uint64_t{0x1000} + i));
      }
      break;
    case kTypeStackTrace:
      while (user_next_key(map, nullptr, key) == 0) ASSERT_EQ(user_delete(map, key), 0);
      ASSERT_EQ(stack_trace_store(map, reinterpret_cast<uint64_t*>(value), 3, 0, 1) >= 0, true);
      break;
    case kTypeBloomFilter:
      ASSERT_EQ(push(map, value, 0, 1), 0);
      ASSERT_EQ(peek(map, value), 0);
      break;
    case kTypeRingbuf:
    case kTypePerfEventArray:
      while (ring_consume(map, got, sizeof(got)) >= 0) {
      }
      ASSERT_EQ(ring_output(map, value, 8, 0, 1, &wake), 0);
      ASSERT_EQ(ring_consume(map, got, sizeof(got)), 8);
      break;
    case kTypeUserRingbuf: {
      UserRingCursor cursor = {};
      ASSERT_EQ(user_ring_begin(user_ring_at(map), 0, 1), 0) << "a dead process drains for ever";
      while (user_ring_next(user_ring_at(map), &cursor)) user_ring_release(user_ring_at(map), &cursor);
      ASSERT_EQ(cursor.error, 0);
      ASSERT_GE(user_ring_end(user_ring_at(map), cursor, 0, &wake), 0);
      ASSERT_TRUE(user_ring_has_room(user_ring_at(map)));
      break;
    }
    default:
      check_as_new(map);
  }
}

TEST_P(KilledAnywhere, LeavesAUsableMap) {
  std::mt19937_64 random(test_seed());
  SharedMap shared(GetParam());
  Shared<uint32_t> started;
  // Of what has a single writer (the daemon; a ring's producer) there is one process at a time.
  const bool alone = GetParam().type == kTypeHashOfMaps || GetParam().type == kTypeArrayOfMaps ||
                     GetParam().type == kTypeUserRingbuf;
  const auto hammer = [&](std::mt19937_64& r, uint32_t self) {
    operate(shared.view(), r, self);
    return true;
  };
  const bool ring = GetParam().type == kTypeRingbuf || GetParam().type == kTypePerfEventArray;
  for (uint64_t kills = 0; kills < test_rounds(40); kills++) {
    const pid_t survivor = alone ? 0 : start_hammer(random(), &*started, hammer);
    const pid_t victim = start_hammer(random(), &*started, hammer);
    const auto end = Clock::now() + std::chrono::nanoseconds(random() % 300000);
    while (Clock::now() < end)
      if (ring) operate(shared.view(), random, kOperatingTest);  // a full one is not written to
    kill_child(victim);
    repair(shared.view(), static_cast<uint32_t>(victim));
    for (int i = 0; i < 20; i++) operate(shared.view(), random, kOperatingTest);
    if (survivor != 0) {
      kill_child(survivor);
      repair(shared.view(), static_cast<uint32_t>(survivor));
    }
    repair(shared.view(), kDaemonOwner);
    check_usable(shared.view());
    if (HasFatalFailure()) return;
  }
}

// ---- death at every single instruction ----

// Steps a child through `operation`; after each instruction `examine` gets a copy of the map as a death at
// this very place would leave it. Returns the number of instructions, 0 when tracing is not allowed here.
uint64_t step_through(const SharedMap& shared, const std::function<void(uint32_t)>& operation,
                      const std::function<void(MapView, uint32_t)>& examine) {
  pid_t pid = start_child([&] {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) return 77;
    raise(SIGSTOP);
    operation(static_cast<uint32_t>(getpid()));
    return 0;
  });
  SharedMap copy(shared.spec());
  std::vector<uint8_t> last(shared.size());
  uint64_t steps = 0;
  int status = 0;
  while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
    steps++;
    // Only what changed the map can matter.
    if (memcmp(last.data(), shared.view().base, shared.size()) != 0) {
      memcpy(last.data(), shared.view().base, shared.size());
      memcpy(copy.view().base, last.data(), shared.size());
      examine(copy.view(), static_cast<uint32_t>(pid));
    }
    ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr);
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 77 ? 0 : steps;
}

TEST_P(KilledKeyed, AtEveryInstructionIsRepaired) {
  MapSpec spec = keyed_spec(GetParam());
  const bool forgets = GetParam() == kTypeLruHash;
  for (int kind = 0; kind < 4; kind++) {
    SharedMap shared(spec);
    // An LRU map is full: the insertion evicts.
    for (uint64_t number = 0; number < kEntries - (forgets ? 0 : 2); number++) {
      uint64_t key = key_of(spec, number);
      Proof proof = make_proof(key, number);
      ASSERT_EQ(update(shared.view(), &key, &proof, 0, 0, 1), 0);
    }
    uint64_t examined = 0;
    uint64_t key = key_of(spec, kind == 0 ? kEntries + 4 : 7);
    auto operation = [&](uint32_t self) {
      Proof proof = make_proof(key, 999);
      if (kind <= 1) update(shared.view(), &key, &proof, 0, 0, self);
      if (kind == 2) remove(shared.view(), &key, self);
      if (kind == 3) user_lookup_and_delete(shared.view(), &key, &proof, 0, self);
    };
    uint64_t steps = step_through(shared, operation, [&](MapView copy, uint32_t self) {
      examined++;
      // Before repair others already see the old state or the new one, and can work.
      Proof proof = {};
      int64_t result = user_lookup(copy, &key, &proof, 0);
      EXPECT_TRUE(result == 0 || (result == -ENOENT && kind != 1));
      EXPECT_TRUE(result != 0 || (is_whole(proof) && (proof.nonce == 999 || proof.nonce == 7)));
      uint64_t other = key_of(spec, 8);
      proof = make_proof(other, 1);
      int64_t updated = update(copy, &other, &proof, BPF_EXIST, 0, 1);
      EXPECT_TRUE(updated == 0 || (forgets && updated == -ENOENT));
      repair(copy, self);
      check_hash(copy);
      check_capacity(copy);
    });
    if (steps == 0) GTEST_SKIP() << "ptrace is not allowed here";
    printf("operation %d: %llu instructions, %llu states\n", kind, static_cast<unsigned long long>(steps),
           static_cast<unsigned long long>(examined));
    EXPECT_TRUE(examined >= 5 || (kind == 3 && GetParam() == kTypeLpmTrie));
  }
}

TEST_P(KilledQueue, AtEveryInstructionIsRepaired) {
  for (int kind = 0; kind < 3; kind++) {
    SharedMap shared(spec_);
    const uint32_t filled = kind == 1 ? kEntries : kEntries - 2;
    for (uint64_t i = 0; i < filled; i++) {
      Proof proof = make_proof(i, i);
      ASSERT_EQ(push(shared.view(), &proof, 0, 1), 0);
    }
    uint64_t examined = 0;
    auto operation = [&](uint32_t self) {
      Proof proof = make_proof(900, 900);
      if (kind < 2) push(shared.view(), &proof, BPF_EXIST, self);  // the second time replacing the oldest
      if (kind == 2) pop(shared.view(), &proof);
    };
    uint64_t steps = step_through(shared, operation, [&](MapView copy, uint32_t self) {
      examined++;
      // Before repair others can work.
      Proof proof = {};
      EXPECT_EQ(pop(copy, &proof), 0);
      EXPECT_TRUE(is_whole(proof));
      EXPECT_EQ(push(copy, &proof, 0, 1), 0);
      repair(copy, self);
      check_queue(copy);
    });
    if (steps == 0) GTEST_SKIP() << "ptrace is not allowed here";
    printf("operation %d: %llu instructions, %llu states\n", kind, static_cast<unsigned long long>(steps),
           static_cast<unsigned long long>(examined));
    EXPECT_GE(examined, 2u);
  }
}

// A worker that dies while it sets or empties a slot: the next one finds room for as many maps as ever.
TEST(DeathAtEveryInstruction, MapOfMapsIsRepaired) {
  const MapSpec spec = {kTypeHashOfMaps, 4, 4, 8, 0, 2};
  for (const uint64_t reference : {0x5000u, 0u}) {
    SharedMap shared(spec);
    for (uint32_t key = 0; key < 7; key++)
      ASSERT_TRUE(map_of_maps_set(shared.view(), &key, 0x1000 + key * 8));
    uint64_t examined = 0;
    const uint32_t key = reference != 0 ? 7 : 3;
    const uint64_t steps = step_through(
        shared, [&](uint32_t) { map_of_maps_set(shared.view(), &key, reference); },
        [&](MapView copy, uint32_t) {
          examined++;
          // Programs see what was there or what is there now.
          const auto found = reinterpret_cast<uint64_t>(lookup(copy, &key));
          EXPECT_TRUE(found == 0 || found == (reference != 0 ? reference : 0x1000 + key * 8));
          repair(copy, kDaemonOwner);
          for (uint32_t i = 0; i < 8; i++) {
            EXPECT_TRUE(map_of_maps_set(copy, &i, 0x2000 + i)) << "element " << i << " is lost";
            EXPECT_EQ(reinterpret_cast<uint64_t>(lookup(copy, &i)), 0x2000 + i);
          }
        });
    if (steps == 0) GTEST_SKIP() << "ptrace is not allowed here";
    EXPECT_GE(examined, 3u);
  }
}

TEST(DeathAtEveryInstruction, UserRingIsRepaired) {
  const MapSpec spec = {kTypeUserRingbuf, 0, 0, 4096, 0, 2};
  SharedMap shared(spec);
  const UserRing ring = user_ring_at(shared.view());
  for (uint64_t at = 0; at < 5 * 24; at += 24) *reinterpret_cast<uint64_t*>(ring.data + at) = 16;
  *ring.producer = 5 * 24;
  uint64_t examined = 0;
  const auto drain_all = [](const UserRing& from, uint32_t owner) {
    UserRingCursor cursor = {};
    bool wake;
    if (const int64_t busy = user_ring_begin(from, 0, owner); busy != 0) return busy;
    while (user_ring_next(from, &cursor)) user_ring_release(from, &cursor);
    return user_ring_end(from, cursor, 0, &wake);
  };
  const uint64_t steps = step_through(
      shared, [&](uint32_t self) { drain_all(ring, self); },
      [&](MapView copy, uint32_t self) {
        examined++;
        repair(copy, self);
        const UserRing left = user_ring_at(copy);
        const auto seen = static_cast<int64_t>(left.consumer->position / 24);
        EXPECT_EQ(drain_all(left, 1), 5 - seen);
        EXPECT_EQ(left.consumer->position, 5u * 24);
      });
  if (steps == 0) GTEST_SKIP() << "ptrace is not allowed here";
  EXPECT_GE(examined, 6u);
}

TEST(DeathAtEveryInstruction, RingIsRepaired) {
  MapSpec spec = {kTypeRingbuf, 0, 0, 4096, 0, 2};
  for (int kind = 0; kind < 2; kind++) {
    SharedMap shared(spec);
    MapView map = shared.view();
    // Another producer's record is open before the dying one's, or none is.
    Payload* before = kind == 0 ? nullptr : static_cast<Payload*>(ring_reserve(map, sizeof(Payload), 0, 1));
    if (before != nullptr) *before = {sizeof(Payload), 5, sizeof(Payload) ^ 5};
    uint64_t examined = 0;
    auto operation = [&](uint32_t self) {
      for (uint64_t length : {sizeof(Payload), sizeof(Payload) + 56}) {
        auto* record = static_cast<Payload*>(ring_reserve(map, length, 0, self));
        *record = {length, 9, length ^ 9};
        ring_commit(map, record, 0, false);
      }
    };
    uint64_t steps = step_through(shared, operation, [&](MapView copy, uint32_t self) {
      examined++;
      // A third producer reserves before the repair, as life goes on.
      auto* record = static_cast<Payload*>(ring_reserve(copy, sizeof(Payload), 0, 2));
      ASSERT_NE(record, nullptr);
      *record = {sizeof(Payload), 6, sizeof(Payload) ^ 6};
      repair(copy, self);
      ring_commit(copy, record, 0, false);
      if (before != nullptr) {
        ring_commit(copy, copy.base + (reinterpret_cast<uint8_t*>(before) - map.base), 0, false);
      }
      uint64_t records = 0;
      EXPECT_TRUE(drain(copy, &records));
      EXPECT_GE(records, before != nullptr ? 2u : 1u);
      EXPECT_LE(records, before != nullptr ? 4u : 3u);
      Ring ring = program_side::ring_of(copy);
      EXPECT_EQ(ring.producer->position, ring.producer->control.low);
    });
    if (steps == 0) GTEST_SKIP() << "ptrace is not allowed here";
    printf("%llu instructions, %llu states\n", static_cast<unsigned long long>(steps),
           static_cast<unsigned long long>(examined));
    EXPECT_GE(examined, 10u);
  }
}

}  // namespace
}  // namespace bpftime::maps::test

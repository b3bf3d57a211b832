// Several processes (under ThreadSanitizer: threads) at once, with totals that must come out exactly.
#include <set>
#include <thread>
#include <vector>

#include "maps/hash_user.h"
#include "maps/key_order.h"
#include "maps/program_side.h"
#include "maps/test_support.h"

namespace bpftime::maps::test {
namespace {

constexpr int kProcesses = 4;

void run_processes(const std::function<int(int)>& body) {
  Workers workers;
  for (int i = 0; i < kProcesses; i++)
    workers.push_back(std::make_unique<Worker>([&body, i] { return body(i); }));
  for (auto& worker : workers) EXPECT_EQ(worker->wait(), 0);
}

TEST(Stress, CountersInHashValuesAreExact) {
  MapSpec spec = {kTypeHash, 4, 8, 64, 0, 2};
  SharedMap shared(spec);
  const uint64_t rounds = test_rounds(200000);
  uint64_t seed = test_seed();
  // Every process counts keys it finds or inserts, as counting programs do, while keys of others come and go.
  run_processes([&](int process) {
    std::mt19937_64 random(seed + static_cast<uint64_t>(process));
    MapView map = shared.view();
    for (uint64_t i = 0; i < rounds; i++) {
      uint32_t key = static_cast<uint32_t>(random() % 24),
               passing = 100 + static_cast<uint32_t>(random() % 40);
      uint64_t zero = 0;
      void* value = lookup(map, &key);
      if (value == nullptr) {
        int64_t error = update(map, &key, &zero, BPF_NOEXIST, 0, static_cast<uint32_t>(process + 1));
        if (error != 0 && error != -EEXIST) return 1;
        value = lookup(map, &key);
        if (value == nullptr) return 2;
      }
      __atomic_fetch_add(static_cast<uint64_t*>(value), 1, __ATOMIC_RELAXED);
      if (random() % 2 == 0) {
        int64_t error = update(map, &passing, &zero, BPF_ANY, 0, static_cast<uint32_t>(process + 1));
        if (error != 0 && error != -E2BIG) return 3;
      } else {
        int64_t error = remove(map, &passing, static_cast<uint32_t>(process + 1));
        if (error != 0 && error != -ENOENT) return 4;
      }
    }
    return 0;
  });
  uint64_t total = 0;
  for (uint32_t key = 0; key < 24; key++) {
    uint64_t value = 0;
    EXPECT_EQ(user_lookup(shared.view(), &key, &value, 0), 0);
    total += value;
  }
  EXPECT_EQ(total, rounds * kProcesses);
}

TEST(Stress, CapacityAndUniquenessAreExact) {
  MapSpec spec = {kTypeHash, 8, 8, 100, 0, 2};
  for (uint64_t round = 0; round < test_rounds(50); round++) {
    SharedMap shared(spec);
    Shared<uint64_t> inserted;
    run_processes([&](int process) {
      for (uint64_t i = 0; i < 60; i++) {
        // Half of the keys are everybody's: of those only one may win.
        uint64_t key = i % 2 == 0 ? i : 1000 * static_cast<uint64_t>(process + 1) + i;
        int64_t error = update(shared.view(), &key, &key, BPF_NOEXIST, 0, static_cast<uint32_t>(process + 1));
        if (error == 0) __atomic_fetch_add(&*inserted, 1, __ATOMIC_RELAXED);
        if (error != 0 && error != -EEXIST && error != -E2BIG) return 1;
      }
      return 0;
    });
    std::set<uint64_t> keys;
    uint64_t key = 0;
    int64_t error = user_next_key(shared.view(), nullptr, &key);
    for (; error == 0; error = user_next_key(shared.view(), &key, &key)) EXPECT_TRUE(keys.insert(key).second);
    EXPECT_EQ(error, -ENOENT);
    EXPECT_EQ(keys.size(), 100u);
    EXPECT_EQ(*inserted, 100u);
  }
}

// A repairer that meets operations of the living must neither take nor count anything twice.
TEST(Stress, RepairBesideTheLivingChangesNothing) {
  MapSpec spec = {kTypeHash, 4, 8, 32, 0, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  uint64_t seed = test_seed();
  Workers workers;
  for (int process = 0; process < kProcesses; process++) {
    workers.push_back(std::make_unique<Worker>([&, process] {
      std::mt19937_64 random(seed + static_cast<uint64_t>(process));
      uint32_t self = static_cast<uint32_t>(process + 1);
      for (uint64_t i = 0; i < test_rounds(100000); i++) {
        uint32_t key = static_cast<uint32_t>(random() % 40);
        int64_t error = random() % 2 ? update(map, &key, &i, 0, 0, self) : remove(map, &key, self);
        if (error != 0 && error != -E2BIG && error != -ENOENT) return 1;
      }
      return 0;
    }));
  }
  constexpr uint32_t kNobody = 4000000;
  uint64_t repairs = 0;
  for (size_t done = 0; done < workers.size();) {
    store_relaxed(hash_doubt_word(map),
                  uint64_t{1});  // as after a death, so that the count is reconciled each time
    repair(map, kNobody);
    repairs++;
    if (!workers[done]->has_ended()) continue;
    EXPECT_EQ(workers[done]->wait(), 0);
    done++;
  }
  uint32_t key = 0, live = 0;
  for (int64_t error = user_next_key(map, nullptr, &key); error == 0; error = user_next_key(map, &key, &key))
    live++;
  EXPECT_EQ(static_cast<uint32_t>(*hash_count_word(map)), live);
  HashGeometry g = hash_geometry(spec);
  uint32_t held = 0;
  for (uint32_t number = 1; number <= g.elements; number++)
    held += control_owner(element_at(map, g, number)->control) != kFree;
  EXPECT_EQ(held, live);
  printf("%llu repairs\n", static_cast<unsigned long long>(repairs));
}

TEST(Stress, ReplacedValuesAreSeenWholeAndAlways) {
  struct Value {
    uint64_t words[16];
  };
  MapSpec spec = {kTypeHash, 4, sizeof(Value), 4, 0, 2};
  SharedMap shared(spec);
  for (uint32_t key = 0; key < 4; key++) {
    Value value = {};
    ASSERT_EQ(user_update(shared.view(), &key, &value, 0), 0);
  }
  // The map is full: replacing must work, and the key must never be missing in between.
  const uint64_t rounds = test_rounds(100000);
  run_processes([&](int process) {
    for (uint64_t i = 0; i < rounds; i++) {
      uint32_t key = static_cast<uint32_t>(i % 4);
      Value value;
      if (process < 2) {
        for (uint64_t& word : value.words) word = i * 2 + static_cast<uint64_t>(process);
        if (update(shared.view(), &key, &value, BPF_EXIST, 0, static_cast<uint32_t>(process + 1)) != 0)
          return 1;
        continue;
      }
      if (lookup(shared.view(), &key) == nullptr) return 2;
      int64_t error = user_lookup(shared.view(), &key, &value, 0);
      if (error == -EBUSY) continue;  // written to faster than it can be copied
      if (error != 0) return 3;
      for (uint64_t word : value.words) {
        if (word != value.words[0]) return 4;
      }
    }
    return 0;
  });
}

TEST(Stress, PercpuCountersAreExact) {
  for (uint32_t type : {kTypePercpuHash, kTypeLruPercpuHash}) {
    MapSpec spec = {type, 4, 8, 64, 0, kProcesses};
    SharedMap shared(spec);
    const uint64_t rounds = test_rounds(100000);
    uint64_t seed = test_seed();
    run_processes([&](int process) {
      std::mt19937_64 random(seed + static_cast<uint64_t>(process));
      const uint32_t cpu = static_cast<uint32_t>(process), owner = cpu + 1;
      for (uint64_t i = 0; i < rounds; i++) {
        uint32_t key = static_cast<uint32_t>(random() % 24);
        uint64_t zero = 0;
        if (lookup_percpu(shared.view(), &key, cpu) == nullptr) {
          int64_t error = update(shared.view(), &key, &zero, BPF_NOEXIST, cpu, owner);
          if (error != 0 && error != -EEXIST) return 1;
        }
        auto* value = static_cast<uint64_t*>(lookup_percpu(shared.view(), &key, cpu));
        if (value == nullptr) return 2;
        ++*value;
      }
      return 0;
    });
    std::vector<uint64_t> totals(kProcesses);
    for (uint32_t key = 0; key < 24; key++) {
      uint64_t values[kProcesses];
      ASSERT_EQ(user_lookup(shared.view(), &key, values, 0), 0);
      for (int cpu = 0; cpu < kProcesses; cpu++) totals[static_cast<size_t>(cpu)] += values[cpu];
    }
    for (uint64_t total : totals) EXPECT_EQ(total, rounds);
  }
}

uint64_t live_keys(MapView map) {
  uint64_t live = 0;
  std::vector<uint8_t> key(map.spec->key_size);
  for (int64_t error = user_next_key(map, nullptr, key.data()); error == 0;
       error = user_next_key(map, key.data(), key.data()))
    live++;
  return live;
}

TEST(Stress, LruNeverRefusesAndNeverOutgrows) {
  MapSpec spec = {kTypeLruHash, 8, 24, 200, 0, 2};
  SharedMap shared(spec);
  uint64_t seed = test_seed();
  run_processes([&](int process) {
    std::mt19937_64 random(seed + static_cast<uint64_t>(process));
    for (uint64_t i = 0; i < test_rounds(50000); i++) {
      uint64_t key = random() % 1000, value[3] = {key, ~key, key};
      if (update(shared.view(), &key, value, 0, 0, static_cast<uint32_t>(process + 1)) != 0) return 1;
      key = random() % 1000;
      int64_t error = user_lookup(shared.view(), &key, value, 0);
      if (error != 0 && error != -ENOENT && error != -EBUSY) return 2;
      if (error == 0 && (value[0] != key || value[1] != ~key || value[2] != key)) return 3;
      if (static_cast<uint32_t>(load_acquire(hash_count_word(shared.view()))) > spec.max_entries) return 4;
    }
    return 0;
  });
  EXPECT_EQ(live_keys(shared.view()), 200u);
  EXPECT_EQ(static_cast<uint32_t>(*hash_count_word(shared.view())), 200u);
}

// What is read again and again survives any number of keys that are seen once; what is not does not.
TEST(Stress, LruKeepsWhatIsUsed) {
  for (uint32_t type : {kTypeLruHash, kTypeLruPercpuHash}) {
    MapSpec spec = {type, 8, 8, 1000, 0, 2};
    SharedMap shared(spec);
    MapView map = shared.view();
    uint64_t value[2] = {};
    for (uint64_t key = 0; key < 1000; key++) ASSERT_EQ(update(map, &key, value, 0, 0, 1), 0);
    for (uint64_t key = 0; key < 300; key++) ASSERT_NE(lookup(map, &key), nullptr);
    uint64_t lost = 0;
    for (uint64_t scanned = 1000; scanned < 20000; scanned++) {
      ASSERT_EQ(update(map, &scanned, value, 0, 0, 1), 0);
      if (scanned % 50 != 0) continue;
      for (uint64_t key = 0; key < 300; key++) lost += lookup(map, &key) == nullptr;
    }
    EXPECT_EQ(lost, 0u);
    uint64_t idle = 0;
    for (uint64_t key = 300; key < 1000; key++) idle += user_lookup(map, &key, value, 0) == 0;
    EXPECT_EQ(idle, 0u);
    EXPECT_EQ(live_keys(map), 1000u);
  }
}

struct Prefix {
  uint32_t length;
  uint8_t address[4];
};

// The default route is always there, and whatever is found is a prefix of what was asked for.
TEST(Stress, LongestPrefixIsAPrefixAlways) {
  MapSpec spec = {kTypeLpmTrie, sizeof(Prefix), sizeof(Prefix), 300, kFlagNoPrealloc, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  Prefix all = {};
  ASSERT_EQ(update(map, &all, &all, 0, 0, 1), 0);
  uint64_t seed = test_seed();
  run_processes([&](int process) {
    std::mt19937_64 random(seed + static_cast<uint64_t>(process));
    for (uint64_t i = 0; i < test_rounds(40000); i++) {
      Prefix key = {static_cast<uint32_t>(1 + random() % 32), {10, static_cast<uint8_t>(random() % 3), 7, 0}};
      key.address[3] = static_cast<uint8_t>(random());
      Prefix value = key;
      uint32_t owner = static_cast<uint32_t>(process + 1);
      int64_t error = random() % 2 ? update(map, &key, &value, 0, 0, owner) : remove(map, &key, owner);
      if (error != 0 && error != -ENOENT && error != -ENOSPC) return 1;
      key.length = 32;
      error = user_lookup(map, &key, &value, 0);
      if (error == -EBUSY) continue;
      if (error != 0 || value.length > 32) return 2;
      uint32_t a, b;
      memcpy(&a, key.address, 4);
      memcpy(&b, value.address, 4);
      if (value.length != 0 && __builtin_bswap32(a ^ b) >> (32 - value.length) != 0) return 3;
    }
    return 0;
  });
}

// While others add, delete and replace keys between them, no key that stays is ever stepped over.
TEST(Stress, TheNextKeyOfATrieIsNeverBehindOneThatStays) {
  MapSpec spec = {kTypeLpmTrie, sizeof(Prefix), 8, 300, kFlagNoPrealloc, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  const auto staying = [](uint64_t i) { return Prefix{32, {10, static_cast<uint8_t>(i), 0, 0}}; };
  constexpr uint64_t kStaying = 40;
  uint64_t value = 0, seed = test_seed();
  for (uint64_t i = 0; i < kStaying; i++) {
    const Prefix key = staying(i);
    ASSERT_EQ(update(map, &key, &value, 0, 0, 1), 0);
  }
  Shared<uint64_t> changes;
  run_processes([&](int process) {
    std::mt19937_64 random(seed + static_cast<uint64_t>(process));
    const auto owner = static_cast<uint32_t>(process + 1);
    KeyOrder order;
    for (uint64_t i = 0; i < test_rounds(40000); i++) {
      Prefix key = staying(random() % (kStaying - 1)), next;
      if (process % 2 == 0) {
        // In bursts, so that the others find the trie at rest sometimes.
        if (i % 64 == 0) std::this_thread::yield();
        if (random() % 4 != 0) key.address[3] = static_cast<uint8_t>(1 + random() % 3);
        const bool stays = key.address[3] == 0;
        const int64_t error =
            stays || random() % 2 ? update(map, &key, &value, 0, 0, owner) : remove(map, &key, owner);
        if (error != 0 && error != -ENOENT && error != -ENOSPC && error != -EBUSY) return 1;
        __atomic_fetch_add(&*changes, 1, __ATOMIC_RELAXED);
        continue;
      }
      const Prefix limit = staying(key.address[1] + 1u);
      const int64_t error = user_next_key(map, &key, &next, random() % 8 != 0 ? &order : nullptr);
      if (error == -EBUSY) continue;
      if (error != 0) return 2;
      if (memcmp(next.address, key.address, 4) <= 0 || memcmp(next.address, limit.address, 4) > 0) return 3;
    }
    return 0;
  });
  EXPECT_GT(*changes, 0u);
}

TEST(Stress, QueuesLoseAndDoubleNothing) {
  for (uint32_t type : {kTypeQueue, kTypeStack}) {
    struct Item {
      uint64_t process, number, check;
    };
    MapSpec spec = {type, 0, sizeof(Item), 32, 0, 2};
    SharedMap shared(spec);
    MapView map = shared.view();
    const uint64_t rounds = test_rounds(50000);
    Shared<uint64_t> popped, sum;
    // Everybody pushes, and pops as much as it pushed; of one pusher's items a queue gives each popper later ones only.
    run_processes([&](int process) {
      uint64_t last[kProcesses] = {};
      auto take = [&] {
        Item item;
        if (pop(map, &item) != 0) return 0;
        if (item.process >= kProcesses || item.check != item.process * 31 + item.number) return 1;
        if (type == kTypeQueue && item.number <= last[item.process]) return 2;
        last[item.process] = item.number;
        __atomic_fetch_add(&*popped, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&*sum, item.number, __ATOMIC_RELAXED);
        return 0;
      };
      for (uint64_t i = 1; i <= rounds; i++) {
        Item item = {static_cast<uint64_t>(process), i, static_cast<uint64_t>(process) * 31 + i};
        int64_t error;
        while ((error = push(map, &item, 0, static_cast<uint32_t>(process + 1))) == -E2BIG) {
          if (int wrong = take()) return wrong;
        }
        if (error != 0) return 3;
        if (i % 3 != 0) continue;
        for (int n = 0; n < 3; n++) {
          if (int wrong = take()) return wrong;
        }
      }
      return 0;
    });
    Item item;
    while (pop(map, &item) == 0) {
      ++*popped;
      *sum += item.number;
    }
    EXPECT_EQ(*popped, rounds * kProcesses);
    EXPECT_EQ(*sum, rounds * (rounds + 1) / 2 * kProcesses);
    // Every element is free again.
    HashGeometry g = queue_geometry(spec);
    for (uint32_t number = 1; number <= g.elements; number++)
      EXPECT_EQ(control_owner(element_at(map, g, number)->control), kFree);
  }
}

TEST(Stress, ReplacingPushesKeepTheNewest) {
  for (uint32_t type : {kTypeQueue, kTypeStack}) {
    MapSpec spec = {type, 0, 8, 16, 0, 2};
    SharedMap shared(spec);
    MapView map = shared.view();
    run_processes([&](int process) {
      for (uint64_t i = 0; i < test_rounds(50000); i++) {
        if (push(map, &i, BPF_EXIST, static_cast<uint32_t>(process + 1)) != 0) return 1;
      }
      return 0;
    });
    uint64_t value, count = 0;
    while (pop(map, &value) == 0) count++;
    EXPECT_EQ(count, 16u);
  }
}

TEST(Stress, BloomFiltersForgetNothing) {
  MapSpec spec = {kTypeBloomFilter, 0, 8, 4000, 0, 0};
  SharedMap shared(spec);
  run_processes([&](int process) {
    for (uint64_t i = 0; i < 1000; i++) {
      uint64_t value = i * kProcesses + static_cast<uint64_t>(process);
      if (push(shared.view(), &value, 0, 1) != 0) return 1;
      for (uint64_t back = 0; back <= i; back += 1 + i / 8) {
        uint64_t old = back * kProcesses + static_cast<uint64_t>(process);
        if (peek(shared.view(), &old) != 0) return 2;
      }
    }
    return 0;
  });
  uint64_t wrong = 0;
  for (uint64_t value = 0; value < 100000; value++) {
    if (value < 4000) {
      ASSERT_EQ(peek(shared.view(), &value), 0);
    }
    uint64_t other = value + 1000000;
    wrong += peek(shared.view(), &other) == 0;
  }
  printf("%llu of 100000 wrong\n", static_cast<unsigned long long>(wrong));
  EXPECT_LT(wrong, 5000u);  // three in a hundred, by design
}

TEST(Stress, RingKeepsEveryProducersOrder) {
  MapSpec spec = {kTypeRingbuf, 0, 0, 16384, 0, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  struct Record {
    uint64_t process, number;
    uint64_t filler[6];
  };
  const uint64_t rounds = test_rounds(200000);
  Workers producers;
  for (uint64_t process = 0; process < kProcesses; process++) {
    producers.push_back(std::make_unique<Worker>([&, process] {
      for (uint64_t i = 0, tried = ~uint64_t{0}; i < rounds;) {
        if (tried == i) sched_yield();  // full: let the others run
        tried = i;
        uint64_t size = 16 + i % 6 * 8;
        Record record = {process, i, {}};
        bool wake;
        if (i % 2 == 0) {
          if (ring_output(map, &record, size, 0, static_cast<uint32_t>(process + 1), &wake) == 0) i++;
        } else if (void* place = ring_reserve(map, size, 0, static_cast<uint32_t>(process + 1));
                   place != nullptr) {
          memcpy(place, &record, size);
          ring_commit(map, place, 0, i % 7 == 0);
          i++;
        }
      }
      return 0;
    }));
  }
  uint64_t next[kProcesses] = {}, received = 0;
  for (uint64_t process = 0, left = kProcesses; left > 0;) {
    Record record;
    int64_t size = ring_consume(map, &record, sizeof(record));
    if (size == -EAGAIN) {
      if (producers[process]->has_ended()) process++, left--;
      sched_yield();
      continue;
    }
    ASSERT_GE(size, 16);
    ASSERT_LT(record.process, uint64_t{kProcesses});
    uint64_t& expected = next[record.process];
    while (expected % 2 == 1 && expected % 7 == 0) expected++;  // discarded
    ASSERT_EQ(record.number, expected);
    ASSERT_EQ(static_cast<uint64_t>(size), 16 + record.number % 6 * 8);
    expected++;
    received++;
  }
  Record record;
  while (ring_consume(map, &record, sizeof(record)) >= 0) received++;
  uint64_t kept = 0;
  for (uint64_t i = 0; i < rounds; i++) kept += i % 2 == 1 && i % 7 == 0 ? 0 : 1;
  EXPECT_EQ(received, kept * kProcesses);
}

// Sleeping consumers are woken: no record is left lying while its consumer sleeps.
TEST(Stress, NoWakeUpIsLost) {
  MapSpec spec = {kTypeRingbuf, 0, 0, 4096, 0, 2};
  SharedMap shared(spec);
  MapView map = shared.view();
  const uint64_t rounds = test_rounds(20000);
  auto futex = [&](int operation, uint32_t value, const timespec* timeout) {
    return syscall(SYS_futex, ring_wake_word(map), operation, value, timeout, nullptr, 0);
  };
  constexpr int kFutexWait = 0, kFutexWake = 1;
  Workers producers;
  for (uint32_t process = 1; process <= 2; process++) {
    producers.push_back(std::make_unique<Worker>([&, process] {
      for (uint64_t i = 0; i < rounds;) {
        bool wake = false;
        if (ring_output(map, &i, 8, 0, process, &wake) == 0) i++;
        if (wake) futex(kFutexWake, 1, nullptr);
      }
      return 0;
    }));
  }
  uint64_t received = 0, sleeps = 0;
  while (received < 2 * rounds) {
    uint64_t record;
    if (ring_consume(map, &record, 8) == 8) {
      received++;
      continue;
    }
    bool has_data;
    uint32_t word = ring_prepare_wait(map, &has_data);
    if (has_data) continue;
    timespec deadline = {20, 0};
    sleeps++;
    ASSERT_FALSE(futex(kFutexWait, word, &deadline) < 0 && errno == ETIMEDOUT)
        << "slept on after " << received << " records";
  }
  for (auto& producer : producers) EXPECT_EQ(producer->wait(), 0);
  printf("%llu sleeps\n", static_cast<unsigned long long>(sleeps));
}

}  // namespace
}  // namespace bpftime::maps::test

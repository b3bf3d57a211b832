// Random operation sequences on our maps and on the kernel's: every result, errno and value must be the same.
#include <linux/perf_event.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "maps/hash.h"
#include "maps/key_order.h"
#include "maps/stack_trace.h"
#include "maps/test_support.h"

namespace bpftime::maps::test {
namespace {

using Bytes = std::vector<uint8_t>;

bool is_lru(uint32_t type) { return type == kTypeLruHash || type == kTypeLruPercpuHash; }
// Types that keep their keys in an order of their own.
bool is_hash(uint32_t type) { return type == kTypeHash || type == kTypePercpuHash || is_lru(type); }
// Types that refuse new keys when full.
bool is_counted(uint32_t type) {
  return type == kTypeHash || type == kTypePercpuHash || type == kTypeLpmTrie;
}

struct Statistics {
  uint64_t operations, hard, second_process, mismatches;
  char first_mismatch[256];
};

// One pair of maps and the operations on it. Both processes hold it (forked).
struct Pair {
  const SharedMap& ours;
  int64_t kernel;
  int perf_fd;  // an event, for perf event arrays
  Statistics& statistics;
};

void compare(const Pair& pair, const char* what, int64_t ours, int64_t kernel, const Bytes& a, const Bytes& b,
             bool at_capacity) {
  Statistics& s = pair.statistics;
  s.operations++;
  if (kernel < 0 || at_capacity) s.hard++;
  if (ours == kernel && (kernel < 0 || a == b)) return;
  if (s.mismatches++ == 0) {
    const MapSpec& spec = pair.ours.spec();
    snprintf(s.first_mismatch, sizeof(s.first_mismatch),
             "%s: ours %lld, kernel %lld, values %s; type %u key %u value %u entries %u flags %#x", what,
             static_cast<long long>(ours), static_cast<long long>(kernel), a == b ? "equal" : "differ",
             spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags);
  }
}

// In the order they came, but for types whose order is their own.
std::vector<Bytes> all_keys(const MapSpec& spec, const std::function<int64_t(const void*, void*)>& next_key) {
  std::vector<Bytes> keys;
  Bytes key(spec.key_size), next(spec.key_size);
  int64_t error = next_key(nullptr, next.data());
  while (error == 0 && keys.size() <= spec.max_entries) {
    keys.push_back(next);
    key = next;
    error = next_key(key.data(), next.data());
  }
  if (error != 0 && error != -ENOENT) keys.push_back(Bytes(1, static_cast<uint8_t>(-error)));
  if (is_hash(spec.type)) std::sort(keys.begin(), keys.end());
  return keys;
}

// Prefixes that contain each other, some longer than the type allows, with bits set behind their length.
Bytes random_prefix(const MapSpec& spec, std::mt19937_64& random) {
  static const uint8_t kBytes[] = {0, 0x80, 0xff, 0x81, 0x40};
  Bytes key(spec.key_size);
  uint32_t length = static_cast<uint32_t>(random() % ((spec.key_size - 4) * 8 + 1));
  if (random() % 40 == 0) length = (spec.key_size - 4) * 8 + 1 + static_cast<uint32_t>(random() % 3);
  if (random() % 3 != 0) length = length / 8 * 8;
  memcpy(key.data(), &length, 4);
  for (size_t i = 4; i < key.size(); i++) key[i] = kBytes[random() % (i < 6 ? 2 : std::size(kBytes))];
  return key;
}

Bytes random_key(const MapSpec& spec, std::mt19937_64& random) {
  if (spec.type == kTypeLpmTrie) return random_prefix(spec, random);
  Bytes key(spec.key_size);
  // A universe a little larger than the map, so that it is full half of the time.
  uint32_t number = static_cast<uint32_t>(random() % (spec.max_entries + spec.max_entries / 3 + 2));
  // What an LRU map forgets is not specified: it is never full here.
  if (is_lru(spec.type)) number %= 24;
  for (size_t i = 0; i < key.size(); i++)
    key[i] = static_cast<uint8_t>(i < 4 ? number >> (8 * i) : number * 31 + i);
  if (!is_hash(spec.type) && random() % 50 == 0) std::fill(key.begin(), key.end(), 0xff);
  return key;
}

uint64_t random_flags(std::mt19937_64& random) {
  static const uint64_t kOdd[] = {3, 4, 5, 6, 7, 8, 16, uint64_t{1} << 40, uint64_t{1} << 32, ~uint64_t{0}};
  if (random() % 16 == 0) return kOdd[random() % std::size(kOdd)];
  return random() % 4 == 0 ? random() % 3 : 0;
}

// Of a set so small that neither filter takes one for another.
Bytes random_member(const MapSpec& spec, std::mt19937_64& random) {
  return Bytes(spec.value_size, static_cast<uint8_t>(random() % 40));
}

void update_both(const Pair& pair, std::mt19937_64& random, const Bytes& key, bool full) {
  const MapSpec& spec = pair.ours.spec();
  Bytes value(user_value_size(spec));
  for (uint8_t& byte : value) byte = static_cast<uint8_t>(random());
  if (spec.type == kTypeBloomFilter) value = random_member(spec, random);
  if (spec.type == kTypePerfEventArray) memcpy(value.data(), &pair.perf_fd, 4);
  uint64_t flags = random_flags(random);
  compare(pair, "update", user_update(pair.ours.view(), key.data(), value.data(), flags),
          kernel_element(BPF_MAP_UPDATE_ELEM, pair.kernel, spec.key_size != 0 ? key.data() : nullptr,
                         value.data(), flags),
          {}, {}, full);
}

void step(const Pair& pair, std::mt19937_64& random) {
  const MapSpec& spec = pair.ours.spec();
  MapView map = pair.ours.view();
  Bytes key = random_key(spec, random);
  const void* kernel_key = spec.key_size != 0 ? key.data() : nullptr;
  Bytes a(user_value_size(spec), 0xaa), b(user_value_size(spec), 0xaa);
  if (spec.type == kTypeBloomFilter) a = b = random_member(spec, random);
  bool full = is_counted(spec.type) &&
              static_cast<uint32_t>(*reinterpret_cast<uint64_t*>(map.base)) == spec.max_entries;
  uint64_t flags = random() % 16 == 0 ? random_flags(random) : 0;
  switch (random() % 16) {
    default:
      return update_both(pair, random, key, full);
    case 0:
    case 1:
    case 2:
    case 3: {
      int64_t ours = user_lookup(map, key.data(), a.data(), flags);
      return compare(pair, "lookup", ours,
                     kernel_element(BPF_MAP_LOOKUP_ELEM, pair.kernel, kernel_key, b.data(), flags), a, b,
                     full);
    }
    case 4:
    case 5:
    case 6:
      return compare(pair, "delete", user_delete(map, key.data()),
                     kernel_element(BPF_MAP_DELETE_ELEM, pair.kernel, kernel_key, nullptr, 0), {}, {}, full);
    case 7: {
      int64_t ours = user_lookup_and_delete(map, key.data(), a.data(), flags);
      return compare(pair, "lookup_and_delete", ours,
                     kernel_element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, pair.kernel, kernel_key, b.data(), flags),
                     a, b, full);
    }
    case 8: {
      if (!is_hash(spec.type) || random() % 8 != 0) {
        Bytes next_a(spec.key_size), next_b(spec.key_size);
        int64_t ours = user_next_key(map, key.data(), next_a.data());
        int64_t kernel = kernel_element(BPF_MAP_GET_NEXT_KEY, pair.kernel, kernel_key, next_b.data(), 0);
        if (is_hash(spec.type)) return;  // their order is their own
        compare(pair, "next_key", ours, kernel, next_a, next_b, full);
        if (spec.type != kTypeLpmTrie || random() % 8 != 0) return;
      }
      auto ours = all_keys(spec, [&](const void* k, void* next) { return user_next_key(map, k, next); });
      auto kernel = all_keys(spec, [&](const void* k, void* next) {
        return kernel_element(BPF_MAP_GET_NEXT_KEY, pair.kernel, k, next, 0);
      });
      return compare(pair, "all keys", 0, ours == kernel ? 0 : 1, {}, {}, full);
    }
  }
}

// Batches alternate between this process and a forked one.
void run_pair(const Pair& pair, uint64_t seed, int batches, int batch_size) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  auto batch = [&](int number) {
    std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(number));
    for (int i = 0; i < batch_size; i++) step(pair, random);
  };
  pid_t child = start_child([&] {
    close(sockets[0]);
    int number;
    while (read(sockets[1], &number, sizeof(number)) == sizeof(number)) {
      uint64_t before = pair.statistics.operations;
      batch(number);
      pair.statistics.second_process += pair.statistics.operations - before;
      if (write(sockets[1], &number, sizeof(number)) != sizeof(number)) return 1;
    }
    return 0;
  });
  close(sockets[1]);
  for (int number = 0; number < batches; number++) {
    if (number % 2 == 0) {
      batch(number);
    } else {
      ASSERT_EQ(write(sockets[0], &number, sizeof(number)), static_cast<ssize_t>(sizeof(number)));
      ASSERT_EQ(read(sockets[0], &number, sizeof(number)), static_cast<ssize_t>(sizeof(number)));
    }
  }
  close(sockets[0]);
  EXPECT_EQ(wait_child(child), 0);
}

class Differential : public testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    std::string reason = kernel_unusable();
    if (!reason.empty()) GTEST_SKIP() << reason;
    const int64_t known = kernel_create(example_spec(GetParam(), 0));
    if (known >= 0) close(static_cast<int>(known));
    if (known == -EINVAL) GTEST_SKIP() << "the kernel has no maps of type " << GetParam();
  }
};

MapSpec random_good_spec(uint32_t type, std::mt19937_64& random) {
  const MapSpec example = example_spec(type, possible_cpus());
  MapSpec spec = example;
  spec.value_size = static_cast<uint32_t>(1 + random() % 90);
  spec.max_entries = static_cast<uint32_t>(1 + random() % 40);
  if (is_lru(type)) spec.max_entries = 1024;
  if (type == kTypeLpmTrie) {
    static const uint32_t kKeys[] = {8, 8, 5, 20, 6, 13, 260};
    spec.key_size = kKeys[random() % std::size(kKeys)];
  }
  if (type == kTypeBloomFilter) {
    spec.max_entries = 1u << 16;
    spec.cpu_count = 0;
  }
  if (is_hash(type)) {
    static const uint32_t kKeys[] = {4, 8, 16, 1, 3, 5, 12, 23, 64};
    spec.key_size = kKeys[random() % std::size(kKeys)];
    spec.flags = random() % 2 == 0 && !is_lru(type) ? kFlagNoPrealloc : 0;
    if (spec.key_size == 1 && !is_lru(type)) spec.max_entries = std::min(spec.max_entries, 30u);
  }
  if (type == kTypePerfEventArray) spec.value_size = example.value_size;
  if (type == kTypeStackTrace) spec.value_size = 8 * (1 + static_cast<uint32_t>(random() % 127));
  return spec;
}

int open_event() {
  perf_event_attr attr = {};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.size = sizeof(attr);
  attr.config = PERF_COUNT_SW_BPF_OUTPUT;
  attr.sample_type = PERF_SAMPLE_RAW;
  return static_cast<int>(syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC));
}

TEST_P(Differential, EveryResultEqualsTheKernels) {
  uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  Shared<Statistics> statistics;
  int perf_fd = GetParam() == kTypePerfEventArray ? open_event() : -1;
  if (GetParam() == kTypePerfEventArray && perf_fd < 0)
    GTEST_SKIP() << "perf_event_open: " << strerror(errno);
  for (uint64_t round = 0; statistics->operations < test_rounds(60000); round++) {
    MapSpec spec = random_good_spec(GetParam(), random);
    ASSERT_EQ(check_spec(spec), 0);
    SharedMap ours(spec);
    int64_t kernel = kernel_create(spec);
    ASSERT_GE(kernel, 0);
    run_pair({ours, kernel, perf_fd, *statistics}, random(), 20, 100);
    close(static_cast<int>(kernel));
    ASSERT_EQ(statistics->mismatches, 0u) << statistics->first_mismatch;
  }
  if (perf_fd >= 0) close(perf_fd);
  printf("%llu operations, %llu at capacity or failing, %llu in the second process\n",
         static_cast<unsigned long long>(statistics->operations),
         static_cast<unsigned long long>(statistics->hard),
         static_cast<unsigned long long>(statistics->second_process));
  EXPECT_GE(statistics->operations, 50000u);
  EXPECT_GE(statistics->hard * 5, statistics->operations);
  EXPECT_GE(statistics->second_process * 5, statistics->operations * 2);
}

// Attributes around every limit. What both would accept stays small: the kernel really allocates.
MapSpec random_spec(uint32_t type, std::mt19937_64& random) {
  static const uint32_t kKeys[] = {0, 1, 3, 4, 4, 4, 4, 8, 512, 5000, 4u << 20, (4u << 20) - 60, 0xffffffff};
  static const uint32_t kValues[] = {
      0, 1, 4, 4, 8, 32760, 32768, 32769, 4u << 20, (4u << 20) - 60, 0x7fffffff, 0x80000000, 0xffffffff};
  static const uint32_t kEntries[] = {0, 1, 2, 3, 4096, 8192, 12288, 100, 0x80000000, 0xffffffff};
  MapSpec spec = {type,
                  kKeys[random() % std::size(kKeys)],
                  kValues[random() % std::size(kValues)],
                  kEntries[random() % std::size(kEntries)],
                  0,
                  possible_cpus()};
  if (random() % 4 == 0) spec.key_size = (4u << 20) - 64 + static_cast<uint32_t>(random() % 32);
  if (random() % 4 == 0) spec.value_size = 1 + static_cast<uint32_t>(random() % 24);
  if (random() % 3 == 0) spec.key_size = spec.value_size = 0;
  if (random() % 2 == 0) spec.key_size = 4;
  const bool keyless = example_spec(type, 1).key_size == 0;
  if (keyless && random() % 4 != 0) {
    spec.key_size = 0;
    if (spec.value_size == 0 || random() % 2 == 0) spec.value_size = 1 + static_cast<uint32_t>(random() % 99);
  }
  if (keyless) spec.cpu_count = 0;  // no map_extra
  if (type == kTypeLpmTrie && random() % 8 != 0) {
    spec.flags = kFlagNoPrealloc;
    spec.key_size = 3 + static_cast<uint32_t>(random() % (random() % 2 == 0 ? 4 : 300));
    if (random() % 4 == 0) spec.value_size = (4u << 20) - 320 + static_cast<uint32_t>(random() % 40);
  }
  // Each flag that one of the types knows, and some that none does. Those that only say how an object is
  // found or accounted (tokens, BTF, path flags) belong to the caller.
  static const uint32_t kFlags[] = {1,   2,    4,    8,    16,   32,       64,       128,     256,
                                    512, 1024, 2048, 4096, 8192, 1u << 14, 1u << 20, 1u << 31};
  for (uint64_t i = random() % 4; i > 0; i--) spec.flags |= kFlags[random() % std::size(kFlags)];
  return spec;
}

TEST_P(Differential, CreationIsRefusedAsByTheKernel) {
  std::mt19937_64 random(test_seed());
  int created = 0, refused = 0;
  for (uint64_t i = 0; i < test_rounds(4000); i++) {
    MapSpec spec = random_spec(GetParam(), random);
    int64_t ours = check_spec(spec);
    // Never ask the kernel for much memory: sizes that are neither small nor refused are left out.
    if (ours == -ENOMEM || (ours == 0 && memory_size(spec) > (32u << 20))) continue;
    int64_t kernel = kernel_create(spec);
    if (kernel >= 0) close(static_cast<int>(kernel));
    (kernel >= 0 ? created : refused)++;
    ASSERT_EQ(ours, kernel >= 0 ? 0 : kernel)
        << "type " << spec.type << " key " << spec.key_size << " value " << spec.value_size << " entries "
        << spec.max_entries << " flags " << spec.flags;
  }
  printf("%d created, %d refused\n", created, refused);
  EXPECT_GT(created, GetParam() == kTypeStackTrace ? 5 : 20);
  EXPECT_GT(refused, 500);
}

// Every type with values that bpf(2) reads and writes here, not in the daemon.
std::vector<uint32_t> types_with_values() {
  std::vector<uint32_t> types;
  for (const uint32_t type : kMapTypes)
    if (example_spec(type, 1).value_size != 0 && (!has_descriptors(type) || type == kTypePerfEventArray))
      types.push_back(type);
  return types;
}
INSTANTIATE_TEST_SUITE_P(Maps, Differential, testing::ValuesIn(types_with_values()));

class DifferentialKeyOrder : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason = kernel_unusable();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

class DifferentialRing : public Differential {};
TEST_P(DifferentialRing, CreationIsRefusedAsByTheKernel) {
  std::mt19937_64 random(test_seed());
  for (uint64_t i = 0; i < test_rounds(3000); i++) {
    MapSpec spec = random_spec(GetParam(), random);
    if (random() % 2 == 0) spec.flags = 0;
    int64_t ours = check_spec(spec);
    if (ours == -ENOMEM || (ours == 0 && memory_size(spec) > (32u << 20))) continue;
    int64_t kernel = kernel_create(spec);
    if (kernel >= 0) close(static_cast<int>(kernel));
    ASSERT_EQ(ours, kernel >= 0 ? 0 : kernel) << "key " << spec.key_size << " value " << spec.value_size
                                              << " entries " << spec.max_entries << " flags " << spec.flags;
  }
}

TEST_P(DifferentialRing, ElementCallsAreRefusedAsByTheKernel) {
  MapSpec spec = {GetParam(), 0, 0, 4096, 0, possible_cpus()};
  SharedMap ours(spec);
  int64_t kernel = kernel_create(spec);
  ASSERT_GE(kernel, 0);
  uint64_t key = 0, value = 0;
  MapView map = ours.view();
  EXPECT_EQ(user_lookup(map, &key, &value, 0),
            kernel_element(BPF_MAP_LOOKUP_ELEM, kernel, nullptr, &value, 0));
  EXPECT_EQ(user_update(map, &key, &value, 0),
            kernel_element(BPF_MAP_UPDATE_ELEM, kernel, nullptr, &value, 0));
  EXPECT_EQ(user_delete(map, &key), kernel_element(BPF_MAP_DELETE_ELEM, kernel, nullptr, nullptr, 0));
  EXPECT_EQ(user_next_key(map, nullptr, &key),
            kernel_element(BPF_MAP_GET_NEXT_KEY, kernel, nullptr, &key, 0));
  EXPECT_EQ(user_lookup_and_delete(map, &key, &value, 0),
            kernel_element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, kernel, nullptr, &value, 0));
  close(static_cast<int>(kernel));
}
INSTANTIATE_TEST_SUITE_P(Maps, DifferentialRing, testing::Values(kTypeRingbuf, kTypeUserRingbuf));

// What a process remembers of a trie's order holds while keys go, and is given up when keys come.
TEST_F(DifferentialKeyOrder, IsTheKernelsWhileTheTrieChanges) {
  std::mt19937_64 random(test_seed());
  uint64_t steps = 0;
  while (steps < test_rounds(60000)) {
    MapSpec spec = random_good_spec(kTypeLpmTrie, random);
    spec.max_entries = 300;
    SharedMap ours(spec);
    const int64_t kernel = kernel_create(spec);
    ASSERT_GE(kernel, 0);
    KeyOrder order;
    Bytes key, value(user_value_size(spec));
    for (int i = 0; i < 3000; i++, steps++) {
      // Mostly questions, each from the answer of the one before; runs of deletions; seldom a key more.
      const uint64_t what = random() % (i < 300 ? 4 : 400);
      const bool change = what < 3 || random() % 8 == 0;
      if (change || key.empty() || random() % 16 == 0) key = random_key(spec, random);
      if (change && what == 0) {
        ASSERT_EQ(user_update(ours.view(), key.data(), value.data(), 0),
                  kernel_element(BPF_MAP_UPDATE_ELEM, kernel, key.data(), value.data(), 0));
        continue;
      }
      if (change && what >= 3) {
        Bytes victim(spec.key_size);
        if (kernel_element(BPF_MAP_GET_NEXT_KEY, kernel, key.data(), victim.data(), 0) != 0) continue;
        ASSERT_EQ(user_delete(ours.view(), victim.data()),
                  kernel_element(BPF_MAP_DELETE_ELEM, kernel, victim.data(), nullptr, 0));
        continue;
      }
      const void* from = random() % 16 == 0 ? nullptr : key.data();
      Bytes a(spec.key_size), b(spec.key_size);
      ASSERT_EQ(user_next_key(ours.view(), from, a.data(), &order),
                kernel_element(BPF_MAP_GET_NEXT_KEY, kernel, from, b.data(), 0));
      ASSERT_EQ(a, b) << "step " << i << ", key size " << spec.key_size;
      key = b;
    }
    close(static_cast<int>(kernel));
  }
}

// Clients map a map read-only for what only reads.
TEST(ReadOnly, LookUpsAndNextKeyWriteNothing) {
  for (uint32_t type : {kTypeHash, kTypeArray, kTypePercpuArray, kTypePercpuHash, kTypeLruHash,
                        kTypeLruPercpuHash, kTypeLpmTrie, kTypeQueue, kTypeStack, kTypeBloomFilter}) {
    const bool keyless = type == kTypeQueue || type == kTypeStack || type == kTypeBloomFilter;
    const MapSpec spec = {
        type, keyless ? 0u : type == kTypeLpmTrie ? 8u : 4u, 8,
        16,   type == kTypeLpmTrie ? kFlagNoPrealloc : 0,    type == kTypeBloomFilter ? 0u : 2u};
    SharedMap shared(spec);
    uint64_t key = 5, value[2] = {17, 17};
    ASSERT_EQ(user_update(shared.view(), &key, value, 0), 0) << type;
    ASSERT_EQ(mprotect(shared.view().base, shared.size(), PROT_READ), 0);
    EXPECT_EQ(user_lookup(shared.view(), &key, value, 0), 0) << type;
    EXPECT_EQ(value[0], 17u) << type;
    user_next_key(shared.view(), nullptr, &key);
  }
}

// Values of one word are replaced in their element; what cannot be is left alone and said.
TEST(HashInPlace, ReplacesOnlyWhatIsThereAndLinked) {
  const MapSpec spec = {kTypeHash, 4, 8, 16, 0, 0};
  std::vector<uint64_t> memory(memory_size(spec) / 8 + 8);
  const uint64_t aligned = align_up(reinterpret_cast<uint64_t>(memory.data()), 64);
  const MapView map = {reinterpret_cast<uint8_t*>(aligned), &spec};
  uint32_t key = 7;
  uint64_t value = 1;
  EXPECT_FALSE(hash_update_in_place(map, &key, &value, kUpdateAny)) << "no such key";
  ASSERT_EQ(hash_update(map, &key, &value, kUpdateAny, 1), 0);
  auto* found = static_cast<uint64_t*>(hash_lookup(map, &key));
  ASSERT_NE(found, nullptr);
  value = 2;
  EXPECT_FALSE(hash_update_in_place(map, &key, &value, kUpdateNoExist));
  EXPECT_FALSE(hash_update_in_place(map, &key, &value, kUpdateExist + 1));
  EXPECT_EQ(*found, 1u);
  EXPECT_TRUE(hash_update_in_place(map, &key, &value, kUpdateExist));
  EXPECT_EQ(hash_lookup(map, &key), found);
  EXPECT_EQ(*found, 2u);
  // Held by a process that fills, or deletes, it: not ours to change.
  const HashGeometry g = hash_geometry(spec);
  Element* element = element_at(map, g, hash_lookup_number(map, g, &key, hash_key(&key, 4)));
  const uint64_t linked = element->control;
  element->control = make_control(control_generation(linked), 4711);
  value = 3;
  EXPECT_FALSE(hash_update_in_place(map, &key, &value, kUpdateAny));
  EXPECT_EQ(*found, 2u);
  element->control = linked;
  ASSERT_EQ(hash_remove(map, &key, &value, 1), 0);
  EXPECT_EQ(value, 2u);
  EXPECT_FALSE(hash_update_in_place(map, &key, &value, kUpdateAny));
}

// What programs store (helper get_stackid): found again, never replaced unasked, and a dead writer's bucket comes back.
TEST(StackTrace, StoresFindsAndRepairs) {
  const MapSpec spec = {kTypeStackTrace, 4, 8 * 5, 1, 0, 0};  // one bucket: every trace meets every other
  SharedMap shared(spec);
  const MapView map = shared.view();
  const uint64_t one[] = {1, 2, 3}, other[] = {4, 5, 6, 7, 8, 9};
  uint64_t got[5];
  uint32_t key = 0;
  EXPECT_EQ(stack_trace_store(map, one, 3, 0, 10), 0);
  EXPECT_EQ(stack_trace_store(map, one, 3, 0, 10), 0);
  EXPECT_EQ(stack_trace_store(map, one, 2, 0, 10), -EEXIST);
  EXPECT_EQ(stack_trace_store(map, other, 6, 0, 10), -EEXIST);
  ASSERT_EQ(user_lookup(map, &key, got, 0), 0);
  EXPECT_EQ(std::vector<uint64_t>(got, got + 5), (std::vector<uint64_t>{1, 2, 3, 0, 0}));
  EXPECT_EQ(stack_trace_store(map, other, 6, kStackReuseId, 10), 0);
  ASSERT_EQ(user_lookup(map, &key, got, 0), 0);
  EXPECT_EQ(std::vector<uint64_t>(got, got + 5), (std::vector<uint64_t>{4, 5, 6, 7, 8}));
  EXPECT_EQ(stack_trace_store(map, one, 3, kStackFastCompare, 10), -EEXIST);
  // Somebody died writing: nothing to be seen, others are refused until the repairer comes for him, not for another.
  const StackBucket bucket = stack_trace_bucket(map, 0);
  *bucket.control = stack_control_after(*bucket.control, kStackWriting, 77, 5);
  EXPECT_EQ(user_lookup(map, &key, got, 0), -ENOENT);
  EXPECT_EQ(user_delete(map, &key), -ENOENT);
  EXPECT_EQ(stack_trace_store(map, one, 3, 0, 10), -EEXIST);
  repair(map, 78);
  EXPECT_EQ(stack_trace_store(map, one, 3, 0, 10), -EEXIST);
  repair(map, 77);
  EXPECT_EQ(stack_trace_store(map, one, 3, 0, 10), 0);
  // A peer's count is not believed.
  *bucket.count = ~uint64_t{0};
  EXPECT_EQ(user_lookup_and_delete(map, &key, got, 0), 0);
  EXPECT_EQ(user_next_key(map, nullptr, &key), -ENOENT);
}

}  // namespace
}  // namespace bpftime::maps::test

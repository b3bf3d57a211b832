// What map operations cost when the spec is a constant, as in a compiled program: `ninja
// maps_bench && bin/maps_bench`.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include "maps/map.h"
#include "maps/program_side.h"

namespace bpftime::maps {
namespace {

constexpr MapSpec kArray = {kTypeArray, 4, 8, 1024, 0, 0};
constexpr MapSpec kPercpu = {kTypePercpuArray, 4, 8, 16, 0, 4};
constexpr MapSpec kHash = {kTypeHash, 8, 8, 1024, 0, 0};
constexpr MapSpec kHash1024 = {kTypeHash, 4, 8, 2048, 0, 0};
constexpr MapSpec kHash16 = {kTypeHash, 16, 8, 1024, 0, 0};
constexpr MapSpec kRing = {kTypeRingbuf, 0, 0, 1u << 16, 0, 0};

struct Key16 {
  uint64_t low, high;
};

template <const MapSpec& spec>
MapView make() {
  void* memory = mmap(nullptr, memory_size(spec), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return {static_cast<uint8_t*>(memory), &spec};
}

template <const MapSpec& spec, typename Key>
void lookup_hit(benchmark::State& state) {
  MapView map = make<spec>();
  uint32_t count = spec.max_entries / 2;
  for (uint32_t i = 0; i < count; i++) {
    Key key = {};
    __builtin_memcpy(&key, &i, 4);
    uint64_t value = i;
    program_side::update(map, &key, &value, 0, 0, 1);
  }
  uint32_t i = 0;
  for (auto _ : state) {
    Key key = {};
    uint32_t number = i++ & (count - 1);
    __builtin_memcpy(&key, &number, 4);
    benchmark::DoNotOptimize(program_side::lookup({map.base, &spec}, &key));
  }
}

void hash_replace_existing(benchmark::State& state) {
  MapView map = make<kHash>();
  uint64_t i = 0;
  for (auto _ : state) {
    uint64_t key = i++ & 255;
    benchmark::DoNotOptimize(program_side::update({map.base, &kHash}, &key, &i, 0, 0, 1));
  }
}
// 1,024 keys, each thread its own half when there are two.
MapView shared_map() {
  static const MapView map = [] {
    MapView made = make<kHash1024>();
    for (uint32_t key = 0; key < 1024; key++) {
      uint64_t value = key;
      program_side::update(made, &key, &value, 0, 0, 1);
    }
    return made;
  }();
  return {map.base, &kHash1024};
}
uint32_t key_of(const benchmark::State& state, uint32_t i) {
  return i * static_cast<uint32_t>(state.threads()) + static_cast<uint32_t>(state.thread_index());
}
void hash_lookup_1024(benchmark::State& state) {
  const MapView map = shared_map();
  uint32_t i = 0;
  for (auto _ : state) {
    uint32_t key = key_of(state, i++) & 1023;
    benchmark::DoNotOptimize(program_side::lookup({map.base, &kHash1024}, &key));
  }
}
void hash_update_1024(benchmark::State& state) {
  const MapView map = shared_map();
  uint32_t i = 0;
  for (auto _ : state) {
    uint32_t key = key_of(state, i++) & 1023;
    uint64_t value = i;
    benchmark::DoNotOptimize(hash_update_in_place({map.base, &kHash1024}, &key, &value, 0));
  }
}
void hash_insert_remove(benchmark::State& state) {
  MapView map = make<kHash>();
  uint64_t i = 0;
  for (auto _ : state) {
    uint64_t key = i++;
    benchmark::DoNotOptimize(program_side::update({map.base, &kHash}, &key, &i, 0, 0, 1));
    benchmark::DoNotOptimize(program_side::remove({map.base, &kHash}, &key, 1));
  }
}

void drop_all(MapView map) {
  *reinterpret_cast<uint64_t*>(map.base) = *reinterpret_cast<uint64_t*>(map.base + kPage);
}

void ring_reserve_commit(benchmark::State& state) {
  MapView map = make<kRing>();
  for (auto _ : state) {
    void* record = program_side::ring_reserve({map.base, &kRing}, 32, 0, 1);
    if (record == nullptr) {
      drop_all(map);
      continue;
    }
    benchmark::DoNotOptimize(program_side::ring_commit({map.base, &kRing}, record, 0, false));
  }
}

BENCHMARK(lookup_hit<kArray, uint32_t>);
BENCHMARK(lookup_hit<kPercpu, uint32_t>);
BENCHMARK(lookup_hit<kHash, uint64_t>);
BENCHMARK(lookup_hit<kHash16, Key16>);
BENCHMARK(hash_replace_existing);
BENCHMARK(hash_lookup_1024)->Threads(1)->Threads(2);
BENCHMARK(hash_update_1024)->Threads(1)->Threads(2);
BENCHMARK(hash_insert_remove);
BENCHMARK(ring_reserve_commit);

}  // namespace
}  // namespace bpftime::maps

BENCHMARK_MAIN();

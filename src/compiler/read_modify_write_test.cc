// Counts by look-up, addition and update: exact whoever comes between, and found only where that can be repeated.
#include "compiler/read_modify_write.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "compiler/testing_target.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

constexpr int kKey = -8, kValue = -16;

// As a proof would have it: all is reached, calls get map `map`.
verifier::Facts facts_of(const std::vector<program::Insn>& insns, uint32_t map) {
  verifier::Facts facts;
  facts.insns.resize(insns.size());
  facts.zeroed_bytes = {512};
  for (auto& insn : facts.insns) {
    insn.reached = insn.same_map = true;
    insn.map = map;
  }
  return facts;
}

Sequence key_argument(uint32_t map) {
  Sequence out;
  out << load_map(1, map) << mov_reg(2, 10) << add(2, kKey);
  return out;
}
Sequence update(uint32_t map, int32_t flags = BPF_ANY) {
  return key_argument(map) << mov_reg(3, 10) << add(3, kValue) << mov(4, flags)
                           << call(BPF_FUNC_map_update_elem);
}
constexpr program::Insn increment(int dst, int src) { return raw(BPF_ALU64 | BPF_ADD | BPF_X, dst, src); }

// What bpftrace makes of count(), with something in between: r6 is the context; returns how often it went through there.
Sequence count(uint32_t map, const Sequence& between = {}, const Sequence& last = {}) {
  Sequence out;
  out << mov_reg(6, 1) << mov(7, 0) << store_imm(BPF_DW, 10, kKey, 1) << key_argument(map)
      << call(BPF_FUNC_map_lookup_elem) << mov(8, 0) << jump_eq(0, 0, 1) << load(BPF_DW, 8, 0, 0) << add(8, 1)
      << add(7, 1) << between << store(BPF_DW, 10, kValue, 8)
      << (static_cast<std::vector<program::Insn>>(last).empty() ? update(map) : last) << mov_reg(0, 7)
      << exit_insn();
  return out;
}

class ReadModifyWrite : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override { ASSERT_TRUE(target_.ok()); }
  uint32_t add_map() {
    const bool array = GetParam() == BPF_MAP_TYPE_ARRAY || GetParam() == BPF_MAP_TYPE_PERCPU_ARRAY;
    return target_.add_map(GetParam(), array ? 4 : 8, 8, 4);
  }
  uint64_t sum_of(uint32_t map) {
    const uint64_t key = 1;
    std::vector<uint64_t> values(std::max<size_t>(target_.binding(map).spec.cpu_count, 1));
    EXPECT_EQ(maps::user_lookup(target_.map(map), &key, values.data(), 0), 0);
    return std::accumulate(values.begin(), values.end(), uint64_t{0});
  }
  Code compiled(const std::vector<program::Insn>& insns, uint32_t map, bool known = true) {
    const verifier::Facts facts = facts_of(insns, map);
    auto code = target_.compile(insns, known ? &facts : nullptr);
    EXPECT_TRUE(code.ok()) << code.error().message;
    return std::move(*code);
  }
  Target target_;
};

// Who comes between is the handler of the fault at the context's page.
struct Interruption {
  const Code* code = nullptr;
  void* page = nullptr;
  wire::Invocation invocation{};
} interruption;

void interrupt(int) {
  mprotect(interruption.page, 4096, PROT_READ | PROT_WRITE);
  const Code* code = std::exchange(interruption.code, nullptr);
  for (int i = 0; code != nullptr && i < 3; i++)
    code->run(reinterpret_cast<uint64_t>(interruption.page),
              reinterpret_cast<uint64_t>(&interruption.invocation));
}

uint64_t run_interrupted(const Code& code) {
  void* page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct sigaction handler {
  }, before{};
  handler.sa_handler = interrupt;
  handler.sa_flags = SA_NODEFER;
  sigaction(SIGSEGV, &handler, &before);
  interruption = {&code, page, {}};
  wire::Invocation invocation{};
  const uint64_t through =
      code.run(reinterpret_cast<uint64_t>(page), reinterpret_cast<uint64_t>(&invocation));
  sigaction(SIGSEGV, &before, nullptr);
  munmap(page, 4096);
  return through;
}

TEST_P(ReadModifyWrite, WhoComesBetweenIsCounted) {
  const uint32_t map = add_map();
  const auto program = count(map, Sequence() << load(BPF_DW, 9, 6, 0) << increment(8, 9));
  const Code code = compiled(program, map);
  EXPECT_EQ(code.forbidden_instruction(), "");
  for (uint64_t round = 1; round <= 3; round++) {  // the key is absent in the first
    EXPECT_EQ(run_interrupted(code), 1u);          // registers are as they were when it goes back
    EXPECT_EQ(sum_of(map), 4 * round);
  }
  // Where nothing is known of the program it is as in the kernel, had that been interrupted: the three are lost.
  const uint32_t other = add_map();
  EXPECT_EQ(run_interrupted(compiled(count(other, Sequence() << load(BPF_DW, 9, 6, 0) << increment(8, 9)),
                                     other, /*known=*/false)),
            1u);
  EXPECT_EQ(sum_of(other), 1u);
}

TEST_P(ReadModifyWrite, ThreadsOfOneCpuCountExactly) {
  const uint32_t map = add_map();
  const Code code = compiled(count(map), map);
  constexpr uint64_t kThreads = 8, kRuns = 200000;
  std::vector<std::thread> threads;
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(sched_getcpu(), &only);
  for (uint64_t i = 0; i < kThreads; i++)
    threads.emplace_back([&] {
      sched_setaffinity(0, sizeof only, &only);
      wire::Invocation invocation{};
      for (uint64_t run = 0; run < kRuns; run++) code.run(0, reinterpret_cast<uint64_t>(&invocation));
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(sum_of(map), kThreads * kRuns);
}

TEST_P(ReadModifyWrite, FoundOnlyWhereItCanBeRepeated) {
  const uint32_t map = add_map(), small = target_.add_map(BPF_MAP_TYPE_HASH, 8, 4, 4);
  const std::vector<MapBinding> bindings = {target_.binding(map), target_.binding(small)};
  const auto found = [&](const std::vector<program::Insn>& insns, uint32_t of = 0) {
    const verifier::Facts facts = facts_of(insns, of);
    return find_read_modify_writes({.insns = insns}, 0, static_cast<uint32_t>(insns.size()), bindings, &facts)
        .size();
  };
  const auto between = [&](const Sequence& what) { return found(count(map, what)); };
  Sequence other_lookup;
  other_lookup << key_argument(map) << add(2, -16) << call(BPF_FUNC_map_lookup_elem);
  EXPECT_EQ(found(count(map)), 1u);
  EXPECT_EQ(between(Sequence() << call(BPF_FUNC_ktime_get_ns)), 1u);
  // A key of its own for another look-up, written anew each time; one that is not would differ the second time.
  EXPECT_EQ(between(Sequence() << store(BPF_DW, 10, -24, 7) << other_lookup), 1u);
  EXPECT_EQ(between(Sequence() << other_lookup << store(BPF_DW, 10, -24, 7)), 0u);
  EXPECT_EQ(between(Sequence() << load(BPF_DW, 9, 10, -32)), 1u);
  EXPECT_EQ(between(Sequence() << load(BPF_DW, 9, 10, -32) << add(9, 1) << store(BPF_DW, 10, -32, 9)), 0u);
  // Written on one of two ways only.
  EXPECT_EQ(between(Sequence() << jump_eq(7, 3, 1) << store(BPF_DW, 10, -24, 7) << other_lookup), 0u);
  EXPECT_EQ(between(Sequence() << store(BPF_B, 10, kKey, 7)), 0u);  // another key
  EXPECT_EQ(between(Sequence() << store(BPF_DW, 6, 0, 7)), 0u);     // seen by others
  EXPECT_EQ(between(Sequence() << mov_reg(9, 10) << load(BPF_DW, 9, 9, -32)), 0u);
  EXPECT_EQ(between(Sequence() << call(BPF_FUNC_get_current_task)), 1u);
  EXPECT_EQ(between(Sequence() << mov(1, 9) << call(BPF_FUNC_send_signal)), 0u);
  EXPECT_EQ(between(Sequence() << raw(BPF_STX | BPF_ATOMIC | BPF_DW, 10, 7, -32, BPF_ADD)), 0u);
  EXPECT_EQ(between(Sequence() << update(map)), 1u);  // the first of them
  EXPECT_EQ(found(count(map, {}, update(map, BPF_EXIST))), 0u);
  EXPECT_EQ(found(count(map), 1), 0u);  // the map of the short values
  EXPECT_EQ(found(Sequence() << store_imm(BPF_DW, 10, kKey, 1) << store_imm(BPF_DW, 10, kValue, 1)
                             << update(map) << exit_insn()),
            0u);
  // A way round the look-up.
  EXPECT_EQ(found(Sequence() << store_imm(BPF_DW, 10, kKey, 1) << jump_eq(1, 0, 5) << key_argument(map)
                             << call(BPF_FUNC_map_lookup_elem) << store_imm(BPF_DW, 10, kValue, 1)
                             << update(map) << exit_insn()),
            0u);
}

INSTANTIATE_TEST_SUITE_P(Maps, ReadModifyWrite,
                         ::testing::Values(BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
                                           BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LRU_HASH,
                                           BPF_MAP_TYPE_LRU_PERCPU_HASH));

}  // namespace
}  // namespace bpftime::compiler

// Every map operation a program can call, here and in the kernel: the same instructions, run by turns in one process. A program
// makes kUnrolled calls, keys going round; the price of everything but the calls is measured with them left out, and
// subtracted. Prints a table of nanoseconds per operation; asserts nothing.
//   map_ops_bench [--rounds N] [--json FILE]
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "compiler/testing_target.h"
#include "program/testing/kernel.h"

namespace bpftime::bench {
namespace {

using namespace compiler::testing;

constexpr int kUnrolled = 16, kRounds = 25;
constexpr uint32_t kRepeat = 2000;
constexpr uint32_t kRingBytes = 1u << 20;  // what one run writes fits
static_assert(uint64_t{kRepeat} * kUnrolled * 16 < kRingBytes);
constexpr uint32_t kCounterBytes = 8 + 16 * kUnrolled;
constexpr uint32_t kKeys = 1024;
constexpr uint32_t kBigStep = 0x9e3779b1;  // keys are not visited in order

// r6 counts calls; r8 keeps what look-ups find.

struct Operation {
  const char* title;
  wire::MapSpec spec;
  std::vector<int> helpers;  // called one after the other, with the same key
  uint64_t flags = 0;
  uint32_t key_mask = kKeys - 1;  // ~0: always new keys
  bool filled = true;
};

uint32_t cpus() { return static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_CONF)); }

std::vector<Operation> operations() {
  constexpr int kLookup = BPF_FUNC_map_lookup_elem, kUpdate = BPF_FUNC_map_update_elem,
                kDelete = BPF_FUNC_map_delete_elem, kPush = BPF_FUNC_map_push_elem,
                kPop = BPF_FUNC_map_pop_elem, kPeek = BPF_FUNC_map_peek_elem,
                kPercpu = BPF_FUNC_map_lookup_percpu_elem, kOutput = BPF_FUNC_ringbuf_output;
  const auto hash = [](uint32_t type, uint32_t entries = 2 * kKeys) {
    return wire::MapSpec{type, 4, 8, entries, 0, cpus()};
  };
  const wire::MapSpec array{BPF_MAP_TYPE_ARRAY, 4, 8, kKeys, 0, cpus()};
  const wire::MapSpec percpu_array{BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, kKeys, 0, cpus()};
  const wire::MapSpec lpm{BPF_MAP_TYPE_LPM_TRIE, 8, 8, 2 * kKeys, BPF_F_NO_PREALLOC, cpus()};
  const wire::MapSpec queue{BPF_MAP_TYPE_QUEUE, 0, 8, kKeys, 0, cpus()};
  const wire::MapSpec stack{BPF_MAP_TYPE_STACK, 0, 8, kKeys, 0, cpus()};
  // Has no reader: emptied before each run.
  const wire::MapSpec ring{BPF_MAP_TYPE_RINGBUF, 0, 0, kRingBytes, 0, 0};
  const wire::MapSpec bloom{BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 4 * kKeys, 0, 0};
  return {
      {"array: look-up", array, {kLookup}},
      {"array: update", array, {kUpdate}},
      {"percpu_array: look-up", percpu_array, {kLookup}},
      {"percpu_array: update", percpu_array, {kUpdate}},
      {"percpu_array: look-up of a CPU", percpu_array, {kPercpu}},
      {"hash: look-up", hash(BPF_MAP_TYPE_HASH), {kLookup}},
      {"hash: update", hash(BPF_MAP_TYPE_HASH), {kUpdate}},
      {"hash: insert and delete", hash(BPF_MAP_TYPE_HASH), {kUpdate, kDelete}, 0, ~0u, false},
      {"percpu_hash: look-up", hash(BPF_MAP_TYPE_PERCPU_HASH), {kLookup}},
      {"percpu_hash: update", hash(BPF_MAP_TYPE_PERCPU_HASH), {kUpdate}},
      {"percpu_hash: look-up of a CPU", hash(BPF_MAP_TYPE_PERCPU_HASH), {kPercpu}},
      {"percpu_hash: insert and delete", hash(BPF_MAP_TYPE_PERCPU_HASH), {kUpdate, kDelete}, 0, ~0u, false},
      {"lru_hash: look-up", hash(BPF_MAP_TYPE_LRU_HASH), {kLookup}},
      {"lru_hash: update", hash(BPF_MAP_TYPE_LRU_HASH), {kUpdate}},
      {"lru_hash: insert, evicting", hash(BPF_MAP_TYPE_LRU_HASH, kKeys), {kUpdate}, 0, ~0u},
      {"lru_percpu_hash: look-up", hash(BPF_MAP_TYPE_LRU_PERCPU_HASH), {kLookup}},
      {"lru_percpu_hash: update", hash(BPF_MAP_TYPE_LRU_PERCPU_HASH), {kUpdate}},
      {"lru_percpu_hash: insert, evicting", hash(BPF_MAP_TYPE_LRU_PERCPU_HASH, kKeys), {kUpdate}, 0, ~0u},
      {"lpm_trie: look-up, lengths 16, 24, 32", lpm, {kLookup}},
      {"lpm_trie: update", lpm, {kUpdate}},
      {"queue: push and pop", queue, {kPush, kPop}, 0, kKeys - 1, false},
      {"queue: push, replacing", queue, {kPush}, BPF_EXIST, kKeys - 1, false},
      {"queue: peek", queue, {kPeek}},
      {"stack: push and pop", stack, {kPush, kPop}, 0, kKeys - 1, false},
      {"stack: peek", stack, {kPeek}},
      {"bloom_filter: push", bloom, {kPush}},
      {"bloom_filter: peek", bloom, {kPeek}},
      {"ringbuf: output of 8 bytes", ring, {kOutput}, BPF_RB_NO_WAKEUP, kKeys - 1, false},
  };
}

bool is_lpm(const wire::MapSpec& spec) { return spec.type == BPF_MAP_TYPE_LPM_TRIE; }

// One in three prefixes is a /16, one a /24, one a whole address.
uint64_t prefix_of(uint32_t i) {
  static const uint32_t kLengths[] = {16, 24, 32};
  return kLengths[i % 3] | uint64_t{i * kBigStep} << 32;
}

// `counter`: an array of one value: which says where the last run ended, then a key and a value for each call. They lie there
// and not on the stack because both compilers must leave the stores alone; ours would drop those that no call reads, and the
// difference would not be the calls alone. `call_helpers` false: everything else.
std::vector<program::Insn> program_of(const Operation& operation, uint32_t counter, uint32_t map,
                                      bool call_helpers) {
  Sequence code;
  code << store_imm(BPF_W, 10, -4, 0) << mov_reg(2, 10) << add(2, -4) << load_map(1, counter)
       << call(BPF_FUNC_map_lookup_elem) << raw(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 1, 0) << exit_insn()
       << mov_reg(9, 0) << load(BPF_DW, 6, 9, 0) << mov(8, 0);
  for (int i = 0; i < kUnrolled; ++i) {
    // The key, or an LPM key of full length; behind it the value.
    const int16_t key_at = static_cast<int16_t>(8 + 16 * i), value_at = static_cast<int16_t>(key_at + 8);
    code << add(6, 1) << mov_reg(7, 6);
    if (operation.key_mask != ~0u)
      code << raw(BPF_ALU64 | BPF_AND | BPF_K, 7, 0, 0, static_cast<int32_t>(operation.key_mask));
    code << store(BPF_DW, 9, value_at, 7);
    if (is_lpm(operation.spec))
      code << raw(BPF_ALU | BPF_MUL | BPF_K, 7, 0, 0, static_cast<int32_t>(kBigStep))
           << store_imm(BPF_W, 9, key_at, 32) << store(BPF_W, 9, static_cast<int16_t>(key_at + 4), 7);
    else
      code << store(BPF_W, 9, key_at, 7);
    if (!call_helpers) continue;
    for (const int helper : operation.helpers) {
      const bool keyed = operation.spec.key_size != 0;
      code << load_map(1, map) << mov_reg(2, 9) << add(2, keyed ? key_at : value_at);
      if (helper == BPF_FUNC_map_update_elem)
        code << mov_reg(3, 9) << add(3, value_at) << mov(4, static_cast<int32_t>(operation.flags));
      if (helper == BPF_FUNC_ringbuf_output)
        code << mov(3, 8) << mov(4, static_cast<int32_t>(operation.flags));
      if (helper == BPF_FUNC_map_push_elem) code << mov(3, static_cast<int32_t>(operation.flags));
      if (helper == BPF_FUNC_map_lookup_percpu_elem) code << mov(3, 0);
      code << call(helper);
      if (helper == BPF_FUNC_map_lookup_elem || helper == BPF_FUNC_map_lookup_percpu_elem)
        code << jump_eq(0, 0, 2) << load(BPF_DW, 1, 0, 0) << raw(BPF_ALU64 | BPF_ADD | BPF_X, 8, 1);
    }
  }
  return code << store(BPF_DW, 9, 0, 6) << mov_reg(0, 8) << exit_insn();
}

// With what the verifier would have found out: which map each call names, the one loaded last.
Result<Code> compile_proved(Target& target, std::vector<program::Insn> insns) {
  verifier::Facts facts;
  uint32_t map = 0;
  for (const program::Insn& insn : insns) {
    if (insn.code == (BPF_LD | BPF_IMM | BPF_DW)) map = static_cast<uint32_t>(insn.imm);
    facts.insns.push_back(
        {.reached = true, .reached_taken = true, .reached_through = true, .same_map = true, .map = map});
  }
  facts.zeroed_bytes = {0};
  return target.compile(std::move(insns), &facts);
}

long bpf(int command, bpf_attr& attr) { return syscall(SYS_bpf, command, &attr, sizeof(attr)); }

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "error: map_ops_bench: %s\n", why.c_str());
  std::exit(1);
}

Fd kernel_map(const wire::MapSpec& spec) {
  bpf_attr attr{};
  attr.map_type = spec.type;
  attr.key_size = spec.key_size;
  attr.value_size = spec.value_size;
  attr.max_entries = spec.max_entries;
  attr.map_flags = spec.flags;
  Fd map(static_cast<int>(bpf(BPF_MAP_CREATE, attr)));
  if (!map.valid()) die(std::string("BPF_MAP_CREATE: ") + strerror(errno));
  return map;
}

void fill(const Operation& operation, const std::function<void(const void* key, const void* value)>& update) {
  if (!operation.filled) return;
  for (uint32_t i = 0; i < kKeys; ++i) {
    const uint64_t key = is_lpm(operation.spec) ? prefix_of(i) : i;
    std::vector<uint64_t> value(cpus(), i);
    update(operation.spec.key_size != 0 ? &key : nullptr, value.data());
  }
}

double now_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);  // the kernel leaves out when it was preempted, too
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

constexpr size_t kPageBytes = 4096;
void empty_ring(uint8_t* consumer_page, const uint8_t* producer_page) {
  __atomic_store_n(reinterpret_cast<uint64_t*>(consumer_page),
                   __atomic_load_n(reinterpret_cast<const uint64_t*>(producer_page), __ATOMIC_ACQUIRE),
                   __ATOMIC_RELEASE);
}

struct Result {
  std::string title;
  double ours_ns, kernel_ns;  // kernel 0: not measured
};

Result measure(const Operation& operation, bool with_kernel, int rounds) {
  Target target;
  if (!target.ok()) die("the window is taken");
  const uint32_t counter = target.add_map(BPF_MAP_TYPE_ARRAY, 4, kCounterBytes, 1);
  const uint32_t map = target.add_map(operation.spec.type, operation.spec.key_size, operation.spec.value_size,
                                      operation.spec.max_entries, operation.spec.flags);
  fill(operation,
       [&](const void* key, const void* value) { maps::user_update(target.map(map), key, value, 0); });
  auto with = compile_proved(target, program_of(operation, counter, map, true));
  auto without = compile_proved(target, program_of(operation, counter, map, false));
  if (!with || !without) die("does not compile: " + (with ? without : with).error().message);
  const bool is_ring = operation.spec.type == BPF_MAP_TYPE_RINGBUF;
  const auto ours = [&](bool with_calls) {
    if (is_ring) empty_ring(target.map(map).base, target.map(map).base + kPageBytes);
    const auto& code = with_calls ? *with : *without;
    wire::Invocation invocation{};
    const double start = now_ns();
    for (uint32_t i = 0; i < kRepeat; ++i) code.run(0, reinterpret_cast<uint64_t>(&invocation));
    return (now_ns() - start) / kRepeat;
  };

  Fd kernel_counter, kernel_object;
  Fd programs[2];
  if (with_kernel) {
    kernel_counter = kernel_map({BPF_MAP_TYPE_ARRAY, 4, kCounterBytes, 1, 0, 0});
    kernel_object = kernel_map(operation.spec);
    fill(operation, [&](const void* key, const void* value) {
      bpf_attr attr{};
      attr.map_fd = static_cast<uint32_t>(kernel_object.get());
      attr.key = reinterpret_cast<uint64_t>(key);
      attr.value = reinterpret_cast<uint64_t>(value);
      bpf(BPF_MAP_UPDATE_ELEM, attr);
    });
    for (const bool calls : {false, true}) {
      program::Program program;
      program.name = "map_ops";
      program.insns = program_of(operation, static_cast<uint32_t>(kernel_counter.get()),
                                 static_cast<uint32_t>(kernel_object.get()), calls);
      auto answer = program::testing::kernel_load(program);
      if (answer.error != 0) die(std::string(operation.title) + ": the kernel refuses: " + answer.log);
      programs[calls] = std::move(answer.fd);
    }
  }
  uint8_t* kernel_ring[2] = {};  // the consumer's page and the producer's
  for (int page = 0; is_ring && with_kernel && page < 2; ++page) {
    void* at = mmap(nullptr, kPageBytes, page == 0 ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                    kernel_object.get(), page * static_cast<off_t>(kPageBytes));
    if (at == MAP_FAILED) die("cannot map the kernel's ring");
    kernel_ring[page] = static_cast<uint8_t*>(at);
  }
  const auto kernel = [&](bool with_calls) {
    if (is_ring) empty_ring(kernel_ring[0], kernel_ring[1]);
    uint8_t packet[64] = {};
    bpf_attr run{};
    run.test.prog_fd = static_cast<uint32_t>(programs[with_calls].get());
    run.test.data_in = reinterpret_cast<uint64_t>(packet);
    run.test.data_size_in = sizeof(packet);
    run.test.repeat = kRepeat;
    if (bpf(BPF_PROG_TEST_RUN, run) != 0) die(std::string("BPF_PROG_TEST_RUN: ") + strerror(errno));
    return static_cast<double>(run.test.duration);
  };

  std::vector<double> ours_ns, kernel_ns;
  for (int round = 0; round <= rounds; ++round) {  // the first one warms up
    const double ours_once = (ours(true) - ours(false)) / kUnrolled;
    const double kernel_once = with_kernel ? (kernel(true) - kernel(false)) / kUnrolled : 0;
    if (round == 0) continue;
    ours_ns.push_back(ours_once);
    kernel_ns.push_back(kernel_once);
  }
  return {operation.title, median(ours_ns), median(kernel_ns)};
}

int run(int argc, char** argv) {
  int rounds = kRounds;
  std::string path;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--json") == 0) path = argv[i + 1];
  }
  const std::string reason = program::testing::kernel_unusable();
  if (!reason.empty()) std::printf("the kernel is not measured: %s\n", reason.c_str());
  std::printf(
      "\nMap operations called by programs, ns each: median of %d interleaved rounds of %u calls.\n\n",
      rounds, kRepeat * kUnrolled);
  std::printf("| operation                              |   ours | kernel |\n|---|---|---|\n");
  nlohmann::json json;
  for (const Operation& operation : operations()) {
    const Result result = measure(operation, reason.empty(), rounds);
    std::printf("| %-38s | %6.1f | %6.1f |\n", result.title.c_str(), result.ours_ns, result.kernel_ns);
    std::fflush(stdout);
    json["operations"].push_back(
        {{"what", result.title}, {"ours_ns", result.ours_ns}, {"kernel_ns", result.kernel_ns}});
  }
  if (!path.empty()) std::ofstream(path) << json.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace bpftime::bench

int main(int argc, char** argv) { return bpftime::bench::run(argc, argv); }

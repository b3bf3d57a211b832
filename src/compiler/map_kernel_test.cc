// Map helpers as programs call them: the same program, in the kernel (BPF_PROG_TEST_RUN) and here, on maps of the same kind.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <random>

#include "compiler/testing_target.h"
#include "maps/types.h"
#include "program/testing/kernel.h"

namespace bpftime::compiler {
namespace {

using namespace testing;

long bpf(int command, bpf_attr& attr) { return syscall(SYS_bpf, command, &attr, sizeof(attr)); }

// What a program reads and writes: the one value of an array.
struct Arguments {
  uint64_t key, unused, value, flags, cpu;
  int64_t result;
  uint64_t found;
};

constexpr int kLookup = BPF_FUNC_map_lookup_elem, kUpdate = BPF_FUNC_map_update_elem,
              kDelete = BPF_FUNC_map_delete_elem, kPush = BPF_FUNC_map_push_elem,
              kPop = BPF_FUNC_map_pop_elem, kPeek = BPF_FUNC_map_peek_elem,
              kLookupPercpu = BPF_FUNC_map_lookup_percpu_elem;

#define AT(member) static_cast<int>(offsetof(Arguments, member))

// A program for one helper: arguments from the array `arguments`, the call on `map`, the result back. What a look-up finds
// is also changed, as programs do.
std::vector<program::Insn> program_for(int helper, uint32_t arguments, uint32_t map) {
  Sequence code;
  code << store_imm(BPF_W, 10, -4, 0) << mov_reg(2, 10) << add(2, -4) << load_map(1, arguments)
       << call(kLookup) << raw(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 1, 0) << exit_insn() << mov_reg(6, 0)
       << load_map(1, map);
  const bool keyed = helper == kLookup || helper == kUpdate || helper == kDelete || helper == kLookupPercpu;
  code << mov_reg(2, 6) << add(2, keyed ? AT(key) : AT(value));
  if (helper == kUpdate) code << mov_reg(3, 6) << add(3, AT(value)) << load(BPF_DW, 4, 6, AT(flags));
  if (helper == kPush) code << load(BPF_DW, 3, 6, AT(flags));
  if (helper == kLookupPercpu) code << load(BPF_DW, 3, 6, AT(cpu));
  code << call(helper);
  if (helper == kLookup || helper == kLookupPercpu) {
    code << raw(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5, 0) << load(BPF_DW, 1, 0, 0)
         << store(BPF_DW, 6, AT(found), 1) << add(1, 3) << store(BPF_DW, 0, 0, 1) << mov(0, 1);
  }
  return code << store(BPF_DW, 6, AT(result), 0) << mov(0, 0) << exit_insn();
}

struct Type {
  uint32_t type;
  uint32_t key_size, max_entries, flags;
  std::vector<int> helpers;
};

std::ostream& operator<<(std::ostream& out, const Type& type) { return out << "map type " << type.type; }

class MapKernel : public ::testing::TestWithParam<Type> {
 protected:
  void SetUp() override {
    if (const std::string reason = program::testing::kernel_unusable(); !reason.empty())
      GTEST_SKIP() << reason;
    ASSERT_TRUE(target_.ok());
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(sched_getcpu(), &only);  // per-CPU values: both run here
    sched_getaffinity(0, sizeof(affinity_), &affinity_);
    sched_setaffinity(0, sizeof(only), &only);
    if (!make_maps()) GTEST_SKIP() << "the kernel has no maps of type " << GetParam().type;
  }
  void TearDown() override {
    if (CPU_COUNT(&affinity_) != 0) sched_setaffinity(0, sizeof(affinity_), &affinity_);
  }

  static Fd kernel_map(const wire::MapSpec& spec) {
    bpf_attr attr{};
    attr.map_type = spec.type;
    attr.key_size = spec.key_size;
    attr.value_size = spec.value_size;
    attr.max_entries = spec.max_entries;
    attr.map_flags = spec.flags;
    return Fd(static_cast<int>(bpf(BPF_MAP_CREATE, attr)));
  }

  // False: the kernel does not know the type.
  bool make_maps() {
    const Type& type = GetParam();
    kernel_map_ = kernel_map({type.type, type.key_size, 8, type.max_entries, type.flags, 0});
    EXPECT_TRUE(kernel_map_.valid() || errno == EINVAL) << strerror(errno);
    if (!kernel_map_.valid()) return false;
    arguments_ = target_.add_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(Arguments), 1);
    map_ = target_.add_map(type.type, type.key_size, 8, type.max_entries, type.flags);
    kernel_arguments_ = kernel_map(target_.binding(arguments_).spec);
    return true;
  }

  static bpf_attr element(const Fd& map, const void* key, const void* value) {
    bpf_attr attr{};
    attr.map_fd = static_cast<uint32_t>(map.get());
    attr.key = reinterpret_cast<uint64_t>(key);
    attr.value = reinterpret_cast<uint64_t>(value);
    return attr;
  }

  Arguments run_in_kernel(const Fd& program, Arguments arguments) {
    const uint32_t zero = 0;
    bpf_attr attr = element(kernel_arguments_, &zero, &arguments);
    EXPECT_EQ(bpf(BPF_MAP_UPDATE_ELEM, attr), 0);
    uint8_t packet[64] = {};
    bpf_attr run{};
    run.test.prog_fd = static_cast<uint32_t>(program.get());
    run.test.data_in = reinterpret_cast<uint64_t>(packet);
    run.test.data_size_in = sizeof(packet);
    EXPECT_EQ(bpf(BPF_PROG_TEST_RUN, run), 0) << strerror(errno);
    attr = element(kernel_arguments_, &zero, &arguments);
    EXPECT_EQ(bpf(BPF_MAP_LOOKUP_ELEM, attr), 0);
    return arguments;
  }

  Arguments run_here(const Code& code, const Arguments& arguments) {
    auto* place = reinterpret_cast<Arguments*>(target_.map(arguments_).base);
    *place = arguments;
    wire::Invocation invocation{};
    code.run(0, reinterpret_cast<uint64_t>(&invocation));
    return *place;
  }

  Target target_;
  cpu_set_t affinity_{};
  uint32_t arguments_ = 0, map_ = 0;
  Fd kernel_arguments_, kernel_map_;
};

Arguments random_arguments(const Type& type, std::mt19937_64& random) {
  Arguments arguments{};
  const uint32_t number = static_cast<uint32_t>(random() % 24);
  arguments.key = number;
  if (type.type == BPF_MAP_TYPE_LPM_TRIE) {  // {length, address}
    arguments.key = random() % 34 | uint64_t{number % 3 == 0 ? 0x0a0au : 0x0a0bu + (number << 16)} << 32;
  }
  arguments.value = random();
  if (type.type == BPF_MAP_TYPE_BLOOM_FILTER) arguments.value = number;
  static const uint64_t kFlags[] = {0, 0, 0, 0, 1, 2, 3, 4, 8};
  arguments.flags = kFlags[random() % std::size(kFlags)];
  arguments.cpu = random() % 4;
  return arguments;
}

TEST_P(MapKernel, HelpersAnswerAsTheKernels) {
  struct Both {
    int helper;
    Fd kernel;
    Code ours;
  };
  std::vector<Both> programs;
  for (const int helper : GetParam().helpers) {
    program::Program program;
    program.name = "map_helper";
    program.insns = program_for(helper, static_cast<uint32_t>(kernel_arguments_.get()),
                                static_cast<uint32_t>(kernel_map_.get()));
    auto answer = program::testing::kernel_load(program);
    ASSERT_EQ(answer.error, 0) << "helper " << helper << ": " << answer.log;
    auto code = target_.compile(program_for(helper, arguments_, map_));
    ASSERT_TRUE(code.ok()) << code.error().message;
    EXPECT_EQ(code->forbidden_instruction(), "");
    programs.push_back({helper, std::move(answer.fd), std::move(*code)});
  }
  const char* given = std::getenv("BPFTIME_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  printf("seed: BPFTIME_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  std::map<std::pair<int, int64_t>, int> results;
  for (int i = 0; i < 5000; i++) {
    const Both& both = programs[random() % programs.size()];
    const Arguments arguments = random_arguments(GetParam(), random);
    const Arguments kernel = run_in_kernel(both.kernel, arguments), ours = run_here(both.ours, arguments);
    ASSERT_EQ(ours.result, kernel.result) << "operation " << i << ", helper " << both.helper << ", key "
                                          << std::hex << arguments.key << ", flags " << arguments.flags;
    ASSERT_EQ(ours.value, kernel.value) << "operation " << i << ", helper " << both.helper;
    ASSERT_EQ(ours.found, kernel.found) << "operation " << i << ", helper " << both.helper;
    results[{both.helper, ours.result}]++;
  }
  // Each helper had to succeed, and each that can fail to fail.
  for (const auto& [what, count] : results)
    printf("helper %d: result %lld, %d times\n", what.first, static_cast<long long>(what.second), count);
  EXPECT_GE(results.size(), GetParam().helpers.size());
}

// Every type that programs can use elements of.
std::vector<Type> types_with_elements() {
  std::vector<Type> out;
  for (const uint32_t type : maps::kMapTypes) {
    const maps::MapTypeFacts facts = maps::type_facts(type);
    const wire::MapSpec example = maps::example_spec(type, 1);
    std::vector<int> helpers;
    if (facts.every_other_helper) helpers = {kLookup, kUpdate, kUpdate, kDelete};
    for (const int helper : {kLookupPercpu, kPush, kPush, kPop, kPeek})
      if (facts.own_helpers.has(static_cast<uint32_t>(helper))) helpers.push_back(helper);
    uint32_t entries = 16;
    // What is forgotten, and what is wrongly taken for a member, is each one's own.
    if (type == BPF_MAP_TYPE_LRU_HASH || type == BPF_MAP_TYPE_LRU_PERCPU_HASH) entries = 1024;
    if (type == BPF_MAP_TYPE_BLOOM_FILTER) entries = 10000;
    const uint32_t key_size = type == BPF_MAP_TYPE_HASH ? 8 : example.key_size;
    if (!helpers.empty()) out.push_back({type, key_size, entries, example.flags, helpers});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Types, MapKernel, ::testing::ValuesIn(types_with_elements()));

}  // namespace
}  // namespace bpftime::compiler

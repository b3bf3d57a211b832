// Calls that are no function calls: tail calls, loops, walks over maps. The same programs in the running kernel and here.
#include <gtest/gtest.h>
#include <linux/btf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <optional>
#include <random>

#include "compiler/testing_target.h"
#include "maps/prog_array.h"
#include "program/testing/kernel.h"

namespace bpftime::compiler {
namespace {

using namespace testing;
using Insns = std::vector<program::Insn>;

constexpr int kTailCall = BPF_FUNC_tail_call, kForEach = 164, kLoop = 181;
constexpr uint32_t kSlots = 4;

long bpf(int command, bpf_attr& attr) { return syscall(SYS_bpf, command, &attr, sizeof(attr)); }

program::Insn local_call(int distance) { return raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, distance); }
// The address of the function `distance` instructions behind the second half.
Insns load_function(int dst, int distance) {
  return {raw(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_FUNC, 0, distance), raw(0)};
}

struct MapWanted {
  uint32_t type, key_size, value_size, max_entries;
};

// A program, its maps, and what to fill in before it runs.
struct Scenario {
  std::vector<MapWanted> maps;
  std::vector<Insns> programs;  // the first is run; program i stands in slot i of map 0 if `tail_calls`
  bool tail_calls = false;
  std::vector<uint32_t> keys;  // with values 10 * key + 1, in map 0 of for_each
  // A user ring's memory from its producer page on (map 0): each is written before a run of its own.
  std::vector<std::vector<uint8_t>> produced = {};
};

constexpr size_t kPage = 4096;

uint64_t value_of(uint32_t key) { return 10 * uint64_t{key} + 1; }

struct Outcome {
  std::string refused;
  uint32_t result = 0;
  std::vector<uint64_t>
      counters;  // the values of the last map, an array; then a user ring's consumer position
  bool operator==(const Outcome&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Outcome& o) {
  out << (o.refused.empty() ? "ran" : o.refused) << ", " << o.result << ";";
  for (const uint64_t counter : o.counters) out << " " << counter;
  return out;
}

// The kernel wants to know the functions by BTF: int main(), static int others().
std::vector<uint8_t> functions_btf(size_t functions) {
  std::vector<uint32_t> types{1, BTF_KIND_INT << 24,        4, BTF_INT_SIGNED << 24 | 32,  // type 1: int
                              0, BTF_KIND_FUNC_PROTO << 24, 1};  // type 2: int (void)
  for (size_t i = 0; i < functions; i++) {
    const uint32_t name = i == 0 ? 5 : 10, linkage = i == 0 ? BTF_FUNC_GLOBAL : BTF_FUNC_STATIC;
    types.insert(types.end(), {name, uint32_t{BTF_KIND_FUNC} << 24 | linkage, 2});
  }
  const std::string names("\0int\0main\0other\0", 16);
  btf_header header{};
  header.magic = BTF_MAGIC;
  header.version = BTF_VERSION;
  header.hdr_len = sizeof header;
  header.type_len = static_cast<uint32_t>(types.size() * sizeof(uint32_t));
  header.str_off = header.type_len;
  header.str_len = static_cast<uint32_t>(names.size());
  std::vector<uint8_t> out(sizeof header + header.type_len + header.str_len);
  memcpy(out.data(), &header, sizeof header);
  memcpy(out.data() + sizeof header, types.data(), header.type_len);
  memcpy(out.data() + sizeof header + header.type_len, names.data(), names.size());
  return out;
}

program::testing::KernelAnswer kernel_load_functions(const program::Program& program) {
  const auto starts = program::subprogram_starts(program);
  const auto blob = functions_btf(starts.size());
  auto btf = program::testing::kernel_load_btf(blob);
  if (btf.error != 0) return btf;
  std::vector<bpf_func_info> functions;
  for (size_t i = 0; i < starts.size(); i++) functions.push_back({starts[i], static_cast<uint32_t>(3 + i)});
  std::vector<char> log(65536);
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attr.insns = reinterpret_cast<uint64_t>(program.insns.data());
  attr.insn_cnt = static_cast<uint32_t>(program.insns.size());
  attr.license = reinterpret_cast<uint64_t>("GPL");
  attr.log_level = 1;
  attr.log_buf = reinterpret_cast<uint64_t>(log.data());
  attr.log_size = static_cast<uint32_t>(log.size());
  attr.prog_btf_fd = static_cast<uint32_t>(btf.fd.get());
  attr.func_info = reinterpret_cast<uint64_t>(functions.data());
  attr.func_info_rec_size = sizeof(bpf_func_info);
  attr.func_info_cnt = static_cast<uint32_t>(functions.size());
  program::testing::KernelAnswer answer;
  answer.fd = Fd(static_cast<int>(bpf(BPF_PROG_LOAD, attr)));
  answer.error = answer.fd ? 0 : errno;
  answer.log = log.data();
  return answer;
}

Outcome in_kernel(const Scenario& scenario) {
  Outcome out;
  std::vector<Fd> maps, programs;
  const auto cpus = static_cast<size_t>(sysconf(_SC_NPROCESSORS_CONF));
  for (const MapWanted& wanted : scenario.maps) {
    bpf_attr create{};
    create.map_type = wanted.type;
    create.key_size = wanted.key_size;
    create.value_size = wanted.type == BPF_MAP_TYPE_PROG_ARRAY ? 4 : wanted.value_size;
    create.max_entries = wanted.max_entries;
    maps.emplace_back(static_cast<int>(bpf(BPF_MAP_CREATE, create)));
  }
  void *consumer = MAP_FAILED, *producer = MAP_FAILED;
  const size_t produced_size = kPage + 2 * size_t{scenario.maps[0].max_entries};
  if (!scenario.produced.empty()) {
    consumer = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, maps[0].get(), 0);
    producer = mmap(nullptr, produced_size, PROT_READ | PROT_WRITE, MAP_SHARED, maps[0].get(), kPage);
    if (consumer == MAP_FAILED || producer == MAP_FAILED) return {"no ring", 0, {}};
  }
  const auto update = [](const Fd& map, uint32_t key, const void* value) {
    bpf_attr attr{};
    attr.map_fd = static_cast<uint32_t>(map.get());
    attr.key = reinterpret_cast<uint64_t>(&key);
    attr.value = reinterpret_cast<uint64_t>(value);
    EXPECT_EQ(bpf(BPF_MAP_UPDATE_ELEM, attr), 0) << strerror(errno);
  };
  for (const uint32_t key : scenario.keys) {
    const std::vector<uint64_t> values(cpus, value_of(key));
    update(maps[0], key, values.data());
  }
  for (size_t i = 0; i < scenario.programs.size(); i++) {
    program::Program program;
    program.name = "control";
    program.insns = scenario.programs[i];
    for (auto& insn : program.insns) {
      if (insn.code == (BPF_LD | BPF_IMM | BPF_DW) && insn.src_reg == BPF_PSEUDO_MAP_FD)
        insn.imm = maps[static_cast<size_t>(insn.imm)].get();
    }
    auto answer = kernel_load_functions(program);
    if (answer.error != 0) {
      out.refused = "refused " + std::to_string(answer.error) + "\n" + answer.log;
      return out;
    }
    const int fd = answer.fd.get();
    programs.push_back(std::move(answer.fd));
    if (scenario.tail_calls) update(maps[0], static_cast<uint32_t>(i), &fd);
  }
  uint8_t packet[64] = {};
  bpf_attr run{};
  run.test.prog_fd = static_cast<uint32_t>(programs[0].get());
  run.test.data_in = reinterpret_cast<uint64_t>(packet);
  run.test.data_size_in = sizeof(packet);
  for (size_t i = 0; i < std::max<size_t>(scenario.produced.size(), 1); i++) {
    if (producer != MAP_FAILED) memcpy(producer, scenario.produced[i].data(), scenario.produced[i].size());
    if (bpf(BPF_PROG_TEST_RUN, run) != 0) out.refused = "not run: " + std::string(strerror(errno));
  }
  out.result = run.test.retval;
  for (uint32_t key = 0; key < scenario.maps.back().max_entries; key++) {
    uint64_t value = 0;
    bpf_attr attr{};
    attr.map_fd = static_cast<uint32_t>(maps.back().get());
    attr.key = reinterpret_cast<uint64_t>(&key);
    attr.value = reinterpret_cast<uint64_t>(&value);
    bpf(BPF_MAP_LOOKUP_ELEM, attr);
    out.counters.push_back(value);
  }
  if (consumer != MAP_FAILED) {
    out.counters.push_back(*static_cast<uint64_t*>(consumer));
    munmap(consumer, kPage);
    munmap(producer, produced_size);
  }
  return out;
}

Outcome here(const Scenario& scenario) {
  Outcome out;
  Target target;
  if (!target.ok()) return {"no window", 0, {}};
  alignas(16) maps::ProgArraySlot slots[kSlots] = {};
  std::vector<MapBinding> bindings;
  for (const MapWanted& wanted : scenario.maps) {
    if (wanted.type == BPF_MAP_TYPE_PROG_ARRAY) {
      MapBinding binding;
      binding.spec = {wanted.type, 4, 4, wanted.max_entries, 0, 1};
      binding.address = reinterpret_cast<uint64_t>(slots);
      bindings.push_back(binding);
    } else {
      bindings.push_back(target.binding(
          target.add_map(wanted.type, wanted.key_size, wanted.value_size, wanted.max_entries)));
    }
  }
  for (const uint32_t key : scenario.keys) {
    const std::vector<uint64_t> values(bindings[0].spec.cpu_count, value_of(key));
    const maps::MapView view{reinterpret_cast<uint8_t*>(bindings[0].address), &bindings[0].spec};
    EXPECT_EQ(maps::user_update(view, &key, values.data(), 0), 0);
  }
  std::vector<Code> codes;
  for (size_t i = 0; i < scenario.programs.size(); i++) {
    program::Program program;
    program.name = "control";
    program.insns = scenario.programs[i];
    if (auto valid = program::validate(program); !valid) return {valid.error().message, 0, {}};
    CompileOptions options;
    options.context_address = target.address();
    options.tail_entry = scenario.tail_calls;
    auto code = Code::compile(program, bindings, options);
    if (!code) return {code.error().message, 0, {}};
    EXPECT_EQ(code->forbidden_instruction(), "");
    if (scenario.tail_calls) slots[i].code = code->tail_entry();
    codes.push_back(std::move(*code));
  }
  uint64_t context[32] = {};
  const wire::Invocation invocation{};
  auto* const first = reinterpret_cast<uint8_t*>(bindings[0].address);
  for (size_t i = 0; i < std::max<size_t>(scenario.produced.size(), 1); i++) {
    if (!scenario.produced.empty())
      memcpy(first + kPage, scenario.produced[i].data(), scenario.produced[i].size());
    out.result = static_cast<uint32_t>(
        codes[0].run(reinterpret_cast<uint64_t>(context), reinterpret_cast<uint64_t>(&invocation)));
  }
  const auto* counters = reinterpret_cast<const uint64_t*>(bindings.back().address);
  for (uint32_t i = 0; i < scenario.maps.back().max_entries; i++) out.counters.push_back(counters[i]);
  if (!scenario.produced.empty()) out.counters.push_back(*reinterpret_cast<const uint64_t*>(first));
  return out;
}

void same_here_and_in_kernel(const Scenario& scenario, std::optional<uint32_t> result = std::nullopt) {
  const Outcome ours = here(scenario);
  EXPECT_EQ(ours.refused, "");
  if (result) {
    EXPECT_EQ(ours.result, *result);
  }
  if (const std::string why = program::testing::kernel_unusable(); !why.empty()) {
    printf("not compared with the kernel: %s\n", why.c_str());
    return;
  }
  EXPECT_EQ(ours, in_kernel(scenario));
}

// counters[index] += 1; clobbers r0..r5. Map 1.
Insns count(uint32_t index) {
  return Sequence() << store_imm(BPF_W, 10, -4, static_cast<int32_t>(index)) << load_map(1, 1)
                    << mov_reg(2, 10) << add(2, -4) << call(BPF_FUNC_map_lookup_elem) << jump_eq(0, 0, 2)
                    << mov(1, 1) << raw(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD);
}
// tail_call(r6, map 0, index)
Insns jump_slot(uint32_t index) {
  return Sequence() << mov_reg(1, 6) << load_map(2, 0) << mov(3, static_cast<int32_t>(index))
                    << call(kTailCall);
}

const MapWanted kPrograms{BPF_MAP_TYPE_PROG_ARRAY, 4, 4, kSlots}, kCounters{BPF_MAP_TYPE_ARRAY, 4, 8, 4};

TEST(TailCall, GoesToTheProgramAndDoesNotComeBack) {
  Scenario s{{kPrograms, kCounters}, {}, true, {}};
  s.programs.push_back(Sequence() << mov_reg(6, 1) << count(0) << jump_slot(1) << count(1) << mov(0, 1)
                                  << exit_insn());
  s.programs.push_back(Sequence() << mov_reg(6, 1) << count(2) << load(BPF_W, 0, 6, 0) << mov(0, 77)
                                  << exit_insn());
  same_here_and_in_kernel(s, 77);
}

TEST(TailCall, GoesOnBehindItWhenTheSlotIsEmptyOrThereIsNone) {
  for (const uint32_t slot : {2u, kSlots, 0x7fffffffu}) {
    Scenario s{{kPrograms, kCounters}, {}, true, {}};
    s.programs.push_back(Sequence() << mov_reg(6, 1) << jump_slot(slot) << count(1) << mov(0, 5)
                                    << exit_insn());
    same_here_and_in_kernel(s, 5);
  }
}

TEST(TailCall, ThirtyThreeAndNoMore) {
  Scenario s{{kPrograms, kCounters}, {}, true, {}};
  s.programs.push_back(Sequence() << mov_reg(6, 1) << count(0) << jump_slot(0) << mov(0, 9) << exit_insn());
  same_here_and_in_kernel(s, 9);
  EXPECT_EQ(here(s).counters[0], 34u);
}

TEST(TailCall, EmptySlotsDoNotCount) {
  Scenario s{{kPrograms, kCounters}, {}, true, {}};
  Sequence first;
  first << mov_reg(6, 1) << count(0);
  for (int i = 0; i < 5; i++) first << jump_slot(3);
  s.programs.push_back(first << jump_slot(0) << mov(0, 4) << exit_insn());
  same_here_and_in_kernel(s, 4);
}

TEST(TailCall, InALocalFunctionReplacesThatOnly) {
  Scenario s{{kPrograms, kCounters}, {}, true, {}};
  // main: r0 = function(ctx) + 100; function: tail call, else 1
  s.programs.push_back(Sequence() << local_call(2) << add(0, 100) << exit_insn() << mov_reg(6, 1)
                                  << jump_slot(1) << mov(0, 1) << exit_insn());
  s.programs.push_back(Sequence() << mov_reg(6, 1) << count(0) << mov(0, 5) << exit_insn());
  same_here_and_in_kernel(s, 105);
}

// Where frames add up: each program calls a function that jumps to the program again.
TEST(TailCall, ThroughLocalFunctionsCountsTogether) {
  Scenario s{{kPrograms, kCounters}, {}, true, {}};
  s.programs.push_back(Sequence() << mov_reg(6, 1) << count(0) << mov_reg(1, 6) << local_call(2) << add(0, 1)
                                  << exit_insn() << mov_reg(6, 1) << jump_slot(0) << mov(0, 0)
                                  << exit_insn());
  const Outcome ours = here(s);
  EXPECT_EQ(ours.refused, "");
  EXPECT_GE(ours.counters[0], 5u) << "what 1,024 bytes of stack allow";
  EXPECT_LE(ours.counters[0], 34u);
  EXPECT_EQ(ours.result, ours.counters[0]);
}

TEST(TailCall, SaysWhatItMayDo) {
  program::Program program;
  program.insns = Sequence() << mov_reg(6, 1) << jump_slot(0) << mov(0, 0) << exit_insn();
  MapBinding array;
  array.spec = {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, kSlots, 0, 1};
  array.address = 0x1000;
  CompileOptions options;
  const auto code = compile(program, {&array, 1}, options);
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_TRUE(code->may_tail_call);
  EXPECT_EQ(code->context_slots_read, ~0u);
  EXPECT_EQ(code->stack_bytes, wire::kProgramStackMax);
  EXPECT_EQ(code->tail_entry_offset, kNoTailEntry);
  verifier::Constraints constraints;
  options.constraints = &constraints;
  EXPECT_FALSE(compile(program, {&array, 1}, options).ok());
  program.insns = {mov(0, 0), exit_insn()};
  options = {};
  options.tail_entry = true;
  const auto plain = compile(program, {}, options);
  ASSERT_TRUE(plain.ok());
  EXPECT_FALSE(plain->may_tail_call);
  EXPECT_NE(plain->tail_entry_offset, kNoTailEntry);
}

// ---- bpf_loop ----

// main: counts[0] = loop(rounds, function, &sum, flags), result sum; function(i, sum): *sum += i + 1; return i == stop.
Scenario loop_of(int32_t rounds, int32_t stop, int32_t flags = 0) {
  Scenario s{{kCounters, kCounters}, {}, false, {}};
  Sequence main;
  main << store_imm(BPF_DW, 10, -16, 0) << mov(1, rounds) << load_function(2, 0) << mov_reg(3, 10)
       << add(3, -16) << mov(4, flags) << call(kLoop) << mov_reg(7, 0) << store_imm(BPF_W, 10, -4, 0)
       << load_map(1, 1) << mov_reg(2, 10) << add(2, -4) << call(BPF_FUNC_map_lookup_elem) << jump_eq(0, 0, 1)
       << store(BPF_DW, 0, 0, 7) << load(BPF_DW, 0, 10, -16) << exit_insn();
  Insns insns = main;
  for (size_t i = 0; i < insns.size(); i++) {
    if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW) && insns[i].src_reg == BPF_PSEUDO_FUNC)
      insns[i].imm = static_cast<int32_t>(insns.size() - i - 1);
  }
  const Insns function = Sequence() << load(BPF_DW, 3, 2, 0) << raw(BPF_ALU64 | BPF_ADD | BPF_X, 3, 1)
                                    << add(3, 1) << store(BPF_DW, 2, 0, 3) << mov(0, 0)
                                    << raw(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 1, stop) << mov(0, 1)
                                    << exit_insn();
  insns.insert(insns.end(), function.begin(), function.end());
  s.programs.push_back(insns);
  return s;
}

TEST(Loop, CallsTheFunctionUntilItSaysStop) {
  same_here_and_in_kernel(loop_of(10, -1), 55);
  same_here_and_in_kernel(loop_of(10, 3), 10);
  same_here_and_in_kernel(loop_of(0, 0), 0);
  same_here_and_in_kernel(loop_of(1, 0), 1);
}

TEST(Loop, RefusesWhatLinuxRefuses) {
  same_here_and_in_kernel(loop_of((1 << 23) + 1, 0));
  same_here_and_in_kernel(loop_of(-1, 0));
  EXPECT_EQ(here(loop_of((1 << 23) + 1, 0)).counters[0], static_cast<uint32_t>(-E2BIG));
  EXPECT_EQ(here(loop_of(3, 0, 1)).counters[0], static_cast<uint64_t>(-EINVAL));
  same_here_and_in_kernel(loop_of(1 << 23, -1));
}

// ---- bpf_for_each_map_elem ----

// main: counters[0] = for_each(map 0, function, &sum); result sum. function: *sum += key * 1000 + value, stops as `stop` says.
Scenario walk_of(uint32_t type, uint32_t entries, std::vector<uint32_t> keys, bool stop,
                 bool remove = false) {
  Scenario s{{{type, 4, 8, entries}, kCounters}, {}, false, std::move(keys)};
  Sequence main;
  main << store_imm(BPF_DW, 10, -16, 0) << load_map(1, 0) << load_function(2, 0) << mov_reg(3, 10)
       << add(3, -16) << mov(4, 0) << call(kForEach) << mov_reg(7, 0) << store_imm(BPF_W, 10, -4, 0)
       << load_map(1, 1) << mov_reg(2, 10) << add(2, -4) << call(BPF_FUNC_map_lookup_elem) << jump_eq(0, 0, 1)
       << store(BPF_DW, 0, 0, 7) << load(BPF_DW, 0, 10, -16) << exit_insn();
  Insns insns = main;
  for (size_t i = 0; i < insns.size(); i++) {
    if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW) && insns[i].src_reg == BPF_PSEUDO_FUNC)
      insns[i].imm = static_cast<int32_t>(insns.size() - i - 1);
  }
  Sequence function;
  function << load(BPF_W, 5, 2, 0) << load(BPF_DW, 0, 3, 0) << raw(BPF_ALU64 | BPF_MUL | BPF_K, 5, 0, 0, 1000)
           << raw(BPF_ALU64 | BPF_ADD | BPF_X, 5, 0) << load(BPF_DW, 0, 4, 0)
           << raw(BPF_ALU64 | BPF_ADD | BPF_X, 5, 0) << store(BPF_DW, 4, 0, 5);
  if (remove) function << call(BPF_FUNC_map_delete_elem);  // the map and the key are where they came
  function << mov(0, stop ? 1 : 0) << exit_insn();
  const Insns body = function;
  insns.insert(insns.end(), body.begin(), body.end());
  s.programs.push_back(insns);
  return s;
}

TEST(ForEach, VisitsEveryElementOnce) {
  for (const uint32_t type :
       {BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH}) {
    SCOPED_TRACE(type);
    const bool array = type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY;
    same_here_and_in_kernel(walk_of(type, 16, {}, false));
    const uint32_t sum = (array ? 120000u : 13000u) + 11 + 51 + 71;
    same_here_and_in_kernel(walk_of(type, 16, {1, 5, 7}, false), sum);
    same_here_and_in_kernel(
        walk_of(type, 16, array ? std::vector<uint32_t>{0, 9} : std::vector<uint32_t>{9}, true));
  }
}

TEST(ForEach, ElementsMayBeDeletedOnTheWay) {
  same_here_and_in_kernel(walk_of(BPF_MAP_TYPE_HASH, 16, {3, 4, 8, 15}, false, true),
                          30000 + 31 + 41 + 81 + 151);
}

TEST(ForEach, FunctionsBecomePartOfTheirCaller) {
  Target target;
  const Scenario s = walk_of(BPF_MAP_TYPE_ARRAY, 4, {}, false);
  target.add_map(BPF_MAP_TYPE_ARRAY, 4, 8, 4);
  target.add_map(BPF_MAP_TYPE_ARRAY, 4, 8, 4);
  const auto code = target.compile(s.programs[0]);
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(code->disassembly().find("call"), std::string::npos) << code->disassembly();
}

// ---- bpf_user_ringbuf_drain ----

constexpr uint32_t kRingSize = 4096, kBusy = 1u << 31, kDiscarded = 1u << 30;
constexpr int kStopAt = 99;

// What a producer wrote.
class Produced {
 public:
  explicit Produced(uint32_t size = kRingSize) : size_(size), bytes_(kPage) {}
  // A sample of `length` bytes, the first 8 of them `value`, `flags` in its header.
  Produced& add(uint32_t length, uint64_t value, uint32_t flags = 0) {
    put(position_, length | flags);
    if (length >= 8) put(position_ + 8, value);
    position_ += (uint64_t{length} + 8 + 7) / 8 * 8;
    return *this;
  }
  // A header, and what the producer position says of its length.
  Produced& lie(uint32_t header, uint64_t claims) {
    put(position_, header);
    position_ += claims;
    return *this;
  }
  // All from the producer page on.
  std::vector<uint8_t> done() {
    memcpy(bytes_.data(), &position_, sizeof(position_));
    return bytes_;
  }
  uint32_t size() const { return size_; }

 private:
  template <typename T>
  void put(uint64_t position, T what) {
    const size_t at = kPage + position % size_;
    if (bytes_.size() < at + sizeof(what)) bytes_.resize(at + sizeof(what));
    memcpy(&bytes_[at], &what, sizeof(what));
  }
  uint32_t size_;
  std::vector<uint8_t> bytes_;
  uint64_t position_ = 0;  // of the next sample
};

// main: counters[0] = drain(map 0, function, &sum, flags); result sum. function: sum = sum * 31 + first 8 bytes (or the
// error of reading them) and, where there are 16 bytes, the first of a slice; writes to the sample; stops at kStopAt.
// `nested`: drains again.
Scenario drain_of(Produced produced, int32_t flags = 0, bool nested = false) {
  Scenario s{
      {{BPF_MAP_TYPE_USER_RINGBUF, 0, 0, produced.size()}, kCounters}, {}, false, {}, {produced.done()}};
  Sequence main;
  main << store_imm(BPF_DW, 10, -16, 0) << load_map(1, 0) << load_function(2, 0) << mov_reg(3, 10)
       << add(3, -16) << mov(4, flags) << call(BPF_FUNC_user_ringbuf_drain) << mov_reg(7, 0)
       << store_imm(BPF_W, 10, -4, 0) << load_map(1, 1) << mov_reg(2, 10) << add(2, -4)
       << call(BPF_FUNC_map_lookup_elem) << jump_eq(0, 0, 1) << store(BPF_DW, 0, 0, 7)
       << load(BPF_DW, 0, 10, -16) << exit_insn();
  Sequence function;
  function << mov_reg(6, 1) << mov_reg(7, 2) << store_imm(BPF_DW, 10, -8, 0) << mov_reg(1, 10) << add(1, -8)
           << mov(2, 8) << mov_reg(3, 6) << mov(4, 0) << mov(5, 0) << call(BPF_FUNC_dynptr_read)
           << load(BPF_DW, 1, 7, 0) << raw(BPF_ALU64 | BPF_MUL | BPF_K, 1, 0, 0, 31)
           << raw(BPF_ALU64 | BPF_ADD | BPF_X, 1, 0) << load(BPF_DW, 2, 10, -8)
           << raw(BPF_ALU64 | BPF_ADD | BPF_X, 1, 2) << store(BPF_DW, 7, 0, 1);
  // Writes, and sees what it wrote through a slice.
  function << store_imm(BPF_DW, 10, -16, 77) << mov_reg(1, 6) << mov(2, 8) << mov_reg(3, 10) << add(3, -16)
           << mov(4, 8) << mov(5, 0) << call(BPF_FUNC_dynptr_write) << mov_reg(1, 6) << mov(2, 0)
           << mov(3, 16) << call(BPF_FUNC_dynptr_data) << jump_eq(0, 0, 4) << load(BPF_DW, 2, 0, 8)
           << load(BPF_DW, 1, 7, 0) << raw(BPF_ALU64 | BPF_ADD | BPF_X, 1, 2) << store(BPF_DW, 7, 0, 1);
  if (nested) {
    Insns inner = Sequence() << load_map(1, 0) << load_function(2, 0) << mov(3, 0) << mov(4, 0)
                             << call(BPF_FUNC_user_ringbuf_drain) << load(BPF_DW, 1, 7, 0)
                             << raw(BPF_ALU64 | BPF_ADD | BPF_X, 1, 0) << store(BPF_DW, 7, 0, 1);
    function << inner;
  }
  function << load(BPF_DW, 1, 10, -8) << mov(0, 0) << raw(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 1, kStopAt)
           << mov(0, 1) << exit_insn();
  const Insns innermost = Sequence() << mov(0, 0) << exit_insn();
  Insns insns = main;
  const Insns body = function;
  const size_t function_at = insns.size(), inner_at = function_at + body.size();
  insns.insert(insns.end(), body.begin(), body.end());
  if (nested) insns.insert(insns.end(), innermost.begin(), innermost.end());
  for (size_t i = 0; i < insns.size(); i++)
    if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW) && insns[i].src_reg == BPF_PSEUDO_FUNC)
      insns[i].imm = static_cast<int32_t>((i < function_at ? function_at : inner_at) - i - 1);
  s.programs.push_back(insns);
  return s;
}

TEST(Drain, HandsOverWhatWasProduced) {
  same_here_and_in_kernel(drain_of(Produced()), 0);
  same_here_and_in_kernel(drain_of(Produced().add(8, 5)), 5);
  same_here_and_in_kernel(drain_of(Produced().add(8, 5).add(24, 6).add(13, 7)));
  same_here_and_in_kernel(drain_of(Produced().add(0, 0).add(3, 0).add(8, 4)));
}

TEST(Drain, SkipsTheDiscardedAndStopsAtTheBusy) {
  same_here_and_in_kernel(drain_of(Produced().add(8, 5).add(8, 6, kDiscarded).add(8, 7)), 5 * 31 + 7);
  same_here_and_in_kernel(drain_of(Produced().add(8, 5).add(8, 6, kBusy).add(8, 7)), 5);
  same_here_and_in_kernel(drain_of(Produced().add(8, 5).add(8, 6, kBusy | kDiscarded).add(8, 7)));
  same_here_and_in_kernel(drain_of(Produced().add(8, 6, kDiscarded).add(8, 6, kDiscarded)), 0);
}

TEST(Drain, EndsWhenTheFunctionSaysSo) {
  same_here_and_in_kernel(drain_of(Produced().add(8, 5).add(8, kStopAt).add(8, 7)), 5 * 31 + kStopAt);
}

TEST(Drain, TakesTwoFlags) {
  for (const int32_t flags : {1, 2, 3, 4, 7, -1})
    same_here_and_in_kernel(drain_of(Produced().add(8, 5), flags));
}

TEST(Drain, OneAtATime) { same_here_and_in_kernel(drain_of(Produced().add(8, 5).add(8, 6), 0, true)); }

TEST(Drain, BelievesNoProducer) {
  for (const uint64_t claims : {4ull, 8ull, 9ull, 12ull, 16ull, 4096ull, 4104ull, 8192ull, 1ull << 31,
                                1ull << 40, ~0ull, ~0ull - 7, 1ull << 63})
    for (const uint32_t header :
         {0u, 1u, 8u, 9u, 4080u, 4088u, 4089u, 8192u, (1u << 24) - 1, 1u << 24, 0x3fffffffu, kDiscarded | 8u,
          kDiscarded | 5000u, kDiscarded | 0x3fffffffu, kBusy | 8u})
      same_here_and_in_kernel(drain_of(Produced().add(8, 5).lie(header, claims)));
}

// The second run's samples go round the end: the last one lies across it.
TEST(Drain, SamplesGoOnBehindTheEndOfTheData) {
  for (const uint32_t length : {40u, 88u, 96u, 104u, 200u}) {
    Produced produced;
    for (int i = 0; i < 31; i++) produced.add(120, static_cast<uint64_t>(i));
    Scenario s = drain_of(produced);
    // Positions 3968 to 4072, then a sample that begins 24 bytes before the end.
    produced.add(96, 5);
    produced.add(length, 6);
    if (length == 40) produced.add(8, 7);
    s.produced.push_back(produced.done());
    same_here_and_in_kernel(s);
  }
}

TEST(Drain, AtMost128KSamples) {
  Produced many(1u << 21);
  for (int i = 0; i < 132000; i++) many.add(8, 1, i % 3 == 0 ? kDiscarded : 0);
  same_here_and_in_kernel(drain_of(many));
}

TEST(Drain, RandomBytesMeanTheSame) {
  const char* given = getenv("BPFTIME_TEST_SEED");
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 0) : std::random_device{}();
  printf("seed: BPFTIME_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; round++) {
    Produced produced;
    for (uint64_t at = 0; at < 3000;) {
      const auto length = static_cast<uint32_t>(random() % 200);
      const uint32_t flags = random() % 8 == 0 ? kDiscarded : random() % 30 == 0 ? kBusy : 0;
      produced.add(length, random() % 120, flags);
      at += length + 16;
    }
    if (random() % 3 == 0)
      produced.lie(static_cast<uint32_t>(random()) >> random() % 32, random() >> random() % 64);
    same_here_and_in_kernel(drain_of(produced, static_cast<int32_t>(random() % 4)));
  }
}

}  // namespace
}  // namespace bpftime::compiler

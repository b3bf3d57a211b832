// Calls of helpers: each case is judged by us and, where bpf(2) is usable, by the running kernel, and errno and words must agree.
#include "verifier/calls.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier {
namespace {

using testing::Builder;
using testing::KernelOracle;

enum Map : uint32_t { kHash, kArray, kRing, kConstants, kPrograms, kLocked, kMaps, kEvents, kValue, kQueue, kPerCpu, kStacks };

MapConstraint make_map(const char* name, wire::MapSpec spec) {
  MapConstraint map;
  map.name = name;
  map.spec = spec;
  return map;
}

std::vector<uint8_t> constants() {
  std::vector<uint8_t> bytes(64, 'x');  // from 32 on: no NUL any more
  std::memcpy(bytes.data(), "n=%d %s", 8);
  std::memcpy(bytes.data() + 8, "%d%", 4);
  std::memcpy(bytes.data() + 16, "\x01", 2);
  return bytes;
}

std::vector<MapConstraint> all_maps() {
  std::vector<MapConstraint> maps{
      make_map("hash", {BPF_MAP_TYPE_HASH, 8, 8, 4, 0, 0}),
      make_map("array", {BPF_MAP_TYPE_ARRAY, 4, 48, 4, 0, 0}),
      make_map("ring", {BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, 0}),
      testing::frozen_array(constants()),
      make_map("programs", {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0, 0}),
      *testing::standard_map("map_spin_lock"),
      *testing::standard_map("map_in_map"),
      make_map("events", {BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0, 0}),
      make_map("value", {BPF_MAP_TYPE_ARRAY, 4, 64, 1, 0, 0}),
      make_map("queue", {BPF_MAP_TYPE_QUEUE, 0, 8, 4, 0, 0}),
      make_map("percpu", {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4, 0, 0}),
      make_map("stacks", {BPF_MAP_TYPE_STACK_TRACE, 4, 128, 4, 0, 0}),
  };
  for (MapConstraint& map : maps) map.spec.cpu_count = 0;
  return maps;
}

constexpr uint8_t kR0 = 0, kR1 = 1, kR2 = 2, kR3 = 3, kR4 = 4, kR5 = 5, kR6 = 6, kR7 = 7, kR8 = 8, kFp = 10;

// ---- pieces of programs ----

void stack_pointer(Builder& b, uint8_t reg, int32_t offset) {
  b.mov(reg, kFp);
  b.alu_imm(BPF_ADD, reg, offset);
}

void finish(Builder& b) {
  b.mov_imm(kR0, 0);
  b.exit();
}

void look_up(Builder& b, Map map, int32_t key_offset) {
  b.load_map(kR1, map);
  stack_pointer(b, kR2, key_offset);
  b.call(BPF_FUNC_map_lookup_elem);
}

// Ends the program unless r0 is set.
void need_r0(Builder& b) {
  const auto go_on = b.label();
  b.jump_imm(BPF_JNE, kR0, 0, go_on);
  b.exit();
  b.place(go_on);
}

void reserve(Builder& b, int32_t size = 8) {
  b.load_map(kR1, kRing);
  b.mov_imm(kR2, size);
  b.mov_imm(kR3, 0);
  b.call(BPF_FUNC_ringbuf_reserve);
}

void submit(Builder& b, uint8_t reg) {
  b.mov(kR1, reg);
  b.mov_imm(kR2, 0);
  b.call(BPF_FUNC_ringbuf_submit);
}

void read_user(Builder& b, int32_t offset, int32_t size, int32_t helper = BPF_FUNC_probe_read_user) {
  stack_pointer(b, kR1, offset);
  b.mov_imm(kR2, size);
  b.mov_imm(kR3, 0);
  b.call(helper);
}

void make_dynptr(Builder& b, int32_t offset, int32_t size = 16) {
  b.load_map_value(kR1, kValue, 0);
  b.mov_imm(kR2, size);
  b.mov_imm(kR3, 0);
  stack_pointer(b, kR4, offset);
  b.call(BPF_FUNC_dynptr_from_mem);
}

void reserve_dynptr(Builder& b, int32_t offset) {
  b.load_map(kR1, kRing);
  b.mov_imm(kR2, 8);
  b.mov_imm(kR3, 0);
  stack_pointer(b, kR4, offset);
  b.call(BPF_FUNC_ringbuf_reserve_dynptr);
}

void submit_dynptr(Builder& b, int32_t offset) {
  stack_pointer(b, kR1, offset);
  b.mov_imm(kR2, 0);
  b.call(BPF_FUNC_ringbuf_submit_dynptr);
}

void dynptr_data(Builder& b, int32_t offset, int32_t length = 8) {
  stack_pointer(b, kR1, offset);
  b.mov_imm(kR2, 0);
  b.mov_imm(kR3, length);
  b.call(BPF_FUNC_dynptr_data);
}

void format(Builder& b, int32_t format_offset, int32_t data_bytes) {
  stack_pointer(b, kR1, -64);
  b.mov_imm(kR2, 16);
  b.load_map_value(kR3, kConstants, format_offset);
  stack_pointer(b, kR4, -32);
  b.mov_imm(kR5, data_bytes);
  b.call(BPF_FUNC_snprintf);
  finish(b);
}

using Body = std::function<void(Builder&)>;

struct Case {
  const char* name;
  uint32_t type;
  int error;
  const char* words;  // last line of the log; null: accepted
  Body body;
};

constexpr uint32_t kUprobe = BPF_PROG_TYPE_KPROBE, kSocket = BPF_PROG_TYPE_SOCKET_FILTER, kXdp = BPF_PROG_TYPE_XDP,
                   kClassifier = BPF_PROG_TYPE_SCHED_CLS;
constexpr const char* kMemory = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_";

Request make_request(uint32_t type, const Builder& builder, const char* license = "GPL") {
  Request request;
  request.program.type = type;
  request.program.insns = builder.finish();
  request.maps = all_maps();
  request.license = license;
  return request;
}

// func_info for functions that begin at these instructions: int f(void *).
void describe_functions(Request& request, const std::vector<size_t>& starts) {
  testing::BtfBuilder btf;
  const uint32_t integer = btf.add_int("int", 4, true);
  const uint32_t prototype = btf.add_prototype(integer, {{"a", btf.add_pointer(0)}});
  std::vector<uint32_t> records;
  for (size_t i = 0; i < starts.size(); ++i) {
    records.push_back(static_cast<uint32_t>(starts[i]));
    records.push_back(btf.add_function("f" + std::to_string(i), prototype, i == 0 ? 1 : 0));
  }
  request.btf = btf.blob();
  request.func_info_record_size = 8;
  request.func_info.resize(records.size() * sizeof(uint32_t));
  std::memcpy(request.func_info.data(), records.data(), request.func_info.size());
}

class Calls : public ::testing::Test {
 protected:
  void judge(const Request& request, const std::string& name, int error, const char* words) {
    SCOPED_TRACE(name);
    const Verdict verdict = verify(request);
    EXPECT_EQ(verdict.error, error) << testing::summary(verdict);
    if (words != nullptr) {
      ASSERT_FALSE(verdict.diagnoses.empty());
      EXPECT_EQ(last_line(verdict), words);
    }
    if (!KernelOracle::unusable().empty()) return;
    ++asked_;
    const auto kernel = kernel_.ask(request, 1);
    EXPECT_EQ(kernel.error, error) << "the kernel: " << kernel.last_line;
    if (words != nullptr) {
      // Some of the kernel's lines lack their end.
      EXPECT_EQ(kernel.last_line.substr(0, kernel.last_line.find("processed ")), words);
    }
  }

  void judge(const Case& test) {
    Builder builder;
    test.body(builder);
    judge(make_request(test.type, builder), test.name, test.error, test.words);
  }

  void TearDown() override {
    if (!KernelOracle::unusable().empty()) std::printf("the kernel was not asked: %s\n", KernelOracle::unusable().c_str());
  }

  static std::string last_line(const Verdict& verdict) {
    const std::string& words = verdict.diagnoses.front().linux_message;
    return words.substr(words.rfind('\n') + 1);
  }

  KernelOracle kernel_;
  int asked_ = 0;
};

// ---- which helpers ----

TEST_F(Calls, OnlyHelpersOfTheProgramType) {
  const Case cases[] = {
      {"of this type", kUprobe, 0, nullptr, [](Builder& b) { read_user(b, -8, 8); finish(b); }},
      {"unknown", kSocket, EINVAL, "invalid func unknown#9999", [](Builder& b) { b.call(9999); finish(b); }},
      {"negative", kSocket, EINVAL, "invalid func unknown#-1", [](Builder& b) { b.call(-1); finish(b); }},
      {"zero", kSocket, EINVAL, "program of this type cannot use helper bpf_unspec#0", [](Builder& b) { b.call(0); finish(b); }},
      {"of another type", kSocket, EINVAL, "program of this type cannot use helper bpf_probe_read#4",
       [](Builder& b) { read_user(b, -8, 8, BPF_FUNC_probe_read); finish(b); }},
      {"unknown, not reached", kSocket, 0, nullptr,
       [](Builder& b) {
         const auto end = b.label();
         b.mov_imm(kR6, 0);
         b.jump_imm(BPF_JEQ, kR6, 0, end);
         b.call(195896080);
         b.place(end);
         finish(b);
       }},
      {"sleeps", kUprobe, EINVAL, "helper call might sleep in a non-sleepable prog",
       [](Builder& b) { read_user(b, -8, 8, BPF_FUNC_copy_from_user); finish(b); }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, GplHelpersNeedALicence) {
  Builder builder;
  read_user(builder, -8, 8);
  finish(builder);
  judge(make_request(kUprobe, builder, "GPL"), "GPL", 0, nullptr);
  judge(make_request(kUprobe, builder, "Dual MIT/GPL"), "dual", 0, nullptr);
  judge(make_request(kUprobe, builder, "MIT"), "MIT", EINVAL,
        "cannot call GPL-restricted function from non-GPL compatible program");
  judge(make_request(kUprobe, builder, ""), "none", EINVAL,
        "cannot call GPL-restricted function from non-GPL compatible program");
}

// ---- arguments ----

TEST_F(Calls, RegistersAfterACall) {
  const Case cases[] = {
      {"r1 is gone", kSocket, EACCES, "R1 !read_ok",
       [](Builder& b) { b.mov_imm(kR1, 0); b.call(BPF_FUNC_ktime_get_ns); b.mov(kR0, kR1); b.exit(); }},
      {"r6 stays", kSocket, 0, nullptr,
       [](Builder& b) { b.mov_imm(kR6, 0); b.call(BPF_FUNC_ktime_get_ns); b.mov(kR0, kR6); b.exit(); }},
      {"void leaves r0 empty", kSocket, EACCES, "R0 !read_ok",
       [](Builder& b) { reserve(b); need_r0(b); submit(b, kR0); b.exit(); }},
      {"tail call leaves r0 empty", kSocket, EACCES, "R0 !read_ok",
       [](Builder& b) { b.load_map(kR2, kPrograms); b.mov_imm(kR3, 0); b.call(BPF_FUNC_tail_call); b.exit(); }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, MapKeysAndValues) {
  static const std::string expected_null = std::string("R2 type=map_value_or_null expected=") + kMemory;
  static const std::string expected_number = std::string("R2 type=scalar expected=") + kMemory;
  const Case cases[] = {
      {"look-up needs a test", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) { b.store_imm(BPF_DW, kFp, -8, 1); look_up(b, kHash, -8); b.load(BPF_DW, kR0, kR0, 0); b.exit(); }},
      {"constant key of an array", kSocket, 0, nullptr,
       [](Builder& b) { b.store_imm(BPF_W, kFp, -8, 3); look_up(b, kArray, -8); b.load(BPF_DW, kR0, kR0, 40); b.exit(); }},
      {"constant key beyond the array", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) { b.store_imm(BPF_W, kFp, -8, 4); look_up(b, kArray, -8); b.load(BPF_DW, kR0, kR0, 40); b.exit(); }},
      {"constant key of a hash", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) { b.store_imm(BPF_DW, kFp, -8, 0); look_up(b, kHash, -8); b.load(BPF_DW, kR0, kR0, 0); b.exit(); }},
      {"wider spill as key", kSocket, EACCES, "R0 invalid mem access 'map_value_or_null'",
       [](Builder& b) { b.store_imm(BPF_DW, kFp, -8, 0); look_up(b, kArray, -8); b.load(BPF_DW, kR0, kR0, 40); b.exit(); }},
      {"zero bytes as key", kSocket, 0, nullptr,
       [](Builder& b) { b.store_imm(BPF_W, kFp, -4, 0); look_up(b, kArray, -4); b.load(BPF_DW, kR0, kR0, 40); b.exit(); }},
      {"constant key of a per-CPU array", kSocket, 0, nullptr,
       [](Builder& b) { b.store_imm(BPF_W, kFp, -8, 1); look_up(b, kPerCpu, -8); b.load(BPF_DW, kR0, kR0, 0); b.exit(); }},
      {"no key", kSocket, EACCES, expected_number.c_str(),
       [](Builder& b) { b.load_map(kR1, kHash); b.mov_imm(kR2, 0); b.call(BPF_FUNC_map_lookup_elem); finish(b); }},
      {"key may be null", kSocket, EACCES, expected_null.c_str(),
       [](Builder& b) {
         look_up(b, kHash, -8);
         b.mov(kR2, kR0);
         b.load_map(kR1, kHash);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"key in a value", kSocket, 0, nullptr,
       [](Builder& b) {
         b.load_map(kR1, kHash);
         b.load_map_value(kR2, kValue, 56);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"key ends beyond a value", kSocket, EACCES, "R2 min value is outside of the allowed memory range",
       [](Builder& b) {
         b.load_map(kR1, kHash);
         b.load_map_value(kR2, kValue, 0);
         b.alu_imm(BPF_ADD, kR2, 57);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"not a map", kSocket, EACCES, "R1 type=ctx expected=map_ptr",
       [](Builder& b) { stack_pointer(b, kR2, -8); b.call(BPF_FUNC_map_lookup_elem); finish(b); }},
      {"delete in a read-only map", kSocket, EACCES, "write into map forbidden",
       [](Builder& b) { b.load_map(kR1, kConstants); stack_pointer(b, kR2, -8); b.call(BPF_FUNC_map_delete_elem); finish(b); }},
      {"wrong type of map", kUprobe, EINVAL, "cannot pass map_type 1 into func bpf_perf_event_output#25",
       [](Builder& b) {
         b.load_map(kR2, kHash);
         b.mov_imm(kR3, 0);
         stack_pointer(b, kR4, -8);
         b.mov_imm(kR5, 8);
         b.call(BPF_FUNC_perf_event_output);
         finish(b);
       }},
      {"ring buffer has no keys", kSocket, EACCES, "invalid zero-sized read",
       [](Builder& b) { look_up(b, kRing, -8); finish(b); }},
      {"tail call through an array", kSocket, EINVAL, "expected prog array map for tail call",
       [](Builder& b) { b.load_map(kR2, kArray); b.mov_imm(kR3, 0); b.call(BPF_FUNC_tail_call); finish(b); }},
      {"tail call", kSocket, 0, nullptr,
       [](Builder& b) { b.load_map(kR2, kPrograms); b.mov_imm(kR3, 0); b.call(BPF_FUNC_tail_call); finish(b); }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, Sizes) {
  const auto with_size = [](int32_t low_mask, bool is_signed = false) {
    return [=](Builder& b) {
      b.call(BPF_FUNC_get_prandom_u32);
      if (is_signed) {
        b.alu_imm(BPF_SUB, kR0, 1);
      } else {
        b.alu_imm(BPF_AND, kR0, low_mask);
      }
      b.mov(kR2, kR0);
      stack_pointer(b, kR1, -16);
      b.mov_imm(kR3, 0);
      b.call(BPF_FUNC_probe_read_user);
      finish(b);
    };
  };
  static const std::string null_buffer = std::string("R1 type=scalar expected=") + kMemory;
  const Case cases[] = {
      {"constant", kUprobe, 0, nullptr, [](Builder& b) { read_user(b, -16, 16); finish(b); }},
      {"one too many", kUprobe, EINVAL, "invalid write to stack R1 off=-16 size=17",
       [](Builder& b) { read_user(b, -16, 17); finish(b); }},
      {"range", kUprobe, 0, nullptr, with_size(15)},
      {"range too large", kUprobe, EINVAL, "invalid write to stack R1 off=-16 size=31", with_size(31)},
      {"may be negative", kUprobe, EACCES, "R2 min value is negative, either use unsigned or 'var &= const'", with_size(0, true)},
      {"no bound", kUprobe, EACCES, "R2 unbounded memory access, use 'var &= const' or 'if (var < const)'", with_size(0x3fffffff)},
      {"zero where it may not be", kUprobe, EACCES, "R2 invalid zero-sized read: u64=[0,0]",
       [](Builder& b) { stack_pointer(b, kR1, -16); b.mov_imm(kR2, 0); b.call(BPF_FUNC_get_current_comm); finish(b); }},
      {"may be zero where it may not", kUprobe, EACCES, "R2 invalid zero-sized read: u64=[0,15]",
       [](Builder& b) {
         b.call(BPF_FUNC_get_prandom_u32);
         b.alu_imm(BPF_AND, kR0, 15);
         b.mov(kR2, kR0);
         stack_pointer(b, kR1, -16);
         b.call(BPF_FUNC_get_current_comm);
         finish(b);
       }},
      {"zero where it may", kUprobe, 0, nullptr, [](Builder& b) { read_user(b, -16, 0); finish(b); }},
      {"null buffer", kUprobe, EACCES, null_buffer.c_str(),
       [](Builder& b) { b.mov_imm(kR1, 0); b.mov_imm(kR2, 0); b.mov_imm(kR3, 0); b.call(BPF_FUNC_probe_read_user); finish(b); }},
      {"pointer as size", kUprobe, EACCES, "R2 type=fp expected=scalar",
       [](Builder& b) { stack_pointer(b, kR1, -16); b.mov(kR2, kFp); b.mov_imm(kR3, 0); b.call(BPF_FUNC_probe_read_user); finish(b); }},
      {"into read-only memory", kUprobe, EACCES, "write into map forbidden, value_size=64 off=0 size=8",
       [](Builder& b) {
         b.load_map_value(kR1, kConstants, 0);
         b.mov_imm(kR2, 8);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_probe_read_user);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, MovedContext) {
  const auto output = [](const Body& move) {
    return [=](Builder& b) {
      b.mov(kR6, kR1);
      b.call(BPF_FUNC_get_prandom_u32);
      b.mov(kR1, kR6);
      move(b);
      b.load_map(kR2, kEvents);
      b.mov_imm(kR3, 0);
      stack_pointer(b, kR4, -8);
      b.mov_imm(kR5, 8);
      b.call(BPF_FUNC_perf_event_output);
      finish(b);
    };
  };
  const Case cases[] = {
      {"unmoved", kUprobe, 0, nullptr, output([](Builder&) {})},
      {"moved", kUprobe, EACCES, "dereference of modified ctx ptr R1 off=8 disallowed",
       output([](Builder& b) { b.alu_imm(BPF_ADD, kR1, 8); })},
      {"moved back", kUprobe, EACCES, "negative offset ctx ptr R1 off=-8 disallowed",
       output([](Builder& b) { b.alu_imm(BPF_ADD, kR1, -8); })},
      {"moved by an unknown", kUprobe, EACCES, "variable ctx access var_off=(0x0; 0x4) disallowed",
       output([](Builder& b) { b.alu_imm(BPF_AND, kR0, 4); b.alu(BPF_ADD, kR1, kR0); })},
      {"null", kUprobe, EACCES, "R1 type=scalar expected=ctx", output([](Builder& b) { b.mov_imm(kR1, 0); })},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, FormatStrings) {
  const Case cases[] = {
      {"two values", kUprobe, 0, nullptr, [](Builder& b) { format(b, 0, 16); }},
      {"one value too few", kUprobe, EINVAL, "Invalid format string", [](Builder& b) { format(b, 0, 8); }},
      {"percent at the end", kUprobe, EINVAL, "Invalid format string", [](Builder& b) { format(b, 8, 16); }},
      {"unprintable", kUprobe, EINVAL, "Invalid format string", [](Builder& b) { format(b, 16, 16); }},
      {"no end", kUprobe, EINVAL, "string is not zero-terminated", [](Builder& b) { format(b, 32, 16); }},
      {"not constant", kUprobe, EACCES, "R3 does not point to a readonly map'",
       [](Builder& b) {
         stack_pointer(b, kR1, -64);
         b.mov_imm(kR2, 16);
         b.load_map_value(kR3, kValue, 0);
         stack_pointer(b, kR4, -32);
         b.mov_imm(kR5, 8);
         b.call(BPF_FUNC_snprintf);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST(Format, WhatLinuxTakes) {
  const struct {
    const char* format;
    uint32_t values;
    bool valid;
  } rows[] = {{"", 0, true},      {"%%", 0, true},     {"%d", 1, true},    {"%d", 0, false},  {"%08llx", 1, true}, {"%lu", 1, true},
              {"%p", 1, true},    {"%pK", 1, true},    {"%pB", 1, true},   {"%pi4", 1, true}, {"%pI6", 1, true},   {"%pi5", 1, false},
              {"%pks", 1, true},  {"%pus x", 1, true}, {"%pksx", 1, false}, {"%s", 1, true},  {"%sx", 1, false},   {"%s,", 1, true},
              {"%c", 1, true},    {"%f", 1, false},    {"%", 1, false},    {"%l", 1, false},  {"a\x80", 0, false}, {"\n\t", 0, true},
              {"%-5d", 1, true},  {"%q", 1, false},    {"%d%d", 1, false}};
  for (const auto& row : rows) EXPECT_EQ(format_valid(row.format, row.values), row.valid) << row.format;
}

// ---- results ----

TEST_F(Calls, Results) {
  const auto bounded = [](int32_t helper, uint8_t jump, int32_t bound) {
    return [=](Builder& b) {
      const auto bad = b.label();
      read_user(b, -16, 16, helper);
      b.jump_imm(jump, kR0, bound, bad);
      finish(b);
      b.place(bad);
      b.load(BPF_DW, kR0, kR1, 0);  // r1 has no value: reached, it is refused
      b.exit();
    };
  };
  const Case cases[] = {
      {"string length has a bound", kUprobe, 0, nullptr, bounded(BPF_FUNC_probe_read_user_str, BPF_JSGT, 16)},
      {"below it is possible", kUprobe, EACCES, "R1 !read_ok", bounded(BPF_FUNC_probe_read_user_str, BPF_JSGT, 15)},
      {"errors have one too", kUprobe, 0, nullptr, bounded(BPF_FUNC_probe_read_kernel_str, BPF_JSLT, -4095)},
      {"errors are possible", kUprobe, EACCES, "R1 !read_ok", bounded(BPF_FUNC_probe_read_kernel_str, BPF_JSLT, -4094)},
      {"other results have none", kUprobe, EACCES, "R1 !read_ok", bounded(BPF_FUNC_probe_read_user, BPF_JSGT, 16)},
      {"number of the processor", kSocket, 0, nullptr,
       [](Builder& b) {
         const auto bad = b.label();
         b.call(BPF_FUNC_get_smp_processor_id);
         b.jump_imm(BPF_JGT, kR0, 8191, bad);
         finish(b);
         b.place(bad);
         b.load(BPF_DW, kR0, kR1, 0);
         b.exit();
       }},
      {"inner map", kSocket, 0, nullptr,
       [](Builder& b) {
         b.store_imm(BPF_W, kFp, -8, 0);
         look_up(b, kMaps, -8);
         need_r0(b);
         b.mov(kR1, kR0);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         need_r0(b);
         b.load(BPF_W, kR0, kR0, 0);
         b.exit();
       }},
      {"inner map, value too small", kSocket, EACCES, "R0 min value is outside of the allowed memory range",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 0);
         look_up(b, kMaps, -8);
         need_r0(b);
         b.mov(kR1, kR0);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         need_r0(b);
         b.load(BPF_DW, kR0, kR0, 0);
         b.exit();
       }},
      {"inner map, untested", kSocket, EACCES, "R1 type=map_value_or_null expected=map_ptr",
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -8, 0);
         look_up(b, kMaps, -8);
         b.mov(kR1, kR0);
         stack_pointer(b, kR2, -8);
         b.call(BPF_FUNC_map_lookup_elem);
         finish(b);
       }},
      {"queue", kSocket, 0, nullptr,
       [](Builder& b) { b.load_map(kR1, kQueue); stack_pointer(b, kR2, -8); b.call(BPF_FUNC_map_pop_elem); b.load(BPF_DW, kR0, kFp, -8); b.exit(); }},
      {"stack id", kUprobe, 0, nullptr,
       [](Builder& b) { b.load_map(kR2, kStacks); b.mov_imm(kR3, 0); b.call(BPF_FUNC_get_stackid); finish(b); }},
  };
  for (const Case& test : cases) judge(test);
}

// ---- ownership ----

TEST_F(Calls, References) {
  constexpr const char* kLeak = "BPF_EXIT instruction in main prog would lead to reference leak";
  const Case cases[] = {
      {"submitted", kSocket, 0, nullptr,
       [](Builder& b) { reserve(b); need_r0(b); b.store_imm(BPF_DW, kR0, 0, 1); submit(b, kR0); finish(b); }},
      {"untested leak", kSocket, EINVAL, kLeak, [](Builder& b) { reserve(b); finish(b); }},
      {"leak", kSocket, EINVAL, kLeak, [](Builder& b) { reserve(b); need_r0(b); finish(b); }},
      {"used afterwards", kSocket, EACCES, "R6 invalid mem access 'scalar'",
       [](Builder& b) { reserve(b); need_r0(b); b.mov(kR6, kR0); submit(b, kR0); b.load(BPF_DW, kR0, kR6, 0); b.exit(); }},
      {"spilled copy used afterwards", kSocket, EACCES, "R6 invalid mem access 'scalar'",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.store(BPF_DW, kFp, -8, kR0);
         submit(b, kR0);
         b.load(BPF_DW, kR6, kFp, -8);
         b.load(BPF_DW, kR0, kR6, 0);
         b.exit();
       }},
      {"twice", kSocket, EACCES, "R1 type=scalar expected=ringbuf_mem",
       [](Builder& b) { reserve(b); need_r0(b); b.mov(kR6, kR0); submit(b, kR0); submit(b, kR6); finish(b); }},
      {"untested", kSocket, EACCES, "R1 type=ringbuf_mem_or_null expected=ringbuf_mem",
       [](Builder& b) { reserve(b); submit(b, kR0); finish(b); }},
      {"into the record", kSocket, EINVAL, "R1 must have zero offset when passed to release func or trusted arg to kfunc",
       [](Builder& b) { reserve(b); need_r0(b); b.alu_imm(BPF_ADD, kR0, 4); submit(b, kR0); finish(b); }},
      {"into the record, unknown", kSocket, EACCES, "variable ringbuf_mem access var_off=(0x0; 0x4) disallowed",
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.load(BPF_B, kR2, kR0, 0);
         b.alu_imm(BPF_AND, kR2, 4);
         b.alu(BPF_ADD, kR0, kR2);
         submit(b, kR0);
         finish(b);
       }},
      {"not a record", kSocket, EACCES, "R1 type=fp expected=ringbuf_mem", [](Builder& b) { submit(b, kFp); finish(b); }},
      {"unknown size", kSocket, EACCES, "R2 is not a known constant'",
       [](Builder& b) { b.call(BPF_FUNC_get_prandom_u32); b.mov(kR2, kR0); b.load_map(kR1, kRing); b.mov_imm(kR3, 0); b.call(BPF_FUNC_ringbuf_reserve); finish(b); }},
      {"beyond the record", kSocket, EACCES, "R0 min value is outside of the allowed memory range",
       [](Builder& b) { reserve(b); need_r0(b); b.store_imm(BPF_DW, kR0, 8, 1); submit(b, kR0); finish(b); }},
      {"across a tail call", kSocket, EINVAL, "tail_call would lead to reference leak",
       [](Builder& b) {
         b.mov(kR7, kR1);
         reserve(b);
         need_r0(b);
         b.mov(kR6, kR0);
         b.mov(kR1, kR7);
         b.load_map(kR2, kPrograms);
         b.mov_imm(kR3, 0);
         b.call(BPF_FUNC_tail_call);
         submit(b, kR6);
         finish(b);
       }},
      {"two records, one released", kSocket, EINVAL, kLeak,
       [](Builder& b) {
         reserve(b);
         need_r0(b);
         b.mov(kR6, kR0);
         reserve(b);
         const auto second = b.label();
         b.jump_imm(BPF_JNE, kR0, 0, second);
         submit(b, kR6);
         finish(b);
         b.place(second);
         submit(b, kR0);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, Locks) {
  constexpr const char* kHeld = "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region";
  // r6: the value, r1: the lock in it.
  const auto locked = [](const Body& inside) {
    return [=](Builder& b) {
      b.store_imm(BPF_W, kFp, -8, 0);
      b.load_map(kR1, kLocked);
      stack_pointer(b, kR2, -8);
      b.call(BPF_FUNC_map_lookup_elem);
      need_r0(b);
      b.mov(kR6, kR0);
      b.mov(kR1, kR6);
      b.alu_imm(BPF_ADD, kR1, 4);
      b.call(BPF_FUNC_spin_lock);
      inside(b);
    };
  };
  const auto unlock = [](Builder& b) {
    b.mov(kR1, kR6);
    b.alu_imm(BPF_ADD, kR1, 4);
    b.call(BPF_FUNC_spin_unlock);
  };
  const Case cases[] = {
      {"lock, write, unlock", kClassifier, 0, nullptr,
       locked([=](Builder& b) { b.store_imm(BPF_W, kR6, 0, 1); unlock(b); finish(b); })},
      {"never unlocked", kClassifier, EINVAL, kHeld, locked([](Builder& b) { finish(b); })},
      {"call inside", kClassifier, EINVAL, "function calls are not allowed while holding a lock",
       locked([=](Builder& b) { b.call(BPF_FUNC_ktime_get_ns); unlock(b); finish(b); })},
      {"locked twice", kClassifier, EINVAL, "function calls are not allowed while holding a lock",
       locked([=](Builder& b) { b.mov(kR1, kR6); b.alu_imm(BPF_ADD, kR1, 4); b.call(BPF_FUNC_spin_lock); unlock(b); finish(b); })},
      {"unlocked twice", kClassifier, EINVAL, "bpf_spin_unlock without taking a lock",
       locked([=](Builder& b) { unlock(b); unlock(b); finish(b); })},
      {"not the lock", kClassifier, EINVAL, "off 0 doesn't point to 'struct bpf_spin_lock' that is at 4",
       locked([=](Builder& b) { b.mov(kR1, kR6); b.call(BPF_FUNC_spin_unlock); finish(b); })},
      {"the lock is written", kClassifier, EACCES, nullptr,
       locked([=](Builder& b) { b.store_imm(BPF_W, kR6, 4, 1); unlock(b); finish(b); })},
      {"another value's lock", kClassifier, EINVAL, "bpf_spin_unlock of different lock",
       [](Builder& b) {
         for (const uint8_t keep : {kR6, kR7}) {
           b.store_imm(BPF_W, kFp, -8, 0);
           look_up(b, kLocked, -8);
           need_r0(b);
           b.mov(keep, kR0);
         }
         b.mov(kR1, kR6);
         b.alu_imm(BPF_ADD, kR1, 4);
         b.call(BPF_FUNC_spin_lock);
         b.mov(kR1, kR7);
         b.alu_imm(BPF_ADD, kR1, 4);
         b.call(BPF_FUNC_spin_unlock);
         finish(b);
       }},
      {"map without a lock", kClassifier, EINVAL, nullptr,
       [](Builder& b) { b.load_map_value(kR1, kValue, 0); b.call(BPF_FUNC_spin_lock); finish(b); }},
      {"socket filter", kSocket, EINVAL, "socket filter progs cannot use bpf_spin_lock yet",
       [](Builder& b) { b.load_map(kR1, kLocked); finish(b); }},
      {"tracing", kUprobe, EINVAL, "tracing progs cannot use bpf_spin_lock yet",
       [](Builder& b) { b.load_map(kR1, kLocked); finish(b); }},
  };
  for (const Case& test : cases) judge(test);
}

// ---- dynptrs ----

TEST_F(Calls, Dynptrs) {
  constexpr const char* kNone = "Expected an initialized dynptr as arg #0";
  const Case cases[] = {
      {"made", kSocket, 0, nullptr, [](Builder& b) { make_dynptr(b, -16); finish(b); }},
      {"made again", kSocket, 0, nullptr, [](Builder& b) { make_dynptr(b, -16); make_dynptr(b, -16); finish(b); }},
      {"misaligned", kSocket, EINVAL, "Dynptr has to be an uninitialized dynptr", [](Builder& b) { make_dynptr(b, -20); finish(b); }},
      {"half outside", kSocket, EINVAL, "Dynptr has to be an uninitialized dynptr", [](Builder& b) { make_dynptr(b, -8); finish(b); }},
      {"below the frame", kSocket, EACCES, "invalid write to stack R4 off=-520 size=8", [](Builder& b) { make_dynptr(b, -520); finish(b); }},
      {"more than the value", kSocket, EACCES, "R1 min value is outside of the allowed memory range", [](Builder& b) { make_dynptr(b, -16, 65); finish(b); }},
      {"of the stack", kSocket, EACCES, "Unsupported reg type fp for bpf_dynptr_from_mem data",
       [](Builder& b) {
         stack_pointer(b, kR1, -32);
         b.mov_imm(kR2, 8);
         b.mov_imm(kR3, 0);
         stack_pointer(b, kR4, -16);
         b.call(BPF_FUNC_dynptr_from_mem);
         finish(b);
       }},
      {"slice", kSocket, 0, nullptr,
       [](Builder& b) { make_dynptr(b, -16); dynptr_data(b, -16); need_r0(b); b.load(BPF_DW, kR0, kR0, 0); finish(b); }},
      {"slice of nothing", kSocket, EINVAL, kNone, [](Builder& b) { dynptr_data(b, -16); finish(b); }},
      {"slice through the middle", kSocket, EINVAL, kNone, [](Builder& b) { make_dynptr(b, -16); dynptr_data(b, -8); finish(b); }},
      {"beyond the slice", kSocket, EACCES, "R0 min value is outside of the allowed memory range",
       [](Builder& b) { make_dynptr(b, -16); dynptr_data(b, -16); need_r0(b); b.load(BPF_DW, kR0, kR0, 1); finish(b); }},
      {"slice untested", kSocket, EACCES, "R0 invalid mem access 'mem_or_null'",
       [](Builder& b) { make_dynptr(b, -16); dynptr_data(b, -16); b.load(BPF_DW, kR0, kR0, 0); finish(b); }},
      {"overwritten, slice used", kSocket, EACCES, "R0 invalid mem access 'scalar'",
       [](Builder& b) { make_dynptr(b, -16); dynptr_data(b, -16); need_r0(b); b.store_imm(BPF_B, kFp, -1, 0); b.load(BPF_DW, kR0, kR0, 0); finish(b); }},
      {"overwritten, used", kSocket, EINVAL, kNone,
       [](Builder& b) { make_dynptr(b, -16); b.store_imm(BPF_DW, kFp, -16, 0); dynptr_data(b, -16); finish(b); }},
      {"made again, slice used", kSocket, EACCES, "R7 invalid mem access 'scalar'",
       [](Builder& b) {
         make_dynptr(b, -16);
         dynptr_data(b, -16);
         need_r0(b);
         b.mov(kR7, kR0);
         make_dynptr(b, -16);
         b.load(BPF_DW, kR0, kR7, 0);
         finish(b);
       }},
      {"overlap ends the older", kSocket, EINVAL, kNone, [](Builder& b) { make_dynptr(b, -16); make_dynptr(b, -24); dynptr_data(b, -16); finish(b); }},
      {"bytes are read", kSocket, EACCES, "invalid read from stack off -16+0 size 8",
       [](Builder& b) { make_dynptr(b, -16); b.load(BPF_DW, kR0, kFp, -16); b.exit(); }},
      {"helper writes over it", kSocket, EACCES, "potential write to dynptr at off=-16 disallowed",
       [](Builder& b) { make_dynptr(b, -16); read_user(b, -16, 16, BPF_FUNC_probe_read_kernel); finish(b); }},
      {"record submitted", kSocket, 0, nullptr, [](Builder& b) { reserve_dynptr(b, -16); submit_dynptr(b, -16); finish(b); }},
      {"record leaked", kSocket, EINVAL, "BPF_EXIT instruction in main prog would lead to reference leak",
       [](Builder& b) { reserve_dynptr(b, -16); finish(b); }},
      {"record submitted twice", kSocket, EINVAL, "arg 1 is an unacquired reference",
       [](Builder& b) { reserve_dynptr(b, -16); submit_dynptr(b, -16); submit_dynptr(b, -16); finish(b); }},
      {"submit what is no record", kSocket, EINVAL, "arg 1 is an unacquired reference",
       [](Builder& b) { make_dynptr(b, -16); submit_dynptr(b, -16); finish(b); }},
      {"record overwritten", kSocket, EINVAL, "cannot overwrite referenced dynptr",
       [](Builder& b) { reserve_dynptr(b, -16); b.store_imm(BPF_DW, kFp, -16, 0); finish(b); }},
      {"record reserved over", kSocket, EINVAL, "cannot overwrite referenced dynptr",
       [](Builder& b) { reserve_dynptr(b, -16); reserve_dynptr(b, -24); submit_dynptr(b, -24); finish(b); }},
      {"slice after submit", kSocket, EACCES, "R7 invalid mem access 'scalar'",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         dynptr_data(b, -16);
         b.mov(kR7, kR0);
         const auto have = b.label();
         b.jump_imm(BPF_JNE, kR0, 0, have);
         submit_dynptr(b, -16);
         finish(b);
         b.place(have);
         submit_dynptr(b, -16);
         b.load(BPF_DW, kR0, kR7, 0);
         finish(b);
       }},
      {"slice to ringbuf_submit", kSocket, EACCES, "R1 type=mem expected=ringbuf_mem",
       [](Builder& b) {
         reserve_dynptr(b, -16);
         dynptr_data(b, -16);
         const auto null = b.label();
         b.jump_imm(BPF_JEQ, kR0, 0, null);
         submit(b, kR0);
         b.place(null);
         submit_dynptr(b, -16);
         finish(b);
       }},
  };
  for (const Case& test : cases) judge(test);
}

TEST_F(Calls, MapsAreJudgedBeforeAnythingElse) {
  // In dead code, and before the uninitialised register that comes first.
  const auto value_at = [](Map map, int32_t offset) {
    return [=](Builder& b) {
      const auto end = b.label();
      b.mov_imm(kR6, 0);
      b.jump_imm(BPF_JEQ, kR6, 0, end);
      b.load_map_value(kR1, map, offset);
      b.place(end);
      finish(b);
    };
  };
  const Case cases[] = {
      {"inside", kSocket, 0, nullptr, value_at(kValue, 63)},
      {"beyond the value", kSocket, EINVAL, "invalid access to map value pointer, value_size=64 off=64", value_at(kValue, 64)},
      {"far beyond", kSocket, EINVAL, "direct value offset of 536870912 is not allowed", value_at(kValue, 1 << 29)},
      {"many values", kSocket, 524, "invalid access to map value pointer, value_size=48 off=0", value_at(kArray, 0)},
      {"of a hash", kSocket, EINVAL, "no direct value access support for this map type", value_at(kHash, 0)},
  };
  for (const Case& test : cases) judge(test);
}

// ---- callbacks ----

class Callbacks : public Calls {
 protected:
  // The main program calls `helper`; the callback's body follows. r6 holds what `before` left.
  void judge_loop(const char* name, int error, const char* words, const Body& before, const Body& callback, const Body& after,
                  uint32_t type = kSocket) {
    Builder b;
    const auto function = b.label();
    before(b);
    b.mov_imm(kR1, 4);
    b.load_function(kR2, function);
    stack_pointer(b, kR3, -8);
    b.mov_imm(kR4, 0);
    b.call(BPF_FUNC_loop);
    after(b);
    b.place(function);
    callback(b);
    Request request = make_request(type, b);
    describe_functions(request, {0, b.target(function)});
    judge(request, name, error, words);
  }
};

TEST_F(Callbacks, Loops) {
  const Body nothing = [](Builder&) {};
  judge_loop("empty", 0, nullptr, nothing, finish, finish);
  judge_loop("writes to the caller's stack", 0, nullptr, [](Builder& b) { b.store_imm(BPF_DW, kFp, -8, 0); },
             [](Builder& b) {
               b.load(BPF_DW, kR3, kR2, 0);
               b.alu_imm(BPF_ADD, kR3, 1);
               b.store(BPF_DW, kR2, 0, kR3);
               finish(b);
             },
             finish);
  judge_loop("result out of range", EINVAL, nullptr, nothing, [](Builder& b) { b.mov_imm(kR0, 2); b.exit(); }, finish);
  judge_loop("third argument has no value", EACCES, "R3 !read_ok", nothing, [](Builder& b) { b.mov(kR0, kR3); b.exit(); }, finish);
  judge_loop("leak in the callback", EINVAL, nullptr, nothing, [](Builder& b) { reserve(b); finish(b); }, finish);
  judge_loop("record taken and given in the callback", 0, nullptr, nothing,
             [](Builder& b) { reserve(b); need_r0(b); submit(b, kR0); finish(b); }, finish);
  judge_loop("outer record released in the callback", EINVAL, "BPF_EXIT instruction in main prog would lead to reference leak",
             [](Builder& b) { reserve(b); need_r0(b); b.store(BPF_DW, kFp, -8, kR0); },
             [](Builder& b) { b.load(BPF_DW, kR1, kR2, 0); b.mov_imm(kR2, 0); b.call(BPF_FUNC_ringbuf_submit); finish(b); },
             [](Builder& b) { finish(b); });
}

TEST_F(Callbacks, ElementsOfMaps) {
  const auto for_each = [&](const char* name, int error, const char* words, Map map, const Body& callback) {
    Builder b;
    const auto function = b.label();
    b.load_map(kR1, map);
    b.load_function(kR2, function);
    b.mov_imm(kR3, 0);
    b.mov_imm(kR4, 0);
    b.call(BPF_FUNC_for_each_map_elem);
    finish(b);
    b.place(function);
    callback(b);
    Request request = make_request(kSocket, b);
    describe_functions(request, {0, b.target(function)});
    judge(request, name, error, words);
  };
  for_each("reads key and value", 0, nullptr, kHash, [](Builder& b) { b.load(BPF_DW, kR0, kR2, 0); b.load(BPF_DW, kR0, kR3, 0); finish(b); });
  for_each("writes the value", 0, nullptr, kHash, [](Builder& b) { b.store_imm(BPF_DW, kR3, 0, 1); finish(b); });
  for_each("beyond the key", EACCES, "R2 min value is outside of the allowed memory range", kHash,
           [](Builder& b) { b.load(BPF_DW, kR0, kR2, 8); finish(b); });
  for_each("beyond the value", EACCES, "R3 min value is outside of the allowed memory range", kHash,
           [](Builder& b) { b.load(BPF_DW, kR0, kR3, 8); finish(b); });
  for_each("writes the key", EACCES, nullptr, kHash, [](Builder& b) { b.store_imm(BPF_DW, kR2, 0, 1); finish(b); });
  for_each("looks up in the map", 0, nullptr, kHash, [](Builder& b) { b.call(BPF_FUNC_map_lookup_elem); finish(b); });
  for_each("of a queue", 524, "callback function not allowed for map", kQueue, finish);
}

// ---- what only we decide ----

TEST(CallsWithConstraints, HelpersNeedTheirGrants) {
  Constraints constraints;
  constraints.class_name = "observe";
  Builder output;
  read_user(output, -8, 8);
  finish(output);
  Request request = make_request(kUprobe, output);
  request.constraints = &constraints;
  EXPECT_EQ(verify(request).error, 0);
  constraints.helpers_denied = {BPF_FUNC_probe_read_user};
  Verdict verdict = verify(request);
  ASSERT_NE(verdict.error, 0);
  EXPECT_EQ(verdict.diagnoses[0].rule, Rule::kEIM008);
}

Builder write_user() {
  Builder b;
  b.mov_imm(kR1, 0);
  b.store_imm(BPF_DW, kFp, -8, 0);
  stack_pointer(b, kR2, -8);
  b.mov_imm(kR3, 8);
  b.call(BPF_FUNC_probe_write_user);
  finish(b);
  return b;
}

TEST(CallsWithConstraints, WritingToTheHostNeedsAGrant) {
  const Builder b = write_user();
  Request request = make_request(kUprobe, b);
  EXPECT_EQ(verify(request).error, 0);
  request.options.probe_write_user = false;
  EXPECT_EQ(verify(request).diagnoses.at(0).rule, Rule::kFUN002);
  Constraints constraints;
  request.constraints = &constraints;
  EXPECT_EQ(verify(request).diagnoses.at(0).rule, Rule::kEIM008);
  constraints.helpers_granted = {BPF_FUNC_probe_write_user};
  EXPECT_EQ(verify(request).error, 0);
}

TEST(CallsWithConstraints, ReturnValuesAreProved) {
  Constraints constraints;
  constraints.helpers_granted = {BPF_FUNC_override_return};
  const auto verdict_for = [&](const Body& value) {
    Builder b;
    b.mov(kR6, kR1);
    value(b);
    b.mov(kR2, kR0);
    b.mov(kR1, kR6);
    b.call(BPF_FUNC_override_return);
    finish(b);
    Request request = make_request(kUprobe, b);
    request.constraints = &constraints;
    return verify(request);
  };
  const auto constant = [](int32_t value) { return [=](Builder& b) { b.mov_imm(kR0, value); }; };
  EXPECT_EQ(verdict_for(constant(0)).diagnoses.at(0).rule, Rule::kEIM005);  // may not return at all
  constraints.may_return = true;
  constraints.return_values = {{403, 404}, {static_cast<uint64_t>(-5), static_cast<uint64_t>(-1)}};
  EXPECT_EQ(verdict_for(constant(403)).error, 0);
  EXPECT_EQ(verdict_for(constant(404)).error, 0);
  EXPECT_EQ(verdict_for(constant(405)).diagnoses.at(0).rule, Rule::kEIM005);
  EXPECT_EQ(verdict_for(constant(-1)).error, 0);
  EXPECT_EQ(verdict_for(constant(-6)).diagnoses.at(0).rule, Rule::kEIM005);
  const auto random = [](Builder& b) { b.call(BPF_FUNC_get_prandom_u32); };
  EXPECT_EQ(verdict_for(random).diagnoses.at(0).rule, Rule::kEIM005);
  EXPECT_EQ(verdict_for([](Builder& b) { b.call(BPF_FUNC_get_prandom_u32); b.alu_imm(BPF_AND, kR0, 1); b.alu_imm(BPF_ADD, kR0, 403); }).error, 0);
  constraints.return_is_void = true;
  EXPECT_EQ(verdict_for(random).error, 0);
  constraints.helpers_granted.clear();
  EXPECT_EQ(verdict_for(constant(403)).diagnoses.at(0).rule, Rule::kEIM008);
}

TEST(CallsFacts, HelpersAndMaps) {
  Builder b;
  b.store_imm(BPF_DW, kFp, -8, 0);
  look_up(b, kHash, -8);
  b.call(BPF_FUNC_ktime_get_ns);
  finish(b);
  const Verdict verdict = verify(make_request(kSocket, b));
  ASSERT_EQ(verdict.error, 0) << testing::summary(verdict);
  EXPECT_EQ(verdict.facts.helpers_called, (std::vector<uint32_t>{BPF_FUNC_map_lookup_elem, BPF_FUNC_ktime_get_ns}));
  EXPECT_TRUE(verdict.facts.insns[5].same_map);
  EXPECT_EQ(verdict.facts.insns[5].map, kHash);
}

TEST(CallsFacts, OneCallOnTwoMaps) {
  Builder b;
  b.store_imm(BPF_DW, kFp, -8, 0);
  b.call(BPF_FUNC_get_prandom_u32);
  const auto other = b.label(), both = b.label();
  b.jump_imm(BPF_JEQ, kR0, 0, other);
  b.load_map(kR1, kHash);
  b.go(both);
  b.place(other);
  b.load_map(kR1, kArray);
  b.place(both);
  stack_pointer(b, kR2, -8);
  const size_t call = b.size();
  b.call(BPF_FUNC_map_lookup_elem);
  finish(b);
  const Verdict verdict = verify(make_request(kSocket, b));
  ASSERT_EQ(verdict.error, 0) << testing::summary(verdict);
  EXPECT_FALSE(verdict.facts.insns[call].same_map);
}

TEST(CallsLimits, ReferencesOpenAtOnce) {
  Builder b;
  for (int i = 0; i < 3; ++i) {
    reserve(b);
    need_r0(b);
    b.store(BPF_DW, kFp, static_cast<int16_t>(-8 * (i + 1)), kR0);
  }
  finish(b);
  Request request = make_request(kSocket, b);
  request.options.limits.references = 0;
  EXPECT_EQ(verify(request).diagnoses.at(0).rule, Rule::kLIM004);
}

}  // namespace
}  // namespace bpftime::verifier

// Cases of calls: small programs, each judged by us and, where bpf(2) is usable, by the running kernel. Test-only.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {

enum Map : uint32_t {
  kHash,
  kArray,
  kRing,
  kConstants,
  kPrograms,
  kLocked,
  kMaps,
  kEvents,
  kValue,
  kQueue,
  kPerCpu,
  kStacks
};

inline MapConstraint make_map(const char* name, wire::MapSpec spec) {
  MapConstraint map;
  map.name = name;
  map.spec = spec;
  return map;
}

inline std::vector<uint8_t> constants() {
  std::vector<uint8_t> bytes(64, 'x');  // from 32 on: no NUL any more
  std::memcpy(bytes.data(), "n=%d %s", 8);
  std::memcpy(bytes.data() + 8, "%d%", 4);
  std::memcpy(bytes.data() + 16, "\x01", 2);
  return bytes;
}

inline std::vector<MapConstraint> all_maps() {
  std::vector<MapConstraint> maps{
      make_map("hash", {BPF_MAP_TYPE_HASH, 8, 8, 4, 0, 0}),
      make_map("array", {BPF_MAP_TYPE_ARRAY, 4, 48, 4, 0, 0}),
      make_map("ring", {BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, 0}),
      frozen_array(constants()),
      make_map("programs", {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0, 0}),
      *standard_map("map_spin_lock"),
      *standard_map("map_in_map"),
      make_map("events", {BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0, 0}),
      make_map("value", {BPF_MAP_TYPE_ARRAY, 4, 64, 1, 0, 0}),
      make_map("queue", {BPF_MAP_TYPE_QUEUE, 0, 8, 4, 0, 0}),
      make_map("percpu", {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4, 0, 0}),
      make_map("stacks", {BPF_MAP_TYPE_STACK_TRACE, 4, 128, 4, 0, 0}),
  };
  for (MapConstraint& map : maps) map.spec.cpu_count = 0;
  return maps;
}

constexpr uint8_t kR0 = 0, kR1 = 1, kR2 = 2, kR3 = 3, kR4 = 4, kR5 = 5, kR6 = 6, kR7 = 7, kFp = 10;

// ---- pieces of programs ----

inline void stack_pointer(Builder& b, uint8_t reg, int32_t offset) {
  b.mov(reg, kFp);
  b.alu_imm(BPF_ADD, reg, offset);
}

inline void finish(Builder& b) {
  b.mov_imm(kR0, 0);
  b.exit();
}

inline void look_up(Builder& b, Map map, int32_t key_offset) {
  b.load_map(kR1, map);
  stack_pointer(b, kR2, key_offset);
  b.call(BPF_FUNC_map_lookup_elem);
}

// Ends the program unless r0 is set.
inline void need_r0(Builder& b) {
  const auto go_on = b.label();
  b.jump_imm(BPF_JNE, kR0, 0, go_on);
  b.exit();
  b.place(go_on);
}

inline void reserve(Builder& b, int32_t size = 8) {
  b.load_map(kR1, kRing);
  b.mov_imm(kR2, size);
  b.mov_imm(kR3, 0);
  b.call(BPF_FUNC_ringbuf_reserve);
}

inline void submit(Builder& b, uint8_t reg) {
  b.mov(kR1, reg);
  b.mov_imm(kR2, 0);
  b.call(BPF_FUNC_ringbuf_submit);
}

inline void read_user(Builder& b, int32_t offset, int32_t size, int32_t helper = BPF_FUNC_probe_read_user) {
  stack_pointer(b, kR1, offset);
  b.mov_imm(kR2, size);
  b.mov_imm(kR3, 0);
  b.call(helper);
}

inline void make_dynptr(Builder& b, int32_t offset, int32_t size = 16) {
  b.load_map_value(kR1, kValue, 0);
  b.mov_imm(kR2, size);
  b.mov_imm(kR3, 0);
  stack_pointer(b, kR4, offset);
  b.call(BPF_FUNC_dynptr_from_mem);
}

inline void reserve_dynptr(Builder& b, int32_t offset) {
  b.load_map(kR1, kRing);
  b.mov_imm(kR2, 8);
  b.mov_imm(kR3, 0);
  stack_pointer(b, kR4, offset);
  b.call(BPF_FUNC_ringbuf_reserve_dynptr);
}

inline void submit_dynptr(Builder& b, int32_t offset) {
  stack_pointer(b, kR1, offset);
  b.mov_imm(kR2, 0);
  b.call(BPF_FUNC_ringbuf_submit_dynptr);
}

inline void dynptr_data(Builder& b, int32_t offset, int32_t length = 8) {
  stack_pointer(b, kR1, offset);
  b.mov_imm(kR2, 0);
  b.mov_imm(kR3, length);
  b.call(BPF_FUNC_dynptr_data);
}

inline void format(Builder& b, int32_t format_offset, int32_t data_bytes) {
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

constexpr uint32_t kUprobe = BPF_PROG_TYPE_KPROBE, kSocket = BPF_PROG_TYPE_SOCKET_FILTER,
                   kClassifier = BPF_PROG_TYPE_SCHED_CLS;
constexpr const char* kMemory = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_";

inline Request make_request(uint32_t type, const Builder& builder, const char* license = "GPL") {
  Request request;
  request.program.type = type;
  request.program.insns = builder.finish();
  request.maps = all_maps();
  request.license = license;
  return request;
}

// func_info for functions that begin at these instructions: int f(void *).
inline void describe_functions(Request& request, const std::vector<size_t>& starts) {
  BtfBuilder btf;
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

// Tests switch rules off; whatever is let through then must still be followed without harm. Limits stay: they end the run.
inline void survives_without_each_rule(Request request) {
  for (size_t i = 0; i < kRuleCount; ++i) {
    const std::string_view id = info(static_cast<Rule>(i)).id;
    if (id.starts_with("LIM") || id.starts_with("CFG") || id.starts_with("BND")) continue;
    request.options.disabled_rules.reset();
    request.options.disabled_rules.set(i);
    const Verdict verdict = verify(request);
    EXPECT_EQ(verdict.error != 0, !verdict.diagnoses.empty()) << "without " << id;
    if (!verdict.diagnoses.empty()) {
      EXPECT_NE(info(verdict.diagnoses.front().rule).id, id);
    }
  }
}

class Calls : public ::testing::Test {
 protected:
  void judge(const Request& request, const std::string& name, int error, const char* words) {
    SCOPED_TRACE(name);
    const Verdict verdict = verify(request);
    EXPECT_EQ(verdict.error, error) << summary(verdict);
    if (words != nullptr) {
      ASSERT_FALSE(verdict.diagnoses.empty());
      EXPECT_EQ(last_line(verdict), words);
    }
    survives_without_each_rule(request);
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
    if (!KernelOracle::unusable().empty())
      std::printf("the kernel was not asked: %s\n", KernelOracle::unusable().c_str());
  }

  static std::string last_line(const Verdict& verdict) {
    const std::string& words = verdict.diagnoses.front().linux_message;
    return words.substr(words.rfind('\n') + 1);
  }

  KernelOracle kernel_;
  int asked_ = 0;
};

}  // namespace bpftime::verifier::testing

// Locks and timers in map values: what Linux refuses to the types of program that run here is refused with its errno and words.
#include <gtest/gtest.h>

#include <functional>

#include "program/program.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {
namespace {

constexpr uint8_t kFp = 10, kValue = 6;
constexpr int32_t kTimerInit = 169, kTimerSetCallback = 170, kTimerStart = 171, kTimerCancel = 172;

struct Row {
  const char* name;
  const char* map;
  std::function<void(Builder&)> use;  // kValue: an element
};

void call_at(Builder& b, int16_t offset, int32_t helper) {
  b.mov(1, kValue), b.alu_imm(BPF_ADD, 1, offset), b.call(helper);
}

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"locked", "map_spin_lock",
       [](Builder& b) { call_at(b, 4, BPF_FUNC_spin_lock), call_at(b, 4, BPF_FUNC_spin_unlock); }},
      {"locked and left so", "map_spin_lock", [](Builder& b) { call_at(b, 4, BPF_FUNC_spin_lock); }},
      {"unlocked", "map_spin_lock", [](Builder& b) { call_at(b, 4, BPF_FUNC_spin_unlock); }},
      {"beside a lock", "map_spin_lock", [](Builder& b) { b.load(BPF_W, 0, kValue, 0); }},
      {"a lock read", "map_spin_lock", [](Builder& b) { b.load(BPF_W, 0, kValue, 4); }},
      {"timer made", "map_timer",
       [](Builder& b) { b.load_map(2, 0), b.mov_imm(3, 1), call_at(b, 0, kTimerInit); }},
      {"timer started", "map_timer",
       [](Builder& b) { b.mov_imm(2, 1000), b.mov_imm(3, 0), call_at(b, 0, kTimerStart); }},
      {"timer cancelled", "map_timer", [](Builder& b) { call_at(b, 0, kTimerCancel); }},
      {"a timer read", "map_timer", [](Builder& b) { b.load(BPF_DW, 0, kValue, 0); }},
      {"timer given no function", "map_timer",
       [](Builder& b) { b.mov_imm(2, 0), call_at(b, 0, kTimerSetCallback); }},
  };
  return table;
}

TEST(LocksAndTimers, AreRefusedAsByTheKernel) {
  const std::string unusable = KernelOracle::unusable();
  if (!unusable.empty()) printf("not compared with the kernel: %s\n", unusable.c_str());
  KernelOracle kernel;
  size_t refused = 0;
  for (const uint32_t type : {BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_PERF_EVENT,
                              BPF_PROG_TYPE_RAW_TRACEPOINT}) {
    for (const Row& row : rows()) {
      SCOPED_TRACE(std::string(row.name) + ", program type " + std::to_string(type));
      Request request;
      request.program.type = type;
      request.program.name = "test";
      request.license = "GPL";
      request.maps = {*standard_map(row.map)};
      Builder b;
      const Builder::Label found = b.label();
      b.store_imm(BPF_W, kFp, -4, 0), b.load_map(1, 0), b.mov(2, kFp), b.alu_imm(BPF_ADD, 2, -4);
      b.call(BPF_FUNC_map_lookup_elem), b.jump_imm(BPF_JNE, 0, 0, found), b.exit();
      b.place(found), b.mov(kValue, 0);
      row.use(b);
      b.mov_imm(0, 0), b.exit();
      request.program.insns = b.finish();
      const Verdict verdict = verify(request);
      refused += verdict.error != 0;
      if (!unusable.empty()) continue;
      const KernelVerdict answer = kernel.ask_why(request);
      EXPECT_EQ(verdict.error, answer.error) << summary(verdict) << "\nkernel: " << answer.last_line;
      if (answer.error != 0) {
        EXPECT_NE(summary(verdict).find(answer.last_line), std::string::npos)
            << summary(verdict) << "\nkernel: " << answer.last_line;
      }
    }
  }
  EXPECT_GE(refused, 4 * 6u);
}

}  // namespace
}  // namespace bpftime::verifier::testing

// The sample that the function of bpf_user_ringbuf_drain gets: what may be done with it, here and in the running kernel.
#include <gtest/gtest.h>
#include <linux/btf.h>

#include <functional>

#include "program/program.h"
#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier::testing {
namespace {

constexpr uint8_t kFp = 10, kSample = 6, kContext = 7;  // where the function keeps what it gets
constexpr int16_t kShared = -16;                        // in the caller's frame: what the context points to

using Body = std::function<void(Builder&)>;

constexpr uint32_t kUserRing = 0, kRing = 1, kArray = 2;

// drain(user ring, function, fp - 16, 0); then `after`. The function is `body`, and returns 0 unless that does.
Request drain(const Body& body, const Body& after) {
  Request request;
  request.program.type = BPF_PROG_TYPE_KPROBE;
  request.program.name = "drain";
  request.license = "GPL";
  MapConstraint user_ring;
  user_ring.name = "user_ring";
  user_ring.spec = {BPF_MAP_TYPE_USER_RINGBUF, 0, 0, 4096, 0, 0};
  request.maps = {user_ring, *standard_map("map_ringbuf"), *standard_map("map_array_48b")};
  Builder b;
  const Builder::Label function = b.label();
  b.store_imm(BPF_DW, kFp, kShared, 0), b.load_map(1, kUserRing), b.load_function(2, function), b.mov(3, kFp);
  b.alu_imm(BPF_ADD, 3, kShared), b.mov_imm(4, 0), b.call(BPF_FUNC_user_ringbuf_drain);
  after(b);
  b.mov_imm(0, 0), b.exit();
  const auto start = static_cast<uint32_t>(b.size());
  b.place(function);
  b.mov(kSample, 1), b.mov(kContext, 2);
  body(b);
  b.mov_imm(0, 0), b.exit();
  BtfBuilder btf;
  const uint32_t number = btf.add_int("int", 4, true);
  const uint32_t prototype = btf.add_prototype(number, {{"a", btf.add_pointer(0)}});
  const uint32_t records[] = {0, btf.add_function("entry", prototype, BTF_FUNC_GLOBAL), start,
                              btf.add_function("sample", prototype, BTF_FUNC_STATIC)};
  const auto* bytes = reinterpret_cast<const uint8_t*>(records);
  request.func_info.assign(bytes, bytes + sizeof(records));
  request.func_info_record_size = 8;
  request.btf = btf.blob();
  request.program.insns = b.finish();
  return request;
}

void nothing(Builder&) {}

void read(Builder& b, uint8_t sample) {
  b.mov(3, sample), b.mov(1, kFp), b.alu_imm(BPF_ADD, 1, -24), b.mov_imm(2, 8), b.mov_imm(4, 0);
  b.mov_imm(5, 0), b.call(BPF_FUNC_dynptr_read);
}
// r0: 8 bytes of it, or null.
void slice(Builder& b, uint8_t sample) {
  b.mov(1, sample), b.mov_imm(2, 0), b.mov_imm(3, 8), b.call(BPF_FUNC_dynptr_data);
}
void leave_if_null(Builder& b) {
  const Builder::Label there = b.label();
  b.jump_imm(BPF_JNE, 0, 0, there), b.mov_imm(0, 0), b.exit(), b.place(there);
}
void end(Builder& b, int32_t helper, uint8_t sample) { b.mov(1, sample), b.mov_imm(2, 0), b.call(helper); }

// Returns what `make` puts into r0; what is behind can be reached.
void return_it(Builder& b, const std::function<void()>& make) {
  const Builder::Label on = b.label();
  b.load(BPF_DW, 8, kContext, 0), b.jump_imm(BPF_JNE, 8, 0, on), make(), b.exit(), b.place(on);
}

struct Row {
  const char* name;
  bool accepted;
  Body body;
  Body after = nothing;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"Read", true, [](Builder& b) { read(b, kSample); }},
      {"Write", true,
       [](Builder& b) {
         b.store_imm(BPF_DW, kFp, -24, 1), b.mov(1, kSample), b.mov_imm(2, 0), b.mov(3, kFp);
         b.alu_imm(BPF_ADD, 3, -24), b.mov_imm(4, 8), b.mov_imm(5, 0), b.call(BPF_FUNC_dynptr_write);
       }},
      {"Slice", true, [](Builder& b) { slice(b, kSample), leave_if_null(b), b.load(BPF_DW, 1, 0, 0); }},
      {"SliceIsWritten", true,
       [](Builder& b) { slice(b, kSample), leave_if_null(b), b.store_imm(BPF_DW, 0, 0, 1); }},
      {"SliceThatMayBeNull", false, [](Builder& b) { slice(b, kSample), b.load(BPF_DW, 1, 0, 0); }},
      {"BehindTheSlice", false,
       [](Builder& b) { slice(b, kSample), leave_if_null(b), b.load(BPF_DW, 1, 0, 1); }},
      {"SpilledAndUsed", false,
       [](Builder& b) { b.store(BPF_DW, kFp, -8, kSample), b.load(BPF_DW, 8, kFp, -8), read(b, 8); }},
      {"SpilledAndLooked", true,
       [](Builder& b) {
         b.store(BPF_DW, kFp, -8, kSample), b.load(BPF_DW, 8, kFp, -8), b.alu_imm(BPF_AND, 8, 7);
       }},
      {"SpilledAndDamaged", false,
       [](Builder& b) {
         b.store(BPF_DW, kFp, -8, kSample), b.store_imm(BPF_B, kFp, -8, 0), b.load(BPF_DW, 8, kFp, -8);
         read(b, 8);
       }},
      {"Moved", false, [](Builder& b) { b.alu_imm(BPF_ADD, kSample, 8), read(b, kSample); }},
      {"MovedByNothing", true, [](Builder& b) { b.alu_imm(BPF_ADD, kSample, 0), read(b, kSample); }},
      {"MovedByAnUnknownNumber", false,
       [](Builder& b) {
         b.call(BPF_FUNC_ktime_get_ns), b.alu_imm(BPF_AND, 0, 7), b.alu(BPF_ADD, kSample, 0),
             read(b, kSample);
       }},
      {"MovedBehindItsStart", false, [](Builder& b) { b.alu_imm(BPF_SUB, kSample, 8), read(b, kSample); }},
      {"MovedAndMovedBack", true,
       [](Builder& b) { b.alu_imm(BPF_ADD, kSample, 8), b.alu_imm(BPF_SUB, kSample, 8), read(b, kSample); }},
      {"Halved", false, [](Builder& b) { b.mov32(8, kSample), read(b, 8); }},
      {"Loaded", false, [](Builder& b) { b.load(BPF_DW, 8, kSample, 0); }},
      {"Stored", false, [](Builder& b) { b.store_imm(BPF_DW, kSample, 0, 1); }},
      {"Exchanged", false, [](Builder& b) { b.mov_imm(8, 1), b.atomic(BPF_DW, kSample, 0, 8, BPF_ADD); }},
      {"Submitted", false, [](Builder& b) { end(b, BPF_FUNC_ringbuf_submit_dynptr, kSample); }},
      {"Discarded", false, [](Builder& b) { end(b, BPF_FUNC_ringbuf_discard_dynptr, kSample); }},
      {"SubmittedAsARecord", false, [](Builder& b) { end(b, BPF_FUNC_ringbuf_submit, kSample); }},
      {"DiscardedAsARecord", false, [](Builder& b) { end(b, BPF_FUNC_ringbuf_discard, kSample); }},
      {"SliceSubmitted", false,
       [](Builder& b) { slice(b, kSample), leave_if_null(b), end(b, BPF_FUNC_ringbuf_submit, 0); }},
      {"Overwritten", false,
       [](Builder& b) {
         b.load_map_value(1, kArray, 0), b.mov_imm(2, 32), b.mov_imm(3, 0), b.mov(4, kSample);
         b.call(BPF_FUNC_dynptr_from_mem);
       }},
      {"OverwrittenByARecord", false,
       [](Builder& b) {
         b.load_map(1, kRing), b.mov_imm(2, 8), b.mov_imm(3, 0), b.mov(4, kSample);
         b.call(BPF_FUNC_ringbuf_reserve_dynptr);
       }},
      {"AsMemory", false,
       [](Builder& b) {
         b.mov(1, kSample), b.mov_imm(2, 8), b.mov_imm(3, 0), b.call(BPF_FUNC_probe_read_kernel);
       }},
      {"AsAKey", false,
       [](Builder& b) { b.load_map(1, kArray), b.mov(2, kSample), b.call(BPF_FUNC_map_lookup_elem); }},
      {"AsANumberToAHelper", true,
       [](Builder& b) {
         b.mov(3, kSample), b.mov(1, kFp), b.alu_imm(BPF_ADD, 1, -8), b.mov_imm(2, 8);
         b.call(BPF_FUNC_probe_read_kernel);
       }},
      {"Returned", false, [](Builder& b) { return_it(b, [&] { b.mov(0, kSample); }); }},
      {"ComparedWithNull", true,
       [](Builder& b) {
         const Builder::Label there = b.label();
         b.jump_imm(BPF_JEQ, kSample, 0, there), b.place(there), read(b, kSample);
       }},
      {"UsedAfterTheDrain", false, [](Builder& b) { b.store(BPF_DW, kContext, 0, kSample); },
       [](Builder& b) { b.load(BPF_DW, 8, kFp, kShared), read(b, 8); }},
      {"OfTheRoundBefore", false,
       [](Builder& b) { b.load(BPF_DW, 8, kContext, 0), b.store(BPF_DW, kContext, 0, kSample), read(b, 8); }},
      {"NoSampleAfterTheDrain", false, nothing, [](Builder& b) { read(b, kSample); }},
      {"StoredInAMap", true,
       [](Builder& b) { b.load_map_value(8, kArray, 0), b.store(BPF_DW, 8, 0, kSample); }},
      {"ReturnsTwo", false, [](Builder& b) { return_it(b, [&] { b.mov_imm(0, 2); }); }},
      {"ReturnsOne", true, [](Builder& b) { return_it(b, [&] { b.mov_imm(0, 1); }); }},
  };
  return table;
}

class UserRing : public ::testing::TestWithParam<size_t> {};

TEST_P(UserRing, SamplesAreJudgedAsByTheKernel) {
  const Row& row = rows()[GetParam()];
  const Request request = drain(row.body, row.after);
  const Verdict verdict = verify(request);
  EXPECT_EQ(verdict.error == 0, row.accepted) << summary(verdict) << "\n"
                                              << program::disassemble(request.program);
  if (const std::string why = KernelOracle::unusable(); !why.empty()) {
    printf("not compared with the kernel: %s\n", why.c_str());
    return;
  }
  KernelOracle kernel;
  const KernelVerdict answer = kernel.ask_why(request);
  EXPECT_EQ(answer.error == 0, row.accepted) << "kernel: " << answer.last_line;
  if (!row.accepted) {
    EXPECT_NE(summary(verdict).find(answer.last_line), std::string::npos)
        << summary(verdict) << "\nkernel: " << answer.last_line;
    EXPECT_EQ(verdict.error, answer.error) << summary(verdict) << "; kernel: " << answer.last_line;
  }
}

std::string name_of(const ::testing::TestParamInfo<size_t>& param) { return rows()[param.param].name; }

INSTANTIATE_TEST_SUITE_P(Each, UserRing, ::testing::Range(size_t{0}, rows().size()), name_of);

}  // namespace
}  // namespace bpftime::verifier::testing

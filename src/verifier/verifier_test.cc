// Whole programs in pairs: one that Linux loads beside one that it refuses for a single difference. Where bpf(2) is usable the
// running kernel is asked for each; its errno must be ours.
#include "verifier/verifier.h"

#include <gtest/gtest.h>
#include <linux/btf.h>

#include <cstring>
#include <functional>

#include "verifier/rules.h"
#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/testing/oracle.h"

namespace bpftime::verifier {
namespace {

using testing::Builder;
using testing::KernelOracle;

constexpr uint32_t kKprobe = BPF_PROG_TYPE_KPROBE, kSocket = BPF_PROG_TYPE_SOCKET_FILTER;
constexpr const char* kAccepted = "";

struct Case {
  const char* name;
  const char* rule;  // of the refusal; kAccepted
  std::function<void(Builder&)> write;
  uint32_t type = kKprobe;
  std::vector<const char*> maps = {};
  int kernel_error = -1;  // where the kernel gives another
};

// BTF for every function of the program: static, `int f(void *)`, as callbacks and tail calls need it.
void add_functions(Request& request) {
  const std::vector<uint32_t> starts = program::subprogram_starts(request.program);
  if (starts.size() == 1) return;
  testing::BtfBuilder btf;
  const uint32_t number = btf.add_int("int", 4, true);
  const uint32_t prototype = btf.add_prototype(number, {{"arg", btf.add_pointer(0)}});
  struct Record {
    uint32_t insn, type;
  };
  for (const uint32_t start : starts) {
    const Record record = {start, btf.add_function("f" + std::to_string(start), prototype,
                                                   start == 0 ? BTF_FUNC_GLOBAL : BTF_FUNC_STATIC)};
    const auto* bytes = reinterpret_cast<const uint8_t*>(&record);
    request.func_info.insert(request.func_info.end(), bytes, bytes + sizeof(record));
  }
  request.func_info_record_size = sizeof(Record);
  request.btf = btf.blob();
}

Request request_of(const Case& test) {
  Builder builder;
  test.write(builder);
  Request request;
  request.program.name = "test";
  request.program.type = test.type;
  request.program.insns = builder.finish();
  request.license = "GPL";
  add_functions(request);
  for (const char* kind : test.maps) request.maps.push_back(*testing::standard_map(kind));
  return request;
}

void random_number(Builder& b) { b.call(BPF_FUNC_get_prandom_u32); }

void finish(Builder& b) {
  b.mov_imm(0, 0);
  b.exit();
}

// `frames` functions, each calling the next, the last with `bytes` of stack each.
void call_chain(Builder& b, uint32_t frames, int16_t bytes) {
  for (uint32_t i = 0; i < frames; ++i) {
    const auto next = b.label();
    if (bytes != 0) b.store_imm(BPF_DW, 10, static_cast<int16_t>(-bytes), 0);
    if (i + 1 < frames) b.call_local(next);
    finish(b);
    b.place(next);
  }
}

// for (r1 = 0; r1 < rounds; ++r1);
void count_to(Builder& b, int32_t rounds) {
  const auto head = b.label();
  b.mov_imm(1, 0);
  b.place(head);
  b.alu_imm(BPF_ADD, 1, 1);
  b.jump_imm(BPF_JLT, 1, rounds, head);
  finish(b);
}

// bpf_loop(rounds, callback, fp - 8, 0); then `after`, then the callback's body.
void loop_call(Builder& b, int32_t rounds, const std::function<void()>& after,
               const std::function<void()>& body) {
  const auto callback = b.label();
  b.store_imm(BPF_DW, 10, -8, 0);
  b.mov_imm(1, rounds);
  b.load_function(2, callback);
  b.mov(3, 10);
  b.alu_imm(BPF_ADD, 3, -8);
  b.mov_imm(4, 0);
  b.call(BPF_FUNC_loop);
  after();
  b.place(callback);
  body();
}

const std::vector<Case> kCases = {
    // ---- control flow ----
    {"unreachable code", "CFG002",
     [](Builder& b) {
       const auto end = b.label();
       b.mov_imm(0, 0);
       b.go(end);
       b.mov_imm(0, 1);
       b.place(end);
       b.exit();
     }},
    {"code that only a decided branch leads past", kAccepted,
     [](Builder& b) {
       const auto end = b.label();
       b.mov_imm(0, 0);
       b.jump_imm(BPF_JEQ, 0, 0, end);
       b.mov_imm(0, 1);
       b.place(end);
       b.exit();
     }},
    {"loop without end, empty", "CFG007",
     [](Builder& b) {
       const auto head = b.label();
       random_number(b);
       b.place(head);
       b.jump_imm(BPF_JEQ, 0, 5, head);
       b.exit();
     }},
    {"loop that counts something nobody asks",
     "CFG007",
     [](Builder& b) {
       const auto head = b.label();
       b.mov_imm(6, 0);
       b.place(head);
       b.alu_imm(BPF_ADD, 6, 1);
       random_number(b);
       b.jump_imm(BPF_JNE, 0, 5, head);
       b.exit();
     },
     kKprobe,
     {},
     E2BIG},
    {"counted loop", kAccepted, [](Builder& b) { count_to(b, 1000); }},
    {"counted loop, too long", "LIM001", [](Builder& b) { count_to(b, 1'000'000); }},
    {"loop that may never count", "LIM001",
     [](Builder& b) {
       const auto head = b.label();
       b.mov_imm(6, 0);
       b.place(head);
       b.alu_imm(BPF_ADD, 6, 1);
       b.jump_imm(BPF_JNE, 6, -1, head);
       finish(b);
     }},
    // ---- calls ----
    {"eight frames", kAccepted, [](Builder& b) { call_chain(b, 8, 0); }},
    {"nine frames", "CFG004", [](Builder& b) { call_chain(b, 9, 0); }},
    {"recursion", "CFG004",
     [](Builder& b) {
       const auto f = b.label();
       b.call_local(f);
       b.exit();
       b.place(f);
       b.call_local(f);
       finish(b);
     }},
    {"recursion behind a condition", "CFG004",
     [](Builder& b) {
       const auto f = b.label(), end = b.label();
       b.call_local(f);
       b.exit();
       b.place(f);
       random_number(b);
       b.jump_imm(BPF_JEQ, 0, 7, end);
       b.call_local(f);
       b.place(end);
       finish(b);
     }},
    {"512 bytes of stack in two frames", kAccepted, [](Builder& b) { call_chain(b, 2, 256); }, kSocket},
    {"more in two frames", "CFG005", [](Builder& b) { call_chain(b, 2, 264); }, kSocket},
    {"small frames are rounded to 16", "CFG005",
     [](Builder& b) {
       const auto f = b.label();
       b.store_imm(BPF_DW, 10, -504, 0);
       b.call_local(f);
       finish(b);
       b.place(f);
       b.store_imm(BPF_DW, 10, -8, 0);
       finish(b);
     },
     kSocket},
    {"deep frames of a kprobe", kAccepted, [](Builder& b) { call_chain(b, 2, 512); }},
    {"r6 survives a call", kAccepted,
     [](Builder& b) {
       const auto f = b.label();
       b.mov_imm(6, 0);
       b.call_local(f);
       b.mov(0, 6);
       b.exit();
       b.place(f);
       b.mov_imm(6, 1);
       finish(b);
     }},
    {"r1 does not", "TYP001",
     [](Builder& b) {
       const auto f = b.label();
       b.mov_imm(1, 0);
       b.call_local(f);
       b.mov(0, 1);
       b.exit();
       b.place(f);
       finish(b);
     }},
    {"a callee's r6 is its own", "TYP001",
     [](Builder& b) {
       const auto f = b.label();
       b.mov_imm(6, 0);
       b.call_local(f);
       b.exit();
       b.place(f);
       b.mov(0, 6);
       b.exit();
     }},
    {"a pointer to a local is returned", "STK006",
     [](Builder& b) {
       const auto f = b.label();
       b.call_local(f);
       finish(b);
       b.place(f);
       b.mov(0, 10);
       b.exit();
     }},
    {"a callee writes to its caller's frame", kAccepted,
     [](Builder& b) {
       const auto f = b.label(), bad = b.label();
       b.store_imm(BPF_DW, 10, -8, 1);
       b.mov(1, 10);
       b.alu_imm(BPF_ADD, 1, -8);
       b.call_local(f);
       b.load(BPF_DW, 1, 10, -8);
       b.jump_imm(BPF_JNE, 1, 2, bad);
       finish(b);
       b.place(bad);  // never: r3 has no value
       b.mov(0, 3);
       b.exit();
       b.place(f);
       b.store_imm(BPF_DW, 1, 0, 2);
       finish(b);
     }},
    {"a callee forgets to write", "TYP001",
     [](Builder& b) {
       const auto f = b.label(), bad = b.label();
       b.store_imm(BPF_DW, 10, -8, 1);
       b.mov(1, 10);
       b.alu_imm(BPF_ADD, 1, -8);
       b.call_local(f);
       b.load(BPF_DW, 1, 10, -8);
       b.jump_imm(BPF_JNE, 1, 2, bad);
       finish(b);
       b.place(bad);
       b.mov(0, 3);
       b.exit();
       b.place(f);
       finish(b);
     }},
    {"a callee without result, unused", kAccepted,
     [](Builder& b) {
       const auto f = b.label();
       b.call_local(f);
       finish(b);
       b.place(f);
       b.mov_imm(1, 0);
       b.exit();
     }},
    {"a callee without result, used", "TYP001",
     [](Builder& b) {
       const auto f = b.label();
       b.call_local(f);
       b.exit();
       b.place(f);
       b.mov_imm(1, 0);
       b.exit();
     }},
    // ---- pruning ----
    {"both ways meet with different kinds", "NUL001",
     [](Builder& b) {
       const auto other = b.label(), meet = b.label();
       b.mov(6, 1);
       random_number(b);
       b.mov(7, 10);
       b.store_imm(BPF_DW, 10, -8, 0);
       b.jump_imm(BPF_JEQ, 0, 5, other);
       b.go(meet);
       b.place(other);
       b.mov_imm(7, 0);
       b.place(meet);
       random_number(b);
       b.load(BPF_DW, 0, 7, -8);
       finish(b);
     }},
    {"both ways meet with different numbers, as a size", "STK002",
     [](Builder& b) {
       const auto one = b.label(), two = b.label(), three = b.label();
       b.mov_imm(6, 8);
       random_number(b);
       b.jump_imm(BPF_JGT, 0, 5, one);
       b.mov_imm(6, 1024);
       b.place(one);
       for (int i = 0; i < 8; ++i) b.mov_imm(7, i);
       random_number(b);
       b.jump_imm(BPF_JGT, 0, 6, two);
       b.mov_imm(8, 0);
       b.place(two);
       random_number(b);
       b.jump_imm(BPF_JGT, 0, 7, three);
       b.mov_imm(8, 0);
       b.place(three);
       b.alu_imm(BPF_NEG, 6, 0);
       b.mov(1, 10);
       b.alu(BPF_ADD, 1, 6);
       b.load(BPF_B, 0, 1, 0);
       finish(b);
     }},
    {"many branches whose differences do not matter", kAccepted,
     [](Builder& b) {
       b.mov_imm(6, 0);
       for (int i = 0; i < 100; ++i) {
         const auto skip = b.label();
         random_number(b);
         b.jump_imm(BPF_JGT, 0, i, skip);
         b.alu_imm(BPF_ADD, 6, 1);
         b.place(skip);
       }
       b.mov(0, 6);
       b.exit();
     }},
    {"a pointer that moves too far and is never followed", "MEM008",
     [](Builder& b) {
       const auto skip = b.label();
       random_number(b);
       b.mov(6, 0);
       b.mov(1, 10);
       random_number(b);
       b.jump_imm(BPF_JGT, 0, 5, skip);
       b.place(skip);
       b.mov(1, 10);
       b.alu_imm(BPF_LSH, 6, 20);
       b.alu(BPF_ADD, 1, 6);
       finish(b);
     }},
    // ---- callbacks ----
    {"bpf_loop", kAccepted,
     [](Builder& b) {
       loop_call(
           b, 10, [&] { finish(b); }, [&] { finish(b); });
     }},
    {"bpf_loop counts in the caller's frame", kAccepted,
     [](Builder& b) {
       loop_call(
           b, 100000, [&] { finish(b); },
           [&] {
             b.load(BPF_DW, 1, 2, 0);
             b.alu_imm(BPF_ADD, 1, 1);
             b.store(BPF_DW, 2, 0, 1);
             finish(b);
           });
     }},
    {"the callback returns 2", "FUN007",
     [](Builder& b) {
       loop_call(
           b, 10, [&] { finish(b); },
           [&] {
             b.mov_imm(0, 2);
             b.exit();
           });
     }},
    {"the callback returns a pointer to the stack", "STK006",
     [](Builder& b) {
       loop_call(
           b, 10, [&] { finish(b); },
           [&] {
             b.mov(0, 2);
             b.exit();
           });
     }},
    {"what the callback wrote is not known afterwards", "STK002",
     [](Builder& b) {
       loop_call(
           b, 10,
           [&] {
             b.load(BPF_DW, 1, 10, -8);
             b.mov(2, 10);
             b.alu(BPF_ADD, 2, 1);
             b.load(BPF_B, 0, 2, -1);
             finish(b);
           },
           [&] {
             b.store_imm(BPF_DW, 2, 0, 1024);
             finish(b);
           });
     }},
    {"no round: the callback's mistake does not happen", kAccepted,
     [](Builder& b) {
       loop_call(
           b, 0, [&] { finish(b); },
           [&] {
             b.mov_imm(0, 2);
             b.exit();
           });
     }},
    {"an index that grows by rounds, few enough", kAccepted,
     [](Builder& b) {
       loop_call(
           b, 20,
           [&] {
             b.load(BPF_DW, 1, 10, -8);
             b.mov(2, 10);
             b.alu_imm(BPF_NEG, 1, 0);
             b.alu(BPF_ADD, 2, 1);
             b.load(BPF_B, 0, 2, -200);
             finish(b);
           },
           [&] {
             b.load(BPF_DW, 1, 2, 0);
             b.alu_imm(BPF_ADD, 1, 1);
             b.store(BPF_DW, 2, 0, 1);
             finish(b);
           });
     }},
    {"an index that grows by rounds, too many", "STK002",
     [](Builder& b) {
       loop_call(
           b, 400,
           [&] {
             b.load(BPF_DW, 1, 10, -8);
             b.mov(2, 10);
             b.alu_imm(BPF_NEG, 1, 0);
             b.alu(BPF_ADD, 2, 1);
             b.load(BPF_B, 0, 2, -200);
             finish(b);
           },
           [&] {
             b.load(BPF_DW, 1, 2, 0);
             b.alu_imm(BPF_ADD, 1, 1);
             b.store(BPF_DW, 2, 0, 1);
             finish(b);
           });
     }},
    {"a loop around bpf_loop without end",
     "CFG007",
     [](Builder& b) {
       const auto head = b.label(), callback = b.label();
       b.store_imm(BPF_DW, 10, -8, 0);
       b.place(head);
       b.mov_imm(1, 10);
       b.load_function(2, callback);
       b.mov_imm(3, 0);
       b.mov_imm(4, 0);
       b.call(BPF_FUNC_loop);
       b.jump_imm(BPF_JNE, 0, 77, head);
       finish(b);
       b.place(callback);
       finish(b);
     },
     kKprobe,
     {},
     0},  // Linux takes the second visit of the call for another round of the same one
    // ---- registers ----
    {"write to r10", "TYP007",
     [](Builder& b) {
       b.mov_imm(10, 0);
       finish(b);
     }},
    {"write to r10 where nothing leads", kAccepted,
     [](Builder& b) {
       const auto end = b.label();
       b.mov_imm(0, 0);
       b.jump_imm(BPF_JEQ, 0, 0, end);
       b.mov_imm(10, 0);
       b.place(end);
       b.exit();
     }},
    {"r0 has no value at the end", "TYP001", [](Builder& b) { b.exit(); }},
    {"r2 has no value at the start", "TYP001",
     [](Builder& b) {
       b.mov(0, 2);
       b.exit();
     }},
    // ---- maps ----
    {"a looked-up value, tested",
     kAccepted,
     [](Builder& b) {
       const auto null = b.label();
       b.store_imm(BPF_DW, 10, -8, 0);
       b.mov(2, 10);
       b.alu_imm(BPF_ADD, 2, -8);
       b.load_map(1, 0);
       b.call(BPF_FUNC_map_lookup_elem);
       b.jump_imm(BPF_JEQ, 0, 0, null);
       b.store_imm(BPF_DW, 0, 0, 1);
       b.place(null);
       finish(b);
     },
     kKprobe,
     {"map_hash_8b"}},
    {"a looked-up value, not tested",
     "NUL001",
     [](Builder& b) {
       b.store_imm(BPF_DW, 10, -8, 0);
       b.mov(2, 10);
       b.alu_imm(BPF_ADD, 2, -8);
       b.load_map(1, 0);
       b.call(BPF_FUNC_map_lookup_elem);
       b.store_imm(BPF_DW, 0, 0, 1);
       finish(b);
     },
     kKprobe,
     {"map_hash_8b"}},
    // ---- tail calls ----
    {"a tail call from a function with 240 bytes above it",
     kAccepted,
     [](Builder& b) {
       const auto f = b.label();
       b.mov(6, 1);
       b.store_imm(BPF_DW, 10, -240, 0);
       b.call_local(f);
       finish(b);
       b.place(f);
       b.load_map(2, 0);
       b.mov_imm(3, 0);
       b.call(BPF_FUNC_tail_call);
       finish(b);
     },
     kKprobe,
     {"prog1"}},
    {"a tail call from a function with more above it",
     "CFG005",
     [](Builder& b) {
       const auto f = b.label();
       b.mov(6, 1);
       b.store_imm(BPF_DW, 10, -248, 0);
       b.call_local(f);
       finish(b);
       b.place(f);
       b.load_map(2, 0);
       b.mov_imm(3, 0);
       b.call(BPF_FUNC_tail_call);
       finish(b);
     },
     kKprobe,
     {"prog1"}},
};

class Programs : public ::testing::TestWithParam<Case> {};

TEST_P(Programs, GetLinuxsVerdict) {
  const Case& test = GetParam();
  const Request request = request_of(test);
  const Verdict verdict = verify(request);
  const std::string rule = verdict.diagnoses.empty() ? "" : std::string(info(verdict.diagnoses[0].rule).id);
  const std::string words = verdict.diagnoses.empty() ? "" : verdict.diagnoses[0].linux_message;
  EXPECT_EQ(rule, test.rule) << words;
  EXPECT_EQ(verdict.error == 0, std::strlen(test.rule) == 0);
  if (!KernelOracle::unusable().empty()) GTEST_SKIP() << KernelOracle::unusable();
  static KernelOracle kernel;
  const testing::KernelVerdict answer = kernel.ask(request);
  EXPECT_EQ(test.kernel_error >= 0 ? test.kernel_error : verdict.error, answer.error)
      << "ours: " << words << "\nkernel: " << kernel.ask_why(request).last_line;
}

INSTANTIATE_TEST_SUITE_P(Pairs, Programs, ::testing::ValuesIn(kCases), [](const auto& instance) {
  std::string name = instance.param.name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace bpftime::verifier

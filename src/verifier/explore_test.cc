// Exploration itself: the instruction bound, what pruning may and may not do, limits, facts.
#include <gtest/gtest.h>
#include <linux/btf.h>

#include <functional>

#include "program/interpreter.h"
#include "verifier/testing/btf_builder.h"
#include "verifier/testing/builder.h"
#include "verifier/testing/maps.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {
namespace {

using testing::Builder;

// BTF for every function of the program: static, `int f(void *)`; callbacks need it.
void add_functions(Request& request) {
  const std::vector<uint32_t> starts = program::subprogram_starts(request.program);
  if (starts.size() == 1) return;
  testing::BtfBuilder btf;
  const uint32_t prototype = btf.add_prototype(btf.add_int("int", 4, true), {{"arg", btf.add_pointer(0)}});
  for (const uint32_t start : starts) {
    const uint32_t record[2] = {start, btf.add_function("f" + std::to_string(start), prototype,
                                                        start == 0 ? BTF_FUNC_GLOBAL : BTF_FUNC_STATIC)};
    const auto* bytes = reinterpret_cast<const uint8_t*>(record);
    request.func_info.insert(request.func_info.end(), bytes, bytes + sizeof(record));
  }
  request.func_info_record_size = 8;
  request.btf = btf.blob();
}

Request request_of(const std::function<void(Builder&)>& write) {
  Builder builder;
  write(builder);
  Request request;
  request.program.name = "test";
  request.program.type = BPF_PROG_TYPE_KPROBE;
  request.program.insns = builder.finish();
  request.license = "GPL";
  add_functions(request);
  return request;
}

Verdict verdict_of(const std::function<void(Builder&)>& write) { return verify(request_of(write)); }

std::string rule_of(const Verdict& verdict) {
  return verdict.diagnoses.empty() ? "accepted" : std::string(info(verdict.diagnoses[0].rule).id);
}

void finish(Builder& b) {
  b.mov_imm(0, 0);
  b.exit();
}

void call_loop(Builder& b, int32_t rounds, Builder::Label callback) {
  b.mov_imm(1, rounds);
  b.load_function(2, callback);
  b.mov_imm(3, 0);
  b.mov_imm(4, 0);
  b.call(BPF_FUNC_loop);
}

// ---- the bound ----

uint64_t bound_of(const std::function<void(Builder&)>& write) {
  const Verdict verdict = verdict_of(write);
  EXPECT_EQ(rule_of(verdict), "accepted");
  return verdict.facts.instructions_max;
}

TEST(Bound, StraightLineCountsWideLoadsOnce) {
  EXPECT_EQ(bound_of([](Builder& b) {
              b.load_imm64(1, 1);
              finish(b);
            }),
            3u);
}

TEST(Bound, LongerBranchCounts) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto shorter = b.label();
              b.call(BPF_FUNC_get_prandom_u32);
              b.jump_imm(BPF_JEQ, 0, 1, shorter);
              for (int i = 0; i < 5; ++i) b.mov_imm(3, i);
              b.place(shorter);
              finish(b);
            }),
            9u);
}

TEST(Bound, DeadBranchDoesNotCount) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto shorter = b.label();
              b.mov_imm(0, 1);
              b.jump_imm(BPF_JEQ, 0, 1, shorter);
              for (int i = 0; i < 5; ++i) b.mov_imm(3, i);
              b.place(shorter);
              finish(b);
            }),
            4u);
}

TEST(Bound, CountedLoopIsExact) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto head = b.label();
              b.mov_imm(1, 0);
              b.place(head);
              b.alu_imm(BPF_ADD, 1, 1);
              b.jump_imm(BPF_JLT, 1, 1000, head);
              finish(b);
            }),
            1u + 2 * 1000 + 2);
}

TEST(Bound, PrunedPathsCountWhatFollows) {
  // 2^30 paths; each branch skips one instruction or not.
  EXPECT_EQ(bound_of([](Builder& b) {
              for (int i = 0; i < 30; ++i) {
                const auto skip = b.label();
                b.call(BPF_FUNC_get_prandom_u32);
                b.jump_imm(BPF_JEQ, 0, i, skip);
                b.mov_imm(1, 0);
                b.place(skip);
              }
              finish(b);
            }),
            30u * 3 + 2);
}

TEST(Bound, CalleesCountEachTime) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto callee = b.label();
              b.call_local(callee);
              b.call_local(callee);
              finish(b);
              b.place(callee);
              finish(b);
            }),
            2u + 2 * 2 + 2);
}

TEST(Bound, CallbackCountsByTrips) {
  // Six instructions up to and with the call, two after it; rounds of two.
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto callback = b.label();
              call_loop(b, 1000, callback);
              finish(b);
              b.place(callback);
              finish(b);
            }),
            5u + 1000 * 2 + 2);
}

TEST(Bound, APointersRoundsCanBeAnyNumber) {
  const auto loop = [](const std::function<void(Builder&)>& body) {
    return [&body](Builder& b) {
      const auto callback = b.label();
      b.mov(1, 10);
      b.load_function(2, callback);
      b.mov_imm(3, 0);
      b.mov_imm(4, 0);
      b.call(BPF_FUNC_loop);
      finish(b);
      b.place(callback);
      body(b);
      finish(b);
    };
  };
  EXPECT_EQ(bound_of(loop([](Builder&) {})), 5u + uint64_t{kLoopTripsMax} * 2 + 2);
  // The callback is looked at: r0 has no value in it.
  EXPECT_NE(rule_of(verdict_of(loop([](Builder& b) { b.store(BPF_DW, 10, 0, -8); }))), "accepted");
}

TEST(Bound, LongestRoundCounts) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto callback = b.label(), skip = b.label();
              call_loop(b, 100, callback);
              finish(b);
              b.place(callback);
              b.call(BPF_FUNC_get_prandom_u32);
              b.jump_imm(BPF_JEQ, 0, 9, skip);
              for (int i = 0; i < 10; ++i) b.mov_imm(3, i);
              b.place(skip);
              finish(b);
            }),
            5u + 100 * 14 + 2);
}

TEST(Bound, NestedCallbacksMultiply) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto outer = b.label(), inner = b.label();
              call_loop(b, 10, outer);
              finish(b);
              b.place(outer);
              call_loop(b, 20, inner);
              finish(b);
              b.place(inner);
              finish(b);
            }),
            5u + 10 * (5 + 20 * 2 + 2) + 2);
}

TEST(Bound, TwoCallsInARowAdd) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto callback = b.label();
              call_loop(b, 10, callback);
              call_loop(b, 30, callback);
              finish(b);
              b.place(callback);
              finish(b);
            }),
            5u + 10 * 2 + 5 + 30 * 2 + 2);
}

TEST(Bound, CallbackInALoop) {
  EXPECT_EQ(bound_of([](Builder& b) {
              const auto callback = b.label(), head = b.label();
              b.mov_imm(6, 0);
              b.place(head);
              call_loop(b, 10, callback);
              b.alu_imm(BPF_ADD, 6, 1);
              b.jump_imm(BPF_JLT, 6, 7, head);
              finish(b);
              b.place(callback);
              finish(b);
            }),
            1u + 7 * (5 + 10 * 2 + 2) + 2);
}

TEST(Bound, RoundsThatDifferAreAllCovered) {
  // Each round stores its index; what it does depends on what the round before stored.
  const uint64_t bound = bound_of([](Builder& b) {
    const auto callback = b.label(), longer = b.label(), end = b.label();
    b.store_imm(BPF_DW, 10, -8, 0);
    b.mov_imm(1, 50);
    b.load_function(2, callback);
    b.mov(3, 10);
    b.alu_imm(BPF_ADD, 3, -8);
    b.mov_imm(4, 0);
    b.call(BPF_FUNC_loop);
    finish(b);
    b.place(callback);
    b.load(BPF_DW, 4, 2, 0);
    b.store(BPF_DW, 2, 0, 1);
    b.jump_imm(BPF_JEQ, 4, 40, longer);
    b.go(end);
    b.place(longer);
    for (int i = 0; i < 20; ++i) b.mov_imm(3, i);
    b.place(end);
    finish(b);
  });
  EXPECT_GE(bound, 7u + 49 * 6 + 25 + 2);
  EXPECT_LE(bound, 7u + 50 * 25 + 2);
}

TEST(Bound, MoreThanGrantedIsRefused) {
  Constraints constraints;
  const auto write = [](Builder& b) {
    const auto head = b.label();
    b.mov_imm(1, 0);
    b.place(head);
    b.alu_imm(BPF_ADD, 1, 1);
    b.jump_imm(BPF_JLT, 1, 100, head);
    finish(b);
  };
  Request request = request_of(write);
  request.constraints = &constraints;
  constraints.typed_entry = true;
  constraints.instructions_below = 203;
  Verdict verdict = verify(request);
  ASSERT_EQ(rule_of(verdict), "BND001");
  EXPECT_LE(verdict.diagnoses[0].insn, 2u) << "the loop is what costs";
  EXPECT_NE(verdict.diagnoses[0].message.find("203"), std::string::npos) << verdict.diagnoses[0].message;
  constraints.instructions_below = 204;
  verdict = verify(request);
  EXPECT_EQ(rule_of(verdict), "accepted");
  constraints.instructions_below = 0;
  EXPECT_EQ(rule_of(verify(request)), "accepted");
}

TEST(Bound, AnEndlessLoopIsRefusedAtItsLine) {
  Constraints constraints;
  constraints.typed_entry = true;
  Request request = request_of([](Builder& b) {
    const auto head = b.label();
    b.mov_imm(6, 0);  // 0
    b.mov_imm(7, 0);
    b.place(head);
    b.alu_imm(BPF_ADD, 6, 1);          // 2
    b.jump_imm(BPF_JNE, 6, -1, head);  // 3
    finish(b);
  });
  request.constraints = &constraints;
  constraints.instructions_below = 10'000;
  Verdict verdict = verify(request);
  ASSERT_EQ(rule_of(verdict), "BND001");
  EXPECT_GE(verdict.diagnoses[0].insn, 2u);
  EXPECT_LE(verdict.diagnoses[0].insn, 3u);
  EXPECT_LT(verdict.statistics.insns_processed, 20'000u) << "no longer than the bound";
  constraints.instructions_below = 0;  // inf: must still end
  verdict = verify(request);
  ASSERT_EQ(rule_of(verdict), "BND002");
  EXPECT_EQ(verdict.error, E2BIG);
}

TEST(Bound, MemoryIsMapsAndStack) {
  Constraints constraints;
  constraints.typed_entry = true;
  Request request = request_of([](Builder& b) {
    b.store_imm(BPF_DW, 10, -8, 0);
    b.load_map(1, 0);
    finish(b);
  });
  request.maps.push_back(*testing::standard_map("map_hash_8b"));
  request.maps[0].spec.max_entries = 10;
  request.constraints = &constraints;
  constraints.memory_below = 10 * 16 + 8;
  EXPECT_EQ(rule_of(verify(request)), "BND003");
  constraints.memory_below += 1;
  const Verdict verdict = verify(request);
  EXPECT_EQ(rule_of(verdict), "accepted");
  EXPECT_EQ(verdict.facts.memory_bytes, 168u);
}

// ---- pruning ----

TEST(Pruning, PathsThatDifferInNothingThatMattersAreFollowedOnce) {
  const Verdict verdict = verdict_of([](Builder& b) {
    b.mov_imm(6, 0);
    for (int i = 0; i < 200; ++i) {
      const auto skip = b.label();
      b.call(BPF_FUNC_get_prandom_u32);
      b.jump_imm(BPF_JEQ, 0, i, skip);
      b.alu_imm(BPF_ADD, 6, 3);
      b.place(skip);
    }
    b.mov(0, 6);
    b.exit();
  });
  EXPECT_EQ(rule_of(verdict), "accepted");
  EXPECT_LT(verdict.statistics.insns_processed, 5000u);
}

TEST(Pruning, UnwrittenBytesThatAPrunedPathWouldReadAreZeroed) {
  // One way writes fp-8, the other does not; the read comes long after they meet.
  const auto write = [](Builder& b) {
    const auto other = b.label(), meet = b.label();
    b.call(BPF_FUNC_get_prandom_u32);
    b.jump_imm(BPF_JEQ, 0, 1, other);
    b.store(BPF_DW, 10, -8, 0);
    b.place(other);
    for (int i = 0; i < 4; ++i) {
      const auto next = b.label();
      b.call(BPF_FUNC_get_prandom_u32);
      b.mov_imm(3, 0);
      b.jump_imm(BPF_JEQ, 0, 3, next);
      b.mov_imm(3, 1);
      b.place(next);
    }
    b.go(meet);
    b.place(meet);
    b.load(BPF_DW, 0, 10, -8);
    finish(b);
  };
  Verdict verdict = verdict_of(write);
  ASSERT_EQ(rule_of(verdict), "accepted");
  EXPECT_EQ(verdict.facts.zeroed_bytes[0], 8u);

  Request request = request_of(write);
  request.options.zero_stack = false;
  verdict = verify(request);
  EXPECT_EQ(rule_of(verdict), "STK001");
}

TEST(Pruning, SameVerdictOnEveryRun) {
  const auto write = [](Builder& b) {
    b.mov_imm(6, 0);
    for (int i = 0; i < 12; ++i) {
      const auto skip = b.label();
      b.call(BPF_FUNC_get_prandom_u32);
      b.jump_imm(BPF_JGT, 0, i, skip);
      b.alu_imm(BPF_LSH, 6, 1);
      b.alu_imm(BPF_ADD, 6, i);
      b.place(skip);
    }
    const auto end = b.label();
    b.jump_imm(BPF_JGT, 6, 5, end);
    b.place(end);
    finish(b);
  };
  const Verdict first = verdict_of(write);
  for (int i = 0; i < 3; ++i) {
    const Verdict again = verdict_of(write);
    EXPECT_EQ(again.statistics.insns_processed, first.statistics.insns_processed);
    EXPECT_EQ(again.statistics.states_stored, first.statistics.states_stored);
    EXPECT_EQ(again.facts.instructions_max, first.facts.instructions_max);
  }
}

// ---- limits ----

TEST(Limits, EachIsRefusedByName) {
  const auto branches = [](Builder& b) {
    for (int i = 0; i < 30; ++i) {
      const auto skip = b.label();
      b.call(BPF_FUNC_get_prandom_u32);
      b.jump_imm(BPF_JEQ, 0, i, skip);
      b.mov_imm(1, 0);
      b.place(skip);
    }
    finish(b);
  };
  Request request = request_of(branches);
  ASSERT_EQ(rule_of(verify(request)), "accepted");
  request.options.limits.insns_processed = 50;
  Verdict verdict = verify(request);
  EXPECT_EQ(rule_of(verdict), "LIM001");
  EXPECT_EQ(verdict.error, E2BIG);
  EXPECT_EQ(verdict.diagnoses[0].linux_message, "BPF program is too large. Processed 51 insn");
  request.options.limits = {};
  request.options.limits.pending_branches = 10;
  EXPECT_EQ(rule_of(verify(request)), "LIM002");
  request.options.limits = {};
  request.options.limits.memory_bytes = 4096;
  EXPECT_EQ(rule_of(verify(request)), "LIM003");
  // Without room for states exploration goes on, only longer.
  request = request_of([](Builder& b) {
    for (int i = 0; i < 10; ++i) {
      const auto skip = b.label();
      b.call(BPF_FUNC_get_prandom_u32);
      b.jump_imm(BPF_JEQ, 0, i, skip);
      b.mov_imm(1, 0);
      b.place(skip);
    }
    finish(b);
  });
  request.options.limits.stored_states = 0;
  verdict = verify(request);
  EXPECT_EQ(rule_of(verdict), "accepted");
  EXPECT_EQ(verdict.facts.instructions_max, 32u);
}

TEST(Limits, AMillionInstructionsAreFollowed) {
  const auto straight = [](size_t count) {
    return [count](Builder& b) {
      b.mov_imm(0, 0);
      while (b.size() < count - 1) b.alu_imm(BPF_ADD, 0, 1);
      b.exit();
    };
  };
  const Verdict verdict = verdict_of(straight(1'000'000));
  EXPECT_EQ(rule_of(verdict), "accepted");
  EXPECT_EQ(verdict.facts.instructions_max, 1'000'000u);
  EXPECT_EQ(verdict_of(straight(1'000'001)).error, E2BIG);
}

// ---- facts ----

TEST(Facts, SayWhatIsReachedAndUsed) {
  const Verdict verdict = verdict_of([](Builder& b) {
    const auto end = b.label(), callee = b.label();
    b.store_imm(BPF_DW, 10, -24, 0);
    b.call(BPF_FUNC_get_prandom_u32);
    b.call_local(callee);
    b.mov_imm(0, 0);
    b.jump_imm(BPF_JEQ, 0, 0, end);
    b.call(BPF_FUNC_ktime_get_ns);  // 5: dead
    b.place(end);
    b.exit();
    b.place(callee);
    b.store_imm(BPF_W, 10, -100, 0);
    finish(b);
  });
  ASSERT_EQ(rule_of(verdict), "accepted");
  EXPECT_TRUE(verdict.facts.insns[4].reached);
  EXPECT_TRUE(verdict.facts.insns[4].always_taken());
  EXPECT_FALSE(verdict.facts.insns[5].reached);
  EXPECT_EQ(verdict.facts.helpers_called, std::vector<uint32_t>{BPF_FUNC_get_prandom_u32});
  ASSERT_EQ(verdict.facts.stack_bytes.size(), 2u);
  EXPECT_EQ(verdict.facts.stack_bytes[0], 24u);
  EXPECT_EQ(verdict.facts.stack_bytes[1], 104u);
}

TEST(Diagnosis, TellsThePathAndTheCalls) {
  const Verdict verdict = verdict_of([](Builder& b) {
    const auto callee = b.label(), skip = b.label();
    b.call(BPF_FUNC_get_prandom_u32);
    b.jump_imm(BPF_JEQ, 0, 1, skip);
    b.mov_imm(6, 1);
    b.place(skip);
    b.call_local(callee);
    finish(b);
    b.place(callee);
    b.load(BPF_DW, 0, 7, 0);
    b.exit();
  });
  ASSERT_EQ(rule_of(verdict), "TYP001");
  const Diagnosis& diagnosis = verdict.diagnoses[0];
  EXPECT_EQ(diagnosis.insn, 6u);
  EXPECT_EQ(diagnosis.call_chain, std::vector<uint32_t>{3});
  ASSERT_EQ(diagnosis.path.size(), 1u);
  EXPECT_EQ(diagnosis.path[0].insn, 1u);
  EXPECT_FALSE(diagnosis.path[0].taken);
  EXPECT_EQ(diagnosis.linux_message, "R7 !read_ok");
}

}  // namespace
}  // namespace bpftime::verifier

// The program's shape, and what may be read or matters where.
#include "verifier/control_flow.h"

#include <gtest/gtest.h>

#include <functional>

#include "verifier/testing/builder.h"

namespace bpftime::verifier {
namespace {

using testing::Builder;

struct Analysed {
  bool ok = false;
  ControlFlow flow;
  Verdict verdict;
};

Analysed analyse_program(const std::function<void(Builder&)>& write, std::vector<MapConstraint> maps = {}) {
  Builder builder;
  write(builder);
  Request request;
  request.program.type = BPF_PROG_TYPE_KPROBE;
  request.program.insns = builder.finish();
  request.maps = std::move(maps);
  Analysed out;
  out.ok = program::validate_structure(request.program).ok() && analyse(request, out.flow, out.verdict);
  return out;
}

bool live(const Analysed& analysed, uint32_t insn, uint32_t reg) { return analysed.flow.live[insn][reg]; }
bool relevant(const Analysed& analysed, uint32_t insn, uint32_t reg) {
  return analysed.flow.relevant[insn][reg];
}
constexpr uint32_t slot(int offset) { return 16 + static_cast<uint32_t>(-offset - 1) / 8; }

TEST(Shape, LoopHeadsAndPrunePoints) {
  const Analysed analysed = analyse_program([](Builder& b) {
    const auto head = b.label(), end = b.label();
    b.mov_imm(1, 0);  // 0
    b.place(head);
    b.alu_imm(BPF_ADD, 1, 1);        // 1
    b.jump_imm(BPF_JGT, 1, 9, end);  // 2
    b.go(head);                      // 3
    b.place(end);
    b.mov_imm(0, 0);  // 4
    b.exit();
  });
  ASSERT_TRUE(analysed.ok);
  EXPECT_TRUE(analysed.flow.loop_head[1]);
  EXPECT_FALSE(analysed.flow.loop_head[4]);
  EXPECT_TRUE(analysed.flow.prune_point[1]);
  EXPECT_TRUE(analysed.flow.prune_point[2]);
  EXPECT_FALSE(analysed.flow.prune_point[0]);
}

TEST(Shape, SubprogramsAndTheirCallees) {
  const Analysed analysed = analyse_program([](Builder& b) {
    const auto callee = b.label(), callback = b.label();
    b.load_function(2, callback);  // 0
    b.call_local(callee);          // 2
    b.exit();
    b.place(callee);
    b.mov_imm(0, 0);  // 4
    b.exit();
    b.place(callback);
    b.mov_imm(0, 0);  // 6
    b.exit();
  });
  ASSERT_TRUE(analysed.ok);
  ASSERT_EQ(analysed.flow.subprograms.size(), 3u);
  EXPECT_EQ(analysed.flow.subprograms[0].callees, (std::vector<uint32_t>{2, 1}));
  EXPECT_TRUE(analysed.flow.subprograms[2].is_callback);
  EXPECT_FALSE(analysed.flow.subprograms[1].is_callback);
  EXPECT_EQ(analysed.flow.subprogram_of[5], 1u);
}

TEST(Shape, UnreachableIsRefusedByItsNumber) {
  const Analysed analysed = analyse_program([](Builder& b) {
    b.mov_imm(0, 0);
    b.exit();
    b.mov_imm(0, 1);
    b.exit();
  });
  ASSERT_FALSE(analysed.ok);
  ASSERT_EQ(analysed.verdict.diagnoses.size(), 1u);
  EXPECT_EQ(analysed.verdict.diagnoses[0].rule, Rule::kCFG002);
  EXPECT_EQ(analysed.verdict.diagnoses[0].insn, 2u);
  EXPECT_EQ(analysed.verdict.diagnoses[0].linux_message, "unreachable insn 2");
}

TEST(Liveness, RegistersEndAtTheirLastRead) {
  const Analysed analysed = analyse_program([](Builder& b) {
    b.mov_imm(6, 1);  // 0
    b.mov(0, 6);      // 1
    b.mov_imm(6, 2);  // 2
    b.exit();         // 3
  });
  EXPECT_FALSE(live(analysed, 0, 6));
  EXPECT_TRUE(live(analysed, 1, 6));
  EXPECT_FALSE(live(analysed, 2, 6));
  EXPECT_TRUE(live(analysed, 3, 0));
  EXPECT_FALSE(relevant(analysed, 3, 0)) << "a kprobe may return anything";
}

TEST(Liveness, WhatABranchAsksIsRelevantBackThroughCopiesAndSpills) {
  const Analysed analysed = analyse_program([](Builder& b) {
    const auto end = b.label();
    b.mov(6, 1);                     // 0
    b.store(BPF_DW, 10, -8, 1);      // 1
    b.alu_imm(BPF_ADD, 6, 1);        // 2: never asked
    b.load(BPF_DW, 2, 10, -8);       // 3
    b.mov(3, 2);                     // 4
    b.jump_imm(BPF_JEQ, 3, 1, end);  // 5
    b.place(end);
    b.mov(0, 6);  // 6
    b.exit();
  });
  EXPECT_TRUE(relevant(analysed, 5, 3));
  EXPECT_TRUE(relevant(analysed, 4, 2));
  EXPECT_TRUE(analysed.flow.relevant[3][slot(-8)]);
  EXPECT_TRUE(relevant(analysed, 1, 1));
  EXPECT_TRUE(live(analysed, 2, 6));
  EXPECT_FALSE(relevant(analysed, 2, 6));
  EXPECT_FALSE(analysed.flow.live[1][slot(-8)]) << "the store replaces it";
}

TEST(Liveness, AddressesAreFollowedThroughRegisters) {
  const Analysed analysed = analyse_program([](Builder& b) {
    b.store_imm(BPF_DW, 10, -16, 1);  // 0
    b.mov(1, 10);                     // 1
    b.alu_imm(BPF_ADD, 1, -24);       // 2
    b.load(BPF_W, 0, 1, 8);           // 3: fp-16
    b.exit();
  });
  EXPECT_TRUE(analysed.flow.live[1][slot(-16)]);
  EXPECT_FALSE(analysed.flow.live[1][slot(-8)]);
  EXPECT_FALSE(analysed.flow.live[1][slot(-24)]);
}

TEST(Liveness, AnUnknownPlaceReadsTheWholeFrame) {
  const Analysed analysed = analyse_program([](Builder& b) {
    b.mov(2, 10);            // 0
    b.alu(BPF_ADD, 2, 1);    // 1
    b.load(BPF_B, 0, 2, 0);  // 2
    b.exit();
  });
  EXPECT_TRUE(analysed.flow.live[2][slot(-8)]);
  EXPECT_TRUE(analysed.flow.live[0][slot(-512)]);
  EXPECT_TRUE(relevant(analysed, 1, 1)) << "it moves a pointer";
}

TEST(Liveness, AnAddressThatWasSpilledMayComeBack) {
  const Analysed analysed = analyse_program([](Builder& b) {
    b.mov(2, 10);  // 0
    b.alu_imm(BPF_ADD, 2, -64);
    b.store(BPF_DW, 10, -8, 2);  // 2
    b.load(BPF_DW, 3, 10, -8);   // 3
    b.load(BPF_DW, 0, 3, 0);     // 4
    b.exit();
  });
  EXPECT_TRUE(analysed.flow.live[4][slot(-64)]);
}

TEST(Liveness, HelpersReadTheirArgumentsAndWhatTheyPointTo) {
  MapConstraint map;
  map.spec.key_size = 8;
  map.spec.value_size = 16;
  const Analysed analysed = analyse_program(
      [](Builder& b) {
        b.mov(2, 10);                      // 0
        b.alu_imm(BPF_ADD, 2, -32);        // 1
        b.load_map(1, 0);                  // 2
        b.call(BPF_FUNC_map_delete_elem);  // 4
        b.exit();
      },
      {map});
  EXPECT_TRUE(live(analysed, 4, 1));
  EXPECT_TRUE(live(analysed, 4, 2));
  EXPECT_FALSE(live(analysed, 4, 3));
  EXPECT_TRUE(analysed.flow.live[4][slot(-32)]);
  EXPECT_FALSE(analysed.flow.live[4][slot(-24)]) << "behind the key";
  EXPECT_FALSE(analysed.flow.relevant[4][slot(-32)]) << "any key will do";
}

// The frame of a caller that passes an address into it: alive, and relevant only if the callee's decisions depend on it.
TEST(Liveness, CalleesMayReadTheirCallersFrames) {
  const auto program = [](bool decides) {
    return [decides](Builder& b) {
      const auto callee = b.label(), end = b.label();
      b.store_imm(BPF_DW, 10, -8, 1);  // 0
      b.mov(1, 10);                    // 1
      b.alu_imm(BPF_ADD, 1, -8);       // 2
      b.call_local(callee);            // 3
      b.exit();                        // 4
      b.place(callee);
      b.load(BPF_DW, 2, 1, 0);  // 5
      b.alu_imm(BPF_ADD, 2, 1);
      b.store(BPF_DW, 1, 0, 2);
      if (decides) b.jump_imm(BPF_JEQ, 2, 5, end);
      b.place(end);
      b.mov_imm(0, 0);
      b.exit();
    };
  };
  const Analysed counts = analyse_program(program(false)), decides = analyse_program(program(true));
  EXPECT_TRUE(counts.flow.live[3][slot(-8)]);
  EXPECT_FALSE(counts.flow.relevant[3][slot(-8)]);
  EXPECT_TRUE(decides.flow.relevant[3][slot(-8)]);
}

TEST(Liveness, WhatACalleeStoresMattersIfItsCallerAsks) {
  const Analysed analysed = analyse_program([](Builder& b) {
    const auto callee = b.label(), end = b.label();
    b.mov(6, 1);                     // 0
    b.store_imm(BPF_DW, 10, -8, 1);  // 1
    b.mov(1, 10);                    // 2
    b.alu_imm(BPF_ADD, 1, -8);       // 3
    b.mov(2, 6);                     // 4
    b.call_local(callee);            // 5
    b.load(BPF_DW, 3, 10, -8);       // 6
    b.jump_imm(BPF_JEQ, 3, 5, end);  // 7
    b.place(end);
    b.mov_imm(0, 0);  // 8
    b.exit();
    b.place(callee);
    b.store(BPF_DW, 1, 0, 2);  // 10
    b.mov_imm(0, 0);
    b.exit();
  });
  EXPECT_TRUE(relevant(analysed, 10, 2));
  EXPECT_TRUE(relevant(analysed, 5, 2));
  EXPECT_TRUE(relevant(analysed, 4, 6));
}

TEST(Liveness, WhatACallbackCountsMattersOnlyIfItDecides) {
  const auto program = [](bool decides) {
    return [decides](Builder& b) {
      const auto callback = b.label(), end = b.label();
      b.store_imm(BPF_DW, 10, -8, 0);  // 0
      b.mov_imm(1, 10);                // 1
      b.load_function(2, callback);    // 2
      b.mov(3, 10);                    // 4
      b.alu_imm(BPF_ADD, 3, -8);       // 5
      b.mov_imm(4, 0);                 // 6
      b.call(BPF_FUNC_loop);           // 7
      b.exit();
      b.place(callback);
      b.load(BPF_DW, 3, 2, 0);
      b.alu_imm(BPF_ADD, 3, 1);
      b.store(BPF_DW, 2, 0, 3);
      if (decides) b.jump_imm(BPF_JEQ, 3, 5, end);
      b.place(end);
      b.mov_imm(0, 0);
      b.exit();
    };
  };
  const Analysed counts = analyse_program(program(false)), decides = analyse_program(program(true));
  EXPECT_TRUE(counts.flow.live[7][slot(-8)]);
  EXPECT_FALSE(counts.flow.relevant[7][slot(-8)]);
  EXPECT_TRUE(decides.flow.relevant[7][slot(-8)]);
  EXPECT_TRUE(relevant(counts, 7, 1)) << "the number of rounds";
}

TEST(Liveness, AMillionInstructionsWithLoopsEnd) {
  const Analysed analysed = analyse_program([](Builder& b) {
    b.mov_imm(0, 0);
    while (b.size() < 300'000) {
      const auto head = b.label();
      b.place(head);
      b.alu_imm(BPF_ADD, 0, 1);
      b.jump_imm(BPF_JLT, 0, 5, head);
    }
    b.exit();
  });
  EXPECT_TRUE(analysed.ok);
  EXPECT_TRUE(relevant(analysed, 1, 0));
}

}  // namespace
}  // namespace bpftime::verifier

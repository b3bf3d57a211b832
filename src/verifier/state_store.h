// States that were explored, kept compactly, and the tree of paths between them.
//
// A state is stored generalised: what is dead is dropped, numbers that cannot decide the verdict are unknown. Exploration
// goes on from that generalised state, so everything the store says was explored really was.
// Each stored state is a node of a tree (the parent: the stored state the path came by). A node is open while paths from it
// are still to be followed. When it closes, the longest way from it to the end is known.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "verifier/control_flow.h"
#include "verifier/engine.h"
#include "verifier/state.h"

namespace bpftime::verifier {

inline constexpr uint32_t kNoNode = UINT32_MAX;

// Saturating: a bound beyond 2^64 is no bound.
uint64_t add_steps(uint64_t a, uint64_t b);
uint64_t multiply_steps(uint64_t a, uint64_t b);

// What was seen of a call with a callback: the longest round, and the longest way after the last.
struct Rounds {
  uint64_t body = 0, rest = 0;
  void absorb(const Rounds& other);
};

// The worst that can still be executed from a place. A callback's body is counted apart from what follows its call, because
// only a few of its rounds are simulated: the call counts `trips` rounds.
struct Remaining {
  uint64_t steps = 0;         // to the end of the program or, in a callback, of this round
  Rounds own;                 // at a call with a callback
  std::vector<Rounds> outer;  // of the calls whose callbacks the place is in, innermost first
};

// A state in few bytes. Only what is initialised, live and not just any number.
struct StoredState {
  struct Item {
    uint8_t frame;
    bool is_slot;
    uint8_t number;   // register or slot
    bool any_number;  // an unknown number without links; `value` is not used
    uint32_t value;   // index in `values`; kNoNode: none (slot without spill)
    std::array<Byte, kSlotBytes> bytes;
  };
  struct Call {
    uint32_t subprogram, call_site, callback_depth;
    bool is_callback;
  };
  std::vector<Item> items;
  std::vector<Value> values;
  std::vector<Call> frames;
  std::vector<Reference> references;
  Lock lock;
  uint32_t preempt_or_rcu = 0;
  uint32_t callback_rounds = 0;
};

// The live and relevant parts of frame `depth` when the innermost frame stands before instruction `insn`.
std::pair<FrameBits, FrameBits> frame_bits(const ControlFlow& flow, const State& state, size_t depth,
                                           uint32_t insn);

// Forgets what is dead and what cannot matter.
void generalise(const ControlFlow& flow, State& state, uint32_t insn);

// Which id of one state stands for which of another; small, so searched from the front.
class IdMap {
 public:
  void clear() { pairs_.clear(); }
  // Whether `old` may stand for `now`: it is new, or was mapped so before. `both_ways`: nothing else stands for `now`.
  bool add(uint32_t old, uint32_t now, bool both_ways);

 private:
  std::vector<std::pair<uint32_t, uint32_t>> pairs_;
};

class StateStore {
 public:
  struct Node {
    uint32_t insn = 0;
    PathEdge from;            // parent and way
    uint32_t branches = 0;    // open paths and children
    uint32_t next = kNoNode;  // in the list of its instruction
    uint32_t hits = 0, misses = 0;
    uint32_t instance = kNoNode;  // of a call with a callback: node of its first round
    uint64_t trips = 0;
    uint64_t steps_before =
        0;  // executed on the path that came here, each callback's rounds as far as simulated
    bool is_call = false;
    bool listed = false;  // compared with new states
    bool pinned = false;  // something leans on it: never reused
    // Calls that were open when a path from here came back to them. `level`: index into Remaining::outer of the call, as
    // seen from here; -1: this node is a round of it.
    struct Lean {
      uint32_t call;
      int32_t level;
    };
    std::vector<Lean> leans_on;
    Remaining remaining;
    StoredState state;
  };

  StateStore(const Request& request, const ControlFlow& flow, Facts& facts, Statistics& statistics);

  Node& node(uint32_t index) { return nodes_[index]; }
  // A node without a state, for the entry.
  uint32_t add_root();
  // Stores `state` (generalised already) at `insn` as a child on `from`, whose open path it takes over.
  uint32_t add(const State& state, uint32_t insn, PathEdge from);
  bool full() const { return stored_ >= request_.options.limits.stored_states; }
  uint64_t memory_bytes() const { return memory_bytes_; }

  uint32_t first_at(uint32_t insn) const { return heads_[insn]; }
  // Takes a node that is never hit off the list of its instruction.
  void evict(uint32_t insn, uint32_t before, uint32_t index);

  // Whether everything `state` can be was explored from `stored`.
  bool contains(const StoredState& stored, const State& state);
  static bool same(const StoredState& a, const StoredState& b);
  // After contains(): makes the facts true for `state` as well.
  void adopt(const StoredState& stored, const State& state);
  StoredState compact(const State& state) const;

  // Whether the path `path` in `state` may end at the closed node `index`: every call that node leans on is closed as
  // well, or one that the path is in a round of. Else two unfinished proofs could lean on each other.
  bool may_end_at(uint32_t index, const PathEdge& path, const State& state) const;
  // What is known of a closed node, including the calls it leans on.
  Remaining remaining(uint32_t index);
  // A path came back to the open call `call`: all stored states between lean on it.
  void lean(PathEdge path, uint32_t call);

  // The place that states were compared at most often: where the bulk of the work is.
  uint32_t busiest() const;

  void opened(uint32_t index) { ++nodes_[index].branches; }
  // A path on `path` has ended with `rest` still to come; closes what can be closed.
  void ended(PathEdge path, const Remaining& rest);

 private:
  void contribute(const PathEdge& edge, const Remaining& rest);
  void release(uint32_t index);
  bool same_instance(uint32_t old, uint32_t now);
  bool same_length(uint32_t old, uint32_t now);
  bool contains_value(const Value& old, const Value& now);
  bool contains_slot(const StoredState& stored, const StoredState::Item& item, const Slot* slot);

  const Request& request_;
  const ControlFlow& flow_;
  Facts& facts_;
  Statistics& statistics_;
  std::deque<Node> nodes_;
  std::vector<uint32_t> free_;
  std::vector<uint32_t> heads_;  // per instruction
  uint32_t stored_ = 0;          // with a state, at present
  uint64_t memory_bytes_ = 0;
  // Scratch of contains().
  IdMap links_, nulls_, instances_, references_;
};

}  // namespace bpftime::verifier

// Every limit of the verifier, in one place. A program that hits one is refused with rule LIM… and the limit's name.
#pragma once

#include <cstdint>

namespace bpftime::verifier {

struct Limits {
  uint32_t insns_processed = 1'000'000;  // over all paths (BPF_COMPLEXITY_LIMIT_INSNS)
  uint32_t pending_branches = 8192;      // paths put aside (BPF_COMPLEXITY_LIMIT_JMP_SEQ)
  uint32_t stored_states = 1u << 18;     // over all instructions; later ones are explored, not stored
  uint64_t memory_bytes = 512ull << 20;  // of states and trails
  uint32_t references = 64;              // open at once
  uint32_t diagnoses = 1;                // reported per program; the first is the one Linux would give
};

inline constexpr uint32_t kFramesMax = 8;             // MAX_CALL_FRAMES
inline constexpr uint32_t kStackBytes = 512;          // per frame and over a chain of frames (MAX_BPF_STACK)
inline constexpr uint32_t kSlotBytes = 8;             // BPF_REG_SIZE
inline constexpr uint32_t kSubprogramsMax = 256;      // BPF_MAX_SUBPROGS
inline constexpr int64_t kOffsetMax = 1 << 29;        // BPF_MAX_VAR_OFF: of pointers, either way
inline constexpr uint32_t kSizeMax = 1 << 29;         // BPF_MAX_VAR_SIZ: lengths handed to helpers
inline constexpr uint32_t kLoopTripsMax = 8u << 20;   // BPF_MAX_LOOPS: bpf_loop
inline constexpr uint32_t kTailCallsMax = 33;         // MAX_TAIL_CALL_CNT
inline constexpr uint32_t kInstructionsInfinite = 0;  // no bound asked for (`instructions < inf`)

}  // namespace bpftime::verifier

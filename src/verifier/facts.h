// What the proof found out that others can use: the compiler, the report, the attacher.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bpftime::verifier {

struct InsnFacts {
  bool reached = false;            // on some path; else dead code, whatever it holds
  bool needs_fault_table = false;  // loads through a pointer read from the host: a bad address must give 0
  bool reached_taken = false, reached_through = false;  // conditional jumps: ways that some path goes
  bool same_map = false;                                // a helper call or access always names map `map`
  uint32_t map = 0;

  bool always_taken() const { return reached_taken && !reached_through; }
  bool never_taken() const { return reached_through && !reached_taken; }
};

struct Facts {
  std::vector<InsnFacts> insns;       // one per instruction slot
  uint64_t context_slots_read = 0;    // bit i: 8-byte slot i of the context is read; of the first 64
  uint64_t context_end = 0;           // bytes of the context, from its start, up to the last one loaded
  bool context_escapes = false;       // passed to a helper or loaded at an unknown place: all of it is needed
  std::vector<uint32_t> stack_bytes;  // per subprogram (program::subprogram_starts order): deepest byte used
  // Per subprogram: lowest stack bytes that may be read before they are written, counted from the frame's top; those must
  // be zeroed on entry. 0: none.
  std::vector<uint32_t> zeroed_bytes;
  uint64_t instructions_max = 0;         // proved worst case of executed instructions, helpers at their cost
  uint64_t memory_bytes = 0;             // maps, stack and ring records of the class
  std::vector<uint32_t> helpers_called;  // ids, ascending, on reached instructions
  std::vector<std::string>
      promises_used;  // "ngx_time: result > 0": what the host must keep for the proof to hold
};

struct Statistics {
  uint32_t insns_processed = 0;
  uint32_t states_stored = 0;  // in all
  uint32_t states_peak = 0;    // at once
  uint32_t states_per_insn_max = 0;
  uint64_t time_ns = 0;
};

}  // namespace bpftime::verifier

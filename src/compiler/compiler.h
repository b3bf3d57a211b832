// Bytecode to machine code. The only includer of LLVM. Runs in the daemon, never in a target.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "program/program.h"
#include "verifier/constraints.h"
#include "verifier/facts.h"
#include "wire/object.h"

namespace bpftime::compiler {

// A map as generated code sees it: geometry and target address are constants in the code.
struct MapBinding {
  wire::MapSpec spec;
  uint64_t address = 0;  // in every target, as recorded in ObjectTrailer::address
  uint32_t id = 0;
};

struct CompileOptions {
  uint64_t context_address = 0;  // wire::TargetContext in every target (wire::window_address)
  const MapBinding* trace_ring =
      nullptr;  // where bpf_trace_printk writes; required when the program calls it
  // Conformance mode: signature uint64_t(void* r1, uint64_t r2); r2 is the second argument instead
  // of an Invocation.
  bool bare = false;
  // What the verifier proved of this very program: stack it may read unwritten is zeroed, code it never reaches is left
  // out. Null (tests): unwritten stack has unknown bytes and all code is translated.
  const verifier::Facts* facts = nullptr;
  // Of the program's extension class: how entry arguments become the context, what host calls return. Null: none.
  const verifier::Constraints* constraints = nullptr;
  // Counts runs: `run_counters` (a power of two) words of 8 bytes, kRunCounterStride apart, one per CPU modulo their number.
  // One addition to memory that no other CPU writes. 0: none.
  uint64_t run_counter_address = 0;
  uint32_t run_counters = 0;
  // For debugging a host: what its functions promise about their results (verifier::Facts::promises_used) is looked at after each
  // call. A broken promise ends the program, with the result 0, and is counted kBrokenPromisesOffset behind run_counter_address,
  // which must be set. Not with tail_entry.
  bool check_promises = false;
  // Makes an entry for tail calls besides (MachineCode::tail_entry_offset): for a program that stands in a program array.
  // Not with `constraints`.
  bool tail_entry = false;
  // maps::MapReference[maps::kReferencesMax], where the program has maps of rings. 0: it has none.
  uint64_t inner_maps = 0;
};

inline constexpr uint32_t kRunCounterStride = 64;
inline constexpr uint32_t kBrokenPromisesOffset = 8;

inline constexpr uint32_t kNoTailEntry = ~uint32_t{0};

// Position-independent, fully linked, general registers only, no calls or references outside itself except
// the constant addresses above. Entry: wire/invocation.h.
struct MachineCode {
  std::vector<uint8_t> image;  // text and read-only data; copy to any 16-byte aligned executable address
  uint32_t entry_offset = 0;
  uint32_t text_size = 0;  // bytes of instructions at the image's start; what follows is data
  uint32_t stack_bytes =
      0;  // deepest use of the stack, return addresses included (not what vDSO and agent use)
  bool makes_system_calls = false;  // calls a helper that may enter the kernel (helpers::Helper::system_call)
  bool repairs_faults = false;      // reads memory that may not be there: needs the agent's signal guard
  bool calls_host = false;          // needs the agent's bridge
  bool ends_function = false;       // may end the probed function (bpf_override_return)
  // May jump to any program that is ever put in its arrays, which may do anything a program may: counts as reading all of the
  // context, makes_system_calls and repairs_faults.
  bool may_tail_call = false;
  // What a program array's slot holds: the image's address plus this. kNoTailEntry unless CompileOptions::tail_entry.
  uint32_t tail_entry_offset = kNoTailEntry;
  // Bit i: the program may read 8-byte slot i of the wire::PtRegs it gets; the others may hold anything.
  uint32_t context_slots_read = ~uint32_t{0};
};

// `maps[i]` is what index i of the program's map references means. Program must be valid.
// A call to a helper id this build does not know compiles to "return 0 from the program": it was proved dead,
// or nothing was. Errors: EINVAL naming the instruction; E2BIG when it needs more stack than
// wire::kProgramStackMax; ENOMEM. Safe from several threads (they take turns). Remembers the last programs
// (16 MiB of them) by content: the same again (name aside) costs no compilation.
Result<MachineCode> compile(const program::Program& program, std::span<const MapBinding> maps,
                            const CompileOptions& options);

// How many programs this process has compiled, not counting those it remembered.
uint64_t programs_compiled();

// Does now what the first compile() would do besides its own work, so that it need not: whoever starts and has nothing to do
// yet calls it.
void warm_up();

}  // namespace bpftime::compiler

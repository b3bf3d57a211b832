// The helpers that exist here: compiler, feature probes and docs/support-matrix.md read it. How Linux defines them, and many more,
// is in verifier/prototypes.h.
// A helper is one row in helpers.def and one function in runtime/.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bpftime::helpers {

struct Helper {
  uint32_t id;               // BPF_FUNC_*
  std::string_view name;     // "bpf_map_lookup_elem"
  std::string_view symbol;   // function in the runtime bitcode: "bpftime_helper_map_lookup_elem"
  bool system_call;          // may enter the kernel in the target
  bool repairs_faults;       // reads memory it was handed an address of
  std::string_view differs;  // how it differs from Linux; empty: it does not
};

std::span<const Helper> all();
const Helper* find(uint32_t id);  // nullptr: not supported

// The function for maps of one type; `helper.symbol` where there is none (map_types.def).
std::string_view symbol_for_map(const Helper& helper, uint32_t map_type);

// True when the helper can do nothing useful without entering the kernel: only a system call knows the answer, or a reader
// has to be woken. The others have another way where system calls are forbidden (wire::kNoSystemCalls).
bool needs_system_calls(uint32_t id);

// True when the helper tells what only wire::TaskFacts knows.
bool needs_task_facts(uint32_t id);

}  // namespace bpftime::helpers

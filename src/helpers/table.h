// The helpers that exist here: compiler, feature probes and docs/support-matrix.md read it. How Linux defines them, and many more,
// is in verifier/prototypes.h.
// A helper is one row in helpers.def and one function in runtime/.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bpftime::helpers {

struct Helper {
  // What a target must provide.
  enum Use : uint32_t {
    kNothing = 0,
    kSystemCalls = 1,  // may enter the kernel, if only once after a fork to learn the process id
    // Can do nothing useful without: only a system call knows the answer, or a reader has to be woken. (The others have
    // another way where system calls are forbidden, wire::kNoSystemCalls.)
    kNeedsSystemCalls = 2 | kSystemCalls,
    kRepairsFaults = 4,  // loads from addresses that programs made up: needs the signal guard
    kTaskFacts = 8       // tells what only wire::TaskFacts knows
  };

  constexpr Helper(uint32_t id_given, std::string_view name_given, std::string_view symbol_given,
                   uint32_t uses_given, std::string_view differs_given)
      : id(id_given),
        name(name_given),
        symbol(symbol_given),
        uses(uses_given),
        system_call((uses_given & kSystemCalls) != 0),
        repairs_faults((uses_given & kRepairsFaults) != 0),
        differs(differs_given) {}

  uint32_t id;               // BPF_FUNC_*
  std::string_view name;     // "bpf_map_lookup_elem"
  std::string_view symbol;   // function in the runtime bitcode: "bpftime_helper_map_lookup_elem"
  uint32_t uses;             // Use
  bool system_call;          // kSystemCalls
  bool repairs_faults;       // kRepairsFaults
  std::string_view differs;  // how it differs from Linux; empty: it does not
};

std::span<const Helper> all();
const Helper* find(uint32_t id);  // nullptr: not supported

// The function for maps of one type; `helper.symbol` where there is none (runtime/maps.cc).
std::string_view symbol_for_map(const Helper& helper, uint32_t map_type);

// Its `uses` has Helper::kNeedsSystemCalls.
bool needs_system_calls(uint32_t id);

// Its `uses` has Helper::kTaskFacts.
bool needs_task_facts(uint32_t id);

}  // namespace bpftime::helpers

// The one table of helpers: compiler, verifier, feature probes and docs/support-matrix.md read it.
// A helper is one row in helpers.def and one function in runtime/.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bpftime::helpers {

// Argument and result kinds, as the kernel's enum bpf_arg_type / bpf_return_type name them (the subset in
// use).
enum class ArgType : uint8_t {
  kNone,
  kAnything,
  kConstMap,
  kMapKey,
  kMapValue,
  kUninitMapValue,
  kMem,
  kMemReadOnly,
  kUninitMem,
  kSize,
  kSizeOrZero,
  kConstSizeOrZero,
  kContext,
  kRingbufMemory,
  kConstAllocSize,
  kConstString,
};
enum class RetType : uint8_t { kInteger, kVoid, kMapValueOrNull, kRingbufMemoryOrNull };

struct Helper {
  uint32_t id;              // BPF_FUNC_*
  std::string_view name;    // "bpf_map_lookup_elem"
  std::string_view symbol;  // function in the runtime bitcode: "bpftime_helper_map_lookup_elem"
  RetType ret;
  ArgType args[5];
  bool system_call;          // may enter the kernel in the target
  bool repairs_faults;       // reads memory it was handed an address of
  std::string_view differs;  // how it differs from Linux; empty: it does not
};

std::span<const Helper> all();
const Helper* find(uint32_t id);  // nullptr: not supported

// True when the helper can do nothing useful without entering the kernel: only a system call knows the answer, or a reader
// has to be woken. The others have another way where system calls are forbidden (wire::kNoSystemCalls).
bool needs_system_calls(uint32_t id);

}  // namespace bpftime::helpers

// The extension manager's policy: which classes of extensions there are, what each may do, which programs run in which. Parsed
// and checked as text; what its names mean is checked against a manifest by grant.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bpftime::eim {

// In the policy file, counted from 1.
struct Position {
  uint32_t line = 0, column = 0;
};

// One value or range of `return(…)` and `f(argument in …)`: `403`, `400..499`, `METHOD_GET`, `0.5`.
struct Value {
  std::string name;            // an enumerator's; empty: a number
  bool is_negative = false;    // of `low`: then low and high are two's complement
  uint64_t low = 0, high = 0;  // inclusive
  bool is_real = false;        // `real` instead
  double real = 0;
  Position position;
};

struct Narrowing {
  std::string argument;
  std::vector<Value> values;  // not empty
  Position position;
};

struct Capability {
  enum class Kind : uint8_t {
    kInstructions,
    kMemory,
    kName,
    kRead,
    kWrite,
    kReturn,
    kShared
  } kind = Kind::kName;
  std::string name;                   // kName: state or host function; kShared: map
  bool is_call = false;               // kName with parentheses: a host function
  std::vector<Narrowing> narrowings;  // of a call
  std::vector<std::string> path;      // kRead, kWrite: argument, member, member …
  std::vector<Value> values;          // kReturn; empty: return()
  uint64_t below = 0;                 // kInstructions; kMemory: bytes; 0: inf
  std::string text;                   // as written
  Position position;
};

struct ExtensionClass {
  std::string name, entry;
  std::vector<Capability> allowed;
  Position position, entry_position, allowed_position;
};

struct Extension {
  std::string program;   // object file, resolved against the policy's folder
  std::string function;  // of the programs in it; empty: all
  std::string class_name;
  Position position;
};

struct Policy {
  std::string path;
  std::string
      manifest;  // resolved against the policy's folder; empty: none, all classes are for system calls of `host`
  std::string host;  // binary that a describing object is for, resolved; empty: the manifest itself
  enum class Build : uint8_t { kHost, kAny, kGiven } build = Build::kHost;
  std::string build_id;  // kGiven: hex
  std::vector<ExtensionClass> classes;
  std::vector<Extension> extensions;  // in the order they run at one entry
  Position manifest_position, build_position;

  const ExtensionClass* find_class(const std::string& name) const;
  // "nginx.policy.yaml:9:7: what"
  Error error(Position position, const std::string& what, int code = EINVAL) const;
};

inline constexpr size_t kPolicyBytesMax = 256u << 10;

// Errors: "FILE:LINE:COLUMN: what; did you mean …?". ENOTSUP: something this version cannot do yet.
Result<Policy> read_policy(const std::string& path);
Result<Policy> parse_policy(const std::string& text, const std::string& path);

// One item of `allowed`; positions count from `start`, the place of its first character.
Result<Capability> parse_capability(const std::string& text, Position start, const Policy& policy);

// `; did you mean "X"?` for the candidate nearest to `word`, or nothing when none is near.
std::string nearest_hint(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace bpftime::eim

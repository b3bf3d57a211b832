// What an application offers to extensions: the records of bpftime/eim.h in its binary, or in an object that describes it,
// with the types of everything they name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "program/type_table.h"

namespace bpftime::eim {

// Where a macro stands.
struct Place {
  std::string file;
  uint32_t line = 0;
  std::string text() const { return line == 0 ? file : file + ":" + std::to_string(line); }
};

struct Constraint {
  uint32_t kind = 0;  // enum eim_constraint_kind, known and checked against the prototype
  uint32_t argument = 0;
  int64_t low = 0, high = 0;  // as eim.h says for the kind
};

// An extension entry or a host function.
struct Function {
  std::string name;        // of the capability; of a host function: the function's
  std::string function;    // as the source names it: "ns::process"
  std::string symbol;      // as the symbol table does; `function` when it does not
  uint64_t address = 0;    // file address in the annotated binary; 0: unknown (objects, imported functions)
  uint32_t prototype = 0;  // kFunction in `types`
  std::vector<std::string>
      arguments;  // names, one per parameter, unique: arg0, arg1, … where nobody gave one
  std::vector<Constraint> constraints;  // of an entry: the host's promises
  bool inlined = false;                 // of an entry: some calls do not pass its first instruction
  // Entries that are no functions of the host (system_calls.h). Never in a manifest that was read.
  enum class At : uint8_t { kFunction, kSystemCall, kSystemCallExit } at = At::kFunction;
  Place place;

  // What a constraint of that kind says; null: nothing.
  const Constraint* find(uint32_t kind, uint32_t argument = 0) const;
};

struct State {
  std::string name;
  std::string expression;  // "ngx_pid"
  std::string symbol;
  uint64_t offset = 0;   // of the expression in the symbol
  uint64_t address = 0;  // as of functions; of the expression
  uint32_t type = 0;
  bool write = false;  // else read
  Place place;
};

struct Buffer {
  std::string name;            // the type as the source writes it: "ngx_str_t"
  uint32_t type = 0;           // kStruct in `types`
  uint32_t data = 0, len = 0;  // indexes of its members
  Place place;
};

struct Manifest {
  std::string path;
  bool is_object = false;  // describes another file
  std::string build_id;    // of the annotated binary; empty: none
  std::string types_from;  // "DWARF" or "BTF"
  program::TypeTable types;
  std::vector<Function> entries, functions;
  std::vector<State> states;
  std::vector<Buffer> buffers;

  const Function* entry(const std::string& name) const;
  const Function* function(const std::string& name) const;
  const State* state(const std::string& name) const;
  const Buffer* buffer_of(uint32_t type, uint32_t data_member) const;  // `type` resolved
};

// Errors name the symbol and the macro's line: "manifest: host: process: EIM_EXTENSION_ENTRY_DEFINE at host.c:12: …".
// ENOENT: the file has no annotations.
Result<Manifest> read_manifest(const std::string& path);
Result<Manifest> parse_manifest(std::vector<uint8_t> image, const std::string& path);

// The file with its types as BTF beside the records, so that they survive strip.
Result<std::vector<uint8_t>> embed_types(const std::string& path, const Manifest& manifest);

// The manifest as YAML.
std::string manifest_text(const Manifest& manifest);
// One constraint in words of the header: "HF_ARG_RANGE(1, 0, 4096)".
std::string constraint_text(const Constraint& constraint);

}  // namespace bpftime::eim

// C types of what a file's records name, out of its DWARF.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "program/type_table.h"

namespace bpftime::symbols {

// A function that the file defines.
struct DebugFunction {
  std::string name;                     // with its namespaces: "ns::process"
  uint64_t address = 0;                 // file address; in objects an arbitrary one
  std::vector<std::string> parameters;  // names; empty strings where there is none
  bool inlined = false;  // somewhere its body stands in for a call: probes at its entry do not see that one
};

struct DebugTypes {
  program::TypeTable table;  // only what `variables` reach
  // Type of each variable in the sections asked for, by section index and offset in the section.
  std::map<std::pair<uint32_t, uint64_t>, uint32_t> variables;
  std::vector<DebugFunction> functions;  // those of the names asked for
};

// Types of the variables in sections named `section`, and functions whose names (without namespaces) are in `functions`.
// A file without DWARF gives empty tables. `image`: a whole ELF file. EFBIG: a limit is hit. C++ classes become structs (bases
// as members with the class's name, references as pointers), names carry their namespaces. Types that are only declared where they are
// used are looked up by name in the whole file.
Result<DebugTypes> read_debug_types(Bytes image, const std::string& label, const std::string& section,
                                    const std::set<std::string>& functions);

}  // namespace bpftime::symbols

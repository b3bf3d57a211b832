// Which instruction of the program each part of its machine code comes from: for `bpftime prog dump jited`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compiler/compiler.h"

namespace bpftime::compiler {

struct CodeLine {
  uint32_t offset = 0;  // in MachineCode::image: from here to the next entry
  uint32_t insn = 0;    // index of the instruction
};

// Compiles the program again, asked to remember that: nobody else pays for it. Ascending offsets; code that belongs to no
// instruction has no entry of its own. `code` is what compile() made of the same arguments. Errors: as compile(); ENODATA:
// the code came out differently, so nothing said of it would be true of `code`.
Result<std::vector<CodeLine>> line_table(const program::Program& program, std::span<const MapBinding> maps,
                                         const CompileOptions& options, const MachineCode& code);

}  // namespace bpftime::compiler

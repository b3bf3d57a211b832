// `prog dump`: instructions and machine code, with the lines of source they come from.
#pragma once

#include <vector>

#include "cli/bpf_door.h"

namespace bpftime::cli {

struct DumpOptions {
  bool json = false;
  bool opcodes = false;       // the bytes of each instruction as well
  bool line_numbers = false;  // file, line and column of source lines as well
};

// Print to standard output. Programs without BTF are shown without source.
Result<void> dump_xlated(const Fd& fd, const bpf_prog_info& info, const DumpOptions& options);
// Compiles it first where no probe has needed that yet.
Result<void> dump_jited(const Fd& fd, const bpf_prog_info& info, const DumpOptions& options);

Result<std::vector<uint8_t>> xlated_bytes(const Fd& fd);
Result<std::vector<uint8_t>> jited_bytes(const Fd& fd, const bpf_prog_info& info);

}  // namespace bpftime::cli

// What a program named on the command line is, and whether our library can be preloaded into it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace bpftime::cli {

struct ProgramFile {
  std::string path;         // what to exec, found along PATH when the name has no slash
  std::string not_entered;  // why preloading cannot work (static, setuid, …); empty: it can
  bool supervised = false;  // its system calls must be answered from outside (Launch::supervised), and can be
};

// ENOENT: not found (exit 127). Other codes: found, but cannot be executed (exit 126).
// A script is judged by its interpreter, up to the depth the kernel follows.
Result<ProgramFile> find_program_file(const std::string& name);

// `library` in front of what LD_PRELOAD holds already. EINVAL when the dynamic linker could not read
// it (space, colon).
Result<std::string> preload_value(const std::string& library, const char* existing);

// The file behind `path`, absolute and without links: for those who read it in another working directory.
Result<std::string> absolute_path(const std::string& path);

// Becomes the program: execs `path` with `arguments` (arguments[0] as the user typed it) in place. Returns
// only on failure: prints why and gives the exit status a shell would give.
int exec_program(const std::string& path, const std::vector<std::string>& arguments);

}  // namespace bpftime::cli

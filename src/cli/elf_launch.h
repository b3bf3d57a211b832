// Can our library be preloaded into this ELF file, and what else can be done? Reads the two headers only: `start` must not cost
// a symbol table.
#pragma once

#include <string>

#include "base/result.h"

namespace bpftime::cli {

struct Launch {
  // Empty when preloading works (64-bit x86, dynamic, glibc's dynamic linker); else the reason, as words of a sentence.
  std::string obstacle;
  // A program whose system calls can be answered from outside only (loader/supervisor.h): one of this machine that is static
  // or of another C library, or Go's, which asks no library.
  bool supervised = false;
};

// Errors: the file cannot be read.
Result<Launch> judge_launch(const std::string& path);

}  // namespace bpftime::cli

// Can our library be preloaded into this ELF file? Reads the two headers only: `start` must not cost a symbol
// table.
#pragma once

#include <string>

#include "base/result.h"

namespace bpftime::cli {

// Empty when preloading works (64-bit x86, dynamic, glibc's dynamic linker); else the reason, as words of a
// sentence. Errors: the file cannot be read.
Result<std::string> why_not_preloadable(const std::string& path);

}  // namespace bpftime::cli

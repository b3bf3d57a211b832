// The running kernel as an oracle: does it load this program or this BTF, and what does it say. Test-only.
#pragma once

#include <string>

#include "base/bytes.h"
#include "base/fd.h"
#include "program/program.h"

namespace bpftime::program::testing {

// Empty when bpf(2) may load programs here, else the reason to print in a skip.
std::string kernel_unusable();

struct KernelAnswer {
  Fd fd;          // valid when accepted
  int error = 0;  // errno
  std::string log;
};

// Socket filter unless program.type says otherwise; map references must already be descriptors.
KernelAnswer kernel_load(const Program& program, bool want_log = true);
KernelAnswer kernel_load_btf(Bytes blob, bool want_log = true);

}  // namespace bpftime::program::testing

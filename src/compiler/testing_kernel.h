// For tests: the same program in the kernel and here, in this very thread, and what each wrote.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compiler/testing_target.h"

namespace bpftime::compiler::testing {

inline constexpr uint32_t kOutputSize = 4096;

struct RunResult {
  bool loaded = true;           // false: the kernel's verifier refused it
  uint32_t result = 0;          // r0's low half: all that BPF_PROG_TEST_RUN tells
  std::vector<uint8_t> output;  // kOutputSize bytes, zero at first
  std::string refused;          // not empty: the kernel's verifier log, or what else went wrong

  template <typename T>
  T at(size_t offset) const {
    T value{};
    if (offset + sizeof value <= output.size())
      __builtin_memcpy(&value, output.data() + offset, sizeof value);
    return value;
  }
  std::string text(size_t offset) const { return reinterpret_cast<const char*>(output.data() + offset); }
};

// Makes the program: r6 and r7 hold pointers to kOutputSize bytes of output and to constant `input` when it runs. The kernel's
// verifier takes those of `input` as constant strings.
using MakeProgram = std::function<Sequence()>;

// As a raw tracepoint program under BPF_PROG_TEST_RUN.
RunResult run_in_kernel(const MakeProgram& body, const std::vector<uint8_t>& input = {});
RunResult run_here(Target& target, const MakeProgram& body, const std::vector<uint8_t>& input = {});

}  // namespace bpftime::compiler::testing

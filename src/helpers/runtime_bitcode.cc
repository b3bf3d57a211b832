#include "helpers/runtime_bitcode.h"

extern "C" const uint8_t bpftime_runtime_bitcode_begin[];
extern "C" const uint8_t bpftime_runtime_bitcode_end[];

namespace bpftime::helpers {

std::span<const uint8_t> runtime_bitcode() {
  return {bpftime_runtime_bitcode_begin, bpftime_runtime_bitcode_end};
}

}  // namespace bpftime::helpers

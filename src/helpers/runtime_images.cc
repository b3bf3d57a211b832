#include "helpers/runtime_images.h"

extern "C" const uint8_t bpftime_inlined_begin[], bpftime_inlined_end[], bpftime_called_begin[], bpftime_called_end[];

namespace bpftime::helpers {

std::span<const uint8_t> runtime_bitcode() { return {bpftime_inlined_begin, bpftime_inlined_end}; }
std::span<const uint8_t> runtime_object() { return {bpftime_called_begin, bpftime_called_end}; }

}  // namespace bpftime::helpers

// The helpers' implementation (runtime/) as LLVM bitcode, embedded at build time. Valid for the life of the process.
#pragma once

#include <cstdint>
#include <span>

namespace bpftime::helpers {

std::span<const uint8_t> runtime_bitcode();

}  // namespace bpftime::helpers

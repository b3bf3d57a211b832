// The helpers' implementation (runtime/), embedded at build time. Valid for the life of the process.
#pragma once

#include <cstdint>
#include <span>

namespace bpftime::helpers {

std::span<const uint8_t> runtime_bitcode();  // what programs inline: LLVM 19 bitcode
std::span<const uint8_t> runtime_object();   // what programs call: relocatable x86-64 ELF, a section per function

}  // namespace bpftime::helpers

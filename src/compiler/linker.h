// The last step: an ELF object as LLVM wrote it becomes one position-independent image of text and read-only data.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::compiler {

struct LinkedImage {
  std::vector<uint8_t> image;  // text first, then read-only data; valid at any 16-byte aligned address
  uint32_t entry_offset = 0;
  uint32_t text_size = 0;      // bytes of instructions at the image's start
  uint64_t stack_bytes = 0;    // deepest chain of calls inside the image, return addresses included
};

inline constexpr uint64_t kImageSizeMax = 64u << 20;

// `object`: a relocatable x86-64 ELF with one function per section and .stack_sizes. Keeps what `entry` reaches.
// Errors (EINVAL): a reference outside the object, a relocation that depends on the load address, writable data.
Result<LinkedImage> link_image(Bytes object, std::string_view entry);

}  // namespace bpftime::compiler

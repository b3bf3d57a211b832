// The last step: ELF objects as LLVM wrote them become one position-independent image of text
// and read-only data.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::compiler {

inline constexpr uint64_t kNotInImage = ~uint64_t{0};

struct LinkedImage {
  std::vector<uint8_t> image;  // text first, then read-only data; valid at any 16-byte aligned address
  std::vector<uint32_t> entry_offsets;  // one per entry asked for
  uint32_t text_size = 0;               // bytes of instructions at the image's start
  std::vector<uint64_t>
      section_offsets;       // in the image, of the first object's sections; kNotInImage: left out
  uint64_t stack_bytes = 0;  // deepest chain of calls inside the image, return addresses included
};

inline constexpr uint64_t kImageSizeMax = 64u << 20;

// `objects`: relocatable x86-64 ELFs with one function per section and .stack_sizes. Keeps what the `entries`
// reach; a name two objects define means the first. Errors (EINVAL): a reference outside the objects, a
// relocation that depends on the load address, writable data.
Result<LinkedImage> link_image(std::span<const Bytes> objects, std::span<const std::string_view> entries);

}  // namespace bpftime::compiler

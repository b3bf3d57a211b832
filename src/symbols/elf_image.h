// The raw structures of an ELF64 file, each access checked. Input is hostile.
#pragma once

#include <elf.h>

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace bpftime::symbols {

struct ElfImage {
  std::vector<uint8_t> bytes;  // the whole file, copied: it may change or shrink while we look
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> program_headers;
  std::vector<Elf64_Shdr> section_headers;  // empty when the file has none

  Bytes all() const { return Bytes(bytes); }
  // [offset, offset+size) of the file; nullopt when it is not all there.
  std::optional<Bytes> part(uint64_t offset, uint64_t size) const;
  // Bytes at a file address, at most `size`, fewer at the end of the segment's part in the file.
  Bytes at_address(uint64_t address, uint64_t size) const;
};

// One entry of the unwind table: a function's bounds, by the compiler, kept by strip(1).
struct FunctionBounds {
  uint64_t start, end;
};

// All FDEs that the binary search table of .eh_frame_hdr lists, sorted by start. Empty when there is none or it is not in the
// form every linker writes.
std::vector<FunctionBounds> read_unwind_bounds(const ElfImage& image);

}  // namespace bpftime::symbols

// Records that a header left in a section of a file: an executable, a library or an object, also a stripped one. Says what is
// there and what each relocated pointer names; knows nothing of what the records mean. Input is hostile.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::symbols {

struct RecordSection {
  uint32_t index = 0;    // in the file's section table
  uint64_t address = 0;  // file address; 0 in objects
  std::vector<uint8_t> bytes;
  struct Pointer {
    std::string symbol;    // empty when no symbol table names it
    uint64_t address = 0;  // file address of what is pointed to; 0 in objects and for imported symbols
    uint64_t offset = 0;   // from the symbol's start
  };
  std::map<uint64_t, Pointer> pointers;  // by offset in `bytes`; 8 bytes each
};

struct RecordFile {
  bool is_object = false;  // ET_REL
  std::string build_id;    // hex; empty: none
  std::vector<RecordSection> sections;
  std::vector<uint8_t> image;  // the whole file, as it was read
};

inline constexpr uint64_t kRecordFileBytesMax = 512u << 20;

// All sections named `section`. ENOEXEC: not an ELF64 file for x86-64, or damaged; ENOENT: no such section.
Result<RecordFile> read_record_file(const std::string& path, const std::string& section);
Result<RecordFile> parse_record_file(std::vector<uint8_t> image, const std::string& label,
                                     const std::string& section);

// Contents of the first section of that name; empty when there is none.
std::vector<uint8_t> read_section(const RecordFile& file, const std::string& section);

// The file with a section added (or replaced) that no segment loads and strip(1) keeps: appended, with a new section table.
Result<std::vector<uint8_t>> add_section(const RecordFile& file, const std::string& section, Bytes contents);

}  // namespace bpftime::symbols

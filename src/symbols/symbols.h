// What ELF files say: load segments, symbols, build-ids. Only includer of libelf/libdw.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::symbols {

struct Segment {
  uint64_t file_offset, file_size, address, memory_size;
  bool executable;
};

struct Symbol {
  std::string name;
  uint64_t address;       // as in the file (not relocated)
  uint64_t size;          // bytes; 0: the file does not say
  bool indirect = false;  // the address is that of a function that chooses the implementation (STT_GNU_IFUNC)
};

// Why a program cannot be entered by preloading; kOk: it can.
enum class Launch { kOk, kNotElf, kNot64Bit, kOtherMachine, kStatic, kOtherLibc };

// A parsed ELF file, independent of the file afterwards. Input is hostile: every offset is checked, errors name file and reason.
class ElfFile {
 public:
  static Result<ElfFile> open(const std::string& path);
  static Result<ElfFile> from_fd(int fd, const std::string& label);
  ElfFile(ElfFile&&) noexcept;
  ElfFile& operator=(ElfFile&&) noexcept;
  ~ElfFile();

  const std::vector<Segment>& segments() const;
  const std::string& build_id() const;     // hex, empty when absent
  const std::string& interpreter() const;  // PT_INTERP, empty when static
  bool position_independent() const;       // ET_DYN
  Launch launch() const;

  // File offset ↔ file address by the program headers (they differ in lld-linked files).
  std::optional<uint64_t> address_of_offset(uint64_t file_offset) const;
  std::optional<uint64_t> offset_of_address(uint64_t address) const;

  // The function that contains `address` (dynamic and static symbol tables, then .eh_frame), with its bounds.
  // Without a size: up to the next symbol or FDE.
  std::optional<Symbol> function_at(uint64_t address) const;
  std::optional<Symbol> find_symbol(const std::string& name) const;
  // Where a thread-local variable lies in the file's block of thread-local storage.
  std::optional<uint64_t> find_thread_local(const std::string& name) const;
  // A section that is loaded, by name; nullopt also when the file has no section headers.
  struct Section {
    uint64_t address, size;
  };
  std::optional<Section> find_section(const std::string& name) const;
  // Code bytes at a file address, at most `size`, fewer at the end of the segment.
  std::vector<uint8_t> read(uint64_t address, uint64_t size) const;

 private:
  struct State;
  explicit ElfFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace bpftime::symbols

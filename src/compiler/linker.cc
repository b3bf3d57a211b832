#include "compiler/linker.h"

#include <elf.h>

#include <algorithm>
#include <optional>
#include <string>

namespace bpftime::compiler {
namespace {

constexpr uint64_t kNotPlaced = ~uint64_t{0};
constexpr uint64_t kReturnAddressSize = 8;

struct Section {
  Elf64_Shdr header{};
  std::string_view name;
  Bytes contents;
  std::vector<Elf64_Rela> relocations;
  uint64_t offset = kNotPlaced;  // in the image
  uint64_t stack_bytes = 0;      // of the function in it
  uint64_t chain_bytes = 0;      // of it and what it calls; 0: not yet known
  bool live = false;
  bool visiting = false;

  bool executable() const { return (header.sh_flags & SHF_EXECINSTR) != 0; }
};

class Linker {
 public:
  Linker(Bytes object, std::string_view entry) : object_(object), entry_name_(entry) {}

  Result<LinkedImage> run() {
    for (const auto step : {&Linker::read_sections, &Linker::read_symbols, &Linker::read_relocations,
                            &Linker::read_stack_sizes, &Linker::find_entry, &Linker::mark_live, &Linker::place,
                            &Linker::relocate, &Linker::measure_stack}) {
      if (Result<void> done = (this->*step)(); !done) return done.error();
    }
    return std::move(result_);
  }

 private:
  static Error error(const std::string& why) { return Error{EINVAL, "compile: linking the object: " + why}; }

  Result<void> read_sections() {
    const auto header = read_at<Elf64_Ehdr>(object_, 0);
    if (!header || header->e_type != ET_REL || header->e_machine != EM_X86_64) return error("not an x86-64 object");
    const auto zeroth = read_at<Elf64_Shdr>(object_, header->e_shoff);
    if (!zeroth) return error("section table out of range");
    // More than 65279 sections: the count and the name table's index move to section 0.
    const uint64_t count = header->e_shnum != 0 ? header->e_shnum : zeroth->sh_size;
    const uint64_t names = header->e_shstrndx != SHN_XINDEX ? header->e_shstrndx : zeroth->sh_link;
    if (count > object_.size() / sizeof(Elf64_Shdr) || names >= count) return error("section table out of range");
    sections_.resize(count);
    for (uint64_t i = 0; i < count; i++) {
      const auto section = read_at<Elf64_Shdr>(object_, header->e_shoff + i * sizeof(Elf64_Shdr));
      if (!section) return error("section table out of range");
      sections_[i].header = *section;
      if (section->sh_type == SHT_NOBITS || section->sh_type == SHT_NULL) continue;
      ByteReader reader(object_);
      if (!reader.seek(section->sh_offset)) return error("section out of range");
      const auto contents = reader.read_bytes(section->sh_size);
      if (!contents) return error("section out of range");
      sections_[i].contents = *contents;
    }
    for (Section& section : sections_) {
      section.name = string_at(sections_[names].contents, section.header.sh_name).value_or("");
    }
    return {};
  }

  Result<void> read_symbols() {
    for (const Section& section : sections_) {
      if (section.header.sh_type == SHT_SYMTAB_SHNDX) return error("too many sections");
      if (section.header.sh_type != SHT_SYMTAB) continue;
      if (section.header.sh_link >= sections_.size()) return error("symbol table without names");
      symbol_names_ = sections_[section.header.sh_link].contents;
      ByteReader reader(section.contents);
      while (const auto symbol = reader.read<Elf64_Sym>()) symbols_.push_back(*symbol);
    }
    return {};
  }

  std::string name_of(const Elf64_Sym& symbol) const {
    return std::string(string_at(symbol_names_, symbol.st_name).value_or("?"));
  }

  Result<void> read_relocations() {
    for (const Section& section : sections_) {
      if (section.header.sh_type == SHT_REL) return error("relocations without addends");
      if (section.header.sh_type != SHT_RELA) continue;
      if (section.header.sh_info >= sections_.size()) return error("relocations of no section");
      ByteReader reader(section.contents);
      while (const auto relocation = reader.read<Elf64_Rela>()) {
        if (ELF64_R_SYM(relocation->r_info) >= symbols_.size()) return error("relocation against no symbol");
        sections_[section.header.sh_info].relocations.push_back(*relocation);
      }
    }
    return {};
  }

  // One entry per section: 8 bytes of address (a relocation), then the size as ULEB128; sh_link names the function's.
  Result<void> read_stack_sizes() {
    for (const Section& section : sections_) {
      if (section.name != ".stack_sizes" || section.header.sh_link >= sections_.size()) continue;
      uint64_t size = 0;
      int shift = 0;
      for (size_t i = 8; i < section.contents.size() && shift < 63; i++, shift += 7) {
        size |= uint64_t{section.contents[i] & 0x7fu} << shift;
        if ((section.contents[i] & 0x80) == 0) break;
      }
      sections_[section.header.sh_link].stack_bytes = size;
    }
    return {};
  }

  Result<void> find_entry() {
    for (const Elf64_Sym& symbol : symbols_) {
      if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= sections_.size()) continue;
      if (string_at(symbol_names_, symbol.st_name) != entry_name_) continue;
      entry_section_ = symbol.st_shndx;
      entry_value_ = symbol.st_value;
      return {};
    }
    return error("no symbol " + std::string(entry_name_));
  }

  Result<void> mark_live() {
    std::vector<uint32_t> queue{entry_section_};
    sections_[entry_section_].live = true;
    while (!queue.empty()) {
      const Section& section = sections_[queue.back()];
      queue.pop_back();
      const std::string name(section.name);
      if ((section.header.sh_flags & SHF_ALLOC) == 0) return error("reference to debug section " + name);
      if ((section.header.sh_flags & (SHF_WRITE | SHF_TLS)) != 0) return error("writable section " + name);
      if (section.header.sh_type == SHT_NOBITS) return error("section without contents " + name);
      for (const Elf64_Rela& relocation : section.relocations) {
        const Elf64_Sym& symbol = symbols_[ELF64_R_SYM(relocation.r_info)];
        if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= sections_.size()) {
          return error("reference to " + name_of(symbol) + ", which lies outside");
        }
        if (sections_[symbol.st_shndx].live) continue;
        sections_[symbol.st_shndx].live = true;
        queue.push_back(symbol.st_shndx);
      }
    }
    return {};
  }

  Result<void> place() {
    uint64_t size = 0;
    for (const bool executable : {true, false}) {
      for (Section& section : sections_) {
        if (!section.live || section.executable() != executable) continue;
        const uint64_t align = std::max<uint64_t>(section.header.sh_addralign, 1);
        if (align > 4096 || (align & (align - 1)) != 0) return error("alignment of " + std::string(section.name));
        size = (size + align - 1) & ~(align - 1);
        section.offset = size;
        size += section.contents.size();
        if (size > kImageSizeMax) return Error{E2BIG, "compile: machine code larger than 64 MiB"};
      }
      if (executable) {
        result_.text_size = static_cast<uint32_t>(size);
        size = (size + 15) & ~uint64_t{15};
      }
    }
    result_.image.assign(size, 0xcc);  // int3 between functions: nothing falls through
    for (const Section& section : sections_) {
      if (section.live) std::copy(section.contents.begin(), section.contents.end(),
                                  result_.image.begin() + static_cast<int64_t>(section.offset));
    }
    result_.entry_offset = static_cast<uint32_t>(sections_[entry_section_].offset + entry_value_);
    return {};
  }

  Result<void> relocate() {
    for (const Section& section : sections_) {
      if (!section.live) continue;
      for (const Elf64_Rela& relocation : section.relocations) {
        const Elf64_Sym& symbol = symbols_[ELF64_R_SYM(relocation.r_info)];
        const uint32_t type = ELF64_R_TYPE(relocation.r_info);
        const uint32_t width = type == R_X86_64_PC64 ? 8 : 4;
        if (type != R_X86_64_PC32 && type != R_X86_64_PLT32 && type != R_X86_64_PC64) {
          return error("relocation type " + std::to_string(type) + " against " + name_of(symbol));
        }
        if (section.contents.size() < width || relocation.r_offset > section.contents.size() - width) {
          return error("relocation out of range");
        }
        // S + A - P; distances inside an image of at most 64 MiB fit 32 bits.
        const uint64_t place = section.offset + relocation.r_offset;
        const uint64_t value = sections_[symbol.st_shndx].offset + symbol.st_value +
                               static_cast<uint64_t>(relocation.r_addend) - place;
        std::memcpy(result_.image.data() + place, &value, width);
      }
    }
    return {};
  }

  Result<void> measure_stack() {
    const auto bytes = chain_bytes(entry_section_, 0);
    if (!bytes) return error("functions call each other in a circle");
    result_.stack_bytes = *bytes;
    return {};
  }

  // Bytes of stack below the caller's frame; nullopt on recursion. Depth is bounded by the number of live functions.
  std::optional<uint64_t> chain_bytes(uint32_t index, uint32_t depth) {
    Section& section = sections_[index];
    if (section.visiting || depth > 256) return std::nullopt;
    if (section.chain_bytes != 0) return section.chain_bytes;
    section.visiting = true;
    uint64_t deepest = 0;
    for (const Elf64_Rela& relocation : section.relocations) {
      const uint32_t callee = symbols_[ELF64_R_SYM(relocation.r_info)].st_shndx;
      if (callee == index || !sections_[callee].executable()) continue;
      const auto bytes = chain_bytes(callee, depth + 1);
      if (!bytes) return std::nullopt;
      deepest = std::max(deepest, *bytes);
    }
    section.visiting = false;
    section.chain_bytes = kReturnAddressSize + section.stack_bytes + deepest;
    return section.chain_bytes;
  }

  Bytes object_;
  std::string_view entry_name_;
  std::vector<Section> sections_;
  std::vector<Elf64_Sym> symbols_;
  Bytes symbol_names_;
  uint32_t entry_section_ = 0;
  uint64_t entry_value_ = 0;
  LinkedImage result_;
};

}  // namespace

Result<LinkedImage> link_image(Bytes object, std::string_view entry) { return Linker(object, entry).run(); }

}  // namespace bpftime::compiler

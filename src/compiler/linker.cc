#include "compiler/linker.h"

#include <elf.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace bpftime::compiler {
namespace {

constexpr uint64_t kReturnAddressSize = 8;

struct Section {
  Elf64_Shdr header{};
  std::string_view name;
  Bytes contents;
  std::vector<Elf64_Rela> relocations;
  uint64_t offset = kNotInImage;  // in the image
  uint64_t stack_bytes = 0;       // of the function in it
  uint64_t chain_bytes = 0;       // of it and what it calls; 0: not yet known
  bool live = false;
  bool visiting = false;

  uint32_t symbol_base = 0;  // where its object's symbols start in the common table

  bool executable() const { return (header.sh_flags & SHF_EXECINSTR) != 0; }
};

constexpr uint32_t kNowhere = ~uint32_t{0};

struct Symbol {
  std::string_view name;
  uint64_t value = 0;
  uint32_t section = kNowhere;  // in the common table
  bool global = false;
};

class Linker {
 public:
  Linker(std::span<const Bytes> objects, std::span<const std::string_view> entries)
      : objects_(objects), entry_names_(entries) {}

  Result<LinkedImage> run() {
    for (const Bytes object : objects_) {
      object_ = object;
      first_section_ = sections_.size();
      first_symbol_ = symbols_.size();
      for (const auto step : {&Linker::read_sections, &Linker::read_symbols, &Linker::read_relocations,
                              &Linker::read_stack_sizes}) {
        if (Result<void> done = (this->*step)(); !done) return done.error();
      }
      if (first_section_ == 0) sections_of_first_ = sections_.size();
    }
    for (const auto step : {&Linker::resolve_symbols, &Linker::find_entries, &Linker::mark_live,
                            &Linker::place, &Linker::relocate, &Linker::measure_stack}) {
      if (Result<void> done = (this->*step)(); !done) return done.error();
    }
    for (size_t i = 0; i < sections_of_first_; i++) result_.section_offsets.push_back(sections_[i].offset);
    return std::move(result_);
  }

 private:
  static Error error(const std::string& why) { return Error{EINVAL, "compile: linking the object: " + why}; }

  Result<void> read_sections() {
    const auto header = read_at<Elf64_Ehdr>(object_, 0);
    if (!header || header->e_type != ET_REL || header->e_machine != EM_X86_64)
      return error("not an x86-64 object");
    const auto zeroth = read_at<Elf64_Shdr>(object_, header->e_shoff);
    if (!zeroth) return error("section table out of range");
    // More than 65279 sections: the count and the name table's index move to section 0.
    const uint64_t count = header->e_shnum != 0 ? header->e_shnum : zeroth->sh_size;
    const uint64_t names = header->e_shstrndx != SHN_XINDEX ? header->e_shstrndx : zeroth->sh_link;
    if (count > object_.size() / sizeof(Elf64_Shdr) || names >= count)
      return error("section table out of range");
    sections_.resize(first_section_ + count);
    for (uint64_t i = 0; i < count; i++) {
      const auto section = read_at<Elf64_Shdr>(object_, header->e_shoff + i * sizeof(Elf64_Shdr));
      if (!section) return error("section table out of range");
      own(i).header = *section;
      own(i).symbol_base = static_cast<uint32_t>(first_symbol_);
      if (section->sh_type == SHT_NOBITS || section->sh_type == SHT_NULL) continue;
      ByteReader reader(object_);
      if (!reader.seek(section->sh_offset)) return error("section out of range");
      const auto contents = reader.read_bytes(section->sh_size);
      if (!contents) return error("section out of range");
      own(i).contents = *contents;
    }
    for (uint64_t i = 0; i < count; i++) {
      own(i).name = string_at(own(names).contents, own(i).header.sh_name).value_or("");
    }
    return {};
  }

  Result<void> read_symbols() {
    for (size_t i = 0; i < own_sections(); i++) {
      const Section& section = own(i);
      if (section.header.sh_type == SHT_SYMTAB_SHNDX) return error("too many sections");
      if (section.header.sh_type != SHT_SYMTAB) continue;
      if (section.header.sh_link >= own_sections()) return error("symbol table without names");
      const Bytes names = own(section.header.sh_link).contents;
      ByteReader reader(section.contents);
      while (const auto raw = reader.read<Elf64_Sym>()) {
        Symbol symbol;
        symbol.name = string_at(names, raw->st_name).value_or("?");
        symbol.value = raw->st_value;
        symbol.global = ELF64_ST_BIND(raw->st_info) != STB_LOCAL;
        if (raw->st_shndx != SHN_UNDEF && raw->st_shndx < own_sections()) {
          symbol.section = static_cast<uint32_t>(first_section_) + raw->st_shndx;
        }
        symbols_.push_back(symbol);
      }
    }
    return {};
  }

  Result<void> read_relocations() {
    for (size_t i = 0; i < own_sections(); i++) {
      const Section& section = own(i);
      if (section.header.sh_type == SHT_REL) return error("relocations without addends");
      if (section.header.sh_type != SHT_RELA) continue;
      if (section.header.sh_info >= own_sections()) return error("relocations of no section");
      ByteReader reader(section.contents);
      while (const auto relocation = reader.read<Elf64_Rela>()) {
        if (ELF64_R_SYM(relocation->r_info) >= symbols_.size() - first_symbol_) {
          return error("relocation against no symbol");
        }
        own(section.header.sh_info).relocations.push_back(*relocation);
      }
    }
    return {};
  }

  // One entry per section: 8 bytes of address (a relocation), then the size as ULEB128; sh_link
  // names the function's.
  Result<void> read_stack_sizes() {
    for (size_t at = 0; at < own_sections(); at++) {
      const Section& section = own(at);
      if (section.name != ".stack_sizes" || section.header.sh_link >= own_sections()) continue;
      uint64_t size = 0;
      int shift = 0;
      for (size_t i = 8; i < section.contents.size() && shift < 63; i++, shift += 7) {
        size |= uint64_t{section.contents[i] & 0x7fu} << shift;
        if ((section.contents[i] & 0x80) == 0) break;
      }
      own(section.header.sh_link).stack_bytes = size;
    }
    return {};
  }

  // Undefined names take the definition of the first object that has one.
  Result<void> resolve_symbols() {
    std::map<std::string_view, const Symbol*> defined;
    for (const Symbol& symbol : symbols_) {
      if (symbol.global && symbol.section != kNowhere) defined.emplace(symbol.name, &symbol);
    }
    for (Symbol& symbol : symbols_) {
      const auto definition = defined.find(symbol.name);
      if (symbol.section != kNowhere || definition == defined.end()) continue;
      symbol.section = definition->second->section;
      symbol.value = definition->second->value;
    }
    return {};
  }

  Result<void> find_entries() {
    for (const std::string_view name : entry_names_) {
      const auto found = std::find_if(symbols_.begin(), symbols_.end(), [name](const Symbol& symbol) {
        return symbol.section != kNowhere && symbol.name == name;
      });
      if (found == symbols_.end()) return error("no symbol " + std::string(name));
      entries_.push_back({found->section, found->value});
    }
    return {};
  }

  Result<void> mark_live() {
    std::vector<uint32_t> queue;
    for (const Entry& entry : entries_) {
      if (!std::exchange(sections_[entry.section].live, true)) queue.push_back(entry.section);
    }
    while (!queue.empty()) {
      const Section& section = sections_[queue.back()];
      queue.pop_back();
      const std::string name(section.name);
      if ((section.header.sh_flags & SHF_ALLOC) == 0) return error("reference to debug section " + name);
      if ((section.header.sh_flags & (SHF_WRITE | SHF_TLS)) != 0) return error("writable section " + name);
      if (section.header.sh_type == SHT_NOBITS) return error("section without contents " + name);
      for (const Elf64_Rela& relocation : section.relocations) {
        const Symbol& symbol = symbol_of(section, relocation);
        if (symbol.section == kNowhere) {
          return error("reference to " + std::string(symbol.name) + ", which lies outside");
        }
        if (sections_[symbol.section].live) continue;
        sections_[symbol.section].live = true;
        queue.push_back(symbol.section);
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
        if (align > 4096 || (align & (align - 1)) != 0)
          return error("alignment of " + std::string(section.name));
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
      if (section.live)
        std::copy(section.contents.begin(), section.contents.end(),
                  result_.image.begin() + static_cast<int64_t>(section.offset));
    }
    for (const Entry& entry : entries_) {
      result_.entry_offsets.push_back(static_cast<uint32_t>(sections_[entry.section].offset + entry.value));
    }
    return {};
  }

  Result<void> relocate() {
    for (const Section& section : sections_) {
      if (!section.live) continue;
      for (const Elf64_Rela& relocation : section.relocations) {
        const Symbol& symbol = symbol_of(section, relocation);
        const uint32_t type = ELF64_R_TYPE(relocation.r_info);
        const uint32_t width = type == R_X86_64_PC64 ? 8 : 4;
        if (type != R_X86_64_PC32 && type != R_X86_64_PLT32 && type != R_X86_64_PC64) {
          return error("relocation type " + std::to_string(type) + " against " + std::string(symbol.name));
        }
        if (section.contents.size() < width || relocation.r_offset > section.contents.size() - width) {
          return error("relocation out of range");
        }
        // S + A - P; distances inside an image of at most 64 MiB fit 32 bits.
        const uint64_t place = section.offset + relocation.r_offset;
        const uint64_t value = sections_[symbol.section].offset + symbol.value +
                               static_cast<uint64_t>(relocation.r_addend) - place;
        std::memcpy(result_.image.data() + place, &value, width);
      }
    }
    return {};
  }

  Result<void> measure_stack() {
    for (const Entry& entry : entries_) {
      const auto bytes = chain_bytes(entry.section, 0);
      if (!bytes) return error("functions call each other in a circle");
      result_.stack_bytes = std::max(result_.stack_bytes, *bytes);
    }
    return {};
  }

  // Bytes of stack below the caller's frame; nullopt on recursion. Depth is bounded by the number
  // of live functions.
  std::optional<uint64_t> chain_bytes(uint32_t index, uint32_t depth) {
    Section& section = sections_[index];
    if (section.visiting || depth > 256) return std::nullopt;
    if (section.chain_bytes != 0) return section.chain_bytes;
    section.visiting = true;
    uint64_t deepest = 0;
    for (const Elf64_Rela& relocation : section.relocations) {
      const uint32_t callee = symbol_of(section, relocation).section;
      if (callee == index || !sections_[callee].executable()) continue;
      const auto bytes = chain_bytes(callee, depth + 1);
      if (!bytes) return std::nullopt;
      deepest = std::max(deepest, *bytes);
    }
    section.visiting = false;
    section.chain_bytes = kReturnAddressSize + section.stack_bytes + deepest;
    return section.chain_bytes;
  }

  // Sections of the object being read.
  Section& own(uint64_t index) { return sections_[first_section_ + index]; }
  size_t own_sections() const { return sections_.size() - first_section_; }
  const Symbol& symbol_of(const Section& section, const Elf64_Rela& relocation) const {
    return symbols_[section.symbol_base + ELF64_R_SYM(relocation.r_info)];
  }

  std::span<const Bytes> objects_;
  std::span<const std::string_view> entry_names_;
  struct Entry {
    uint32_t section;
    uint64_t value;
  };
  std::vector<Entry> entries_;
  std::vector<Section> sections_;  // of all objects, one after the other
  std::vector<Symbol> symbols_;
  Bytes object_;  // being read, and where its sections and symbols start
  size_t first_section_ = 0, first_symbol_ = 0, sections_of_first_ = 0;
  LinkedImage result_;
};

}  // namespace

Result<LinkedImage> link_image(std::span<const Bytes> objects, std::span<const std::string_view> entries) {
  return Linker(objects, entries).run();
}

}  // namespace bpftime::compiler

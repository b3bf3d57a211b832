#include "symbols/records.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/fd.h"

namespace bpftime::symbols {
namespace {

constexpr size_t kSectionsMax = 65'000;
constexpr size_t kSymbolNameMax = 4096;
constexpr size_t kPointersMax = 1u << 20;

Error malformed(const std::string& label, const std::string& why) {
  return Error{ENOEXEC, "read records: " + label + ": " + why};
}

struct Image {
  Bytes bytes;
  Elf64_Ehdr header = {};
  std::vector<Elf64_Shdr> sections;
  Bytes names;

  std::optional<Bytes> part(uint64_t offset, uint64_t size) const {
    if (offset > bytes.size() || size > bytes.size() - offset) return std::nullopt;
    return bytes.subspan(offset, size);
  }
  Bytes content(const Elf64_Shdr& section) const {
    if (section.sh_type == SHT_NOBITS) return {};
    return part(section.sh_offset, section.sh_size).value_or(Bytes());
  }
  std::string_view name(const Elf64_Shdr& section) const {
    return string_at(names, section.sh_name).value_or(std::string_view());
  }
};

Result<Image> open_image(Bytes bytes, const std::string& label) {
  Image image;
  image.bytes = bytes;
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  if (!header || std::memcmp(bytes.data(), ELFMAG, SELFMAG) != 0) return malformed(label, "not an ELF file");
  if (bytes[EI_CLASS] != ELFCLASS64 || bytes[EI_DATA] != ELFDATA2LSB || header->e_machine != EM_X86_64)
    return malformed(label, "not for x86-64");
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN && header->e_type != ET_REL)
    return malformed(label, "neither an executable, a library nor an object");
  image.header = *header;
  if (header->e_shoff == 0) return image;
  if (header->e_shentsize != sizeof(Elf64_Shdr)) return malformed(label, "odd section headers");
  // Objects of many sections keep their count in the first header.
  uint64_t count = header->e_shnum;
  uint64_t names_index = header->e_shstrndx;
  if (const auto first = read_at<Elf64_Shdr>(bytes, header->e_shoff)) {
    if (count == 0) count = first->sh_size;
    if (names_index == SHN_XINDEX) names_index = first->sh_link;
  }
  if (count > kSectionsMax) return malformed(label, "too many sections");
  const auto table = image.part(header->e_shoff, count * sizeof(Elf64_Shdr));
  if (!table) return malformed(label, "truncated in its section headers");
  ByteReader reader(*table);
  while (auto section = reader.read<Elf64_Shdr>()) image.sections.push_back(*section);
  if (names_index < image.sections.size()) image.names = image.content(image.sections[names_index]);
  return image;
}

struct SymbolTable {
  Bytes symbols, strings;
  std::optional<Elf64_Sym> at(uint64_t index) const {
    if (index > UINT32_MAX) return std::nullopt;
    return read_at<Elf64_Sym>(symbols, index * sizeof(Elf64_Sym));
  }
  std::string name(const Elf64_Sym& symbol) const {
    const auto text = string_at(strings, symbol.st_name);
    return text && text->size() <= kSymbolNameMax ? std::string(*text) : std::string();
  }
};

SymbolTable symbol_table(const Image& image, uint64_t index) {
  if (index >= image.sections.size()) return {};
  const Elf64_Shdr& section = image.sections[index];
  if ((section.sh_type != SHT_SYMTAB && section.sh_type != SHT_DYNSYM) ||
      section.sh_link >= image.sections.size())
    return {};
  return {image.content(section), image.content(image.sections[section.sh_link])};
}

// The sized symbol that starts at or contains each address, from all symbol tables; functions and data.
struct Names {
  struct Entry {
    uint64_t address, size;
    std::string_view name;
  };
  std::vector<Entry> entries;

  void collect(const Image& image) {
    for (size_t i = 0; i < image.sections.size(); ++i) {
      const SymbolTable table = symbol_table(image, i);
      for (uint64_t k = 0; const auto symbol = table.at(k); ++k) {
        const unsigned type = ELF64_ST_TYPE(symbol->st_info);
        if (symbol->st_shndx == SHN_UNDEF ||
            (type != STT_FUNC && type != STT_OBJECT && type != STT_GNU_IFUNC))
          continue;
        const auto name = string_at(table.strings, symbol->st_name);
        if (name && !name->empty() && name->size() <= kSymbolNameMax)
          entries.push_back({symbol->st_value, symbol->st_size, *name});
      }
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.address != b.address ? a.address < b.address : a.name < b.name;
    });
  }

  void fill(RecordSection::Pointer& pointer) const {
    auto after = std::upper_bound(entries.begin(), entries.end(), pointer.address,
                                  [](uint64_t wanted, const Entry& entry) { return wanted < entry.address; });
    while (after != entries.begin()) {
      const Entry& entry = *--after;
      const uint64_t inside = pointer.address - entry.address;
      if (inside == 0 || inside < entry.size) {
        pointer.symbol = std::string(entry.name);
        pointer.offset = inside;
        // Of several symbols at the address the first in the table is as good as any.
        if (after == entries.begin() || (after - 1)->address != entry.address) return;
        continue;
      }
      return;
    }
  }
};

// Calls with (address, symbol index, type, addend) for every RELA entry of `section`.
template <typename Function>
void each_relocation(const Image& image, const Elf64_Shdr& section, Function&& function) {
  ByteReader reader(image.content(section));
  while (auto relocation = reader.read<Elf64_Rela>()) {
    function(relocation->r_offset, ELF64_R_SYM(relocation->r_info), ELF64_R_TYPE(relocation->r_info),
             static_cast<uint64_t>(relocation->r_addend));
  }
}

// In an object: relocations against the section itself, by symbol.
void read_object_pointers(const Image& image, RecordSection& out) {
  for (const Elf64_Shdr& section : image.sections) {
    if (section.sh_type != SHT_RELA || section.sh_info != out.index) continue;
    const SymbolTable table = symbol_table(image, section.sh_link);
    each_relocation(image, section, [&](uint64_t offset, uint64_t index, uint64_t type, uint64_t addend) {
      const auto symbol = table.at(index);
      if (type != R_X86_64_64 || !symbol || out.pointers.size() >= kPointersMax) return;
      RecordSection::Pointer pointer;
      pointer.offset = addend;
      // Of static functions and data the assembler names only the section: the record's own text has to do.
      if (ELF64_ST_TYPE(symbol->st_info) != STT_SECTION) pointer.symbol = table.name(*symbol);
      out.pointers[offset] = pointer;
    });
  }
}

// DT_RELR's packed list of words to be relocated in place: an even entry is an address, an odd one a bitmap of the
// words behind it.
template <typename Function>
void each_packed(Bytes content, Function&& function) {
  ByteReader reader(content);
  uint64_t next = 0;
  size_t count = 0;
  while (auto entry = reader.read<uint64_t>()) {
    if ((*entry & 1) == 0) {
      function(*entry);
      next = *entry + 8;
    } else {
      for (unsigned bit = 0; bit < 63; ++bit) {
        if (*entry >> (bit + 1) & 1) function(next + 8 * uint64_t{bit});
      }
      next += 63 * 8;
    }
    if (++count > kPointersMax) return;
  }
}

// In a linked file: dynamic relocations that hit the section; else the linker has written the address itself.
void read_linked_pointers(const Image& image, const Names& names, RecordSection& out) {
  constexpr uint32_t kRelr = 19;  // SHT_RELR
  const auto inside = [&](uint64_t address) -> std::optional<uint64_t> {
    if (address < out.address || address - out.address + 8 > out.bytes.size()) return std::nullopt;
    return address - out.address;
  };
  const auto in_place = [&](uint64_t offset) {
    RecordSection::Pointer pointer;
    pointer.address = read_at<uint64_t>(out.bytes, offset).value_or(0);
    names.fill(pointer);
    out.pointers[offset] = pointer;
  };
  // Without relocations (a fixed-address executable) every aligned word may be a pointer.
  for (uint64_t offset = 0; offset + 8 <= out.bytes.size() && out.pointers.size() < kPointersMax;
       offset += 8) {
    const auto value = read_at<uint64_t>(out.bytes, offset);
    if (image.header.e_type == ET_EXEC && value && *value != 0) in_place(offset);
  }
  for (const Elf64_Shdr& section : image.sections) {
    if (section.sh_type == kRelr) {
      each_packed(image.content(section), [&](uint64_t address) {
        if (const auto offset = inside(address)) in_place(*offset);
      });
    }
    if (section.sh_type != SHT_RELA || section.sh_info == out.index) continue;
    const SymbolTable table = symbol_table(image, section.sh_link);
    each_relocation(image, section, [&](uint64_t address, uint64_t index, uint64_t type, uint64_t addend) {
      const auto offset = inside(address);
      if (!offset || out.pointers.size() >= kPointersMax) return;
      RecordSection::Pointer pointer;
      if (type == R_X86_64_RELATIVE) {
        pointer.address = addend;
        names.fill(pointer);
      } else if (const auto symbol = table.at(index); symbol && type == R_X86_64_64) {
        pointer.symbol = table.name(*symbol);
        pointer.offset = addend;
        if (symbol->st_shndx != SHN_UNDEF) pointer.address = symbol->st_value + addend;
      } else {
        return;
      }
      out.pointers[*offset] = pointer;
    });
  }
}

std::string find_build_id(const Image& image) {
  for (const Elf64_Shdr& section : image.sections) {
    if (section.sh_type != SHT_NOTE) continue;
    ByteReader reader(image.content(section));
    while (const auto note = reader.read<Elf64_Nhdr>()) {
      const auto name = reader.read_bytes((uint64_t{note->n_namesz} + 3) / 4 * 4);
      const auto text =
          reader.read_bytes(std::min<uint64_t>((uint64_t{note->n_descsz} + 3) / 4 * 4, reader.remaining()));
      if (!name || !text || text->size() < note->n_descsz) break;
      if (note->n_type != NT_GNU_BUILD_ID || note->n_namesz != 4 || std::memcmp(name->data(), "GNU", 4) != 0)
        continue;
      std::string hex;
      for (const uint8_t byte : text->first(std::min<size_t>(note->n_descsz, 64))) {
        hex += "0123456789abcdef"[byte >> 4];
        hex += "0123456789abcdef"[byte & 15];
      }
      return hex;
    }
  }
  return {};
}

}  // namespace

Result<RecordFile> parse_record_file(std::vector<uint8_t> bytes, const std::string& label,
                                     const std::string& section) {
  RecordFile file;
  file.image = std::move(bytes);
  auto image = open_image(file.image, label);
  if (!image) return image.error();
  file.is_object = image->header.e_type == ET_REL;
  file.build_id = find_build_id(*image);
  Names names;
  if (!file.is_object) names.collect(*image);
  uint64_t total = 0;
  for (uint32_t i = 0; i < image->sections.size(); ++i) {
    const Elf64_Shdr& header = image->sections[i];
    if (image->name(header) != section || header.sh_type == SHT_NOBITS ||
        (header.sh_flags & SHF_COMPRESSED) != 0)
      continue;
    const Bytes content = image->content(header);
    total += content.size();
    // Sections may overlap in a hostile file: what is copied stays within the file's own size.
    if (total > image->bytes.size()) return malformed(label, "its record sections overlap");
    RecordSection out{i, file.is_object ? 0 : header.sh_addr, {content.begin(), content.end()}, {}};
    if (file.is_object) {
      read_object_pointers(*image, out);
    } else {
      read_linked_pointers(*image, names, out);
    }
    file.sections.push_back(std::move(out));
  }
  if (file.sections.empty())
    return Error{ENOENT, "read records: " + label + ": no section " + section +
                             " (nothing is annotated with bpftime/eim.h)"};
  return file;
}

Result<RecordFile> read_record_file(const std::string& path, const std::string& section) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat st;
  if (!fd || ::fstat(fd.get(), &st) != 0) return Error::from_errno("read records: " + path);
  if (!S_ISREG(st.st_mode)) return malformed(path, "not a regular file");
  if (static_cast<uint64_t>(st.st_size) > kRecordFileBytesMax)
    return Error{EFBIG, "read records: " + path + ": larger than 512 MiB"};
  std::vector<uint8_t> bytes(static_cast<size_t>(st.st_size));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count =
        ::pread(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::from_errno("read records: " + path);
    if (count == 0) break;  // it shrank meanwhile
    done += static_cast<size_t>(count);
  }
  bytes.resize(done);
  return parse_record_file(std::move(bytes), path, section);
}

std::vector<uint8_t> read_section(const RecordFile& file, const std::string& section) {
  const auto image = open_image(file.image, "");
  if (!image) return {};
  for (const Elf64_Shdr& header : image->sections) {
    if (image->name(header) != section || (header.sh_flags & SHF_COMPRESSED) != 0) continue;
    const Bytes content = image->content(header);
    return {content.begin(), content.end()};
  }
  return {};
}

Result<std::vector<uint8_t>> add_section(const RecordFile& file, const std::string& section, Bytes contents) {
  auto image = open_image(file.image, "the file");
  if (!image) return image.error();
  if (image->sections.empty() || image->sections.size() + 1 >= SHN_LORESERVE ||
      image->header.e_shstrndx >= image->sections.size())
    return malformed("the file", "its section table cannot take one more");
  std::vector<uint8_t> out = file.image;
  const auto append = [&out](Bytes bytes) {
    out.resize((out.size() + 7) / 8 * 8);
    const uint64_t offset = out.size();
    out.insert(out.end(), bytes.begin(), bytes.end());
    return offset;
  };
  Elf64_Shdr added = {};
  added.sh_type = SHT_PROGBITS;
  added.sh_offset = append(contents);
  added.sh_size = contents.size();
  added.sh_addralign = 8;
  const auto old = std::find_if(image->sections.begin(), image->sections.end(),
                                [&](const Elf64_Shdr& header) { return image->name(header) == section; });
  if (old != image->sections.end()) {
    added.sh_name = old->sh_name;
    *old = added;
  } else {
    std::vector<uint8_t> names(image->names.begin(), image->names.end());
    added.sh_name = static_cast<uint32_t>(names.size());
    names.insert(names.end(), section.begin(), section.end());
    names.push_back(0);
    Elf64_Shdr& strings = image->sections[image->header.e_shstrndx];
    strings.sh_offset = append(names);
    strings.sh_size = names.size();
    image->sections.push_back(added);
  }
  const uint64_t table = append(Bytes(reinterpret_cast<const uint8_t*>(image->sections.data()),
                                      image->sections.size() * sizeof(Elf64_Shdr)));
  Elf64_Ehdr header = image->header;
  header.e_shoff = table;
  header.e_shnum = static_cast<uint16_t>(image->sections.size());
  std::memcpy(out.data(), &header, sizeof(header));
  return out;
}

}  // namespace bpftime::symbols

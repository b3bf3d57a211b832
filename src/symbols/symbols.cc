#include "symbols/symbols.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "base/fd.h"
#include "symbols/elf_image.h"

namespace bpftime::symbols {
namespace {

constexpr uint64_t kFileBytesMax = 512u << 20;
constexpr size_t kProgramHeadersMax = 1024;
constexpr size_t kSectionsMax = 65'000;
constexpr size_t kSymbolsMax = 8u << 20;
constexpr size_t kNameBytesMax = 64u << 10;
constexpr size_t kBuildIdBytesMax = 64;

struct Entry {
  std::string_view name;  // in the image
  uint64_t address, size;
  bool function;
  uint8_t rank;  // lower is preferred among entries of one name or address
  bool indirect = false;
};

Error malformed(const std::string& label, const std::string& why) {
  return Error{ENOEXEC, "read ELF: " + label + ": " + why};
}

Result<std::vector<uint8_t>> read_file(int fd, const std::string& label) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return Error::from_errno("read ELF: " + label);
  if (!S_ISREG(st.st_mode)) return malformed(label, "not a regular file");
  const auto size = static_cast<uint64_t>(st.st_size);
  if (size > kFileBytesMax) return Error{EFBIG, "read ELF: " + label + ": larger than 512 MiB"};
  std::vector<uint8_t> bytes(size);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::from_errno("read ELF: " + label);
    if (count == 0) break;  // it shrank meanwhile
    done += count;
  }
  bytes.resize(done);
  return bytes;
}

std::string to_hex(Bytes bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// The build-id among the notes in `notes`, empty when absent.
std::string find_build_id(Bytes notes, uint64_t alignment) {
  alignment = alignment == 8 ? 8 : 4;
  ByteReader reader(notes);
  for (;;) {
    const auto note = reader.read<Elf64_Nhdr>();
    if (!note) return {};
    const auto padded = [&](uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
    const auto name = reader.read_bytes(padded(note->n_namesz));
    if (!name) return {};
    // The last note's padding may be missing.
    const auto text = reader.read_bytes(std::min<uint64_t>(padded(note->n_descsz), reader.remaining()));
    if (!text || text->size() < note->n_descsz) return {};
    if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && std::memcmp(name->data(), "GNU", 4) == 0 &&
        note->n_descsz <= kBuildIdBytesMax) {
      return to_hex(text->first(note->n_descsz));
    }
  }
}

}  // namespace

struct ElfFile::State {
  ElfImage image;
  std::vector<Segment> segments;
  std::string build_id, interpreter;
  Launch launch = Launch::kNotElf;
  std::vector<Entry> by_address;  // functions only; sorted by address, then rank
  std::vector<Entry> by_name;     // functions and data; sorted by name, then rank
  std::vector<Entry> thread_locals;
  std::vector<FunctionBounds> unwind_bounds;

  Result<void> parse(const std::string& label);
  Result<void> read_program_headers(const std::string& label);
  void read_section_headers();
  void read_symbols(const Elf64_Shdr& section, bool dynamic);
  bool is_code(uint64_t address) const;
};

// Decides what the file is; only ELF64 for x86-64 is read further, the rest has a verdict and nothing else.
Result<void> ElfFile::State::parse(const std::string& label) {
  const Bytes bytes = image.all();
  if (bytes.size() < EI_NIDENT || std::memcmp(bytes.data(), ELFMAG, SELFMAG) != 0) {
    launch = Launch::kNotElf;
    return {};
  }
  if (bytes[EI_CLASS] != ELFCLASS64) {
    launch = Launch::kNot64Bit;
    return {};
  }
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  if (bytes[EI_DATA] != ELFDATA2LSB || (header && header->e_machine != EM_X86_64)) {
    launch = Launch::kOtherMachine;
    return {};
  }
  if (!header) return malformed(label, "truncated in its header");
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
    return malformed(label, "neither an executable nor a shared library (an object file or core dump?)");
  }
  image.header = *header;
  if (auto read = read_program_headers(label); !read) return read;
  read_section_headers();
  for (const Elf64_Shdr& section : image.section_headers) {
    if (section.sh_type == SHT_DYNSYM) read_symbols(section, true);
    if (section.sh_type == SHT_SYMTAB) read_symbols(section, false);
  }
  std::sort(by_address.begin(), by_address.end(), [](const Entry& a, const Entry& b) {
    return a.address != b.address ? a.address < b.address : a.rank < b.rank;
  });
  std::sort(by_name.begin(), by_name.end(), [](const Entry& a, const Entry& b) {
    return a.name != b.name ? a.name < b.name : a.rank < b.rank;
  });
  unwind_bounds = read_unwind_bounds(image);
  return {};
}

Result<void> ElfFile::State::read_program_headers(const std::string& label) {
  const Elf64_Ehdr& header = image.header;
  if (header.e_phnum > kProgramHeadersMax) return malformed(label, "too many program headers");
  if (header.e_phnum != 0 && header.e_phentsize != sizeof(Elf64_Phdr))
    return malformed(label, "odd program headers");
  const auto table = image.part(header.e_phoff, uint64_t{header.e_phnum} * sizeof(Elf64_Phdr));
  if (!table) return malformed(label, "truncated in its program headers");
  ByteReader reader(*table);
  while (auto segment = reader.read<Elf64_Phdr>()) {
    const bool needed =
        segment->p_type == PT_LOAD || segment->p_type == PT_INTERP || segment->p_type == PT_NOTE;
    const auto content = image.part(segment->p_offset, segment->p_filesz);
    if (!content && needed) return malformed(label, "truncated: a segment ends beyond the file");
    if (segment->p_type == PT_LOAD) {
      if (segment->p_memsz < segment->p_filesz || segment->p_vaddr + segment->p_memsz < segment->p_vaddr) {
        return malformed(label, "a segment's size is impossible");
      }
      segments.push_back({segment->p_offset, segment->p_filesz, segment->p_vaddr, segment->p_memsz,
                          (segment->p_flags & PF_X) != 0});
    }
    if (segment->p_type == PT_INTERP && interpreter.empty()) {
      const auto path = string_at(*content, 0);
      if (!path || path->empty() || path->size() > 4096)
        return malformed(label, "its interpreter is not a path");
      interpreter = std::string(*path);
    }
    if (segment->p_type == PT_NOTE && build_id.empty()) build_id = find_build_id(*content, segment->p_align);
    image.program_headers.push_back(*segment);
  }
  const std::string_view loader = std::string_view(interpreter).substr(interpreter.rfind('/') + 1);
  if (interpreter.empty()) {
    launch = Launch::kStatic;
  } else {
    launch = loader == "ld-linux-x86-64.so.2" ? Launch::kOk : Launch::kOtherLibc;
  }
  return {};
}

// Sections are a convenience that a program runs without: a broken table means no symbols, not a broken file.
void ElfFile::State::read_section_headers() {
  const Elf64_Ehdr& header = image.header;
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum > kSectionsMax) return;
  const auto table = image.part(header.e_shoff, uint64_t{header.e_shnum} * sizeof(Elf64_Shdr));
  if (!table) return;
  ByteReader reader(*table);
  while (auto section = reader.read<Elf64_Shdr>()) image.section_headers.push_back(*section);
}

void ElfFile::State::read_symbols(const Elf64_Shdr& section, bool dynamic) {
  const auto table = image.part(section.sh_offset, section.sh_size);
  if (!table || section.sh_link >= image.section_headers.size() || section.sh_entsize != sizeof(Elf64_Sym))
    return;
  const Elf64_Shdr& string_section = image.section_headers[section.sh_link];
  const auto strings = image.part(string_section.sh_offset, string_section.sh_size);
  if (!strings) return;
  // Of several versions of a name the default one is meant; the others have the hidden bit in .gnu.version.
  Bytes versions;
  if (dynamic) {
    for (const Elf64_Shdr& candidate : image.section_headers) {
      if (candidate.sh_type != SHT_GNU_versym) continue;
      if (const auto content = image.part(candidate.sh_offset, candidate.sh_size)) versions = *content;
    }
  }
  ByteReader reader(*table);
  for (size_t index = 0;; ++index) {
    const auto symbol = reader.read<Elf64_Sym>();
    if (!symbol || by_name.size() >= kSymbolsMax) return;
    const unsigned type = ELF64_ST_TYPE(symbol->st_info), binding = ELF64_ST_BIND(symbol->st_info);
    const bool function = type == STT_FUNC || type == STT_GNU_IFUNC;
    if (symbol->st_shndx == SHN_UNDEF || symbol->st_shndx == SHN_ABS) continue;
    if (!function && type != STT_OBJECT && type != STT_NOTYPE && type != STT_TLS) continue;
    const auto name = string_at(*strings, symbol->st_name);
    if (!name || name->empty() || name->size() > kNameBytesMax) continue;
    if (type == STT_TLS) {
      if (thread_locals.size() < kSymbolsMax)
        thread_locals.push_back({*name, symbol->st_value, symbol->st_size, false, 0, false});
      continue;
    }
    const auto version = dynamic ? read_at<uint16_t>(versions, index * sizeof(uint16_t)) : std::nullopt;
    const bool hidden = version && (*version & 0x8000) != 0;
    const auto rank = static_cast<uint8_t>((hidden ? 8 : 0) + (binding == STB_LOCAL ? 4 : 0) +
                                           (binding == STB_WEAK ? 2 : 0) + (symbol->st_size == 0 ? 1 : 0));
    const Entry entry{*name, symbol->st_value, symbol->st_size, function, rank, type == STT_GNU_IFUNC};
    by_name.push_back(entry);
    // Labels of hand-written code count as functions when they lie in code (libc's assembly has them typed, others not).
    if (function || (type == STT_NOTYPE && is_code(symbol->st_value))) by_address.push_back(entry);
  }
}

bool ElfFile::State::is_code(uint64_t address) const {
  return std::any_of(segments.begin(), segments.end(), [address](const Segment& s) {
    return s.executable && address >= s.address && address - s.address < s.memory_size;
  });
}

Result<ElfFile> ElfFile::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return Error::from_errno("read ELF: " + path);
  return from_fd(fd.get(), path);
}

Result<ElfFile> ElfFile::from_fd(int fd, const std::string& label) {
  auto bytes = read_file(fd, label);
  if (!bytes) return bytes.error();
  auto state = std::make_unique<State>();
  state->image.bytes = std::move(*bytes);
  if (auto parsed = state->parse(label); !parsed) return parsed.error();
  return ElfFile(std::move(state));
}

ElfFile::ElfFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
ElfFile::ElfFile(ElfFile&&) noexcept = default;
ElfFile& ElfFile::operator=(ElfFile&&) noexcept = default;
ElfFile::~ElfFile() = default;

const std::vector<Segment>& ElfFile::segments() const { return state_->segments; }
const std::string& ElfFile::build_id() const { return state_->build_id; }
const std::string& ElfFile::interpreter() const { return state_->interpreter; }
bool ElfFile::position_independent() const { return state_->image.header.e_type == ET_DYN; }
Launch ElfFile::launch() const { return state_->launch; }

std::optional<uint64_t> ElfFile::address_of_offset(uint64_t file_offset) const {
  // A page may be in the file ranges of two segments: code is what is asked for.
  std::optional<uint64_t> data;
  for (const Segment& segment : state_->segments) {
    if (file_offset < segment.file_offset || file_offset - segment.file_offset >= segment.file_size) continue;
    const uint64_t address = segment.address + (file_offset - segment.file_offset);
    if (segment.executable) return address;
    if (!data) data = address;
  }
  return data;
}

std::optional<uint64_t> ElfFile::offset_of_address(uint64_t address) const {
  for (const Segment& segment : state_->segments) {
    if (address < segment.address || address - segment.address >= segment.file_size) continue;
    return segment.file_offset + (address - segment.address);
  }
  return std::nullopt;
}

std::optional<Symbol> ElfFile::function_at(uint64_t address) const {
  if (!state_->is_code(address)) return std::nullopt;
  const auto& symbols = state_->by_address;
  const auto after =
      std::upper_bound(symbols.begin(), symbols.end(), address,
                       [](uint64_t wanted, const Entry& entry) { return wanted < entry.address; });
  // A sized symbol that contains the address; of those with the nearest start the best ranked. Symbols may nest: look back a bit.
  constexpr int kLookBackMax = 32;
  const Entry* found = nullptr;
  int looked = 0;
  for (auto entry = after; entry != symbols.begin() && looked < kLookBackMax; ++looked) {
    --entry;
    if (found != nullptr && entry->address != found->address) break;
    if (address - entry->address < entry->size) found = &*entry;
  }
  if (found != nullptr) return Symbol{std::string(found->name), found->address, found->size};

  const auto& bounds = state_->unwind_bounds;
  const auto next =
      std::upper_bound(bounds.begin(), bounds.end(), address,
                       [](uint64_t wanted, const FunctionBounds& b) { return wanted < b.start; });
  const FunctionBounds* unwind = next != bounds.begin() && address < (next - 1)->end ? &*(next - 1) : nullptr;
  const Entry* sizeless = after != symbols.begin() && (after - 1)->size == 0 ? &*(after - 1) : nullptr;
  if (sizeless != nullptr) {
    while (sizeless != symbols.data() && (sizeless - 1)->address == sizeless->address &&
           (sizeless - 1)->size == 0)
      --sizeless;
  }
  if (unwind != nullptr && (sizeless == nullptr || sizeless->address < unwind->start)) {
    return Symbol{"", unwind->start, unwind->end - unwind->start};
  }
  if (sizeless == nullptr) return std::nullopt;
  // Up to the next symbol, FDE, or end of the segment.
  uint64_t end = UINT64_MAX;
  for (const Segment& segment : state_->segments) {
    if (segment.executable && address >= segment.address && address - segment.address < segment.memory_size) {
      end = segment.address + segment.memory_size;
    }
  }
  if (after != symbols.end()) end = std::min(end, after->address);
  if (unwind != nullptr) end = std::min(end, unwind->end);
  if (next != bounds.end()) end = std::min(end, next->start);
  return Symbol{std::string(sizeless->name), sizeless->address, end - sizeless->address};
}

std::optional<Symbol> ElfFile::find_symbol(const std::string& name) const {
  const auto& symbols = state_->by_name;
  const auto found =
      std::lower_bound(symbols.begin(), symbols.end(), std::string_view(name),
                       [](const Entry& entry, std::string_view wanted) { return entry.name < wanted; });
  if (found == symbols.end() || found->name != name) return std::nullopt;
  return Symbol{std::string(found->name), found->address, found->size, found->indirect};
}

std::optional<uint64_t> ElfFile::find_thread_local(const std::string& name) const {
  const auto& variables = state_->thread_locals;
  const auto found = std::find_if(variables.begin(), variables.end(),
                                  [&](const Entry& entry) { return entry.name == name; });
  if (found == variables.end()) return std::nullopt;
  return found->address;
}

std::optional<ElfFile::Section> ElfFile::find_section(const std::string& name) const {
  const auto& headers = state_->image.section_headers;
  const uint32_t names_index = state_->image.header.e_shstrndx;
  if (names_index >= headers.size()) return std::nullopt;
  const auto names = state_->image.part(headers[names_index].sh_offset, headers[names_index].sh_size);
  if (!names) return std::nullopt;
  for (const Elf64_Shdr& section : headers) {
    if ((section.sh_flags & SHF_ALLOC) == 0 || section.sh_name >= names->size()) continue;
    const Bytes rest = names->subspan(section.sh_name);
    if (rest.size() <= name.size() || rest[name.size()] != 0) continue;
    if (std::equal(name.begin(), name.end(), rest.begin())) return Section{section.sh_addr, section.sh_size};
  }
  return std::nullopt;
}

std::vector<uint8_t> ElfFile::read(uint64_t address, uint64_t size) const {
  const Bytes bytes = state_->image.at_address(address, size);
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

}  // namespace bpftime::symbols

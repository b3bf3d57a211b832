#include "cli/elf_launch.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"

namespace bpftime::cli {
namespace {

constexpr uint64_t kHeadersMax =
    65536;  // bytes of program headers: 65535 entries would be more than anyone has
constexpr size_t kInterpreterMax = 4096;  // PATH_MAX, as the kernel limits it
constexpr char kGlibcInterpreter[] = "/ld-linux-x86-64.so.2";

std::vector<uint8_t> read_file(const Fd& fd, uint64_t offset, size_t size) {
  std::vector<uint8_t> bytes(size);
  const ssize_t got = ::pread(fd.get(), bytes.data(), size, static_cast<off_t>(offset));
  bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return bytes;
}

Launch refused(std::string reason) { return {std::move(reason), false}; }

Launch judge_interpreter(const Fd& fd, const Elf64_Phdr& header) {
  if (header.p_filesz == 0 || header.p_filesz > kInterpreterMax)
    return refused("damaged ELF file: impossible interpreter");
  const std::vector<uint8_t> bytes = read_file(fd, header.p_offset, header.p_filesz);
  const auto path = string_at(bytes, 0);
  if (!path) return refused("damaged ELF file: unterminated interpreter");
  if (path->ends_with(kGlibcInterpreter)) return {};
  return {"program of another C library (" + std::string(*path) + "); only glibc is supported", true};
}

// Go's linker leaves a note of its own, perhaps among others.
bool has_note_of_go(const Fd& fd, const Elf64_Phdr& header) {
  constexpr std::string_view kGo("Go\0\0", 4);
  constexpr uint64_t kNotesMax = 4096;
  const std::vector<uint8_t> bytes =
      read_file(fd, header.p_offset, std::min<uint64_t>(header.p_filesz, kNotesMax));
  const auto padded = [](uint64_t size) { return (size + 3) / 4 * 4; };
  for (uint64_t at = 0; const auto note = read_at<Elf64_Nhdr>(bytes, at);) {
    at += sizeof *note;
    if (note->n_namesz == kGo.size() && at + kGo.size() <= bytes.size() &&
        std::memcmp(bytes.data() + at, kGo.data(), kGo.size()) == 0)
      return true;
    at += padded(note->n_namesz) + padded(note->n_descsz);
  }
  return false;
}

Launch judge_segments(const Fd& fd, const std::vector<uint8_t>& headers, uint32_t count) {
  std::optional<Launch> launch;
  bool go = false;
  for (uint32_t i = 0; i < count; ++i) {
    const auto segment = read_at<Elf64_Phdr>(headers, i * sizeof(Elf64_Phdr));
    if (!segment) return refused("damaged ELF file: program headers past its end");
    if (segment->p_type == PT_INTERP && !launch) launch = judge_interpreter(fd, *segment);
    if (segment->p_type == PT_NOTE) go = go || has_note_of_go(fd, *segment);
  }
  if (!launch) return {"statically linked program: it has no dynamic linker to preload with", true};
  if (launch->obstacle.empty()) launch->supervised = go;
  return *launch;
}

}  // namespace

Result<Launch> judge_launch(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::from_errno("read ELF: " + path);
  const std::vector<uint8_t> start = read_file(fd, 0, sizeof(Elf64_Ehdr));
  if (start.size() < EI_NIDENT || std::memcmp(start.data(), ELFMAG, SELFMAG) != 0) {
    return refused("not an ELF program");
  }
  if (start[EI_CLASS] == ELFCLASS32) return refused("32-bit program; only 64-bit ones are supported");
  const auto header = read_at<Elf64_Ehdr>(start, 0);
  if (!header || header->e_ident[EI_CLASS] != ELFCLASS64) return refused("damaged ELF file: no header");
  if (header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != EM_X86_64) {
    return refused("program for another machine; only x86-64 is supported");
  }
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN) return refused("ELF file, but no program");
  const uint64_t size = uint64_t{header->e_phnum} * sizeof(Elf64_Phdr);
  if (header->e_phentsize != sizeof(Elf64_Phdr) || size > kHeadersMax) {
    return refused("damaged ELF file: impossible program headers");
  }
  const std::vector<uint8_t> headers = read_file(fd, header->e_phoff, size);
  return judge_segments(fd, headers, header->e_phnum);
}

}  // namespace bpftime::cli

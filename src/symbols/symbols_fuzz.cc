// Any bytes as an ELF file: parsing, look-ups at the ends of everything it claims to have.
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "symbols/symbols.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using bpftime::symbols::ElfFile;
  bpftime::Fd file(::memfd_create("elf-fuzz", MFD_CLOEXEC));
  if (!file || ::write(file.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  auto elf = ElfFile::from_fd(file.get(), "fuzz");
  if (!elf.ok()) return 0;
  for (const auto& segment : elf->segments()) {
    for (const uint64_t at : {segment.address, segment.address + segment.memory_size / 2,
                              segment.address + segment.memory_size}) {
      (void)elf->function_at(at);
      (void)elf->read(at, 64);
      (void)elf->read(at, UINT64_MAX);
      if (auto offset = elf->offset_of_address(at)) (void)elf->address_of_offset(*offset);
    }
  }
  (void)elf->find_symbol("main");
  return 0;
}

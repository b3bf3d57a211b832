#include "loader/user_memory.h"

#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "loader/real.h"

namespace bpftime::loader {
namespace {

// process_vm_readv on ourselves: the kernel checks the pages, whatever other threads unmap meanwhile.
bool copy(long number, void* local, uint64_t address, size_t size) {
  if (size == 0) return true;
  struct iovec here = {local, size};
  struct iovec there = {reinterpret_cast<void*>(address), size};
  const long pid = raw_syscall(SYS_getpid);
  const long copied =
      raw_syscall(number, pid, reinterpret_cast<long>(&here), 1, reinterpret_cast<long>(&there), 1, 0);
  return copied == static_cast<long>(size);
}

}  // namespace

bool read_user(void* destination, uint64_t address, size_t size) {
  return copy(SYS_process_vm_readv, destination, address, size);
}

bool write_user(uint64_t address, const void* source, size_t size) {
  return copy(SYS_process_vm_writev, const_cast<void*>(source), address, size);
}

std::optional<std::string> read_user_string(uint64_t address, size_t limit) {
  std::string out;
  char chunk[256];
  while (out.size() < limit) {
    // Never across a page in one step: the string may end just before an unmapped page.
    const size_t to_page_end = 4096 - (address & 4095);
    const size_t step = std::min({sizeof(chunk), to_page_end, limit - out.size()});
    if (!read_user(chunk, address, step)) return std::nullopt;
    const auto* end = static_cast<const char*>(std::memchr(chunk, 0, step));
    if (end != nullptr) return out.append(chunk, static_cast<size_t>(end - chunk));
    out.append(chunk, step);
    address += step;
  }
  return out;
}

}  // namespace bpftime::loader

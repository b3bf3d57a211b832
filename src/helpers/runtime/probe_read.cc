// Reads of addresses the program made up. The agent's copy routines repair the faults; without them nothing
// is read.
#include "helpers/runtime/runtime.h"

namespace bpftime::runtime {
namespace {

constexpr uint64_t kTaskSize = 0x7ffffffff000;  // TASK_SIZE_MAX: user addresses end here

using SafeCopy = long (*)(void* destination, const void* source, uint64_t size);
using SafeCopyString = long (*)(char* destination, const void* source, uint64_t size);

}  // namespace

int64_t read_memory(void* destination, uint64_t size, uint64_t address) {
  if (size == 0) return 0;
  const auto copy = reinterpret_cast<SafeCopy>(context()->safe_copy);
  const bool in_range = address < kTaskSize && size <= kTaskSize - address;
  if (__builtin_expect(in_range && copy != nullptr, 1)) {
    if (__builtin_expect(copy(destination, pointer(address), size) == 0, 1)) return 0;
  }
  __builtin_memset(destination, 0, size);
  return -kEfault;
}

int64_t read_string(char* destination, uint64_t size, uint64_t address) {
  if (size == 0) return 0;
  const auto copy = reinterpret_cast<SafeCopyString>(context()->safe_copy_string);
  if (__builtin_expect(address < kTaskSize && copy != nullptr, 1)) {
    const int64_t length = copy(destination, pointer(address), size);
    if (__builtin_expect(length > 0, 1)) return length;
  }
  __builtin_memset(destination, 0, size);
  return -kEfault;
}

// r1 destination, r2 size, r3 address. The kernel's size is a u32.
BPFTIME_HELPER_FUNCTION(probe_read) { return read_memory(pointer(r1), static_cast<uint32_t>(r2), r3); }
BPFTIME_HELPER_FUNCTION(probe_read_user) { return read_memory(pointer(r1), static_cast<uint32_t>(r2), r3); }
BPFTIME_HELPER_FUNCTION(probe_read_kernel) { return read_memory(pointer(r1), static_cast<uint32_t>(r2), r3); }
BPFTIME_HELPER_FUNCTION(probe_read_str) {
  return read_string(pointer<char>(r1), static_cast<uint32_t>(r2), r3);
}
BPFTIME_HELPER_FUNCTION(probe_read_user_str) {
  return read_string(pointer<char>(r1), static_cast<uint32_t>(r2), r3);
}
BPFTIME_HELPER_FUNCTION(probe_read_kernel_str) {
  return read_string(pointer<char>(r1), static_cast<uint32_t>(r2), r3);
}

}  // namespace bpftime::runtime

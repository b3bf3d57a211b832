// Reads of addresses the program made up. Faults are repaired by the agent; without it nothing is read. Reads of 1, 2, 4 and
// 8 bytes are single loads in the program's code; the others call the agent's copy routines.
#include "helpers/runtime/checked_load.h"
#include "helpers/runtime/task.h"

namespace bpftime::runtime {
namespace {

using SafeCopy = long (*)(void* destination, const void* source, uint64_t size);
using SafeCopyString = long (*)(char* destination, const void* source, uint64_t size);

template <typename T>
inline int64_t read_word(void* destination, uint64_t address) {
  T value;
  const int64_t error = load_checked(address, value);
  __builtin_memcpy(destination, &value, sizeof value);
  return error;
}

// The kernel's size is a u32.
inline int64_t read(void* destination, uint32_t size, uint64_t address) {
  switch (size) {
    case 1:
      return read_word<uint8_t>(destination, address);
    case 2:
      return read_word<uint16_t>(destination, address);
    case 4:
      return read_word<uint32_t>(destination, address);
    case 8:
      return read_word<uint64_t>(destination, address);
    default:
      break;
  }
  return read_memory(destination, size, address);
}

// Kernel memory there is none of, but for the synthetic task: looked for only when the address has proved bad.
inline int64_t read_kernel(void* destination, uint32_t size, uint64_t address) {
  const int64_t error = read(destination, size, address);
  if (__builtin_expect(error != 0 && is_task_address(address), 0))
    return bpftime_read_task(destination, size, address);
  return error;
}

inline int64_t read_kernel_string(char* destination, uint32_t size, uint64_t address) {
  if (__builtin_expect(is_task_address(address), 0))
    return bpftime_read_task_string(destination, size, address);
  return read_string(destination, size, address);
}

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

int64_t write_memory(uint64_t address, const void* source, uint64_t size) {
  if (size == 0) return 0;
  const auto copy = reinterpret_cast<SafeCopy>(context()->safe_copy);
  const bool in_range = address < kTaskSize && size <= kTaskSize - address;
  if (!in_range || copy == nullptr) return -kEfault;
  return copy(pointer(address), source, size);
}

// r1 destination, r2 size, r3 address.
BPFTIME_HELPER_FUNCTION(probe_read) { return read_kernel(pointer(r1), static_cast<uint32_t>(r2), r3); }
BPFTIME_HELPER_FUNCTION(probe_read_user) { return read(pointer(r1), static_cast<uint32_t>(r2), r3); }
BPFTIME_HELPER_FUNCTION(copy_from_user) { return read(pointer(r1), static_cast<uint32_t>(r2), r3); }
// r4 task, r5 flags. Of other processes nothing can be read from here.
BPFTIME_HELPER_FUNCTION(copy_from_user_task) {
  const uint32_t size = static_cast<uint32_t>(r2);
  if (size == 0) return 0;
  if (r5 == 0 && r4 == wire::task_address(current_tid())) return read(pointer(r1), size, r3);
  __builtin_memset(pointer(r1), 0, size);
  return static_cast<uint64_t>(r5 != 0 ? -kEinval : -kEfault);
}
BPFTIME_HELPER_FUNCTION(probe_read_kernel) { return read_kernel(pointer(r1), static_cast<uint32_t>(r2), r3); }
BPFTIME_HELPER_FUNCTION(probe_read_str) {
  return read_kernel_string(pointer<char>(r1), static_cast<uint32_t>(r2), r3);
}
BPFTIME_HELPER_FUNCTION(probe_read_user_str) {
  return read_string(pointer<char>(r1), static_cast<uint32_t>(r2), r3);
}
BPFTIME_HELPER_FUNCTION(probe_read_kernel_str) {
  return read_kernel_string(pointer<char>(r1), static_cast<uint32_t>(r2), r3);
}

}  // namespace bpftime::runtime

// Reading and writing memory at addresses the host gave us. A bad pointer is EFAULT, as from the kernel,
// never a crash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace bpftime::loader {

// While one lives on this thread's stack, a page found good is not asked about again: one call of the host's, at whose end it
// may unmap what it likes. (A thread that unmaps what another one's call is using is not caught.)
class UserMemoryCall {
 public:
  UserMemoryCall();
  ~UserMemoryCall();
  UserMemoryCall(const UserMemoryCall&) = delete;
  UserMemoryCall& operator=(const UserMemoryCall&) = delete;
};

// True when all `size` bytes were copied. Of what is larger than some pages a part may have been written all the same.
bool read_user(void* destination, uint64_t address, size_t size);
bool write_user(uint64_t address, const void* source, size_t size);
// The NUL-terminated string at `address`; nullopt when it faults. Without a NUL in `limit`
// bytes: `limit` bytes.
std::optional<std::string> read_user_string(uint64_t address, size_t limit);

}  // namespace bpftime::loader

// Memory objects: one memfd per object, mode 0600, sealed; and owning mappings of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/fd.h"

namespace bpftime {

// A new memfd of `size` bytes (zeroed, close-on-exec, mode 0600: a descriptor is the only way in). `seals` are F_SEAL_* bits added after sizing.
Result<Fd> create_memfd(const std::string& name, uint64_t size, int seals);

// Size in bytes of the file behind `fd`.
Result<uint64_t> file_size(const Fd& fd);

// Identity of the file behind a descriptor, stable across dup, fork and SCM_RIGHTS.
struct InodeId {
  uint64_t device = 0;
  uint64_t inode = 0;
  auto operator<=>(const InodeId&) const = default;
};
Result<InodeId> inode_of(int fd);

// Owns one mmap. Movable.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  // Maps [0, size) of `fd`, MAP_SHARED, with `protection` PROT_* bits.
  static Result<Mapping> shared(const Fd& fd, uint64_t size, int protection);

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace bpftime

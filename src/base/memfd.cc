#include "base/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bpftime {

Result<Fd> create_memfd(const std::string& name, uint64_t size, int seals) {
  Fd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return Error::from_errno("create memfd " + name);
  // memfds are born 0777: anyone who can see /proc/PID/fd could re-open them for writing.
  if (::fchmod(fd.get(), 0600) != 0) return Error::from_errno("chmod memfd " + name);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return Error{ENOMEM,
                 "size memfd " + name + " to " + std::to_string(size) + " bytes: " + std::strerror(errno)};
  if (seals != 0 && ::fcntl(fd.get(), F_ADD_SEALS, seals) != 0)
    return Error::from_errno("seal memfd " + name);
  return fd;
}

Result<uint64_t> file_size(const Fd& fd) {
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return Error::from_errno("fstat");
  return static_cast<uint64_t>(st.st_size);
}

Result<InodeId> inode_of(int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return Error::from_errno("fstat");
  return InodeId{st.st_dev, st.st_ino};
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Result<Mapping> Mapping::shared(const Fd& fd, uint64_t size, int protection) {
  void* at = ::mmap(nullptr, size, protection, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return Error::from_errno("map " + std::to_string(size) + " bytes");
  Mapping out;
  out.data_ = static_cast<uint8_t*>(at);
  out.size_ = size;
  return out;
}

}  // namespace bpftime

// Owning file descriptor.
#pragma once

#include <utility>

#include "base/result.h"

namespace bpftime {

// Closes its descriptor exactly once; movable, not copyable. -1 means "none".
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }
  int release() { return std::exchange(fd_, -1); }
  void reset();

  // A second descriptor on the same open file description, close-on-exec.
  Result<Fd> duplicate() const;
  // A new open file description on the same inode (through /proc/self/fd): its close can be watched on its own.
  Result<Fd> reopen(int flags) const;

 private:
  int fd_ = -1;
};

}  // namespace bpftime

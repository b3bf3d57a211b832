#include "base/fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace bpftime {

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<Fd> Fd::duplicate() const {
  const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return Error::from_errno("duplicate descriptor");
  return Fd(copy);
}

Result<Fd> Fd::reopen(int flags) const {
  const std::string path = "/proc/self/fd/" + std::to_string(fd_);
  const int copy = ::open(path.c_str(), flags | O_CLOEXEC);
  if (copy < 0) return Error::from_errno("reopen " + path);
  return Fd(copy);
}

}  // namespace bpftime

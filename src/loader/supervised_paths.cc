#include "loader/supervised_paths.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "loader/calls.h"
#include "loader/host.h"
#include "loader/real.h"
#include "loader/tracefs.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

// Nearly all paths are none of ours, and it shows in the first bytes.
bool may_be_ours(uint64_t path) {
  char first[6];
  return read_user(first, path, sizeof first) &&
         (std::memcmp(first, "/sys/", 5) == 0 || std::memcmp(first, "/proc/", 6) == 0);
}

const char* as_path(uint64_t address) { return reinterpret_cast<const char*>(address); }

// Where the file that stands for a path lies.
std::optional<std::string> real_place(uint64_t path) {
  if (auto pinned = pinned_path(as_path(path))) return pinned;
  return trace_path(as_path(path));
}

long at(const std::string& path) { return reinterpret_cast<long>(path.c_str()); }

std::optional<int64_t> open_call(uint64_t path, uint64_t flags) {
  const auto opened = open_virtual_file(as_path(path), static_cast<int>(flags));
  if (opened && *opened >= 0) return hand_over(Fd(static_cast<int>(*opened)));
  if (opened) return opened;
  const auto place = trace_path(as_path(path));  // directories
  if (!place) return std::nullopt;
  const long fd = raw_syscall(SYS_open, at(*place), static_cast<long>(flags));
  return fd < 0 ? fd : hand_over(Fd(static_cast<int>(fd)));
}

std::optional<int64_t> access_call(uint64_t path, uint64_t mode) {
  if ((mode & (W_OK | X_OK)) == 0 && is_virtual_file(as_path(path))) return 0;
  const auto place = real_place(path);
  if (!place) return std::nullopt;
  return raw_syscall(SYS_access, at(*place), static_cast<long>(mode));
}

// A call that fills a structure of the host's.
template <typename Info, typename Call>
std::optional<int64_t> info_call(uint64_t path, uint64_t out, Call call) {
  const auto place = real_place(path);
  if (!place) return std::nullopt;
  Info info{};
  const int64_t result = call(*place, reinterpret_cast<long>(&info));
  if (result < 0) return result;
  return write_user(out, &info, sizeof info) ? result : -EFAULT;
}

std::optional<int64_t> statfs_call(uint64_t path, uint64_t out) {
  constexpr long kBpfFsMagic = 0xcafe4a11, kTraceFsMagic = 0x74726163;  // BPF_FS_MAGIC, TRACEFS_MAGIC
  struct statfs info = {};
  if (const auto pinned = pinned_path(as_path(path))) {
    if (const long result = raw_syscall(SYS_statfs, at(*pinned), reinterpret_cast<long>(&info)); result < 0)
      return result;
    info.f_type = kBpfFsMagic;
  } else {
    const auto text = read_user_string(path, 64);
    if (!text || !is_tracefs_root(*text)) return std::nullopt;
    info.f_type = kTraceFsMagic;
    info.f_bsize = 4096;
    info.f_namelen = 255;
  }
  return write_user(out, &info, sizeof info) ? 0 : -EFAULT;
}

// A call of one path and a number.
std::optional<int64_t> plain_call(long number, uint64_t path, uint64_t argument) {
  const auto place = real_place(path);
  if (!place) return std::nullopt;
  return raw_syscall(number, at(*place), static_cast<long>(argument));
}

std::optional<int64_t> rename_call(uint64_t from, uint64_t to, uint64_t flags) {
  const auto source = real_place(from), target = real_place(to);
  if (!source && !target) return std::nullopt;
  if (!source || !target) return -EXDEV;  // another file system
  return raw_syscall(SYS_renameat2, AT_FDCWD, at(*source), AT_FDCWD, at(*target), static_cast<long>(flags));
}

std::optional<int64_t> stat_call(long number, uint64_t path, uint64_t out) {
  return info_call<struct stat>(
      path, out, [&](const std::string& place, long info) { return raw_syscall(number, at(place), info); });
}

std::optional<int64_t> statx_call(const uint64_t* args) {
  return info_call<struct statx>(args[1], args[4], [&](const std::string& place, long info) {
    return raw_syscall(SYS_statx, AT_FDCWD, at(place), static_cast<long>(args[2]), static_cast<long>(args[3]),
                       info);
  });
}

bool takes_directory(long number) {
  switch (number) {
    case SYS_openat:
    case SYS_faccessat:
    case SYS_faccessat2:
    case SYS_newfstatat:
    case SYS_statx:
    case SYS_mkdirat:
    case SYS_unlinkat:
    case SYS_renameat:
    case SYS_renameat2:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::optional<int64_t> supervised_path_call(long number, const uint64_t* args) {
  const bool renames = number == SYS_rename || number == SYS_renameat || number == SYS_renameat2;
  const uint64_t path = takes_directory(number) ? args[1] : args[0];
  const uint64_t target = number == SYS_rename ? args[1] : args[3];
  // Only absolute paths are ours: the directory's descriptor says nothing.
  if (!may_be_ours(path) && !(renames && may_be_ours(target))) return std::nullopt;
  switch (number) {
    case SYS_open:
      return open_call(path, args[1]);
    case SYS_openat:
      return open_call(path, args[2]);
    case SYS_access:
      return access_call(path, args[1]);
    case SYS_faccessat:
    case SYS_faccessat2:
      return access_call(path, args[2]);
    case SYS_stat:
    case SYS_lstat:
      return stat_call(number, path, args[1]);
    case SYS_newfstatat:
      return stat_call((args[3] & AT_SYMLINK_NOFOLLOW) != 0 ? SYS_lstat : SYS_stat, path, args[2]);
    case SYS_statx:
      return statx_call(args);
    case SYS_statfs:
      return statfs_call(path, args[1]);
    case SYS_mkdir:
      return plain_call(SYS_mkdir, path, args[1]);
    case SYS_mkdirat:
      return plain_call(SYS_mkdir, path, args[2]);
    case SYS_rmdir:
    case SYS_unlink:
      return plain_call(number, path, 0);
    case SYS_unlinkat:
      return plain_call((args[2] & AT_REMOVEDIR) != 0 ? SYS_rmdir : SYS_unlink, path, 0);
    case SYS_rename:
    case SYS_renameat:
      return rename_call(path, target, 0);
    case SYS_renameat2:
      return rename_call(path, target, args[4]);
    default:
      return std::nullopt;
  }
}

}  // namespace bpftime::loader

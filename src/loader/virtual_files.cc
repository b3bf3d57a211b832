// Files that tools read to find out what to ask perf_event_open for, served from memory: the numbers must be
// ours, or be known to us.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>

#include "loader/calls.h"
#include "loader/fdinfo.h"
#include "loader/log.h"
#include "loader/real.h"
#include "loader/tracefs.h"
#include "loader/user_memory.h"
#include "wire/kernel_btf.h"
#include "wire/messages.h"

namespace bpftime::loader {
namespace {

struct VirtualFile {
  std::string_view path;
  std::string_view contents;
};

constexpr std::string_view kDevices = "/sys/bus/event_source/devices/uprobe/";
// As the kernel's format files say which bits of perf_event_attr mean what.
constexpr VirtualFile kFiles[] = {
    {"type", "25200\n"},
    {"format/retprobe", "config:0\n"},
    {"format/ref_ctr_offset", "config:32-63\n"},
};
static_assert(wire::kUprobePmuType == 25200);

constexpr size_t kPathMax = 192;  // of virtual files

// Under a policy a host's types are split from the kernel's: where those cannot be read, from the same stand-in as the daemon's.
std::optional<std::string> kernel_btf_stand_in(const std::string& path) {
  if (::getenv("BPFTIME_POLICY") == nullptr ||
      raw_syscall(SYS_access, reinterpret_cast<long>(path.c_str()), R_OK) == 0)
    return std::nullopt;
  return std::string(wire::kKernelBtfStandIn.bytes());
}

std::optional<std::string> find_file(const char* path) {
  // A bad pointer is the kernel's to refuse.
  const auto name = read_user_string(reinterpret_cast<uint64_t>(path), kPathMax);
  if (name && name->compare(0, 6, "/proc/") == 0) return fdinfo_file(*name);
  if (!name || name->compare(0, 5, "/sys/") != 0) return std::nullopt;
  if (*name == wire::kKernelBtfPath) return kernel_btf_stand_in(*name);
  if (name->compare(0, kDevices.size(), kDevices) != 0) return tracefs_file(*name);
  // The kernel's own say the same, but for its number, which is understood (perf_calls.cc); to make a file takes longer than
  // to open one, and tools do both at each attach.
  if (raw_syscall(SYS_access, reinterpret_cast<long>(name->c_str()), R_OK) == 0) return std::nullopt;
  for (const VirtualFile& file : kFiles)
    if (file.path == std::string_view(*name).substr(kDevices.size())) return std::string(file.contents);
  return std::nullopt;
}

}  // namespace

namespace {

TraceFile trace_file_at(const char* path) {
  const auto name = read_user_string(reinterpret_cast<uint64_t>(path), kPathMax);
  return name && name->compare(0, 5, "/sys/") == 0 ? trace_file(*name) : TraceFile::kNone;
}

}  // namespace

bool is_virtual_file(const char* path) {
  if (const auto pinned = pinned_path(path))
    return raw_syscall(SYS_access, reinterpret_cast<long>(pinned->c_str()), F_OK) == 0;
  return trace_file_at(path) != TraceFile::kNone || find_file(path).has_value() ||
         trace_path(path).has_value();
}

// Clients ask tracefs first for what lies in the kernel, and give up there when it has no such file: `load -v` says why.
void explain_missing(const char* path) {
  if (!logs(-ENOENT)) return;
  const auto name = read_user_string(reinterpret_cast<uint64_t>(path), kPathMax);
  if (!name || raw_syscall(SYS_access, reinterpret_cast<long>(name->c_str()), F_OK) == 0) return;
  const auto what = kernel_only_file(*name);
  if (what && (name->ends_with("/kprobe_events") || !find_file(path)))
    log_call("open(" + *name + ")", -ENOENT, *what);
}

std::optional<int64_t> open_virtual_file(const char* path, int flags) {
  if (const auto pinned = pinned_path(path)) {
    if ((flags & O_CREAT) != 0) return -EPERM;  // a bpf file system has no plain files
    return raw_syscall(SYS_open, reinterpret_cast<long>(pinned->c_str()), flags);
  }
  if (const TraceFile trace = trace_file_at(path); trace != TraceFile::kNone)
    return open_trace_file(trace, flags);
  explain_missing(path);
  const auto file = find_file(path);
  if (!file || (flags & O_ACCMODE) != O_RDONLY) return std::nullopt;
  const long fd = raw_syscall(SYS_memfd_create, reinterpret_cast<long>("bpftime-file"),
                              (flags & O_CLOEXEC) != 0 ? MFD_CLOEXEC : 0);
  if (fd < 0) return fd;
  raw_syscall(SYS_write, fd, reinterpret_cast<long>(file->data()), static_cast<long>(file->size()));
  raw_syscall(SYS_lseek, fd, 0, SEEK_SET);
  return fd;
}

}  // namespace bpftime::loader

#include "target/process.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <map>

#include "target/memory.h"
#include "target/proc_files.h"

namespace bpftime::target {
namespace {

// Bound on one read(): a mistake in a size must not take the daemon's memory.
constexpr uint64_t kReadBytesMax = 256u << 20;

Error missing_or_forbidden(pid_t pid, int code) {
  if (code == ENOENT || code == ESRCH)
    return process_error(pid, ESRCH, "no such process; try `ps -e` for the right pid");
  if (code == EACCES || code == EPERM) {
    return process_error(pid, EPERM, "it belongs to someone else; try as its user or as root");
  }
  return process_error(pid, code, std::strerror(code));
}

std::string map_files_path(pid_t pid, const MappedRegion& region) {
  char name[64];
  std::snprintf(name, sizeof(name), "/map_files/%llx-%llx", static_cast<unsigned long long>(region.start),
                static_cast<unsigned long long>(region.end));
  return proc_path(pid, name);
}

// Replaces the superblock's device of maps by the one stat(2) gives: they differ on btrfs and overlayfs. Needs
// CAP_CHECKPOINT_RESTORE; without it the kernel's numbers stay. One stat per file, not per region.
void look_at_files(pid_t pid, std::vector<MappedRegion>& regions) {
  struct Seen {
    uint64_t device;
    FileVersion version;
  };
  std::map<std::pair<uint64_t, uint64_t>, Seen> files;
  for (MappedRegion& region : regions) {
    if (region.inode == 0) continue;
    const auto key = std::make_pair(region.device, region.inode);
    auto known = files.find(key);
    if (known == files.end()) {
      struct stat st;
      const bool found = ::stat(map_files_path(pid, region).c_str(), &st) == 0 && st.st_ino == region.inode;
      if (!found && errno == EPERM) return;
      Seen seen{region.device, {}};
      if (found) seen = {st.st_dev, {st.st_size, st.st_ctim.tv_sec, st.st_ctim.tv_nsec}};
      known = files.emplace(key, seen).first;
    }
    region.device = known->second.device;
    region.version = known->second.version;
  }
}

// Same file? By inode always, by device when both sides come from the same source.
bool opened_the_region(int fd, const MappedRegion& region) {
  struct stat st;
  return ::fstat(fd, &st) == 0 && st.st_ino == region.inode && S_ISREG(st.st_mode);
}

}  // namespace

Result<Process> Process::open(pid_t pid) {
  if (pid <= 0) return process_error(pid, ESRCH, "not a process id");
  Process process;
  process.pid_ = pid;
  // The pidfd comes first: if it is still alive after /proc/PID was read, both speak of the same process.
  process.pidfd_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.pidfd_) {
    // EINVAL: the number is a thread's, not a process's.
    if (errno == EINVAL || errno == ENOENT) {
      return process_error(pid, ESRCH, "a thread's id, not a process's; try the process's own");
    }
    return missing_or_forbidden(pid, errno);
  }
  auto text = read_proc_file(proc_path(pid, "/stat"));
  if (!text) return missing_or_forbidden(pid, text.error().code);
  const auto stat = parse_stat(*text);
  if (!stat) return process_error(pid, EINVAL, "/proc/PID/stat is malformed");
  if (stat->state == 'Z' || stat->state == 'X' || !process.alive()) {
    // A zombie leader with living threads still has tasks that are not zombies.
    auto tasks = numeric_entries(proc_path(pid, "/task"));
    if (!tasks || tasks->size() < 2) return process_error(pid, ESRCH, "it has exited");
  }
  process.start_time_ = stat->start_time;
  return process;
}

bool Process::alive() const {
  // A pidfd becomes readable when the process (all its threads) has terminated.
  pollfd poll{pidfd_.get(), POLLIN, 0};
  return pidfd_.valid() && ::poll(&poll, 1, 0) == 0;
}

Result<std::vector<MappedRegion>> Process::regions() const {
  auto text = read_proc_file(proc_path(pid_, "/maps"));
  if (!text) return missing_or_forbidden(pid_, text.error().code);
  constexpr auto kFilesTrusted = std::chrono::seconds(1);
  const auto now = std::chrono::steady_clock::now();
  if (*text != regions_text_ || now - regions_read_ > kFilesTrusted) {
    regions_ = parse_maps(*text);
    look_at_files(pid_, regions_);
    regions_text_ = std::move(*text);
    regions_read_ = now;
  }
  if (!alive()) return process_error(pid_, ESRCH, "it has exited");
  return regions_;
}

Result<ProgramMark> Process::program() const {
  // The memory first: of a process that executes another program it stays that of the old one, where the new address is wrong.
  const Fd memory(::open(proc_path(pid_, "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory) return missing_or_forbidden(pid_, errno);
  auto text = read_proc_file(proc_path(pid_, "/auxv"));
  if (!text) return missing_or_forbidden(pid_, text.error().code);
  ByteReader vector(Bytes(reinterpret_cast<const uint8_t*>(text->data()), text->size()));
  ProgramMark mark;
  while (const auto entry = vector.read<Elf64_auxv_t>())
    if (entry->a_type == AT_RANDOM) mark.address = entry->a_un.a_val;
  if (mark.address == 0) return process_error(pid_, ESRCH, "it has exited");  // no memory, no vector
  if (!read_memory(memory, mark.address, mark.bytes.data(), mark.bytes.size()))
    return process_error(pid_, EAGAIN, "it is replacing its program by exec; try again");
  return mark;
}

bool Process::shares_parents_memory() const {
  constexpr int kSameMemory = 1;  // KCMP_VM
  const auto now = status();
  return now && now->parent != 0 &&
         ::syscall(SYS_kcmp, pid_, static_cast<pid_t>(now->parent), kSameMemory, 0, 0) == 0;
}

Result<Status> Process::status() const {
  const auto view = StatusView::of(*this);
  if (!view) return view.error();
  return view->now();
}

Result<StatusView> StatusView::of(const Process& process) {
  StatusView view;
  view.pid_ = process.pid();
  view.file_ = Fd(::open(proc_path(view.pid_, "/status").c_str(), O_RDONLY | O_CLOEXEC));
  if (!view.file_) return missing_or_forbidden(view.pid_, errno);
  if (!process.alive()) return process_error(view.pid_, ESRCH, "it has exited");
  return view;
}

Result<Status> StatusView::now() const {
  char text[8 << 10];  // the kernel gives what fits, and what is asked for here is in the first 2 KiB
  const ssize_t size = ::pread(file_.get(), text, sizeof text, 0);
  if (size < 0) return missing_or_forbidden(pid_, errno);
  auto status = parse_status({text, static_cast<size_t>(size)});
  if (!status) return process_error(pid_, EINVAL, "/proc/PID/status is malformed");
  return *status;
}

Result<std::vector<pid_t>> Process::threads() const {
  auto threads = numeric_entries(proc_path(pid_, "/task"));
  if (!threads) return missing_or_forbidden(pid_, threads.error().code);
  if (!alive()) return process_error(pid_, ESRCH, "it has exited");
  return threads;
}

// Which signals /proc/PID/stat speaks of.
constexpr uint64_t kToldOfThreads = 0x7fffffff;

Result<uint64_t> Process::blocked_in_any_thread(const Status* now) const {
  if (now != nullptr && now->threads == 1) return now->blocked & kToldOfThreads;
  auto tids = threads();
  if (!tids) return tids.error();
  uint64_t all = 0;
  for (const pid_t tid : *tids) {
    auto text = read_proc_record(proc_path(pid_, "/task/" + std::to_string(tid) + "/stat"));
    if (!text) continue;  // it has ended
    if (const auto stat = parse_stat(*text)) all |= stat->blocked;
  }
  return all;
}

Result<Fd> Process::open_mapped_file(const MappedRegion& region) const {
  if (region.inode == 0) return process_error(pid_, EINVAL, "an anonymous mapping has no file");
  // O_NONBLOCK and no O_NOCTTY games: only regular files pass opened_the_region, but open itself must not hang on a FIFO.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  Fd by_range(::open(map_files_path(pid_, region).c_str(), kFlags));
  if (by_range && opened_the_region(by_range.get(), region)) return by_range;
  if (region.path.empty() || region.path.front() != '/') {
    return process_error(pid_, ENOENT, "mapped file has no path: " + region.path);
  }
  const std::string path = proc_path(pid_, "/root" + region.path);
  Fd by_path(::open(path.c_str(), kFlags));
  if (!by_path) return Error::from_errno("process " + std::to_string(pid_) + ": open " + region.path);
  if (!opened_the_region(by_path.get(), region)) {
    return process_error(pid_, ESTALE,
                         region.path + " has been replaced since it was mapped; try restarting the process");
  }
  return by_path;
}

Result<std::vector<uint8_t>> Process::read(uint64_t address, uint64_t size) const {
  if (size > kReadBytesMax) return process_error(pid_, E2BIG, "read of more than 256 MiB");
  std::vector<uint8_t> bytes(size);
  if (size == 0) return bytes;
  iovec local{bytes.data(), bytes.size()};
  iovec remote{reinterpret_cast<void*>(address), bytes.size()};
  if (::process_vm_readv(pid_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size)) {
    if (!alive()) return process_error(pid_, ESRCH, "it has exited");
    return bytes;
  }
  Fd memory(::open(proc_path(pid_, "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory) return missing_or_forbidden(pid_, errno);
  size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(memory.get(), bytes.data() + done, size - done, static_cast<off_t>(address + done));
    if (count <= 0) {
      char where[32];
      std::snprintf(where, sizeof(where), "0x%llx", static_cast<unsigned long long>(address + done));
      return process_error(pid_, EFAULT, std::string("memory at ") + where + " is not readable");
    }
    done += count;
  }
  return bytes;
}

namespace {

// struct procmap_query and its PROCMAP_QUERY (Linux 6.11); headers may be older.
struct ProcmapQuery {
  uint64_t size, flags, address;
  uint64_t start, end, vma_flags, page_size, offset, inode;
  uint32_t device_major, device_minor, name_size, build_id_size;
  uint64_t name, build_id;
};
static_assert(sizeof(ProcmapQuery) == 104);
constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
constexpr uint64_t kExecutable = 4, kCoveringOrNext = 0x10, kFileBacked = 0x20;

}  // namespace

std::vector<CodeView::Range> CodeView::ranges_of(const std::vector<MappedRegion>& regions) {
  std::vector<Range> out;
  for (const MappedRegion& region : regions)
    if (region.executable && region.inode != 0)
      out.push_back({region.start, region.end, region.offset, region.inode});
  return out;
}

Result<CodeView> CodeView::of(const Process& process, const std::vector<MappedRegion>& regions) {
  CodeView view;
  view.pid_ = process.pid();
  view.maps_ = Fd(::open(proc_path(view.pid_, "/maps").c_str(), O_RDONLY | O_CLOEXEC));
  if (!view.maps_) return missing_or_forbidden(view.pid_, errno);
  view.ranges_ = ranges_of(regions);
  return view;
}

bool CodeView::unchanged() const {
  uint64_t at = 0;
  for (size_t i = 0;;) {
    ProcmapQuery query{};
    query.size = sizeof query;
    query.flags = kExecutable | kFileBacked | kCoveringOrNext;
    query.address = at;
    if (::ioctl(maps_.get(), kProcmapQuery, &query) != 0) {
      if (errno == ENOENT) return i == ranges_.size();
      if (errno != ENOTTY) return false;
      const auto text = read_proc_file(proc_path(pid_, "/maps"));
      return text.ok() && ranges_of(parse_maps(*text)) == ranges_;
    }
    at = query.end;
    if (query.inode == 0) continue;
    if (i == ranges_.size() || ranges_[i] != Range{query.start, query.end, query.offset, query.inode})
      return false;
    ++i;
  }
}

Result<bool> maps_memfd(pid_t pid, const std::string& memfd_name, uint64_t address) {
  // Most have nothing there, and one system call tells; to read all their maps costs a hundred times as much, at every change
  // of a probe.
  char byte = 0;
  const iovec here{&byte, sizeof byte}, there{reinterpret_cast<void*>(address), sizeof byte};
  if (::process_vm_readv(pid, &here, 1, &there, 1, 0) < 0) {
    if (errno == EFAULT) return false;
    if (errno == ESRCH) return Error{ESRCH, "no such process"};
  }
  // Kernel threads have an empty maps file, strangers' are not readable, others may be gone: none is an error.
  auto text = read_proc_file(proc_path(pid, "/maps"));
  if (!text) return false;
  char needle[32];
  std::snprintf(needle, sizeof(needle), "%08llx-", static_cast<unsigned long long>(address));
  const size_t at = text->starts_with(needle) ? 0 : text->find("\n" + std::string(needle));
  if (at == std::string::npos) return false;
  const size_t line_start = at == 0 && text->starts_with(needle) ? 0 : at + 1;
  const std::string_view all(*text);
  const auto region = parse_maps_line(all.substr(line_start, all.find('\n', line_start) - line_start));
  const std::string path = "/memfd:" + memfd_name;
  return region && region->start == address && (region->path == path || region->path == path + " (deleted)");
}

Result<std::vector<pid_t>> find_processes_mapping(const std::string& memfd_name, uint64_t address) {
  auto pids = numeric_entries("/proc");
  if (!pids) return pids.error();
  std::vector<pid_t> found;
  for (const pid_t pid : *pids)
    if (const auto maps = maps_memfd(pid, memfd_name, address); maps && *maps) found.push_back(pid);
  return found;
}

}  // namespace bpftime::target

#include "target/proc_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/fd.h"
#include "target/process.h"

namespace bpftime::target {

std::string proc_path(pid_t pid, const std::string& suffix) {
  return "/proc/" + std::to_string(pid) + suffix;
}

Result<std::string> read_proc_file(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::from_errno("read " + path);
  std::string text;
  // Large reads: the kernel renders maps under a lock page by page, and fewer calls tear less.
  char buffer[16 << 10];
  for (;;) {
    const ssize_t count = ::read(fd.get(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::from_errno("read " + path);
    if (count == 0) return text;
    if (text.size() + count > kProcFileBytesMax) return Error{EFBIG, "read " + path + ": too large"};
    text.append(buffer, count);
  }
}

Result<std::string> read_proc_record(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::from_errno("read " + path);
  char buffer[16 << 10];
  ssize_t count;
  do count = ::read(fd.get(), buffer, sizeof buffer);
  while (count < 0 && errno == EINTR);
  if (count < 0) return Error::from_errno("read " + path);
  return std::string(buffer, static_cast<size_t>(count));
}

std::optional<char> thread_state(pid_t pid, pid_t tid) {
  auto text = read_proc_record(proc_path(pid, "/task/" + std::to_string(tid) + "/stat"));
  if (!text) return std::nullopt;
  const auto stat = parse_stat(*text);
  if (!stat) return std::nullopt;
  return stat->state;
}

int thread_seccomp_mode(pid_t pid, pid_t tid) {
  auto text = read_proc_record(proc_path(pid, "/task/" + std::to_string(tid) + "/status"));
  if (!text) return 0;
  const auto status = parse_status(*text);
  return status ? status->seccomp_mode : 0;
}

bool filtered_unlike_us(const Status& status) {
  constexpr int kFilterMode = 2;
  if (status.seccomp_mode == 0) return false;
  if (status.seccomp_mode != kFilterMode || status.seccomp_filters <= 0) return true;
  auto text = read_proc_file("/proc/thread-self/status");
  const auto own = text.ok() ? parse_status(*text) : std::nullopt;
  return !own || own->seccomp_mode != kFilterMode || own->seccomp_filters != status.seccomp_filters;
}

bool thread_filtered_unlike_us(pid_t pid, pid_t tid) {
  auto text = read_proc_record(proc_path(pid, "/task/" + std::to_string(tid) + "/status"));
  const auto status = text.ok() ? parse_status(*text) : std::nullopt;
  return !status || filtered_unlike_us(*status);
}

Result<std::vector<pid_t>> numeric_entries(const std::string& directory) {
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) return Error::from_errno("list " + directory);
  std::vector<pid_t> numbers;
  while (const dirent* entry = ::readdir(dir)) {
    const char* end = entry->d_name + std::strlen(entry->d_name);
    pid_t number = 0;
    const auto [stop, error] = std::from_chars(entry->d_name, end, number);
    if (error == std::errc{} && stop == end && number > 0) numbers.push_back(number);
  }
  ::closedir(dir);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

Error process_error(pid_t pid, int code, const std::string& why) {
  return Error{code, "process " + std::to_string(pid) + ": " + why};
}

}  // namespace bpftime::target

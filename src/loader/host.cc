#include "loader/host.h"

#include <limits.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "loader/log.h"
#include "loader/real.h"

namespace bpftime::loader {
namespace {

constexpr unsigned kPidfdThread = 0200;  // PIDFD_THREAD, Linux 6.9: O_EXCL
constexpr size_t kBorrowedMax = 4096;    // of one call; no program names more

// initial-exec, see real.cc.
__attribute__((tls_model("initial-exec"))) thread_local RemoteHost* answering = nullptr;

// Calls `look` with each line of /proc/THREAD/status.
template <typename Look>
void read_status(pid_t thread, Look look) {
  char path[64], line[256];
  std::snprintf(path, sizeof path, "/proc/%d/status", thread);
  FILE* file = std::fopen(path, "re");
  while (file != nullptr && std::fgets(line, sizeof line, file) != nullptr) look(line);
  if (file != nullptr) std::fclose(file);
}

pid_t group_of(pid_t thread) {
  int group = -1;
  read_status(thread, [&](const char* line) { (void)std::sscanf(line, "Tgid: %d", &group); });
  return group;
}

}  // namespace

bool RemoteHost::waits() const {
  uint64_t id = id_;
  return ::ioctl(listener_, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

pid_t RemoteHost::process() {
  if (process_ == 0) process_ = group_of(thread_);
  return process_;
}

int RemoteHost::process_fd() {
  if (!process_fd_) {
    process_fd_ = Fd(static_cast<int>(raw_syscall(SYS_pidfd_open, process(), 0)));
    if (!waits()) process_fd_.reset();
  }
  return process_fd_.get();
}

int RemoteHost::borrow(int fd) {
  if (fd < 0 || borrowed_.size() > kBorrowedMax) return -1;
  for (const auto& [number, local] : borrowed_)
    if (number == fd) return local.get();
  if (!thread_fd_) {
    // The thread's own table of descriptors, where the kernel can say so; else its group's, nearly always the same.
    thread_fd_ = Fd(static_cast<int>(raw_syscall(SYS_pidfd_open, thread_, kPidfdThread)));
    if (!thread_fd_) thread_fd_ = Fd(static_cast<int>(raw_syscall(SYS_pidfd_open, process(), 0)));
    if (!waits()) thread_fd_.reset();
    if (!thread_fd_) return -1;
  }
  const long local = raw_syscall(SYS_pidfd_getfd, thread_fd_.get(), fd, 0);
  if (local == -EPERM)
    complain_once("answer process " + std::to_string(thread_) + ": its descriptors: not permitted");
  borrowed_.emplace_back(fd, Fd(local < 0 ? -1 : static_cast<int>(local)));
  return borrowed_.back().second.get();
}

bool RemoteHost::copied(ssize_t count, size_t size) const {
  if (count == -EPERM)
    complain_once(
        "answer process " + std::to_string(thread_) +
        ": its memory: not permitted; where kernel.yama.ptrace_scope is not 0 only the program itself can be "
        "answered, not its children");
  return count == static_cast<ssize_t>(size);
}

bool RemoteHost::read(void* destination, uint64_t address, size_t size) {
  struct iovec here = {destination, size};
  struct iovec there = {reinterpret_cast<void*>(address), size};
  const long count = raw_syscall(SYS_process_vm_readv, thread_, reinterpret_cast<long>(&here), 1,
                                 reinterpret_cast<long>(&there), 1, 0);
  // Asked behind the first look: what was read before is the caller's.
  if (!known_to_wait_) known_to_wait_ = waits();
  return known_to_wait_ && copied(count, size);
}

bool RemoteHost::write(uint64_t address, const void* source, size_t size) {
  if (!waits()) return false;
  struct iovec here = {const_cast<void*>(source), size};
  struct iovec there = {reinterpret_cast<void*>(address), size};
  return copied(raw_syscall(SYS_process_vm_writev, thread_, reinterpret_cast<long>(&here), 1,
                            reinterpret_cast<long>(&there), 1, 0),
                size);
}

bool RemoteHost::interrupted(const void* mask) {
  if (!waits()) return true;
  unsigned long long of_thread = 0, of_process = 0, blocked = 0, ignored = 0;
  read_status(thread_, [&](const char* line) {
    (void)std::sscanf(line, "SigPnd: %llx", &of_thread);
    (void)std::sscanf(line, "ShdPnd: %llx", &of_process);
    (void)std::sscanf(line, "SigBlk: %llx", &blocked);
    (void)std::sscanf(line, "SigIgn: %llx", &ignored);
  });
  if (mask != nullptr && !read(&blocked, reinterpret_cast<uint64_t>(mask), sizeof blocked)) return true;
  return ((of_thread | of_process) & ~(blocked | ignored)) != 0;
}

RemoteHost* remote_host() { return answering; }

Answering::Answering(RemoteHost* host) : before_(std::exchange(answering, host)) {}
Answering::~Answering() { answering = before_; }

int local_fd(int fd) { return answering == nullptr ? fd : answering->borrow(fd); }

int64_t hand_over(Fd fd) {
  if (answering == nullptr) return fd.release();
  answering->made = std::move(fd);
  return 0;
}

pid_t host_process() {
  return answering == nullptr ? static_cast<pid_t>(raw_syscall(SYS_getpid)) : answering->process();
}

std::string host_proc() {
  return answering == nullptr ? "/proc/self" : "/proc/" + std::to_string(answering->process());
}

std::string host_path(const std::string& path) {
  if (path.empty()) return path;
  if (path[0] == '/') {
    constexpr size_t kSelf = sizeof("/proc/self") - 1;
    if (answering == nullptr || path.compare(0, kSelf + 1, "/proc/self/") != 0) return path;
    return host_proc() + path.substr(kSelf);
  }
  char directory[PATH_MAX];
  if (answering == nullptr)
    return ::getcwd(directory, sizeof directory) == nullptr ? path : std::string(directory) + "/" + path;
  const ssize_t length = ::readlink((host_proc() + "/cwd").c_str(), directory, sizeof directory);
  return length <= 0 ? path : std::string(directory, static_cast<size_t>(length)) + "/" + path;
}

}  // namespace bpftime::loader

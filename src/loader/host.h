// Whose calls are answered: those of this process, into which the loader is preloaded, or, in a supervisor (supervisor.h),
// those of another process, for the time of one call. Addresses and descriptor numbers in arguments are that process's.
//
// Rules for whoever edits src/loader:
//  1. A number that the host gave is turned into one of ours by local_fd(), once, where a call begins; behind that only
//     our numbers occur.
//  2. Memory at the host's addresses is reached by user_memory.h only.
//  3. A new descriptor reaches the host by hand_over().
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace bpftime::loader {

// Another process's thread that waits in one call until we have answered it. Everything borrowed is given back at the end.
class RemoteHost {
 public:
  // `listener`: the descriptor of seccomp notifications; `id`: of this one; `thread`: who made it.
  RemoteHost(int listener, uint64_t id, pid_t thread) : listener_(listener), id_(id), thread_(thread) {}
  RemoteHost(const RemoteHost&) = delete;
  RemoteHost& operator=(const RemoteHost&) = delete;

  pid_t thread() const { return thread_; }
  // The thread group, and a descriptor of it; -1 when it is gone.
  pid_t process();
  int process_fd();

  // A duplicate of the host's descriptor, ours until the call ends; -1 when it has none of that number.
  int borrow(int fd);

  // True when all bytes were copied.
  bool read(void* destination, uint64_t address, size_t size);
  bool write(uint64_t address, const void* source, size_t size);

  // True when the caller has died, or a signal that it would take waits for it; `mask` (the caller's address, may be null) is
  // what it wants blocked meanwhile.
  bool interrupted(const void* mask);

  // What hand_over() was given.
  Fd made;

 private:
  // The caller still waits: its number has not become another's meanwhile.
  bool waits() const;
  bool copied(ssize_t count, size_t size) const;

  int listener_;
  uint64_t id_;
  pid_t thread_;
  pid_t process_ = 0;
  bool known_to_wait_ = false;
  Fd thread_fd_, process_fd_;
  std::vector<std::pair<int, Fd>> borrowed_;  // by the host's number
};

// nullptr: this process.
RemoteHost* remote_host();

// While one lives, calls on this thread are answered for `host`; nullptr: for ourselves.
class Answering {
 public:
  explicit Answering(RemoteHost* host);
  ~Answering();
  Answering(const Answering&) = delete;
  Answering& operator=(const Answering&) = delete;

 private:
  RemoteHost* before_;
};

// Our number for the host's descriptor: the same in this process. -1: not open.
int local_fd(int fd);

// The result of a call that makes a descriptor.
int64_t hand_over(Fd fd);

pid_t host_process();

// "/proc/self", "/proc/PID": where the host finds itself.
std::string host_proc();

// A path of the host's as one that means the same here: absolute, and /proc/self is the host's.
std::string host_path(const std::string& path);

}  // namespace bpftime::loader

// The system calls the loader answers, as functions: hooks.cc reaches them from libc's names and from
// syscall(), supervisor.cc from another process's calls (host.h). Each returns the result or -errno; nullopt: not ours, ask the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace bpftime::loader {

int64_t bpf_call(uint32_t command, uint64_t attr, uint32_t size);

std::optional<int64_t> perf_event_open_call(uint64_t attr, int32_t pid, int32_t cpu, int32_t group_fd,
                                            uint64_t flags);
std::optional<int64_t> perf_ioctl_call(int fd, uint64_t request, uint64_t argument);

// Asked before the real mmap: nullopt also means "go on with the real mmap of our memfd".
std::optional<int64_t> before_mmap(uint64_t length, int protection, int flags, int fd, uint64_t offset);

// A descriptor with the contents of a virtual file, or nullopt. `flags`: of open(2).
std::optional<int64_t> open_virtual_file(const char* path, int flags);
bool is_virtual_file(const char* path);

// The file that stands for a path below /sys/fs/bpf, or nullopt: not such a path.
std::optional<std::string> pinned_path(const char* path);

// Whether geteuid() is answered 0; see privileges.cc.
bool pretends_root();

}  // namespace bpftime::loader

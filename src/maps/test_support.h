// What the map tests share: a map in a shared mapping between guard pages, child processes, seeds,
// the kernel's maps.
#pragma once

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "maps/map.h"
#include "maps/types.h"

#if defined(__SANITIZE_THREAD__)
#define BPFTIME_TEST_THREADS
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BPFTIME_TEST_THREADS
#endif
#endif

namespace bpftime::maps::test {

// A map shared with every process forked later. The pages before and behind it fault.
class SharedMap {
 public:
  explicit SharedMap(const MapSpec& spec) : spec_(spec), size_(memory_size(spec)) {
    int fd = memfd_create("map-test", 0);
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(size_)), 0);
    guarded_ = static_cast<uint8_t*>(
        mmap(nullptr, size_ + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mmap(guarded_ + 4096, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    close(fd);
    initialize(view());
  }
  ~SharedMap() { munmap(guarded_, size_ + 8192); }
  SharedMap(const SharedMap&) = delete;
  SharedMap& operator=(const SharedMap&) = delete;

  MapView view() const { return {guarded_ + 4096, &spec_}; }
  const MapSpec& spec() const { return spec_; }
  uint64_t size() const { return size_; }

 private:
  MapSpec spec_;
  uint64_t size_;
  uint8_t* guarded_;
};

// Plain data shared with forked processes.
template <typename T>
class Shared {
 public:
  Shared()
      : value_(static_cast<T*>(
            mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Shared() { munmap(value_, sizeof(T)); }
  T* operator->() const { return value_; }
  T& operator*() const { return *value_; }

 private:
  T* value_;
};

// BPFTIME_TEST_SEED repeats a run.
inline uint64_t test_seed() {
  const char* given = getenv("BPFTIME_TEST_SEED");
  uint64_t seed = given != nullptr ? strtoull(given, nullptr, 0) : std::random_device{}();
  printf("seed: BPFTIME_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// BPFTIME_TEST_ROUNDS multiplies the work (label long).
inline uint64_t test_rounds(uint64_t usual) {
  const char* factor = getenv("BPFTIME_TEST_ROUNDS");
  return factor != nullptr ? usual * strtoull(factor, nullptr, 0) : usual;
}

// Runs `body` in a child, which exits with its result. Children die with a deadline instead of
// hanging the test.
inline pid_t start_child(const std::function<int()>& body) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  alarm(getenv("BPFTIME_TEST_ROUNDS") != nullptr ? 1500 : 100);
  _exit(body());
}
inline int wait_child(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// Somebody who works on a map beside others: another process, as in life; under ThreadSanitizer, which sees one process
// only, another thread.
class Worker {
 public:
  explicit Worker(std::function<int()> body) {
#ifdef BPFTIME_TEST_THREADS
    thread_ = std::thread([this, body = std::move(body)] {
      result_ = body();
      ended_ = true;
    });
#else
    pid_ = start_child(body);
#endif
  }
  ~Worker() { wait(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // What the body returned.
  int wait() {
#ifdef BPFTIME_TEST_THREADS
    if (thread_.joinable()) thread_.join();
#else
    if (pid_ != 0) result_ = wait_child(std::exchange(pid_, 0));
#endif
    return result_;
  }
  bool has_ended() {
#ifndef BPFTIME_TEST_THREADS
    siginfo_t info{};
    if (pid_ != 0 && waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0)
      ended_ = info.si_pid != 0;
#endif
    return ended_;
  }

 private:
  pid_t pid_ = 0;
  std::thread thread_;
  int result_ = -1;
  std::atomic<bool> ended_ = false;
};
using Workers = std::vector<std::unique_ptr<Worker>>;

// ---- the kernel's own maps, by raw bpf(2): results are >= 0 or -errno ----
inline int64_t kernel_bpf(int command, union bpf_attr* attr) {
  long result = syscall(SYS_bpf, command, attr, sizeof(*attr));
  return result < 0 ? -errno : result;
}
inline int64_t kernel_create(const MapSpec& spec) {
  union bpf_attr attr = {};
  attr.map_type = spec.type;
  attr.key_size = spec.key_size;
  attr.value_size = spec.value_size;
  attr.max_entries = spec.max_entries;
  attr.map_flags = spec.flags;
  return kernel_bpf(BPF_MAP_CREATE, &attr);
}
inline int64_t kernel_element(int command, int64_t fd, const void* key, const void* value, uint64_t flags) {
  union bpf_attr attr = {};
  attr.map_fd = static_cast<uint32_t>(fd);
  attr.key = reinterpret_cast<uint64_t>(key);
  attr.value = reinterpret_cast<uint64_t>(value);
  attr.flags = flags;
  return kernel_bpf(command, &attr);
}
// Empty when the kernel's maps can be used, else why not.
inline std::string kernel_unusable() {
  MapSpec spec = {kTypeArray, 4, 4, 1, 0, 0};
  int64_t fd = kernel_create(spec);
  if (fd < 0) return std::string("bpf(2) is not usable here: ") + strerror(static_cast<int>(-fd));
  close(static_cast<int>(fd));
  return "";
}
// Possible CPUs, as the kernel sizes per-CPU values.
inline uint32_t possible_cpus() {
  unsigned first = 0, last = 0;
  FILE* file = fopen("/sys/devices/system/cpu/possible", "r");
  int fields = file != nullptr ? fscanf(file, "%u-%u", &first, &last) : 0;
  if (file != nullptr) fclose(file);
  return fields == 2 ? last + 1 : 1;
}

// Every map type there is, each with the geometry its row names and some with others: the tests of deaths and of hostile peers
// run over all of it.
inline const std::vector<MapSpec>& every_type() {
  static const std::vector<MapSpec> all = [] {
    std::vector<MapSpec> specs = {{kTypeHash, 13, 100, 7, 0, 2},
                                  {kTypeLpmTrie, 20, 8, 50, kFlagNoPrealloc, 2},
                                  {kTypeStack, 0, 100, 7, 0, 2}};
    for (uint32_t type : kMapTypes) specs.push_back(example_spec(type, 2));
    return specs;
  }();
  return all;
}

// The owner of what a test does itself, beside the processes it kills.
inline constexpr uint32_t kOperatingTest = 1;
// One random operation of every kind the type has, by process `owner`; the map may be in any state whatever. A ring has one
// reader: kOperatingTest.
void operate(MapView map, std::mt19937_64& random, uint32_t owner);

}  // namespace bpftime::maps::test

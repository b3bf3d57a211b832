// Clock events (PERF_COUNT_SW_CPU_CLOCK) as timers in the worker's event loop: each tick has its programs run in the runner.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/runner.h"
#include "kernel/kernel.h"

namespace bpftime::daemon {

struct ClockReport {
  struct Program {
    uint32_t id;
    std::string name;
    std::optional<uint64_t> hits;  // while runs are counted (BPF_ENABLE_STATS)
    bool stopped;                  // it brought the runner down, and is not run again
  };
  uint32_t event;
  uint64_t period_ns;
  int32_t cpu;  // -1: any
  std::vector<Program> programs;
};

class Clocks {
 public:
  Clocks(kernel::Kernel& kernel, Runner& runner) : kernel_(kernel), runner_(runner) {}

  // Makes the timers those of Kernel::clocks(): a clock that was there goes on in its rhythm.
  void update();
  bool empty() const { return timers_.empty(); }
  // Timers not told of before: to be watched for reading. They leave an epoll set by being closed.
  std::vector<int> take_new();
  bool owns(int fd) const { return by_fd_.contains(fd); }
  // The timer's programs, once, however many of its periods are over: Linux, too, skips what it cannot keep up with.
  void fire(int fd);
  // While somebody wants to know: adds what has run in the runner to the counters of those programs. To be called often.
  void count_runs();
  std::vector<ClockReport> reports() const;

 private:
  struct Timer {
    Fd fd;
    kernel::Probe probe;
    uint64_t period_ns;
  };

  kernel::Kernel& kernel_;
  Runner& runner_;
  std::map<uint32_t, Timer> timers_;  // by the event's id
  std::map<int, uint32_t> by_fd_;
  std::vector<int> new_;
};

}  // namespace bpftime::daemon

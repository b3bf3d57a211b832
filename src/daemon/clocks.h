// Clock events (PERF_COUNT_SW_CPU_CLOCK) as timers in the worker's event loop: each tick has its programs run in the runner.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/fd.h"
#include "daemon/runner.h"
#include "kernel/kernel.h"

namespace bpftime::daemon {

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

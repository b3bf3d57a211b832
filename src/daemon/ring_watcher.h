// Turns a ring's futex into an eventfd: one thread per ring that somebody waits for. Threads live in the daemon, never in
// a target or a loader.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "base/fd.h"
#include "kernel/object.h"

namespace bpftime::daemon {

class RingWatcher {
 public:
  // Writes 1 to `eventfd` (its own duplicate) whenever `map` gets data for which Linux would wake a reader.
  RingWatcher(std::shared_ptr<kernel::Map> map, Fd eventfd);
  ~RingWatcher();  // stops and joins
  RingWatcher(const RingWatcher&) = delete;
  RingWatcher& operator=(const RingWatcher&) = delete;

 private:
  std::shared_ptr<kernel::Map> map_;
  Fd eventfd_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> stopped_{false};
  std::thread thread_;

  void run();
};

}  // namespace bpftime::daemon

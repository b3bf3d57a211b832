// Turns a ring's futex into an eventfd: one thread per ring that somebody waits for. Threads live in the daemon, never in
// a target or a loader.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "base/fd.h"
#include "kernel/object.h"

namespace bpftime::daemon {

class RingWatcher {
 public:
  // Writes 1 to `eventfd` (its own duplicate) whenever `map` gets data for which Linux would wake a reader, at once when the
  // reader has been idle, else after a moment: a reader that keeps up with a busy producer would have to be woken for nearly
  // every record, and the producer pays for that.
  RingWatcher(std::shared_ptr<kernel::Map> map, Fd eventfd);
  // Not a ring but wire::Announcements: whenever somebody has announced something.
  static std::unique_ptr<RingWatcher> of_announcements(std::shared_ptr<kernel::Map> map, Fd eventfd);
  ~RingWatcher();  // stops and joins
  RingWatcher(const RingWatcher&) = delete;
  RingWatcher& operator=(const RingWatcher&) = delete;

 private:
  // What to sleep on, and what is to be read of it first.
  struct Word {
    uint32_t* futex;
    std::function<uint32_t()> look;
    // Of rings of records, else empty: see maps::ring_end_wait, ring_unread_wakes.
    std::function<void()> rest = nullptr;
    std::function<bool(uint64_t* unread)> missed = nullptr;
  };

  std::shared_ptr<kernel::Map> map_;
  Word word_;
  Fd eventfd_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> stopped_{false};
  std::thread thread_;

  RingWatcher(std::shared_ptr<kernel::Map> map, Word word, Fd eventfd);
  static Word ring_word(const kernel::Map& map);
  void run();
};

}  // namespace bpftime::daemon

#include "daemon/ring_watcher.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "maps/map.h"
#include "wire/target_context.h"

namespace bpftime::daemon {

namespace {

// Not FUTEX_PRIVATE: the word is shared with targets. The time-out only bounds how long stopping takes if a target
// scribbled over the word just then; it finds no data.
void futex_wait(uint32_t* word, uint32_t value) {
  const timespec limit{1, 0};
  ::syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, nullptr, 0);
}

void futex_wake(uint32_t* word) { ::syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0); }

}  // namespace

RingWatcher::RingWatcher(std::shared_ptr<kernel::Map> map, Word word, Fd eventfd)
    : map_(std::move(map)),
      word_(std::move(word)),
      eventfd_(std::move(eventfd)),
      thread_([this] { run(); }) {}

RingWatcher::RingWatcher(std::shared_ptr<kernel::Map> map, Fd eventfd)
    : RingWatcher(map, ring_word(*map), std::move(eventfd)) {}

RingWatcher::Word RingWatcher::ring_word(const kernel::Map& map) {
  const maps::MapView view{map.memory.data(), &map.spec};
  return {maps::ring_wake_word(view), [view] {
            bool has_data = false;
            return maps::ring_prepare_wait(view, &has_data);
          }};
}

std::unique_ptr<RingWatcher> RingWatcher::of_announcements(std::shared_ptr<kernel::Map> map, Fd eventfd) {
  uint32_t* word = &reinterpret_cast<wire::Announcements*>(map->memory.data())->asked;
  return std::unique_ptr<RingWatcher>(
      new RingWatcher(std::move(map), {word, [word] { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }},
                      std::move(eventfd)));
}

RingWatcher::~RingWatcher() {
  stop_ = true;
  // It may be between its look at stop_ and its sleep: a single wake could come too early and cost the whole time-out.
  while (!stopped_) {
    futex_wake(word_.futex);
    std::this_thread::yield();
  }
  thread_.join();
}

void RingWatcher::run() {
  sigset_t all;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  uint32_t seen = word_.look() - 1;  // differs: tell about what is there already
  while (!stop_) {
    const uint32_t now = word_.look();
    if (now != seen) {
      seen = now;
      ::eventfd_write(eventfd_.get(), 1);
      continue;
    }
    futex_wait(word_.futex, now);
  }
  stopped_ = true;
}

}  // namespace bpftime::daemon

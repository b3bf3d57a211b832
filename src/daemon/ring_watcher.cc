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

// How long the reader of a ring is not announced as asleep after it has been told. Short against what a process needs to be
// woken and to run, long against what a busy producer needs for a record.
constexpr timespec kRest{0, 50'000};

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
  Word word{maps::ring_wake_word(view), [view] {
              bool has_data = false;
              return maps::ring_prepare_wait(view, &has_data);
            }};
  if (map.spec.type == maps::kTypeUserRingbuf) return word;
  word.rest = [view] { maps::ring_end_wait(view); };
  word.missed = [view](uint64_t* unread) { return maps::ring_unread_wakes(view, unread); };
  return word;
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
  constexpr uint64_t kNowhere = 1;  // positions are multiples of 8
  // Where an unread record is that would have woken the reader.
  const auto waking = [this] {
    uint64_t unread = 0;
    return word_.missed && word_.missed(&unread) ? unread : kNowhere;
  };
  uint32_t seen = word_.look() - 1;  // differs: tell about what is there already
  uint64_t told_at = kNowhere;       // of what record the reader was told last
  bool rested = false;
  while (!stop_) {
    // A reader that was busy meanwhile is told again, never having been announced.
    uint64_t unread = rested ? waking() : kNowhere;
    if (unread == kNowhere || unread == told_at) {
      const uint32_t now = word_.look();
      unread = waking();
      if (now == seen && !(rested && unread != kNowhere && unread != told_at)) {
        rested = false;
        futex_wait(word_.futex, now);
        continue;
      }
      seen = now;
    }
    told_at = unread;
    if (word_.rest) word_.rest();
    ::eventfd_write(eventfd_.get(), 1);
    rested = word_.rest != nullptr;
    if (rested) ::nanosleep(&kRest, nullptr);
  }
  stopped_ = true;
}

}  // namespace bpftime::daemon

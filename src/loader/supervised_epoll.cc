#include "loader/supervised_epoll.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <mutex>

#include "loader/host.h"
#include "loader/readiness.h"
#include "loader/real.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

constexpr size_t kWatchesMax = 65536;  // of one process

// The set knows a watch by our number for its eventfd, so each keeps one open.
struct Watch {
  int epfd, fd;  // the host's
  InodeId object;
  Fd eventfd;
};

struct Watcher {
  Fd process_fd;
  std::vector<Watch> watches;
};

std::mutex mutex;
std::map<pid_t, Watcher>& watchers() {
  static auto* const all = new std::map<pid_t, Watcher>;  // never destroyed, see objects.cc
  return *all;
}

int control(int epoll, int operation, int fd, struct epoll_event* event) {
  return static_cast<int>(raw_syscall(SYS_epoll_ctl, epoll, operation, fd, reinterpret_cast<long>(event)));
}

// With `mutex` held. What stands under these numbers may be another set or object by now: nobody tells us of closes.
Watch* find_watch(pid_t process, int epfd, int fd, int epoll) {
  const auto watcher = watchers().find(process);
  if (watcher == watchers().end()) return nullptr;
  auto& watches = watcher->second.watches;
  const auto found = std::find_if(watches.begin(), watches.end(),
                                  [&](const Watch& each) { return each.epfd == epfd && each.fd == fd; });
  if (found == watches.end()) return nullptr;
  const auto now = inode_of(local_fd(fd));
  if (now.ok() && *now == found->object) return &*found;
  (void)control(epoll, EPOLL_CTL_DEL, found->eventfd.get(), nullptr);
  watches.erase(found);
  return nullptr;
}

void drop_watch(pid_t process, const Watch* watch) {
  auto& watches = watchers().at(process).watches;
  watches.erase(watches.begin() + (watch - watches.data()));
}

// What the set is asked to report of the eventfd: it is readable, whatever is waited for.
struct epoll_event of_eventfd(struct epoll_event wanted) {
  if ((wanted.events & (EPOLLOUT | EPOLLWRNORM)) != 0) wanted.events |= EPOLLIN;
  wanted.events |= EPOLLET;
  return wanted;
}

int add_watch(RemoteHost& host, int epfd, int fd, int epoll, struct epoll_event wanted, Wakeup wakeup) {
  const int process_fd = host.process_fd();
  if (process_fd < 0) return -ESRCH;
  Watcher& watcher = watchers()[host.process()];
  if (!watcher.process_fd) {
    watcher.process_fd = Fd(::fcntl(process_fd, F_DUPFD_CLOEXEC, 0));
    if (!watcher.process_fd) return -errno;
  }
  if (watcher.watches.size() >= kWatchesMax) return -ENOSPC;
  struct epoll_event event = of_eventfd(wanted);
  const int added = control(epoll, EPOLL_CTL_ADD, wakeup.eventfd.get(), &event);
  if (added < 0) return added;
  if (wakeup.ready) ::eventfd_write(wakeup.eventfd.get(), 1);
  watcher.watches.push_back({epfd, fd, wakeup.inode, std::move(wakeup.eventfd)});
  return 0;
}

}  // namespace

std::optional<int64_t> supervised_epoll_ctl(RemoteHost& host, int epfd, int operation, int fd,
                                            uint64_t event) {
  struct epoll_event wanted = {};
  if (operation != EPOLL_CTL_DEL && !read_user(&wanted, event, sizeof wanted)) return std::nullopt;
  auto wakeup = wakeup_of(local_fd(fd));
  if (!wakeup) return std::nullopt;
  if (!*wakeup) return -wakeup->error().code;
  const int epoll = local_fd(epfd);
  if (epoll < 0) return -EBADF;
  const std::lock_guard lock(mutex);
  Watch* watch = find_watch(host.process(), epfd, fd, epoll);
  struct epoll_event changed = of_eventfd(wanted);
  switch (operation) {
    case EPOLL_CTL_ADD:
      // The number may be a new set's; an old one says so.
      if (watch != nullptr && control(epoll, EPOLL_CTL_ADD, watch->eventfd.get(), &changed) == -EEXIST)
        return -EEXIST;
      if (watch != nullptr) return 0;
      return add_watch(host, epfd, fd, epoll, wanted, std::move(**wakeup));
    case EPOLL_CTL_MOD:
      return watch == nullptr ? -ENOENT : control(epoll, EPOLL_CTL_MOD, watch->eventfd.get(), &changed);
    case EPOLL_CTL_DEL: {
      if (watch == nullptr) return -ENOENT;
      const int removed = control(epoll, EPOLL_CTL_DEL, watch->eventfd.get(), nullptr);
      drop_watch(host.process(), watch);
      return removed;
    }
    default:
      return -EINVAL;
  }
}

std::vector<int> watching_processes() {
  std::vector<int> out;
  const std::lock_guard lock(mutex);
  for (const auto& [process, watcher] : watchers())
    if (watcher.process_fd) out.push_back(watcher.process_fd.get());
  return out;
}

void forget_watching_process(int process_fd) {
  const std::lock_guard lock(mutex);
  std::erase_if(watchers(), [&](const auto& entry) { return entry.second.process_fd.get() == process_fd; });
}

}  // namespace bpftime::loader

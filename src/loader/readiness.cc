#include "loader/readiness.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "loader/connection.h"
#include "loader/host.h"
#include "loader/objects.h"
#include "loader/real.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

// struct perf_event_mmap_page: written by the producer and the consumer.
constexpr size_t kDataHeadOffset = 1024, kDataTailOffset = 1032;
// Ring buffers: consumer position at the start of the first page, producer position at the start
// of the second.
constexpr size_t kConsumerOffset = 0, kProducerOffset = 4096;

// Marks our entries in the host's epoll sets. Not a canonical address, so no pointer a host stores
// can equal it.
constexpr uint64_t kCookieTag = uint64_t{0xb9f7} << 48;

struct Watch {
  int fd;
  ObjectPtr object;
  Fd eventfd;  // a duplicate of the object's: one per watch, since a set takes each descriptor once
  uint64_t cookie;
  uint32_t events;
  uint64_t data;
  bool edge;      // something happened since the last report (for EPOLLET)
  bool disarmed;  // EPOLLONESHOT fired
};

struct Set {
  std::vector<Watch> watches;
  bool host_first = false;  // alternates, so that neither side starves the other in a small event array
};

std::mutex sets_mutex;
std::atomic<size_t> set_count{0};
uint64_t next_cookie = 0;

std::map<int, Set>& sets() {
  static auto* const all = new std::map<int, Set>;  // never destroyed, see objects.cc
  return *all;
}

EventfdSource& eventfd_source() {
  static auto* const source = new EventfdSource([](int fd) -> Result<Fd> {
    const int fds[] = {fd};
    auto answer = ask_daemon(wire::MessageType::kReadiness, {}, fds);
    if (!answer) return answer.error();
    auto reply = wire::parse_reply(answer->body);
    if (!reply) return reply.error();
    if (reply->result < 0) return Error{static_cast<int>(-reply->result), std::string(reply->text)};
    if (answer->fds.empty()) return Error{EIO, "watch a ring: daemon: sent no eventfd"};
    return std::move(answer->fds[0]);
  });
  return *source;
}

bool is_ring(const wire::MapSpec& spec) {
  return spec.type == BPF_MAP_TYPE_RINGBUF || spec.type == BPF_MAP_TYPE_USER_RINGBUF;
}

// The object behind `fd` when it is one that can be polled.
ObjectPtr pollable(int fd) {
  ObjectPtr object = find_object(fd);
  if (object == nullptr) return nullptr;
  const bool yes = object->kind == wire::ObjectKind::kPerfEvent ||
                   (object->kind == wire::ObjectKind::kMap && is_ring(object->spec));
  return yes ? object : nullptr;
}

// Makes sure that the object can be asked for readiness: its pages are mapped, its eventfd is here.
Result<void> prepare(const ObjectPtr& object, int fd) {
  const std::lock_guard lock(object->mutex);
  if (object->head.data == nullptr) {
    const size_t size = object->kind == wire::ObjectKind::kMap ? 2 * kPageSize : kPageSize;
    if (object->size < size) return Error{EINVAL, "watch a ring: memory: too small"};
    void* at = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return Error::from_errno("watch a ring: map");
    object->head.data = static_cast<uint8_t*>(at);
    object->head.size = size;
  }
  if (!object->eventfd) {
    auto eventfd = eventfd_source()(fd);
    if (!eventfd) return eventfd.error();
    object->eventfd = std::move(*eventfd);
  }
  return {};
}

// What can be done with the object now, without waiting.
uint32_t ready_for(const Object& object) {
  const auto word = [&](size_t offset) {
    return __atomic_load_n(reinterpret_cast<const uint64_t*>(object.head.data + offset), __ATOMIC_ACQUIRE);
  };
  const uint32_t input = EPOLLIN | EPOLLRDNORM, output = EPOLLOUT | EPOLLWRNORM;
  if (object.kind == wire::ObjectKind::kPerfEvent)
    return word(kDataHeadOffset) != word(kDataTailOffset) ? input : 0;
  const uint64_t unread = word(kProducerOffset) - word(kConsumerOffset);
  // The client of a user ring is its producer, who waits for room.
  if (object.spec.type == BPF_MAP_TYPE_USER_RINGBUF) return unread < object.spec.max_entries ? output : 0;
  return unread != 0 ? input : 0;
}

int kernel_epoll_ctl(int epfd, int operation, int fd, const struct epoll_event* event) {
  return static_cast<int>(raw_syscall(SYS_epoll_ctl, epfd, operation, fd, reinterpret_cast<long>(event)));
}

// The libc functions, because they are cancellation points. Timeouts are rounded up to a millisecond.
int kernel_epoll_wait(int epfd, struct epoll_event* events, int capacity, int timeout_ms,
                      const sigset_t* mask) {
  static int (*function)(int, struct epoll_event*, int, int, const sigset_t*);
  auto* found = real("epoll_pwait", function);
  if (found == nullptr)
    return static_cast<int>(raw_syscall(SYS_epoll_pwait, epfd, reinterpret_cast<long>(events), capacity,
                                        timeout_ms, reinterpret_cast<long>(mask), 8));
  const int result = found(epfd, events, capacity, timeout_ms, mask);
  return result < 0 ? -errno : result;
}

int kernel_poll(struct pollfd* fds, nfds_t count, int timeout_ms, const sigset_t* mask) {
  static int (*function)(struct pollfd*, nfds_t, const struct timespec*, const sigset_t*);
  struct timespec timeout = {timeout_ms / 1000, (timeout_ms % 1000) * 1000000L};
  const struct timespec* at = timeout_ms < 0 ? nullptr : &timeout;
  auto* found = real("ppoll", function);
  if (found == nullptr)
    return static_cast<int>(raw_syscall(SYS_ppoll, reinterpret_cast<long>(fds), static_cast<long>(count),
                                        reinterpret_cast<long>(at), reinterpret_cast<long>(mask), 8));
  const int result = found(fds, count, at, mask);
  return result < 0 ? -errno : result;
}

wire::Deadline deadline_of(const struct timespec* timeout) {
  if (timeout == nullptr) return wire::Deadline::never();
  const auto ms = static_cast<uint64_t>(timeout->tv_sec) * 1000 +
                  (static_cast<uint64_t>(timeout->tv_nsec) + 999999) / 1000000;
  return wire::Deadline::after_ms(std::min<uint64_t>(ms, INT32_MAX));
}

Watch* find_watch(Set& set, int fd) {
  const auto found =
      std::find_if(set.watches.begin(), set.watches.end(), [fd](const Watch& w) { return w.fd == fd; });
  return found == set.watches.end() ? nullptr : &*found;
}

// With sets_mutex held. The watch's descriptor may have been closed behind our back and reused: then
// it is none.
void drop_stale(Set& set, int epfd, int fd) {
  Watch* watch = find_watch(set, fd);
  if (watch == nullptr) return;
  const auto now = inode_of(fd);
  if (now.ok() && *now == watch->object->inode) return;
  kernel_epoll_ctl(epfd, EPOLL_CTL_DEL, watch->eventfd.get(), nullptr);
  set.watches.erase(set.watches.begin() + (watch - set.watches.data()));
}

int add_watch(int epfd, int fd, const ObjectPtr& object, const struct epoll_event& event) {
  if (auto prepared = prepare(object, fd); !prepared) return -prepared.error().code;
  auto eventfd = object->eventfd.duplicate();
  if (!eventfd) return -eventfd.error().code;
  const std::lock_guard lock(sets_mutex);
  Set& set = sets()[epfd];
  set_count.store(sets().size());
  if (find_watch(set, fd) != nullptr) return -EEXIST;
  Watch watch{fd,   object, std::move(*eventfd), kCookieTag | next_cookie++, event.events, event.data.u64,
              true, false};
  struct epoll_event ours = {};
  ours.events = EPOLLIN | EPOLLET;
  ours.data.u64 = watch.cookie;
  const int added = kernel_epoll_ctl(epfd, EPOLL_CTL_ADD, watch.eventfd.get(), &ours);
  if (added == 0) set.watches.push_back(std::move(watch));
  if (set.watches.empty()) sets().erase(epfd);
  set_count.store(sets().size());
  return added;
}

// Re-adds the eventfd, so that a thread asleep in the set looks at memory again under the new terms.
int change_watch(int epfd, Watch& watch, const struct epoll_event& event) {
  watch.events = event.events;
  watch.data = event.data.u64;
  watch.edge = true;
  watch.disarmed = false;
  struct epoll_event ours = {};
  ours.events = EPOLLIN | EPOLLET;
  ours.data.u64 = watch.cookie;
  return kernel_epoll_ctl(epfd, EPOLL_CTL_MOD, watch.eventfd.get(), &ours);
}

// With sets_mutex held: up to `capacity` events of ours that are due now.
int collect(Set& set, struct epoll_event* events, int capacity) {
  int count = 0;
  for (Watch& watch : set.watches) {
    if (count == capacity) break;
    if (watch.disarmed) continue;
    const uint32_t due = ready_for(*watch.object) & watch.events;
    if (due == 0 || ((watch.events & EPOLLET) != 0 && !watch.edge)) continue;
    watch.edge = false;
    watch.disarmed = (watch.events & EPOLLONESHOT) != 0;
    events[count].events = due;
    events[count].data.u64 = watch.data;
    ++count;
  }
  return count;
}

// With sets_mutex held: removes our wake-ups from events[0, count) and notes them; returns how
// many events remain.
int take_wakeups(Set& set, struct epoll_event* events, int count) {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    const auto ours = std::find_if(set.watches.begin(), set.watches.end(),
                                   [&](const Watch& w) { return w.cookie == events[i].data.u64; });
    if (ours == set.watches.end()) {
      events[kept++] = events[i];
    } else {
      ours->edge = true;
    }
  }
  return kept;
}

int collect_locked(int epfd, struct epoll_event* events, int capacity) {
  const std::lock_guard lock(sets_mutex);
  const auto found = sets().find(epfd);
  return found == sets().end() ? 0 : collect(found->second, events, capacity);
}

// Signals whose handlers tell a tool to end. It learns of them as it would of an EINTR, which the kernel gives only to who is
// asleep when they come: bpftrace, for one, waits on for ever when its SIGINT comes between two waits, or together with a
// time-out. Between a tool's call and its answer they are therefore let in only where their coming is the answer.
class SignalsHeld {
 public:
  // `mask`: that of an epoll_pwait, or nullptr.
  explicit SignalsHeld(const sigset_t* mask) {
    sigset_t held;
    sigemptyset(&held);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGALRM}) sigaddset(&held, number);
    pthread_sigmask(SIG_BLOCK, &held, &before_);
    mask_ = mask != nullptr ? mask : &before_;
  }
  ~SignalsHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

  const sigset_t* mask() const { return mask_; }  // of the waiting
  // Whether one has come that has a handler; the handler has run. (A ppoll looks for them even if it does not wait; an
  // epoll_pwait that does not, or that has timed out, does not.)
  bool one_came() const { return kernel_poll(nullptr, 0, 0, mask_) == -EINTR; }

 private:
  sigset_t before_;
  const sigset_t* mask_;
};

// One real wait; wake-ups of ours are taken out of what it returns. `woken`: there were some.
int wait_for_host(int epfd, struct epoll_event* events, int capacity, int timeout_ms, const sigset_t* mask,
                  bool& woken) {
  const int got = kernel_epoll_wait(epfd, events, capacity, timeout_ms, mask);
  if (got <= 0) return got;
  const std::lock_guard lock(sets_mutex);
  const auto found = sets().find(epfd);
  if (found == sets().end()) return got;
  const int kept = take_wakeups(found->second, events, got);
  woken = kept < got;
  return kept;
}

// Whether the kernel is asked before memory: every other time for fairness, and always when an edge-triggered
// watch must know its pending edges first, or it would report one arrival twice.
bool asks_kernel_first(int epfd) {
  const std::lock_guard lock(sets_mutex);
  const auto found = sets().find(epfd);
  if (found == sets().end()) return false;
  Set& set = found->second;
  set.host_first = !set.host_first;
  return set.host_first || std::any_of(set.watches.begin(), set.watches.end(),
                                       [](const Watch& watch) { return (watch.events & EPOLLET) != 0; });
}

}  // namespace

void set_eventfd_source(EventfdSource source) { eventfd_source() = std::move(source); }

bool can_be_polled(int fd) { return pollable(fd) != nullptr; }

std::optional<Result<Wakeup>> wakeup_of(int fd) {
  const ObjectPtr object = pollable(fd);
  if (object == nullptr) return std::nullopt;
  if (auto prepared = prepare(object, fd); !prepared) return Result<Wakeup>(prepared.error());
  auto eventfd = object->eventfd.duplicate();
  if (!eventfd) return Result<Wakeup>(eventfd.error());
  return Result<Wakeup>(Wakeup{object->inode, std::move(*eventfd), ready_for(*object) != 0});
}

std::optional<int> epoll_ctl_call(int epfd, int operation, int fd, const struct epoll_event* event) {
  if (fd < 0) return std::nullopt;
  struct epoll_event wanted = {};
  if (operation != EPOLL_CTL_DEL && !read_user(&wanted, reinterpret_cast<uint64_t>(event), sizeof(wanted)))
    return std::nullopt;
  {
    const std::lock_guard lock(sets_mutex);
    const auto found = sets().find(epfd);
    if (found != sets().end()) {
      drop_stale(found->second, epfd, fd);
      Watch* watch = find_watch(found->second, fd);
      if (watch != nullptr && operation == EPOLL_CTL_ADD) return -EEXIST;
      if (watch != nullptr && operation == EPOLL_CTL_MOD) return change_watch(epfd, *watch, wanted);
      if (watch != nullptr && operation == EPOLL_CTL_DEL) {
        const int removed = kernel_epoll_ctl(epfd, EPOLL_CTL_DEL, watch->eventfd.get(), nullptr);
        found->second.watches.erase(found->second.watches.begin() + (watch - found->second.watches.data()));
        if (found->second.watches.empty()) sets().erase(found);
        set_count.store(sets().size());
        return removed;
      }
    }
  }
  const ObjectPtr object = pollable(fd);
  if (object == nullptr) return std::nullopt;
  if (operation != EPOLL_CTL_ADD) return -ENOENT;
  return add_watch(epfd, fd, object, wanted);
}

std::optional<int> epoll_wait_call(int epfd, struct epoll_event* events, int capacity,
                                   const struct timespec* timeout, const sigset_t* mask) {
  if (set_count.load(std::memory_order_acquire) == 0 || capacity <= 0 || events == nullptr)
    return std::nullopt;
  {
    const std::lock_guard lock(sets_mutex);
    if (sets().find(epfd) == sets().end()) return std::nullopt;
  }
  const wire::Deadline deadline = deadline_of(timeout);
  const bool host_first = asks_kernel_first(epfd);
  const SignalsHeld signals(mask);
  for (;;) {
    if (signals.one_came()) return -EINTR;  // what there is to read is still there next time
    bool woken = false;
    if (host_first) {
      const int host = wait_for_host(epfd, events, capacity, 0, signals.mask(), woken);
      if (host < 0) return host;
      if (host > 0) return host + collect_locked(epfd, events + host, capacity - host);
    }
    const int ours = collect_locked(epfd, events, capacity);
    if (ours == capacity) return ours;
    const int left = ours > 0 ? 0 : deadline.remaining_ms();
    const int host = wait_for_host(epfd, events + ours, capacity - ours, left, signals.mask(), woken);
    if (host < 0) return ours > 0 ? ours : host;
    if (ours + host > 0) return ours + host;
    if (!woken && left == 0) return signals.one_came() ? -EINTR : 0;
  }
}

namespace {

// Our entries of one poll(2) list, and the epoll set ("gate") that becomes readable at each write
// to their eventfds.
struct PollGate {
  Fd epoll;
  std::vector<std::pair<size_t, ObjectPtr>> ours;  // index in the list

  // -errno, or how many entries are ours.
  int open(const std::vector<struct pollfd>& list) {
    for (size_t i = 0; i < list.size(); ++i)
      if (ObjectPtr object = list[i].fd >= 0 ? pollable(list[i].fd) : nullptr) {
        if (auto prepared = prepare(object, list[i].fd); !prepared) return -prepared.error().code;
        ours.emplace_back(i, std::move(object));
      }
    if (ours.empty()) return 0;
    epoll = Fd(static_cast<int>(raw_syscall(SYS_epoll_create1, EPOLL_CLOEXEC)));
    if (!epoll) return -EMFILE;
    for (const auto& [index, object] : ours) {
      struct epoll_event event = {};
      event.events = EPOLLIN | EPOLLET;
      const int added = kernel_epoll_ctl(epoll.get(), EPOLL_CTL_ADD, object->eventfd.get(), &event);
      if (added < 0 && added != -EEXIST) return added;  // EEXIST: the object stands in the list twice
    }
    return static_cast<int>(ours.size());
  }

  // Takes the pending edges, so that the gate is readable again only at the next one.
  void close_again() const {
    struct epoll_event events[16];
    while (raw_syscall(SYS_epoll_wait, epoll.get(), reinterpret_cast<long>(events), 16, 0) == 16) {
    }
  }

  int mark(std::vector<struct pollfd>& list) const {
    int ready = 0;
    for (const auto& [index, object] : ours) {
      // The numbers of poll(2) are those of epoll.
      list[index].revents =
          static_cast<short>(static_cast<uint32_t>(list[index].events) & ready_for(*object));
      if (list[index].revents != 0) ++ready;
    }
    return ready;
  }
};

}  // namespace

namespace {

// Signals that would end a supervised host's wait are looked for (host.h): there is nothing to be told by.
int slice_of(const wire::Deadline& deadline) {
  constexpr int kLookMs = 50;
  const int left = deadline.remaining_ms();
  return left < 0 ? kLookMs : std::min(left, kLookMs);
}

// A number that is not open stays one for the kernel to say so.
int number_for_poll(int fd) {
  constexpr int kNeverOpen = INT_MAX;
  const int local = local_fd(fd);
  return local < 0 ? kNeverOpen : local;
}

bool store_answers(struct pollfd* fds, const std::vector<struct pollfd>& list) {
  if (remote_host() == nullptr) {
    for (size_t i = 0; i < list.size(); ++i) fds[i].revents = list[i].revents;
    return true;
  }
  for (size_t i = 0; i < list.size(); ++i)
    if (!write_user(reinterpret_cast<uint64_t>(&fds[i].revents), &list[i].revents, sizeof fds[i].revents))
      return false;
  return true;
}

}  // namespace

std::optional<int> poll_call(struct pollfd* fds, nfds_t count, const struct timespec* timeout,
                             const sigset_t* mask) {
  if (!any_object_seen() || count == 0 || count > 65536) return std::nullopt;
  std::vector<struct pollfd> list(count);
  if (!read_user(list.data(), reinterpret_cast<uint64_t>(fds), count * sizeof(struct pollfd)))
    return std::nullopt;
  RemoteHost* const remote = remote_host();
  std::optional<SignalsHeld> signals;
  if (remote == nullptr) signals.emplace(mask);
  for (struct pollfd& entry : list)
    if (entry.fd >= 0) entry.fd = number_for_poll(entry.fd);
  PollGate gate;
  const int opened = gate.open(list);
  if (opened <= 0) return opened == 0 ? std::nullopt : std::optional<int>(opened);

  const wire::Deadline deadline = deadline_of(timeout);
  std::vector<struct pollfd> kernel = list;
  for (const auto& [index, object] : gate.ours) kernel[index].fd = -1;
  kernel.push_back({gate.epoll.get(), POLLIN, 0});
  for (;;) {
    int ready = gate.mark(list);
    const int left = ready > 0 ? 0 : remote != nullptr ? slice_of(deadline) : deadline.remaining_ms();
    int host = kernel_poll(kernel.data(), kernel.size(), left, signals ? signals->mask() : nullptr);
    if (host < 0 && ready == 0) return host;
    const bool woken = host > 0 && kernel.back().revents != 0;
    if (woken) {
      gate.close_again();
      --host;
      ready = gate.mark(list);
    }
    if (ready + host <= 0 && (woken || left != 0)) {
      if (remote != nullptr && remote->interrupted(mask)) return -EINTR;
      continue;
    }
    for (nfds_t i = 0; i < count; ++i)
      if (kernel[i].fd == list[i].fd) list[i].revents = kernel[i].revents;
    if (!store_answers(fds, list)) return -EFAULT;
    return ready + std::max(host, 0);
  }
}

std::optional<int> select_call(int count, fd_set* reads, fd_set* writes, fd_set* exceptions,
                               const struct timespec* timeout, const sigset_t* mask) {
  if (!any_object_seen() || count <= 0 || count > FD_SETSIZE) return std::nullopt;
  std::vector<struct pollfd> list;
  bool any = false;
  for (int fd = 0; fd < count; ++fd) {
    const auto in = [fd](const fd_set* set) { return set != nullptr && FD_ISSET(fd, set); };
    const int events = (in(reads) ? POLLIN : 0) | (in(writes) ? POLLOUT : 0) | (in(exceptions) ? POLLPRI : 0);
    if (events == 0) continue;
    list.push_back({fd, static_cast<short>(events), 0});
    any = any || pollable(fd) != nullptr;
  }
  if (!any) return std::nullopt;
  const auto ready = poll_call(list.data(), list.size(), timeout, mask);
  if (!ready || *ready < 0) return ready;
  int bits = 0;
  const auto answer = [&](fd_set* set, const struct pollfd& entry, int asked, int wanted) {
    if (set == nullptr || (entry.events & asked) == 0) return;
    if ((entry.revents & wanted) != 0) {
      ++bits;
    } else {
      FD_CLR(entry.fd, set);
    }
  };
  for (const struct pollfd& entry : list)
    if ((entry.revents & POLLNVAL) != 0) return -EBADF;
  for (const struct pollfd& entry : list) {
    answer(reads, entry, POLLIN, POLLIN | POLLRDNORM | POLLHUP | POLLERR);
    answer(writes, entry, POLLOUT, POLLOUT | POLLERR);
    answer(exceptions, entry, POLLPRI, POLLPRI);
  }
  return bits;
}

void readiness_forget_descriptor(int fd) {
  if (set_count.load(std::memory_order_acquire) == 0) return;
  std::vector<Watch> dropped;  // destroyed after the lock is gone
  Set dropped_set;
  const std::lock_guard lock(sets_mutex);
  if (const auto own = sets().find(fd); own != sets().end()) {
    dropped_set = std::move(own->second);
    sets().erase(own);
  }
  for (auto at = sets().begin(); at != sets().end();) {
    Set& set = at->second;
    if (Watch* watch = find_watch(set, fd)) {
      kernel_epoll_ctl(at->first, EPOLL_CTL_DEL, watch->eventfd.get(), nullptr);
      dropped.push_back(std::move(*watch));
      set.watches.erase(set.watches.begin() + (watch - set.watches.data()));
    }
    at = set.watches.empty() ? sets().erase(at) : std::next(at);
  }
  set_count.store(sets().size());
}

void readiness_forget_all() {
  std::map<int, Set> dropped;
  const std::lock_guard lock(sets_mutex);
  dropped.swap(sets());
  set_count.store(0);
}

void readiness_before_fork() { sets_mutex.lock(); }
void readiness_after_fork() { sets_mutex.unlock(); }

}  // namespace bpftime::loader

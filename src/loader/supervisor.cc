#include "loader/supervisor.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>
#include <vector>

#include "loader/calls.h"
#include "loader/connection.h"
#include "loader/host.h"
#include "loader/objects.h"
#include "loader/real.h"
#include "loader/supervised_epoll.h"
#include "loader/supervised_filter.h"
#include "loader/supervised_paths.h"
#include "loader/supervised_poll.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

constexpr int kSlowMax = 256;        // calls answered at a time, beside the quick ones
constexpr int kForgetAfterMs = 100;  // how long a map nobody uses is kept open here; twice that at most
// SECCOMP_IOCTL_NOTIF_SET_FLAGS and its flag (Linux 6.6): caller and answerer take turns on one CPU.
constexpr unsigned long kSetFlags = _IOW('!', 4, uint64_t);
constexpr uint64_t kSyncWakeUp = 1;

// Locked memory is the kernel's, see hooks.cc. The limit is the host's to change, who may.
std::optional<int64_t> memlock_call(RemoteHost& host, uint64_t whom, uint64_t limit, uint64_t old) {
  if (limit == 0 || (whom != 0 && static_cast<pid_t>(whom) != host.process())) return std::nullopt;
  struct rlimit wanted, before;
  if (!read_user(&wanted, limit, sizeof wanted)) return -EFAULT;
  long result = raw_syscall(SYS_prlimit64, host.process(), RLIMIT_MEMLOCK, reinterpret_cast<long>(&wanted),
                            reinterpret_cast<long>(&before));
  if (result == -EPERM)
    result = raw_syscall(SYS_prlimit64, host.process(), RLIMIT_MEMLOCK, 0, reinterpret_cast<long>(&before));
  if (result == 0 && old != 0 && !write_user(old, &before, sizeof before)) return -EFAULT;
  return result;
}

// nullopt: the kernel shall go on with the call.
std::optional<int64_t> answer(RemoteHost& host, const struct seccomp_data& call) {
  const auto& args = reinterpret_cast<const uint64_t(&)[6]>(call.args);
  const auto number = [&](int i) { return static_cast<int>(args[i]); };
  switch (call.nr) {
    case SYS_bpf:
      if (number(0) == kSupervisedCommand) return kSupervisedAnswer;
      return bpf_call(static_cast<uint32_t>(args[0]), args[1], static_cast<uint32_t>(args[2]));
    case SYS_perf_event_open:
      return perf_event_open_call(args[0], number(1), number(2), number(3), args[4]);
    case SYS_ioctl:
      return perf_ioctl_call(number(0), args[1], args[2]);
    case SYS_mmap:
      return before_mmap(args[1], number(2), number(3), number(4), args[5]);
    case SYS_epoll_ctl:
      return supervised_epoll_ctl(host, number(0), number(1), number(2), args[3]);
    case SYS_setrlimit:
      return memlock_call(host, 0, args[1], 0);
    case SYS_prlimit64:
      return memlock_call(host, args[0], args[2], args[3]);
    case SYS_poll:
    case SYS_ppoll:
      return supervised_poll(call);
    default:
      return supervised_path_call(call.nr, args);
  }
}

// The host is told. ENOENT: it has died, or a signal came before (see install_supervised_filter) and it asks again.
void reply(int listener, RemoteHost& host, uint64_t id, std::optional<int64_t> result) {
  if (host.made) {
    struct seccomp_notif_addfd add = {};
    add.id = id;
    add.flags = SECCOMP_ADDFD_FLAG_SEND;
    add.srcfd = static_cast<uint32_t>(host.made.get());
    add.newfd_flags = (::fcntl(host.made.get(), F_GETFD) & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0;
    if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) >= 0) return;
    result = -errno;  // EMFILE: its table is full
  }
  struct seccomp_notif_resp response = {};
  response.id = id;
  if (!result)
    response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  else if (*result < 0)
    response.error = static_cast<int32_t>(*result);
  else
    response.val = *result;
  (void)::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

bool is_poll(long number) { return number == SYS_poll || number == SYS_ppoll; }

// Whether the daemon may have to think about it: nobody else shall wait meanwhile.
bool asks_daemon(const struct seccomp_data& call) {
  if (call.nr == SYS_perf_event_open || call.nr == SYS_ioctl) return true;
  if (call.nr != SYS_bpf || call.args[0] == kSupervisedCommand) return false;
  const auto command = static_cast<uint32_t>(call.args[0]);
  const bool elements = (command >= BPF_MAP_LOOKUP_ELEM && command <= BPF_MAP_GET_NEXT_KEY) ||
                        command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
  return !elements && (command < BPF_MAP_LOOKUP_BATCH || command > BPF_MAP_DELETE_BATCH);
}

class Supervisor {
 public:
  explicit Supervisor(int listener) : listener_(listener), poke_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    (void)::ioctl(listener, kSetFlags, kSyncWakeUp);
  }

  // Until nobody has the filter any more.
  void run() {
    std::thread([this] { answer_calls(); }).detach();
    for (;;) {
      std::vector<struct pollfd> waiting = {{listener_, 0, 0}, {poke_.get(), POLLIN, 0}};
      for (const int process : watching_processes()) waiting.push_back({process, POLLIN, 0});
      const int count = ::poll(waiting.data(), waiting.size(), forgetting_ ? kForgetAfterMs : -1);
      if (count < 0 && errno != EINTR) return;
      if ((waiting[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) return;
      for (size_t i = 2; i < waiting.size(); ++i)
        if (waiting[i].revents != 0) forget_watching_process(waiting[i].fd);
      if (count == 0) forget();
      eventfd_t ignored;
      ::eventfd_read(poke_.get(), &ignored);
    }
  }

 private:
  int listener_;
  Fd poke_;  // there is something to forget, or a process to watch
  std::atomic<bool> forgetting_ = false;
  std::atomic<int> slow_ = 0;

  void forget() {
    forget_unused_objects();
    forgetting_ = keeps_objects();
  }

  void answer_calls() {
    for (;;) {
      struct seccomp_notif notification = {};
      if (::ioctl(listener_, SECCOMP_IOCTL_NOTIF_RECV, &notification) != 0) {
        if (errno == EINTR || errno == ENOENT) continue;  // ENOENT: the caller was killed meanwhile
        return;
      }
      take_call(notification);
    }
  }

  // Quick ones here, one after the other; the others each in a thread of its own.
  void take_call(const struct seccomp_notif& notification) {
    const bool poll = is_poll(notification.data.nr);
    if (!asks_daemon(notification.data) && !(poll && waits_for_ours(notification)))
      return answer_call(notification, !poll);
    if (++slow_ <= kSlowMax) try {
        std::thread([this, notification] {
          answer_call(notification, true);
          --slow_;
        }).detach();
        return;
      } catch (const std::exception&) {
      }
    --slow_;
    // Too many wait: the kernel says at once that there may be something.
    answer_call(notification, !poll);
  }

  bool waits_for_ours(const struct seccomp_notif& notification) {
    RemoteHost host(listener_, notification.id, static_cast<pid_t>(notification.pid));
    const Answering for_host(&host);
    return polls_for_ours(notification.data);
  }

  // `ours`: not simply the kernel's.
  void answer_call(const struct seccomp_notif& notification, bool ours) {
    RemoteHost host(listener_, notification.id, static_cast<pid_t>(notification.pid));
    std::optional<int64_t> result;
    try {
      const Answering for_host(&host);
      if (ours) result = answer(host, notification.data);
    } catch (const std::exception&) {
      result = -ENOMEM;
    }
    reply(listener_, host, notification.id, result);
    const bool watches = notification.data.nr == SYS_epoll_ctl && result;
    if (watches || (!forgetting_ && keeps_objects() && !forgetting_.exchange(true)))
      ::eventfd_write(poke_.get(), 1);
  }
};

// ---- starting ----

Result<void> send_descriptor(int socket, int fd) {
  char byte = 0;
  struct iovec part = {&byte, 1};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  *header = {};
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) return Error::from_errno("supervise: hand over");
  return {};
}

Fd receive_descriptor(int socket) {
  char byte;
  struct iovec part = {&byte, 1};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return Fd();
  const struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  int fd = -1;
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Fd(fd);
}

// Nothing of the program's is kept: its terminal, pipes and sockets must see their last user go. Only stderr stays, for what
// `load -v` says.
void let_go_of_everything_but(std::vector<int> kept) {
  ::setsid();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, 0);
  ::dup2(null, 1);
  std::sort(kept.begin(), kept.end());
  unsigned first = 3;
  for (const int fd : kept) {
    if (fd < static_cast<int>(first)) continue;
    if (static_cast<unsigned>(fd) > first) ::close_range(first, static_cast<unsigned>(fd) - 1, 0);
    first = static_cast<unsigned>(fd) + 1;
  }
  ::close_range(first, ~0u, 0);
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_NAME, "bpftime-answers");
  if (::chdir("/") != 0) return;  // it only keeps a directory busy
}

[[noreturn]] void be_supervisor(int socket, int connection) {
  let_go_of_everything_but({socket, connection});
  adopt_connection();
  const pid_t own = ::getpid();
  if (::send(socket, &own, sizeof own, MSG_NOSIGNAL) != sizeof own) ::_exit(1);
  const Fd listener = receive_descriptor(socket);
  ::close(socket);
  if (listener) Supervisor(listener.get()).run();
  ::_exit(0);
}

// A grandchild: the program must not find a child that it has not made.
Result<pid_t> start_supervisor(Fd& ours, int connection) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return Error::from_errno("supervise: socket");
  ours = Fd(pair[0]);
  Fd theirs(pair[1]);
  const pid_t child = ::fork();
  if (child < 0) return Error::from_errno("supervise: fork");
  if (child == 0) {
    const pid_t supervisor = ::fork();
    if (supervisor != 0) ::_exit(supervisor < 0 ? 1 : 0);
    be_supervisor(theirs.get(), connection);
  }
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  theirs.reset();
  pid_t pid = 0;
  if (::recv(ours.get(), &pid, sizeof pid, 0) != sizeof pid)
    return Error{EAGAIN, "supervise: the supervisor: did not start"};
  return pid;
}

// Whoever else filters this process's calls is asked, too, and the strictest answer counts.
Result<void> check_supervised(bool has_other) {
  const long answer = raw_syscall(SYS_bpf, kSupervisedCommand);
  if (answer == kSupervisedAnswer) return {};
  if (has_other)
    return Error{
        EBUSY,
        "supervise: seccomp: another program answers this process's system calls already; try without it"};
  return Error{
      EPERM,
      "supervise: seccomp: a filter of this process (a container's?) decides on bpf(2) before anybody can "
      "answer; try a container without one (--security-opt seccomp=unconfined), or a dynamically linked "
      "build of "
      "the program"};
}

}  // namespace

Result<void> supervise_this_process(bool pretend_root) {
  if (raw_syscall(SYS_bpf, kSupervisedCommand) == kSupervisedAnswer)
    return {};  // `bpftime load` under itself
  Fd socket;
  auto supervisor = start_supervisor(socket, connect_early());
  if (!supervisor) return supervisor.error();
  // Where only ancestors may look into a process (kernel.yama.ptrace_scope).
  (void)::prctl(PR_SET_PTRACER, *supervisor, 0, 0, 0);
  auto listener = install_supervised_filter(pretend_root);
  if (!listener && listener.error().code == EBUSY) return check_supervised(true);
  if (!listener) return listener.error();
  if (auto sent = send_descriptor(socket.get(), listener->get()); !sent) return sent;
  listener->reset();
  return check_supervised(false);
}

}  // namespace bpftime::loader

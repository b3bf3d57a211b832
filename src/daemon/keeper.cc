#include "daemon/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <vector>

#include "base/log.h"
#include "daemon/keeper_protocol.h"
#include "wire/client.h"

namespace bpftime::daemon {

namespace {

// A worker that dies this often before it has served anybody will not get better by being started again.
constexpr int kQuickDeathsMax = 5;

struct Record {
  std::vector<uint8_t> body;  // as received: key, then the worker's bytes
  std::vector<Fd> fds;
};

wire::MessageType type_of(KeeperMessage message) { return static_cast<wire::MessageType>(message); }

Result<Fd> listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error{ENAMETOOLONG, "listen: " + path + ": path too long"};
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return Error::from_errno("listen: socket");
  ::unlink(path.c_str());  // of a daemon that is gone: we hold the lock
  const mode_t before = ::umask(0177);
  const int bound = ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  ::umask(before);
  if (bound != 0) return Error::from_errno("listen: bind " + path);
  if (::listen(socket.get(), 128) != 0) return Error::from_errno("listen: " + path);
  return socket;
}

// One daemon per runtime directory, for as long as the descriptor lives. The worker does not inherit it.
Result<Fd> lock_directory(const RuntimeDirectory& directory) {
  const std::string path = directory.path + "/daemon.lock";
  Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return Error::from_errno("lock " + path);
  struct flock whole {};
  whole.l_type = F_WRLCK;
  // One that is just leaving holds it a moment longer than its socket.
  constexpr int kTries = 100;
  int held = -1;
  for (int i = 0; i < kTries && (held = ::fcntl(lock.get(), F_SETLK, &whole)) != 0; ++i) ::usleep(10'000);
  if (held != 0)
    return Error{EBUSY, "lock " + path + ": a daemon runs there already; `bpftime daemon status` tells"};
  return lock;
}

void set_policy(int policy) {
  const sched_param none{};
  (void)::sched_setscheduler(0, policy, &none);
}

class Keeper {
 public:
  Keeper(const RuntimeDirectory& directory, Fd listener, const Options& options)
      : directory_(directory),
        listener_(std::move(listener)),
        idle_seconds_(std::to_string(options.idle_seconds)),
        run_seconds_(std::to_string(options.run_seconds)) {
    char path[4096];
    const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path - 1);
    if (size > 0) program_.assign(path, static_cast<size_t>(size));
  }

  int run() {
    int quick_deaths = 0;
    for (;;) {
      const End end = serve_one_worker();
      if (end == End::kStop) return 0;
      quick_deaths = end == End::kDeath && !served_ ? quick_deaths + 1 : 0;
      if (quick_deaths >= kQuickDeathsMax) {
        log_error(
            "the worker dies as soon as it starts: giving up; probes go on, the next command starts a new "
            "daemon");
        return 1;
      }
    }
  }

 private:
  RuntimeDirectory directory_;
  Fd listener_;
  std::string idle_seconds_, run_seconds_, program_;
  std::map<uint64_t, Record> records_;  // key order is recovery order

  const bool ordinary_ = ::sched_getscheduler(0) == SCHED_OTHER;  // as it was started
  bool served_ = false;                                           // the present worker

  enum class End { kDeath, kRestart, kStop };

  End serve_one_worker() {
    served_ = false;
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return End::kStop;
    Fd ours(pair[0]), theirs(pair[1]);
    const pid_t pid = ::fork();
    if (pid < 0) {
      log_error(std::string("start worker: ") + std::strerror(errno));
      return End::kStop;
    }
    if (pid == 0) exec_worker(theirs.get());
    theirs.reset();
    // It only takes notes, and what sits in the socket is safe from the worker's death: it must not push the worker aside to
    // take them the moment they come, while a tool waits for the worker's answer.
    if (ordinary_) set_policy(SCHED_BATCH);
    End end = End::kDeath;
    if (replay(ours.get())) listen_to(ours.get(), &end);
    ours.reset();
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (end == End::kDeath && WIFSIGNALED(status))
      log_warning("worker killed by signal " + std::to_string(WTERMSIG(status)) + ": starting another");
    return end;
  }

  [[noreturn]] void exec_worker(int channel) {
    if (ordinary_) set_policy(SCHED_OTHER);
    // No worker may outlive its keeper: it would serve a directory that the next keeper takes over.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int a = ::fcntl(channel, F_DUPFD, 10), b = ::fcntl(listener_.get(), F_DUPFD, 10);
    ::dup2(a, kKeeperChannelFd);
    ::dup2(b, kListenFd);
    ::close_range(kListenFd + 1, ~0u, 0);
    // By path first: after an upgrade that is the new program.
    for (const char* program : {program_.c_str(), "/proc/self/exe"})
      ::execl(program, "bpftimed", "--worker", "--runtime-dir", directory_.path.c_str(), "--idle-seconds",
              idle_seconds_.c_str(), "--run-seconds", run_seconds_.c_str(), nullptr);
    ::_exit(127);
  }

  bool replay(int channel) {
    for (const auto& [key, record] : records_) {
      std::vector<int> fds;
      for (const Fd& fd : record.fds) fds.push_back(fd.get());
      if (!wire::send_message(channel, type_of(KeeperMessage::kPut), 0, record.body, fds,
                              wire::Deadline::after_ms(5000)))
        return false;
    }
    return wire::send_message(channel, type_of(KeeperMessage::kReplayed), 0, {}, {},
                              wire::Deadline::after_ms(5000))
        .ok();
  }

  // Until the worker is gone.
  void listen_to(int channel, End* end) {
    for (;;) {
      auto message = wire::receive_message(channel, wire::Deadline::never());
      if (!message) return;
      const auto key = read_at<uint64_t>(message->body, 0);
      switch (static_cast<KeeperMessage>(message->type)) {
        case KeeperMessage::kPut:
          if (key) records_[*key] = {std::move(message->body), std::move(message->fds)};
          break;
        case KeeperMessage::kErase:
          if (key) records_.erase(*key);
          break;
        case KeeperMessage::kReady:
          served_ = true;
          break;
        case KeeperMessage::kStop:
          *end = End::kStop;
          break;
        case KeeperMessage::kRestart:
          *end = End::kRestart;
          break;
        default:
          break;
      }
    }
  }
};

}  // namespace

int run_keeper(const RuntimeDirectory& directory, const Options& options) {
  ::signal(SIGPIPE, SIG_IGN);
  // A terminal's Ctrl-C and hang-up are not for us; `bpftime daemon stop` is.
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);
  auto lock = lock_directory(directory);
  if (!lock) {
    log_error(lock.error().message);
    return 1;
  }
  auto listener = listen_at(directory.socket());
  if (!listener) {
    log_error(listener.error().message);
    return 1;
  }
  const int code = Keeper(directory, std::move(*listener), options).run();
  ::unlink(directory.socket().c_str());
  return code;
}

}  // namespace bpftime::daemon

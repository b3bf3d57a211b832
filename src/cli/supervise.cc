#include "cli/supervise.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "base/runtime_dir.h"
#include "cli/exit_codes.h"
#include "cli/program_file.h"
#include "cli/trace_stream.h"
#include "loader/progress_line.h"

namespace bpftime::cli {
namespace {

// How long lines printed just before the child's end may take to arrive.
constexpr uint64_t kDrainMs = 2000;
constexpr uint64_t kLineMs = 2000;

constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH};

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : kForwarded) sigaddset(&set, number);
  sigaddset(&set, SIGCHLD);
  return set;
}

class Supervisor {
 public:
  Supervisor(pid_t child, Fd signals, wire::Client& trace, bool tracing)
      : child_(child), signals_(std::move(signals)), trace_(trace), tracing_(tracing) {}

  // Returns the child's wait status.
  int run() {
    // Until the program has been entered there is nothing of it to see.
    const auto directory = find_runtime_directory();
    loader::ProgressLine progress(directory ? directory->path : "");
    int patience = progress.possible() ? loader::kBeforeProgressMs : -1;
    while (!ended_) {
      struct pollfd waiting[] = {{signals_.get(), POLLIN, 0},
                                 {tracing_ ? trace_.descriptor() : -1, POLLIN, 0}};
      const int ready = ::poll(waiting, 2, patience);
      if (ready < 0 && errno != EINTR) break;
      if (patience >= 0 && ready == 0) patience = progress.update() ? loader::kBetweenProgressMs : -1;
      if (ready > 0) progress.clear();
      if (waiting[0].revents != 0) handle_signal();
      if (waiting[1].revents != 0) show_line();
    }
    const auto deadline = wire::Deadline::after_ms(kDrainMs);
    tracing_ = tracing_ && flush_trace(trace_).ok();
    while (tracing_ && deadline.remaining_ms() > 0) {
      struct pollfd more = {trace_.descriptor(), POLLIN, 0};
      if (::poll(&more, 1, deadline.remaining_ms()) <= 0) break;
      show_line();
    }
    return status_;
  }

 private:
  void handle_signal() {
    struct signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof(info)) != sizeof(info)) return;
    const int number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD) {
      ended_ = ::waitpid(child_, &status_, WNOHANG) == child_;
    } else if (info.ssi_code <= 0) {
      // Sent by a process, to us alone. What the terminal sends (SI_KERNEL) reaches the child by itself.
      ::kill(child_, number);
    }
  }

  void show_line() {
    auto line = next_trace_line(trace_, wire::Deadline::after_ms(kLineMs));
    if (!line) fmt::print(stderr, "bpftime: start: no more trace lines: {}\n", line.error().message);
    if (!line || !*line) {
      tracing_ = false;
      return;
    }
    fmt::print(stderr, "{}\n", printable(message_of((*line)->text)));
  }

  pid_t child_;
  Fd signals_;
  wire::Client& trace_;
  bool tracing_;
  bool ended_ = false;
  int status_ = 0;
};

// Ends this process as the child ended, so that whoever waits for us sees the same.
int end_like(int status) {
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  const int number = WTERMSIG(status);
  struct rlimit no_core = {0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);  // the child's core is the one of interest
  ::signal(number, SIG_DFL);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, number);
  std::fflush(nullptr);
  ::raise(number);
  ::sigprocmask(SIG_UNBLOCK, &only, nullptr);
  return 128 + number;
}

// The child waits for the subscription, so that its first line is not missed; end of file (we died) lets
// it go, too.
[[noreturn]] void become_program(int gate, const sigset_t& mask, const std::string& path,
                                 const std::vector<std::string>& arguments) {
  char go;
  while (::read(gate, &go, 1) < 0 && errno == EINTR) {
  }
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::_exit(exec_program(path, arguments));
}

}  // namespace

int supervise(const std::string& path, const std::vector<std::string>& arguments, wire::Client& trace) {
  const sigset_t watched = watched_signals();
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, &watched, &before);
  Fd signals(::signalfd(-1, &watched, SFD_CLOEXEC));
  int gate[2] = {-1, -1};
  const bool ready = signals.valid() && ::pipe2(gate, O_CLOEXEC) == 0;
  Fd gate_in(gate[0]), gate_out(gate[1]);
  const pid_t child = ready ? ::fork() : -1;
  if (child < 0) {
    // Trace lines are a courtesy; running the program is not.
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    return exec_program(path, arguments);
  }
  if (child == 0) {
    gate_out.reset();
    become_program(gate_in.get(), before, path, arguments);
  }
  auto subscribed = subscribe_trace(trace, static_cast<uint32_t>(child), /*follow=*/true);
  if (!subscribed) fmt::print(stderr, "bpftime: start: no trace lines: {}\n", subscribed.error().message);
  const bool tracing = subscribed.ok();
  gate_in.reset();
  gate_out.reset();
  return end_like(Supervisor(child, std::move(signals), trace, tracing).run());
}

}  // namespace bpftime::cli

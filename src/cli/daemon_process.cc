#include "cli/daemon_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace bpftime::cli {
namespace {

// What the new process says through the pipe: its pid, and an errno when exec failed. End of
// file: exec succeeded.
struct Report {
  pid_t pid;
  int error;
};

// Never returns. After fork in a process that may have had threads: only system calls, and no
// allocation before exec.
[[noreturn]] void become_daemon(const char* program, const char* directory, int log, int pipe) {
  ::setsid();
  const pid_t second = ::fork();
  if (second != 0) ::_exit(second < 0 ? 1 : 0);
  Report report{::getpid(), 0};
  (void)!::write(pipe, &report, sizeof(report));
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  // Whatever this command inherited is not the daemon's to hold: a pipe of the caller would never
  // see its end.
  ::syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal_number : {SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGPIPE, SIGCHLD})
    ::signal(signal_number, SIG_DFL);
  ::umask(077);
  ::unsetenv("LD_PRELOAD");
  (void)!::chdir("/");
  ::execl(program, program, "--runtime-dir", directory, nullptr);
  report.error = errno;
  (void)!::write(pipe, &report, sizeof(report));
  ::_exit(127);
}

}  // namespace

Result<DaemonProcess> spawn_daemon(const std::string& program, const RuntimeDirectory& directory) {
  const auto failed = [&](int code, const std::string& why) {
    return Error{code, "start the daemon: " + program + ": " + why};
  };
  if (::access(program.c_str(), X_OK) != 0) {
    return failed(errno, std::string(std::strerror(errno)) +
                             "; it belongs beside the bpftime command, try `make install`");
  }
  Fd log(::open(directory.log().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log) return failed(errno, "its log " + directory.log() + ": " + std::strerror(errno));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return failed(errno, std::strerror(errno));
  Fd reading(ends[0]), writing(ends[1]);

  const pid_t first = ::fork();
  if (first < 0) return failed(errno, std::strerror(errno));
  if (first == 0) become_daemon(program.c_str(), directory.path.c_str(), log.get(), writing.get());
  writing.reset();
  while (::waitpid(first, nullptr, 0) < 0 && errno == EINTR) {
  }
  Report report{};
  DaemonProcess process;
  for (;;) {
    const ssize_t got = ::read(reading.get(), &report, sizeof(report));
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof(report)) break;
    if (report.error != 0) return failed(report.error, std::strerror(report.error));
    process.pid = report.pid;
  }
  if (process.pid <= 0) return failed(EAGAIN, "could not fork");
  process.pidfd = Fd(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  return process;
}

std::string end_of_log(const RuntimeDirectory& directory) {
  constexpr off_t kTail = 600;
  Fd log(::open(directory.log().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!log) return {};
  const off_t size = ::lseek(log.get(), 0, SEEK_END);
  const off_t from = size > kTail ? size - kTail : 0;
  std::string text(static_cast<size_t>(size - from), '\0');
  const ssize_t got = ::pread(log.get(), text.data(), text.size(), from);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  if (from > 0) text.erase(0, text.find('\n') + 1);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace bpftime::cli

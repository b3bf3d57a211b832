#include "cli/testing/run_command.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

#include "base/fd.h"

namespace bpftime::cli::testing {
namespace {

constexpr time_t kPatienceS = 60;

[[noreturn]] void become(const CommandRun& run, int out, int err) {
  for (const auto& [name, value] : run.environment) {
    if (value.empty()) {
      ::unsetenv(name.c_str());
    } else {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
  }
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& argument : run.arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(99);
}

// Appends what can be read; false at the end of the stream (a terminal says EIO).
bool append(int fd, std::string& to) {
  char buffer[4096];
  const ssize_t got = ::read(fd, buffer, sizeof(buffer));
  if (got <= 0) return false;
  to.append(buffer, static_cast<size_t>(got));
  return true;
}

}  // namespace

int Outcome::exit_code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }

Outcome run_command(const CommandRun& run) {
  int out[2] = {-1, -1}, err[2] = {-1, -1};
  if (::pipe2(out, O_CLOEXEC) != 0) return {};
  if (run.terminal ? ::openpty(&err[0], &err[1], nullptr, nullptr, nullptr) != 0
                   : ::pipe2(err, O_CLOEXEC) != 0)
    return {};
  Fd out_in(out[0]), err_in(err[0]), out_out(out[1]), err_out(err[1]);
  const pid_t child = ::fork();
  if (child == 0) become(run, out_out.get(), err_out.get());
  out_out.reset();
  err_out.reset();
  Outcome outcome;
  const time_t end = ::time(nullptr) + kPatienceS;
  bool signalled = run.signal == 0;
  while ((out_in || err_in) && ::time(nullptr) < end) {
    struct pollfd waiting[] = {{out_in.get(), POLLIN, 0}, {err_in.get(), POLLIN, 0}};
    ::poll(waiting, 2, 1000);
    if (waiting[0].revents != 0 && !append(out_in.get(), outcome.out)) out_in.reset();
    if (waiting[1].revents != 0 && !append(err_in.get(), outcome.err)) err_in.reset();
    if (!signalled && outcome.err.find(run.signal_after) != std::string::npos) {
      ::kill(child, run.signal);
      signalled = true;
    }
  }
  if (out_in || err_in) ::kill(child, SIGKILL);
  ::waitpid(child, &outcome.status, 0);
  return outcome;
}

}  // namespace bpftime::cli::testing

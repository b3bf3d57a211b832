#include "process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <utility>

namespace bpftime::bench {
namespace {

constexpr int kFinishLimitMs = kAnswerLimit.count() * 1000;

}  // namespace

Process::Process(const Arguments& arguments, const std::string& errors)
    : errors_(errors), name_(arguments.front().substr(arguments.front().rfind('/') + 1)) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw Trouble("pipe");
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = ::vfork();
  if (pid_ == 0) {
    ::dup2(in[0], STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    const int err = ::open(errors_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(err, STDERR_FILENO);
    ::close(err);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(in[0]);
  ::close(out[1]);
  in_ = in[1];
  out_ = out[0];
  if (pid_ < 0) throw Trouble("cannot start " + name_);
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      in_(std::exchange(other.in_, -1)),
      out_(std::exchange(other.out_, -1)),
      buffer_(std::move(other.buffer_)),
      errors_(std::move(other.errors_)),
      name_(std::move(other.name_)) {}

Process::~Process() {
  if (in_ >= 0) ::close(in_);
  if (out_ >= 0) ::close(out_);
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

void Process::write_line(const std::string& line) {
  const std::string whole = line + "\n";
  if (::write(in_, whole.data(), whole.size()) != static_cast<ssize_t>(whole.size())) {
    throw Trouble(name_ + " reads no more: " + last_words());
  }
}

bool Process::read_more(int timeout_ms) {
  pollfd ready{out_, POLLIN, 0};
  if (::poll(&ready, 1, timeout_ms) <= 0)
    throw Trouble(name_ + (in_ < 0 ? " does not end: " : " does not answer: ") + last_words());
  char part[4096];
  const ssize_t count = ::read(out_, part, sizeof part);
  if (count <= 0) return false;
  buffer_.append(part, count);
  return true;
}

std::string Process::read_line(std::chrono::seconds limit) {
  size_t end;
  while ((end = buffer_.find('\n')) == std::string::npos) {
    if (!read_more(static_cast<int>(limit.count() * 1000))) throw Trouble(name_ + " ended: " + last_words());
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return line;
}

std::string Process::finish(bool terminate) {
  if (terminate) ::kill(pid_, SIGTERM);
  ::close(std::exchange(in_, -1));
  while (read_more(kFinishLimitMs)) {
  }
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  if (status != 0) throw Trouble(name_ + " failed: " + last_words());
  return std::move(buffer_);
}

std::string Process::last_words() const {
  std::ifstream file(errors_);
  std::string last;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

std::string output_of(const Arguments& arguments, const std::string& errors) {
  return Process(arguments, errors).finish(false);
}

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace bpftime::bench

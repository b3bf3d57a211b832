#include "target/victim/victim_runner.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

namespace bpftime::target {

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    ::usleep(500);
  }
  return true;
}

std::string Victim::binary() {
  const char* directory = ::getenv("BPFTIME_BIN_DIR");
  if (directory != nullptr) return std::string(directory) + "/target_victim";
  char self[4096];
  const ssize_t length = ::readlink("/proc/self/exe", self, sizeof(self));
  const std::string path(self, length > 0 ? length : 0);
  return path.substr(0, path.rfind('/')) + "/target_victim";
}

Victim::Victim(const std::vector<std::string>& modes, const std::function<void()>& prepare,
               const std::string& program) {
  auto memory = create_memfd("victim-progress", 4096, 0);
  EXPECT_TRUE(memory.ok());
  memory_ = std::move(*memory);
  auto page = Mapping::shared(memory_, 4096, PROT_READ | PROT_WRITE);
  EXPECT_TRUE(page.ok());
  page_ = std::move(*page);
  const std::string path = program.empty() ? binary() : program;
  std::vector<char*> argv{const_cast<char*>(path.c_str())};
  for (const std::string& mode : modes) argv.push_back(const_cast<char*>(mode.c_str()));
  argv.push_back(nullptr);
  // Kept open across exec so that a child without rights to the file (chroot, other user) can still run it.
  const int image = ::open(path.c_str(), O_RDONLY);
  pid_ = ::fork();
  if (pid_ == 0) {
    const int high = ::fcntl(image, F_DUPFD, 20);
    // It may have that very number already: then dup2 would do nothing and close-on-exec would stay.
    const int progress = ::fcntl(memory_.get(), F_DUPFD, 20);
    ::dup2(progress, kVictimProgressFd);
    ::close(progress);
    if (prepare) prepare();
    ::fcntl(high, F_SETFD, FD_CLOEXEC);
    ::fexecve(high, argv.data(), environ);
    ::execv(path.c_str(), argv.data());
    ::_exit(98);
  }
  ::close(image);
  const auto ended = [&] {
    siginfo_t info{};
    return ::waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
  };
  EXPECT_TRUE(eventually([&] { return progress().ready.load() != 0 || ended(); })) << "victim did not start";
  EXPECT_FALSE(ended()) << "victim ended at once";
}

Victim::~Victim() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Victim::works_on(uint64_t count) const {
  const uint64_t before = progress().rounds.load();
  return eventually([&] { return progress().rounds.load() >= before + count; });
}

void Victim::finish() {
  progress().finish = 1;
  int status = -1;
  EXPECT_TRUE(eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; })) << "victim does not end";
  EXPECT_TRUE(WIFEXITED(status)) << "victim ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0) << progress().first_failure;
  EXPECT_EQ(progress().failures.load(), 0u) << progress().first_failure;
  pid_ = -1;
}

}  // namespace bpftime::target

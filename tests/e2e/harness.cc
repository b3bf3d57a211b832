#include "harness.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

namespace bpftime::e2e {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

namespace {

int code_of(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

// Appends what a non-blocking descriptor has; closes it at its end.
void drain(int& fd, std::string& into) {
  char buffer[65536];
  while (fd >= 0) {
    const ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count > 0) {
      into.append(buffer, count);
    } else if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
      return;
    } else {
      ::close(fd);
      fd = -1;
    }
  }
}

}  // namespace

std::string bin_directory() {
  const char* set = std::getenv("BPFTIME_BIN_DIR");
  return set != nullptr ? set : std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
}

std::string program(const std::string& name) { return bin_directory() + "/" + name; }

Child::Child(const Arguments& arguments, const Options& options) {
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string name(*entry, std::strcspn(*entry, "="));
    if (!options.environment.contains(name)) variables.emplace_back(*entry);
  }
  for (const auto& [name, value] : options.environment) variables.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (auto& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, STDIN_FILENO);
    if (!options.directory.empty() && ::chdir(options.directory.c_str()) != 0) ::_exit(126);
    if (options.before_exec) options.before_exec();
    ::execvpe(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);
  out_ = out[0];
  err_ = err[0];
  ::fcntl(out_, F_SETFL, O_NONBLOCK);
  ::fcntl(err_, F_SETFL, O_NONBLOCK);
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      out_(std::exchange(other.out_, -1)),
      err_(std::exchange(other.err_, -1)),
      output_(std::move(other.output_)),
      error_(std::move(other.error_)),
      status_(other.status_) {}

Child::~Child() {
  if (pid_ > 0 && !status_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (out_ >= 0) ::close(out_);
  if (err_ >= 0) ::close(err_);
}

bool Child::running() {
  int status = 0;
  if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_) status_ = code_of(status);
  return !status_;
}

void Child::signal(int number) {
  if (running()) ::kill(pid_, number);
}

void Child::read_available() {
  drain(out_, output_);
  drain(err_, error_);
}

std::optional<int> Child::wait(seconds limit) {
  // Reading goes on: a child that fills its pipe would never end.
  eventually(
      [&] {
        read_available();
        return !running();
      },
      limit);
  read_available();
  return status_;
}

bool Child::wait_for(const std::string& text, std::string& in, seconds limit) {
  const bool found = eventually(
      [&] {
        read_available();
        return in.find(text) != std::string::npos || !running();
      },
      limit);
  read_available();
  return found && in.find(text) != std::string::npos;
}

bool Child::wait_for_output(const std::string& text, seconds limit) { return wait_for(text, output_, limit); }
bool Child::wait_for_error(const std::string& text, seconds limit) { return wait_for(text, error_, limit); }

const std::string& Child::output() {
  read_available();
  return output_;
}

const std::string& Child::error() {
  read_available();
  return error_;
}

Finished run(const Arguments& arguments, const Child::Options& options, seconds limit) {
  Child child(arguments, options);
  const auto code = child.wait(limit);
  return {code.value_or(-1), child.output(), child.error()};
}

bool eventually(const std::function<bool()>& holds, milliseconds limit) {
  const auto deadline = steady_clock::now() + limit;
  for (;;) {
    if (holds()) return true;
    if (steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(milliseconds(2));
  }
}

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) throw std::runtime_error("no free port");
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(fd);
  return ntohs(address.sin_port);
}

std::vector<std::string> text_differences(pid_t pid) {
  std::vector<std::string> out;
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  const int memory = ::open(("/proc/" + std::to_string(pid) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
  for (std::string line; std::getline(maps, line);) {
    unsigned long long start, end, offset;
    char mode[5];
    int path_at = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx %4s %llx %*s %*s %n", &start, &end, mode, &offset, &path_at) < 4)
      continue;
    const std::string path = line.substr(path_at);
    if (mode[2] != 'x' || path.empty() || path[0] != '/' || path.starts_with("/memfd:")) continue;
    std::vector<char> now(end - start), file(end - start);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t in_file = ::pread(fd, file.data(), file.size(), offset);
    const ssize_t in_memory = ::pread(memory, now.data(), now.size(), start);
    ::close(fd);
    if (fd < 0 || in_file <= 0 || in_memory < in_file) {
      out.push_back(path + ": cannot be compared");
      continue;
    }
    const auto differs = std::mismatch(now.begin(), now.begin() + in_file, file.begin());
    if (differs.first == now.begin() + in_file) continue;
    std::ostringstream where;
    where << path << "+0x" << std::hex << offset + (differs.first - now.begin());
    out.push_back(where.str());
  }
  ::close(memory);
  return out;
}

bool gone(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const size_t at = text.rfind(") ");
  return at == std::string::npos || text[at + 2] == 'Z' || text[at + 2] == 'X';
}

// ---- the fixture ----

void EndToEnd::SetUp() {
  char name[] = "/tmp/bpftime-e2e-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  directory_ = name;
  ::chmod(name, 0755);  // servers that drop privileges look into it; the runtime directory below is 0700
}

void EndToEnd::TearDown() {
  if (nobody_) {
    std::string none;
    EXPECT_EQ(run({program("bpftime"), "daemon", "stop"}, options_of_nobody(&none)).code, 0);
  }
  const pid_t keeper = keeper_pid();
  bpftime({"daemon", "stop"});
  if (keeper > 0) {
    EXPECT_TRUE(eventually([&] { return gone(keeper); })) << "the daemon does not end";
  }
  if (HasFailure()) {
    std::ifstream log(directory_ + "/run/daemon.log");
    std::cerr << "daemon.log:\n" << log.rdbuf() << "\n";
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

Child::Options EndToEnd::options() const {
  Child::Options out;
  out.environment = {{"BPFTIME_RUNTIME_DIR", directory_ + "/run"}, {"BPFTIME_LOG", "info"}};
  out.directory = directory_;
  return out;
}

Child::Options EndToEnd::options_of_nobody(std::string* reason) {
  constexpr uid_t kNobody = 65534;
  Child::Options out = options();
  const std::string runtime = directory_ + "/nobody";
  out.environment["BPFTIME_RUNTIME_DIR"] = runtime;
  const auto become = [] {
    if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) ::_exit(125);
  };
  if (!nobody_) {
    *reason = "needs root to become somebody else";
    if (::geteuid() != 0) return out;
    if (::mkdir(runtime.c_str(), 0700) != 0 || ::chown(runtime.c_str(), kNobody, kNobody) != 0) return out;
    Child::Options asked = options();
    asked.before_exec = become;
    *reason = "nobody cannot execute what was built here";
    if (run({program("bpftime"), "version"}, asked).code != 0) return out;
    nobody_ = true;
  }
  out.before_exec = become;
  return out;
}

Finished EndToEnd::bpftime(Arguments arguments) {
  arguments.insert(arguments.begin(), program("bpftime"));
  return run(arguments, options());
}

nlohmann::json EndToEnd::bpftime_json(Arguments arguments) {
  arguments.insert(arguments.begin(), "--json");
  const Finished done = bpftime(arguments);
  EXPECT_EQ(done.code, 0) << done.error;
  auto json = nlohmann::json::parse(done.output, nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << done.output;
  return json;
}

Child EndToEnd::bpftime_child(Arguments arguments, Child::Options extra) {
  arguments.insert(arguments.begin(), program("bpftime"));
  Child::Options merged = options();
  merged.environment.insert(extra.environment.begin(), extra.environment.end());
  if (!extra.directory.empty()) merged.directory = extra.directory;
  merged.before_exec = extra.before_exec;
  return Child(arguments, merged);
}

Arguments EndToEnd::load(Arguments tool) const {
  Arguments out = {"load"};
  if (supervise_) out.push_back("--supervise");
  out.insert(out.end(), tool.begin(), tool.end());
  return out;
}

Child EndToEnd::load_tool(Arguments tool) {
  Child child = bpftime_child(load(std::move(tool)));
  EXPECT_TRUE(child.wait_for_output("ready\n")) << child.output() << child.error();
  return child;
}

nlohmann::json EndToEnd::finish_tool(Child& tool) {
  tool.signal(SIGTERM);
  EXPECT_EQ(tool.wait(), 0) << tool.error();
  const std::string& text = tool.output();
  const size_t end = text.find_last_not_of('\n');
  const size_t start = end == std::string::npos ? end : text.rfind('\n', end);
  auto json =
      nlohmann::json::parse(start == std::string::npos ? text : text.substr(start + 1), nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << text;
  return json;
}

pid_t EndToEnd::worker_pid() {
  const Finished done = bpftime({"--json", "daemon", "status"});
  const auto json = nlohmann::json::parse(done.output, nullptr, false);
  return json.is_object() ? json.value("worker_pid", 0) : 0;
}

pid_t EndToEnd::keeper_pid() {
  const Finished done = bpftime({"--json", "daemon", "status"});
  const auto json = nlohmann::json::parse(done.output, nullptr, false);
  return json.is_object() ? json.value("keeper_pid", 0) : 0;
}

size_t EndToEnd::active_probes(pid_t pid) {
  size_t count = 0;
  const auto list = bpftime_json({"list"});
  for (const auto& target : list.value("targets", nlohmann::json::array())) {
    if (pid != 0 && target["pid"] != pid) continue;
    for (const auto& probe : target["probes"]) count += probe["state"] == "active";
  }
  return count;
}

}  // namespace bpftime::e2e

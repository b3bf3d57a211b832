// What the end-to-end tests share: real programs run as children, a daemon of the test's own, and waits with deadlines.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace bpftime::e2e {

using Arguments = std::vector<std::string>;

// How long something may take that is bound to happen. Waits end when it does, so only a failure takes so long; machines that
// run other things, too, are slow.
inline constexpr std::chrono::seconds kPatience(60);

// Directory of the built programs (BPFTIME_BIN_DIR, set by CTest) and path of one of them.
std::string bin_directory();
std::string program(const std::string& name);

// A child process with its standard output and error captured. Killed with SIGKILL and reaped on destruction if alive.
class Child {
 public:
  struct Options {
    std::map<std::string, std::string> environment;  // added to ours
    std::string directory;
    std::function<void()> before_exec;  // runs in the child; async-signal-safe code only
  };
  Child(const Arguments& arguments, const Options& options);
  explicit Child(const Arguments& arguments) : Child(arguments, Options{}) {}
  Child(Child&&) noexcept;
  Child& operator=(Child&&) = delete;
  ~Child();

  pid_t pid() const { return pid_; }
  bool running();
  void signal(int number);
  // Closes nothing, waits for the end. Exit code, or 128 + signal. nullopt at the deadline.
  std::optional<int> wait(std::chrono::seconds limit = kPatience);
  // Reads until standard output (or error) contains `text`. False at the deadline or end of output.
  bool wait_for_output(const std::string& text, std::chrono::seconds limit = kPatience);
  bool wait_for_error(const std::string& text, std::chrono::seconds limit = kPatience);
  // What has been read so far.
  const std::string& output();
  const std::string& error();

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  std::string output_, error_;
  std::optional<int> status_;

  void read_available();
  bool wait_for(const std::string& text, std::string& in, std::chrono::seconds limit);
};

struct Finished {
  int code = -1;  // exit code, or 128 + signal; -1: still ran at the deadline
  std::string output, error;
};
Finished run(const Arguments& arguments, const Child::Options& options = {},
             std::chrono::seconds limit = 2 * kPatience);

// Waits until `holds` is true. Never a fixed sleep: polls every few milliseconds until the deadline.
bool eventually(const std::function<bool()>& holds, std::chrono::milliseconds limit = kPatience);

// A free TCP port on 127.0.0.1 (just now).
int free_port();

// Executable mappings of `pid` that are backed by files and differ from them: "path+offset" of the first differing byte each.
std::vector<std::string> text_differences(pid_t pid);

// The process has ended, reaped or not.
bool gone(pid_t pid);

// Each test gets a daemon of its own: a private runtime directory in a fresh temporary directory, which is also the
// children's. The daemon is stopped, and must be gone, at the end.
class EndToEnd : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  const std::string& directory() const { return directory_; }
  // `bpftime ARGUMENTS…`, to its end.
  Finished bpftime(Arguments arguments);
  // The same with --json; parsed. Fails the test when it is no JSON or the exit code is not 0.
  nlohmann::json bpftime_json(Arguments arguments);
  // `bpftime ARGUMENTS…` left running (load, start, trace).
  Child bpftime_child(Arguments arguments, Child::Options options = {});
  // Arguments for `load`. Supervised: the tool is answered from outside, as if nothing could be preloaded into it. So it is
  // from the start where BPFTIME_SUPERVISE is set.
  Arguments load(Arguments tool) const;
  void supervise(bool on) { supervise_ = on; }
  // A stock tool (tests/tools) under `bpftime load`, ready.
  Child load_tool(Arguments tool);
  // Ends a stock tool with SIGTERM and parses the JSON line it prints last.
  static nlohmann::json finish_tool(Child& tool);
  // The daemon's processes; 0: not running.
  pid_t worker_pid();
  pid_t keeper_pid();
  // Probes in state "active" of one target, all targets with pid 0.
  size_t active_probes(pid_t pid);
  Child::Options options() const;
  // The same for children that run as nobody, with a daemon of nobody's own. Empty `before_exec`: skip, it cannot be, and
  // `reason` says why.
  Child::Options options_of_nobody(std::string* reason);

 private:
  std::string directory_;
  bool nobody_ = false;  // has been asked for
  bool supervise_ = std::getenv("BPFTIME_SUPERVISE") != nullptr;
};

}  // namespace bpftime::e2e

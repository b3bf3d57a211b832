// A child process with pipes to and from it. For the benchmark only: trouble is an exception with the child's
// last words.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace bpftime::bench {

using Arguments = std::vector<std::string>;

// Generous: with many CPUs busy, Linux may take tens of seconds to take a uprobe away (synchronize_srcu).
constexpr std::chrono::seconds kAnswerLimit{120};

struct Trouble : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Process {
 public:
  // Standard error goes to the file `errors`, which is replaced.
  Process(const Arguments& arguments, const std::string& errors);
  Process(Process&&) noexcept;
  Process& operator=(Process&&) = delete;
  ~Process();  // SIGKILL if alive

  pid_t pid() const { return pid_; }
  void write_line(const std::string& line);
  // Without its newline. Trouble at the end of output or after `limit`.
  std::string read_line(std::chrono::seconds limit = kAnswerLimit);
  // SIGTERM if `terminate`, then waits for the end; Trouble when the status is not 0. The rest of its output.
  std::string finish(bool terminate);
  // Last line it wrote to standard error.
  std::string last_words() const;

 private:
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1;
  std::string buffer_, errors_, name_;

  bool read_more(int timeout_ms);
};

// Runs to the end; its standard output.
std::string output_of(const Arguments& arguments, const std::string& errors);

uint64_t now_ns();

}  // namespace bpftime::bench

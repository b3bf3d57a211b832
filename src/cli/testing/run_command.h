// Runs a command and collects what it wrote. Tests only.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace bpftime::cli::testing {

struct Outcome {
  int status = -1;  // wait status
  std::string out, err;
  int exit_code() const;  // -1 when it was ended by a signal
};

// `environment` is added to ours; an empty value removes the variable. `terminal`: stderr is a terminal.
// `signal`: sent to it once `err` holds `signal_after`. Killed when it takes longer than 20 s.
struct CommandRun {
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment = {};
  bool terminal = false;
  int signal = 0;
  std::string signal_after = {};
};
Outcome run_command(const CommandRun& run);

}  // namespace bpftime::cli::testing

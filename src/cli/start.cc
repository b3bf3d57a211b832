// bpftime start CMD…: run a program with the agent preloaded, so that probes are in place before its main.
// Whatever goes wrong on our side, the program runs; stdout is its alone.
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/program_file.h"
#include "cli/supervise.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

void warn(const std::string& program, const std::string& why) {
  fmt::print(stderr, "bpftime: start: {}: {}; running it without probes\n", program, why);
}

struct Entry {
  std::string preload;
  std::string socket;
  std::optional<Connection> daemon;
};

// What it takes to enter the program, or why it runs without us.
Result<Entry> prepare(const ProgramFile& file) {
  if (!file.not_entered.empty()) return Error{EOPNOTSUPP, file.not_entered};
  auto folder = installation_directory();
  if (!folder) return folder.error();
  auto preload = preload_value(*folder + "/libbpftime-agent.so", std::getenv("LD_PRELOAD"));
  if (!preload) return preload.error();
  auto directory = find_runtime_directory();
  if (!directory) return directory.error();
  auto connection = Connection::to_daemon(*directory);
  if (!connection) return connection.error();
  return Entry{*preload, directory->socket(), std::move(*connection)};
}

int start(bool quiet, const std::vector<std::string>& program) {
  if (program.empty()) return report_usage("start: no program given; try `bpftime start ./program`");
  auto file = find_program_file(program[0]);
  if (!file) {
    report(file.error());
    return file.error().code == ENOENT ? kNotFound : kNotExecutable;
  }
  auto entry = prepare(*file);
  if (!entry) {
    warn(program[0], entry.error().message);
    return exec_program(file->path, program);
  }
  ::setenv("LD_PRELOAD", entry->preload.c_str(), 1);
  ::setenv("BPFTIME_TARGET_SOCKET", entry->socket.c_str(), 1);
  // Only a terminal has somebody to read trace lines; otherwise the program simply takes this process over.
  if (quiet || ::isatty(STDERR_FILENO) == 0) {
    entry->daemon.reset();
    return exec_program(file->path, program);
  }
  return supervise(file->path, program, entry->daemon->client());
}

}  // namespace

void add_start(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(
      app, "start", "Run a program with probes in place before main",
      "  bpftime start ./example/malloc/victim\n"
      "  bpftime start nginx -c ./nginx.conf\n"
      "Everything from PROGRAM on belongs to it; the exit status is its own. At a terminal its trace\n"
      "lines are shown on stderr. A program that cannot be entered runs all the same, with the reason.\n");
  takes_words(*verb, kProgramWords);
  auto quiet = std::make_shared<bool>(false);
  verb->add_flag("-q,--quiet", *quiet, "Show no trace lines");
  verb->callback([quiet, &line] { line.run = [quiet, &line] { return start(*quiet, line.program); }; });
}

}  // namespace bpftime::cli

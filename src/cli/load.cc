// bpftime load CMD…: run an eBPF tool so that its bpf(2) world is ours. The tool replaces this process: its
// exit status, its signals and its terminal are its own.
#include <fmt/core.h>

#include <cstdlib>
#include <memory>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/program_file.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

struct Options {
  bool unsafe_unverified = false;
  bool verbose = false;
};

int load(const Options& options, const std::vector<std::string>& program) {
  if (program.empty()) {
    fmt::print(stderr, "bpftime: load: no program given; try `bpftime load ./tool`\n");
    return kUsage;
  }
  auto file = find_program_file(program[0]);
  if (!file) {
    report(file.error());
    return file.error().code == ENOENT ? kNotFound : kNotExecutable;
  }
  if (!file->not_entered.empty()) {
    return report(Error{EOPNOTSUPP, "load: " + program[0] + ": " + file->not_entered});
  }
  auto folder = installation_directory();
  if (!folder) return report(folder.error());
  auto preload = preload_value(*folder + "/libbpftime-loader.so", std::getenv("LD_PRELOAD"));
  if (!preload) return report(preload.error());
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  {
    auto daemon = Connection::to_daemon(*directory);
    if (!daemon) {
      report(daemon.error());
      return kUnreachable;
    }
  }
  ::setenv("LD_PRELOAD", preload->c_str(), 1);
  ::setenv("BPFTIME_SOCKET", directory->socket().c_str(), 1);
  if (options.unsafe_unverified) {
    ::setenv("BPFTIME_UNSAFE_UNVERIFIED", "1", 1);
  } else {
    ::unsetenv("BPFTIME_UNSAFE_UNVERIFIED");  // only the flag, never an inherited variable, lowers the guard
  }
  if (options.verbose) {
    fmt::print(stderr, "bpftime: load: {}: with {}, daemon at {}{}\n", file->path, *preload,
               directory->socket(), options.unsafe_unverified ? ", UNVERIFIED programs allowed" : "");
  }
  return exec_program(file->path, program);
}

}  // namespace

void add_load(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "load", "Run an eBPF tool: load [OPTIONS] PROGRAM [ARGUMENTS…]",
                            "  bpftime load ./example/malloc/malloc\n"
                            "  bpftime load --unsafe-unverified ./tool --its-own-option\n"
                            "Everything from PROGRAM on belongs to it; the exit status is its own.\n");
  auto options = std::make_shared<Options>();
  verb->add_flag(
      "--unsafe-unverified", options->unsafe_unverified,
      "Accept programs no verifier has seen (where bpf(2) cannot be used). They can crash targets");
  verb->add_flag("-v,--verbose", options->verbose, "Say on stderr what is done");
  verb->callback([options, &line] { line.run = [options, &line] { return load(*options, line.program); }; });
}

}  // namespace bpftime::cli

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
  std::string kernel_verifier;  // empty: the daemon's default
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
  if (!options.kernel_verifier.empty()) {
    ::setenv("BPFTIME_KERNEL_VERIFIER", options.kernel_verifier.c_str(), 1);
  } else {
    ::unsetenv("BPFTIME_KERNEL_VERIFIER");  // only the flag decides, never an inherited variable
  }
  if (options.verbose) {
    fmt::print(stderr, "bpftime: load: {}: with {}, daemon at {}\n", file->path, *preload,
               directory->socket());
  }
  return exec_program(file->path, program);
}

}  // namespace

void add_load(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "load", "Run an eBPF tool: load [OPTIONS] PROGRAM [ARGUMENTS…]",
                            "  bpftime load ./example/malloc/malloc\n"
                            "  bpftime load --kernel-verifier=require ./tool --its-own-option\n"
                            "Everything from PROGRAM on belongs to it; the exit status is its own.\n");
  auto options = std::make_shared<Options>();
  verb->add_option("--kernel-verifier", options->kernel_verifier,
                   "What the kernel's verifier has to say beside ours: off, advise (its refusals are noted;\n"
                   "the default where bpf(2) can be used) or require (it must accept too)")
      ->check(CLI::IsMember({"off", "advise", "require"}))
      ->type_name("MODE");
  verb->add_flag("-v,--verbose", options->verbose, "Say on stderr what is done");
  verb->callback([options, &line] { line.run = [options, &line] { return load(*options, line.program); }; });
}

}  // namespace bpftime::cli

// bpftime load CMD…: run an eBPF tool so that its bpf(2) world is ours, by a library preloaded into it or, where that cannot
// be, by a supervisor beside it. The tool replaces this process: its exit status, its signals and its terminal are its own.
#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/program_file.h"
#include "cli/usage.h"
#include "cli/verbs.h"
#include "loader/supervisor.h"

namespace bpftime::cli {
namespace {

struct Options {
  std::string kernel_verifier;  // empty: the daemon's default
  std::string policy, host, policy_class;
  bool verbose = false;
  bool pretend_root = false;
  bool supervise = false;
};

// The policy for the tool's programs, checked; through the environment, as the socket.
Result<void> use_policy(const Options& options, Connection& daemon) {
  for (const char* name : {"BPFTIME_POLICY", "BPFTIME_POLICY_HOST", "BPFTIME_POLICY_CLASS",
                           "BPFTIME_POLICY_COUNT", "BPFTIME_POLICY_SESSION", "BPFTIME_POLICY_CHECK"})
    ::unsetenv(name);
  if (options.policy.empty()) return {};
  auto policy = absolute_path(options.policy);
  if (!policy) return policy.error();
  std::string host;
  if (!options.host.empty()) {
    auto found = absolute_path(options.host);
    if (!found) return found.error();
    host = *found;
  }
  auto answer = daemon.command({{"command", "policy"}, {"path", *policy}, {"host", host}});
  if (!answer) return answer.error();
  ::setenv("BPFTIME_POLICY", policy->c_str(), 1);
  if (!host.empty()) ::setenv("BPFTIME_POLICY_HOST", host.c_str(), 1);
  if (!options.policy_class.empty()) ::setenv("BPFTIME_POLICY_CLASS", options.policy_class.c_str(), 1);
  return {};
}

Result<std::string> our_library() {
  auto folder = installation_directory();
  if (!folder) return folder.error();
  return preload_value(*folder + "/libbpftime-loader.so", std::getenv("LD_PRELOAD"));
}

int load(const Options& options, const std::vector<std::string>& program) {
  if (program.empty()) return report_usage("load: no program given; try `bpftime load ./tool`");
  auto file = find_program_file(program[0]);
  if (!file) {
    report(file.error());
    return file.error().code == ENOENT ? kNotFound : kNotExecutable;
  }
  const bool supervised = file->supervised || options.supervise;
  if (!file->not_entered.empty() && !file->supervised) {
    return report(Error{EOPNOTSUPP, "load: " + program[0] + ": " + file->not_entered});
  }
  auto preload = supervised ? Result<std::string>("") : our_library();
  if (!preload) return report(preload.error());
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  {
    auto daemon = Connection::to_daemon(*directory);
    if (!daemon) {
      report(daemon.error());
      return kUnreachable;
    }
    // Said here, with its line, rather than by a tool that wonders why nothing can be loaded.
    if (auto fine = use_policy(options, *daemon); !fine) return report(fine.error());
  }
  if (!supervised) ::setenv("LD_PRELOAD", preload->c_str(), 1);
  ::setenv("BPFTIME_SOCKET", directory->socket().c_str(), 1);
  if (!options.kernel_verifier.empty()) {
    ::setenv("BPFTIME_KERNEL_VERIFIER", options.kernel_verifier.c_str(), 1);
  } else {
    ::unsetenv("BPFTIME_KERNEL_VERIFIER");  // only the flag decides, never an inherited variable
  }
  // Only the flags decide, never an inherited variable; but who debugs the loader sets this one himself.
  if (options.verbose) ::setenv("BPFTIME_LOADER_LOG", "failures", 0);
  // A long call of the tool's is explained where somebody sits; the loader looks again before it writes.
  if (::isatty(STDERR_FILENO) != 0) {
    ::setenv("BPFTIME_PROGRESS", "1", 1);
  } else {
    ::unsetenv("BPFTIME_PROGRESS");
  }
  if (options.pretend_root) {
    ::setenv("BPFTIME_PRETEND_ROOT", "1", 1);
  } else {
    ::unsetenv("BPFTIME_PRETEND_ROOT");
  }
  if (options.verbose) {
    fmt::print(stderr, "bpftime: load: {}: with {}, daemon at {}\n", file->path,
               supervised ? "a supervisor that answers its system calls" : *preload, directory->socket());
  }
  if (supervised)
    if (auto fine = loader::supervise_this_process(options.pretend_root); !fine)
      return report(Error{fine.error().code, "load: " + program[0] + ": " + fine.error().message});
  return exec_program(file->path, program);
}

}  // namespace

void add_load(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "load", "Run an eBPF tool",
                            "  bpftime load ./example/malloc/malloc\n"
                            "  bpftime load --kernel-verifier=require ./tool --its-own-option\n"
                            "  bpftime load --policy=host.policy.yaml ./firewall\n"
                            "Everything from PROGRAM on belongs to it; the exit status is its own.\n");
  takes_words(*verb, kProgramWords);
  auto options = std::make_shared<Options>();
  verb->add_option("--kernel-verifier", options->kernel_verifier,
                   "What the kernel's verifier has to say beside ours: off, advise (its refusals are noted;\n"
                   "the default where bpf(2) can be used) or require (it must accept too)")
      ->check(CLI::IsMember({"off", "advise", "require"}))
      ->type_name("MODE");
  verb->add_option("--policy", options->policy, "What the tool's programs may do in their host (docs/eim.md)")
      ->type_name("FILE")
      ->check(check_word);
  verb->add_option("--class", options->policy_class, "The class of the policy all its programs are in")
      ->type_name("NAME")
      ->check(check_word);
  verb->add_option("--host", options->host,
                   "The binary a describing manifest is for, when the policy does not say")
      ->type_name("FILE")
      ->check(check_word);
  verb->add_flag(
      "--pretend-root", options->pretend_root,
      "Answer 0 when the tool or its children ask for their effective user id. They gain no right by it.\n"
      "Tools linked to libbpf or libbcc are answered so always");
  verb->add_flag(
      "--supervise", options->supervise,
      "Answer the system calls of the tool and its children from a process beside them, rather than in\n"
      "them. Done anyway for static programs, other C libraries and Go; for scripts that start such");
  verb->add_flag("-v,--verbose", options->verbose,
                 "Say on stderr what is done, and which of the tool's calls failed and why");
  verb->callback([options, &line] { line.run = [options, &line] { return load(*options, line.program); }; });
}

}  // namespace bpftime::cli

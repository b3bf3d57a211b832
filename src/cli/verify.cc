// bpftime verify: what the verifier says of the programs in an object, without daemon or kernel.
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>

#include "cli/bpf_objects.h"
#include "cli/exit_codes.h"
#include "cli/usage.h"
#include "cli/verbs.h"
#include "cli/verify_report.h"

namespace bpftime::cli {
namespace {

constexpr uint32_t kLogSize = 64u << 20;
constexpr char kOff[] = "off", kAdvise[] = "advise", kRequire[] = "require";

struct VerifyOptions {
  std::vector<std::string> files;
  Selection selection;
  std::string explain;
  bool rules = false;
  uint32_t log_level = 0;
  std::string kernel = kOff;
};

int list_rules(bool json) {
  Json list = Json::array();
  for (size_t i = 0; i < verifier::kRuleCount; ++i) {
    const auto& rule = verifier::info(static_cast<verifier::Rule>(i));
    if (json)
      list.push_back({{"rule", rule.id}, {"title", rule.title}, {"help", rule.help}, {"errno", rule.error}});
    else
      fmt::print("{}  {}\n", rule.id, rule.title);
  }
  if (json) print_json(list);
  return kOk;
}

int explain_rule(const std::string& id, bool json) {
  const auto rule = verifier::find_rule(id);
  if (!rule) {
    std::vector<std::string> known;
    for (size_t i = 0; i < verifier::kRuleCount; ++i)
      known.emplace_back(verifier::info(static_cast<verifier::Rule>(i)).id);
    return report_usage("verify: " + id + ": no such rule" + hint(id, known, "bpftime verify --rules"));
  }
  const auto& info = verifier::info(*rule);
  if (json)
    print_json(Json{{"rule", info.id},
                    {"title", info.title},
                    {"help", info.help},
                    {"errno", info.error},
                    {"text", verifier::explanation(*rule)}});
  else
    fmt::print("{}", verifier::explanation(*rule));
  return kOk;
}

void ask_kernel(const VerifyOptions& options, const verifier::Request& request, VerifiedProgram& program) {
  if (options.kernel == kOff) return;
  auto opinion = verifier::ask_kernel(request);
  if (opinion)
    program.kernel = std::move(*opinion);
  else
    program.kernel_note = opinion.error().message;
  program.refused_by_kernel = options.kernel == kRequire && (!program.kernel || program.kernel->error != 0);
}

VerifiedProgram judge(const VerifyOptions& options, ObjectProgram source) {
  VerifiedProgram program{.name = source.name, .section = source.section, .type = source.type};
  program.not_judged = source.not_judged;
  if (!source.request) {
    if (program.not_judged.empty()) program.not_judged = "libbpf did not get as far as this program";
    return program;
  }
  verifier::Request& request = *source.request;
  request.log_level = options.log_level;
  request.log_size_max = options.log_level != 0 ? kLogSize : 0;
  program.insns = static_cast<uint32_t>(request.program.insns.size());
  const auto begin = std::chrono::steady_clock::now();
  program.verdict = verifier::verify(request);
  program.time_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin).count());
  verifier::SourceLines lines;
  if (auto read = verifier::SourceLines::read(request)) lines = std::move(*read);
  for (const auto& diagnosis : program.verdict.diagnoses) {
    program.diagnoses.push_back(verifier::render(diagnosis, request, lines));
    program.texts.push_back(
        verifier::to_text(program.diagnoses.back(), request, ::isatty(STDOUT_FILENO) != 0));
  }
  ask_kernel(options, request, program);
  return program;
}

// 4 when something was refused, or the program asked for cannot be judged; 1 when libbpf could not load an object.
ExitCode status_of(const std::vector<VerifiedObject>& objects, const Selection& selection) {
  ExitCode status = kOk;
  for (const auto& object : objects) {
    if (!object.error.empty() && status == kOk) status = kFailure;
    for (const auto& program : object.programs) {
      const bool refused =
          program.not_judged.empty() && (program.verdict.error != 0 || program.refused_by_kernel);
      const bool asked_in_vain = program.name == selection.program && !program.not_judged.empty();
      if (refused || asked_in_vain) status = kRefused;
    }
  }
  return status;
}

bool has_program(const std::vector<VerifiedObject>& objects, const std::string& name) {
  for (const auto& object : objects)
    for (const auto& program : object.programs)
      if (program.name == name) return true;
  return false;
}

int verify_files(const VerifyOptions& options, bool json) {
  std::vector<VerifiedObject> objects;
  Json unread = Json::array();
  ExitCode status = kOk;
  for (const std::string& file : options.files) {
    auto read = read_objects(file, options.selection);
    if (!read) {
      status = json ? exit_code_of(read.error()) : report(read.error());
      unread.push_back(error_json(read.error()));
      unread.back()["object"] = file;
      continue;
    }
    for (BpfObject& object : *read) {
      objects.push_back({object.name, object.error, {}});
      for (ObjectProgram& program : object.programs)
        objects.back().programs.push_back(judge(options, std::move(program)));
      if (!json) fmt::print("{}", to_text(objects.back()));
    }
  }
  if (json) {
    Json list = Json::array();
    for (const auto& object : objects) list.push_back(to_json(object));
    for (const auto& object : unread) list.push_back(object);
    print_json(Json{{"objects", list}});
  } else if (!objects.empty()) {
    fmt::print("{}", summary(objects));
  }
  const std::string& wanted = options.selection.program;
  if (!wanted.empty() && !objects.empty() && !has_program(objects, wanted))
    return report(
        Error{ENOENT, "verify: program " + wanted + ": not in these objects; try without --program"});
  const ExitCode judged = status_of(objects, options.selection);
  return judged != kOk ? judged : status;
}

// In a process of its own: libbpf is not made for hostile objects, and one that brings it down shall be named.
int verify_apart(const VerifyOptions& options, bool json) {
  const pid_t child = ::fork();
  if (child < 0) return verify_files(options, json);
  if (child == 0) {
    const int status = verify_files(options, json);
    ::_exit(std::fflush(stdout) == 0 ? status : status == kOk ? kFailure : status);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  const std::string which = options.files.size() == 1 ? options.files[0] : "one of the files";
  return report(Error{EINVAL, "verify: " + which + ": crashed (" + ::strsignal(WTERMSIG(status)) +
                                  ") while reading it; the object is damaged, try building it again"});
}

int run_verify(const VerifyOptions& options, bool json) {
  if (!options.explain.empty()) return explain_rule(options.explain, json);
  if (options.rules) return list_rules(json);
  if (!options.files.empty()) return verify_apart(options, json);
  return report_usage("verify: no object named; try `bpftime verify --help`");
}

}  // namespace

void add_verify(CLI::App& app, CommandLine& line) {
  CLI::App* verb =
      add_verb(app, "verify", "Judge the programs of BPF objects, without daemon and kernel",
               "  bpftime verify opensnoop.bpf.o\n"
               "  bpftime verify /usr/sbin/opensnoop      the objects inside a tool\n"
               "  bpftime verify --program handle_exec --log 2 execsnoop.bpf.o\n"
               "  bpftime verify --explain NUL001\n"
               "Exit status 4 when a program is refused. Programs of types that do not run here are not\n"
               "judged, which is no failure unless --program names one.\n");
  auto options = std::make_shared<VerifyOptions>();
  verb->add_option("FILE", options->files, "BPF objects, or programs with BPF objects inside");
  verb->add_option("--program", options->selection.program, "Judge this program only")->type_name("NAME");
  verb->add_flag("--all", options->selection.all, "Judge programs that are loaded on demand, too");
  verb->add_option("--log", options->log_level,
                   "Print the verifier's log: 1 refused paths, 2 all, 4 statistics")
      ->type_name("LEVEL")
      ->check(CLI::Range(0, 15));
  verb->add_option("--kernel-verifier", options->kernel,
                   "Ask the kernel's verifier, too: off, advise or require")
      ->check(CLI::IsMember({kOff, kAdvise, kRequire}));
  verb->add_option("--explain", options->explain, "Explain a rule and do nothing else")->type_name("RULE");
  verb->add_flag("--rules", options->rules, "List the rules and do nothing else");
  verb->callback(
      [options, &line] { line.run = [options, &line] { return run_verify(*options, line.json); }; });
}

}  // namespace bpftime::cli

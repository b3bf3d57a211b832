// bpftime attach PID… and detach PID…: enter and leave processes that run already.
#include <fmt/core.h>

#include <memory>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/usage.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

// The daemon's JSON, or the error, of one process; never stops the others.
int for_each_pid(const std::string& command, const std::vector<int>& pids, bool json) {
  int status = kOk;
  Json results = Json::array();
  for (int pid : pids) {
    auto answer = ask_daemon(Json{{"command", command}, {"pid", pid}});
    if (!answer) {
      // As JSON it stands with its process.
      const int code = json ? exit_code_of(answer.error()) : report(answer.error());
      if (status == kOk) status = code;
      results.push_back(error_json(answer.error()));
      results.back()["pid"] = pid;
      if (code == kUnreachable) break;
      continue;
    }
    Json result = answer->is_object() ? *answer : Json::object();
    result["pid"] = pid;
    if (!json) fmt::print("{}", attach_text(command, result));
    results.push_back(std::move(result));
  }
  if (json) print_json(results);
  return status;
}

void add_one(CLI::App& app, CommandLine& line, const std::string& name, const std::string& what,
             const std::string& examples) {
  CLI::App* verb = add_verb(app, name, what, examples);
  auto pids = std::make_shared<std::vector<int>>();
  verb->add_option("PID", *pids, "Process ids")->required()->check(check_pid);
  verb->callback(
      [pids, name, &line] { line.run = [=, &line] { return for_each_pid(name, *pids, line.json); }; });
}

}  // namespace

void add_attach(CLI::App& app, CommandLine& line) {
  add_one(app, line, "attach", "Enter running processes; their probes are in place when it returns",
          "  bpftime attach 4711\n  bpftime attach $(pidof nginx)\n");
  add_one(app, line, "detach", "Leave processes: every patched byte is restored", "  bpftime detach 4711\n");
}

}  // namespace bpftime::cli

// bpftime list: who is entered, with which probes, and which tools are loaded.
#include <fmt/core.h>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"

namespace bpftime::cli {

void add_list(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "list", "Show targets with their probes, and the loaded tools",
                            "  bpftime list\n  bpftime list --json\n"
                            "Hits are shown of programs whose runs are counted: those of extensions.\n");
  verb->callback([&line] {
    line.run = [&line]() -> int {
      auto answer = ask_daemon(Json{{"command", "list"}});
      if (!answer) return report(answer.error());
      if (line.json) {
        print_json(*answer);
      } else {
        fmt::print("{}", list_text(*answer));
      }
      return kOk;
    };
  });
}

}  // namespace bpftime::cli

// bpftime version.
#include "base/version.h"

#include <fmt/core.h>

#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"
#include "wire/abi.h"

namespace bpftime::cli {

std::string version_text() { return fmt::format("bpftime {} (protocol {})", kVersion, wire::kAbiVersion); }

void add_version(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "version", "Show the version of the command and its protocol",
                            "  bpftime version\n  bpftime version --json\n");
  verb->callback([&line] {
    line.run = [&line]() -> int {
      if (line.json) {
        print_json(Json{{"version", kVersion}, {"abi_version", wire::kAbiVersion}});
      } else {
        fmt::print("{}\n", version_text());
      }
      return kOk;
    };
  });
}

}  // namespace bpftime::cli

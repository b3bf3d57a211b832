// bpftime trace: what programs print with bpf_trace_printk, as the kernel's trace_pipe shows it.
#include <fmt/core.h>

#include <memory>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/trace_stream.h"
#include "cli/usage.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

struct Options {
  bool no_follow = false;
  uint32_t lineage = 0;
};

void print_line(const TraceLine& line, bool json) {
  if (json) {
    const Json object{{"lineage", line.lineage}, {"line", line.text}, {"message", message_of(line.text)}};
    fmt::print("{}\n", object.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}\n", printable(line.text));
  }
  std::fflush(stdout);  // lines are wanted when they happen, also through a pipe
}

int trace(const Options& options, bool json) {
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  auto connection = Connection::to_daemon(*directory);
  if (!connection) {
    report(connection.error());
    return kUnreachable;
  }
  auto subscribed = subscribe_trace(connection->client(), options.lineage, !options.no_follow);
  if (!subscribed) return report(subscribed.error());
  for (;;) {
    auto line = next_trace_line(connection->client(), wire::Deadline::never());
    if (!line) return report(line.error());
    if (!*line) return kOk;
    print_line(**line, json);
  }
}

}  // namespace

void add_trace(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "trace", "Show what programs print (bpf_printk), like trace_pipe",
                            "  bpftime trace              until Ctrl-C\n"
                            "  bpftime trace --no-follow  what is buffered, then end\n"
                            "  bpftime trace --pid 4711   one target and its children\n");
  auto options = std::make_shared<Options>();
  verb->add_flag("--no-follow", options->no_follow, "Print what is buffered and end");
  verb->add_flag_callback(
      "-f,--follow", [options] { options->no_follow = false; }, "Go on until Ctrl-C (default)");
  verb->add_option("-p,--pid", options->lineage,
                   "Only this target: the process first entered, with its children")
      ->check(check_pid);
  verb->callback([options, &line] { line.run = [options, &line] { return trace(*options, line.json); }; });
}

}  // namespace bpftime::cli

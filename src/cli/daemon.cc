// bpftime daemon status|start|stop|restart.
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

constexpr int kStopMs = 60000;

int print_status(const Json& answer, bool json) {
  if (json) {
    print_json(answer);
  } else {
    fmt::print("{}", status_text(answer));
  }
  return kOk;
}

// Status asks only a daemon that is there: asking must not start one.
int status(bool json) {
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  auto connection = Connection::to_running(*directory);
  if (!connection) {
    if (!is_absent(connection.error())) {
      report(connection.error());
      return kUnreachable;
    }
    if (json) {
      print_json(Json{{"running", false}, {"runtime_directory", directory->path}});
    } else {
      fmt::print("no daemon runs (directory {}); it starts with the first command that needs it\n",
                 directory->path);
    }
    return kUnreachable;
  }
  auto answer = connection->command(Json{{"command", "status"}});
  if (!answer) return report(answer.error());
  return print_status(*answer, json);
}

int start(bool json) {
  auto answer = ask_daemon(Json{{"command", "status"}});
  if (!answer) return report(answer.error());
  return print_status(*answer, json);
}

// Descriptors of the daemon's processes, so that their end can be awaited.
std::vector<Fd> process_handles(const Json& status) {
  std::vector<Fd> out;
  for (const char* name : {"worker_pid", "keeper_pid"}) {
    const auto it = status.find(name);
    if (it == status.end() || !it->is_number_integer() || it->get<int>() <= 1) continue;
    out.emplace_back(static_cast<int>(::syscall(SYS_pidfd_open, it->get<int>(), 0)));
  }
  return out;
}

// Stops the daemon and waits until its processes have gone. None running is fine.
Result<bool> stop_and_wait(const RuntimeDirectory& directory) {
  auto connection = Connection::to_any_version(directory);
  if (!connection && is_absent(connection.error())) return false;
  if (!connection) return connection.error();
  auto before = connection->command(Json{{"command", "status"}});
  const std::vector<Fd> handles = before ? process_handles(*before) : std::vector<Fd>();
  auto answer = connection->command(Json{{"command", "stop"}});
  // It may be gone before its answer is read: that is what was asked for.
  if (!answer && answer.error().code != ECONNRESET && answer.error().code != EPIPE) return answer.error();
  const auto deadline = wire::Deadline::after_ms(kStopMs);
  for (const Fd& handle : handles) {
    if (!handle) continue;
    struct pollfd end = {handle.get(), POLLIN, 0};
    if (::poll(&end, 1, deadline.remaining_ms()) == 0) {
      return Error{ETIMEDOUT,
                   "stop the daemon: bpftimed: did not end within a minute; its log is " + directory.log()};
    }
  }
  return true;
}

int stop(bool json) {
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  auto stopped = stop_and_wait(*directory);
  if (!stopped) return report(stopped.error());
  if (json) {
    print_json(Json{{"stopped", *stopped}});
  } else {
    fmt::print("{}\n", *stopped ? "stopped" : "no daemon was running");
  }
  return kOk;
}

// Lets another worker, of the program as it is installed now, take over all maps, programs and links. False: none runs, or
// one that cannot.
Result<bool> replace_worker(const RuntimeDirectory& directory) {
  auto connection = Connection::to_any_version(directory);
  if (!connection && is_absent(connection.error())) return false;
  if (!connection) return connection.error();
  if (connection->other_version()) {
    fmt::print(stderr,
               "bpftime: the running daemon is of version {}, this is {}: its maps, programs and probes end "
               "with it; start the tools anew\n",
               connection->client().version(), wire::kAbiVersion);
    return false;
  }
  auto asked = connection->command(Json{{"command", "restart"}});
  if (!asked) return asked.error().code == EPROTO ? Result<bool>(false) : Result<bool>(asked.error());
  const auto deadline = wire::Deadline::after_ms(kStopMs);
  while (deadline.remaining_ms() > 0) {
    constexpr useconds_t kRetryUs = 2000;
    // The socket stays; a connection that the old worker took along ends, and the next is the new one's.
    auto next = Connection::to_running(directory);
    auto answer = next ? next->command(Json{{"command", "status"}}) : Result<Json>(next.error());
    if (answer && answer->value("worker_pid", 0) != asked->value("worker_pid", 0)) return true;
    ::usleep(kRetryUs);
  }
  return Error{ETIMEDOUT,
               "restart the daemon: no new bpftimed within a minute; its log is " + directory.log()};
}

int restart(bool json) {
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  auto restarted = replace_worker(*directory);
  if (!restarted) return report(restarted.error());
  if (!*restarted)
    if (auto stopped = stop_and_wait(*directory); !stopped) return report(stopped.error());
  return start(json);
}

void add_action(CLI::App& daemon, CommandLine& line, const std::string& name, const std::string& what,
                int (*action)(bool json)) {
  CLI::App* verb = daemon.add_subcommand(name, what);
  verb->fallthrough();
  verb->footer("Examples:\n  bpftime daemon " + name + "\n");
  verb->callback([action, &line] { line.run = [action, &line] { return action(line.json); }; });
}

}  // namespace

void add_daemon(CLI::App& app, CommandLine& line) {
  CLI::App* daemon = add_verb(app, "daemon", "The daemon: status, start, stop, restart",
                              "  bpftime daemon status --json\n"
                              "  bpftime daemon stop      probes leave all targets\n"
                              "  bpftime daemon restart   after an upgrade\n");
  daemon->require_subcommand(1);
  add_action(*daemon, line, "status", "Show what it holds; exit status 3 when none runs", status);
  add_action(*daemon, line, "start", "Start it when none runs (other commands do so themselves)", start);
  add_action(*daemon, line, "stop", "End it and wait until it has gone", stop);
  add_action(*daemon, line, "restart", "Start it anew, as after an upgrade; maps, programs and probes stay",
             restart);
}

}  // namespace bpftime::cli

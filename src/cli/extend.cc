// bpftime extend POLICY: a policy in force in a host, for as long as this command runs.
//
// The policy's extensions live in a session (extend_session.h). A changed policy is a second session: it loads everything
// first, and only when all of it is accepted the two change places, in each process at once; else nothing changes.
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string_view>

#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/extend_report.h"
#include "cli/extend_session.h"
#include "cli/printers.h"
#include "cli/program_file.h"
#include "cli/trace_stream.h"
#include "cli/usage.h"
#include "cli/verbs.h"
#include "wire/target_context.h"

namespace bpftime::cli {
namespace {

constexpr int kLookMs = 500;  // how often changes are looked for
constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH, SIGCHLD};

struct Options {
  std::string policy;
  std::vector<int> pids;
  bool watch = false, check_promises = false;
};

struct timespec changed_at(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? st.st_mtim : timespec{};
}
bool same(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

// The host's binary, for manifests that describe one they do not name.
std::string host_of(const Options& options, const std::string& command) {
  const std::string path = command.empty() ? "/proc/" + std::to_string(options.pids[0]) + "/exe" : command;
  auto found = absolute_path(path);
  return found ? *found : "";
}

// Names this run of the command for ever; never 0.
uint64_t new_token() {
  uint64_t token = 0;
  while (token == 0)
    if (::getrandom(&token, sizeof token, 0) != sizeof token) token = static_cast<uint64_t>(::getpid());
  return token;
}

class Extend {
 public:
  Extend(Options options, std::vector<std::string> command, std::string command_path, bool json,
         Connection daemon)
      : options_(std::move(options)),
        command_(std::move(command)),
        command_path_(std::move(command_path)),
        report_(command_.empty() ? stdout : stderr, json),
        daemon_(std::move(daemon)),
        host_(host_of(options_, command_path_)) {}

  int run() {
    block_signals();
    note_files({});
    auto first = load_session();
    if (!first) return first.error().code;
    follow_prints();  // before anything can print
    if (!attach_session(*first)) return kFailure;
    session_.emplace(std::move(*first));
    const int entered = command_.empty() ? enter_pids() : start_command();
    if (entered != kOk) return entered;
    while (!over_) wait_once();
    take_out();
    return status_;
  }

 private:
  // ---- Sessions ----

  // A session that has loaded everything, or the exit status of what went wrong. Says what happens.
  Result<ExtendSession> load_session() {
    auto session = ExtendSession::start(options_.policy, host_, token_, options_.check_promises);
    if (!session) return Error{report(session.error()), ""};
    int status = kFailure;
    std::vector<Json> loaded;
    while (auto event = session->next_event()) {
      const std::string kind = field(*event, "event");
      if (kind == "policy") note_files(*event);
      if (kind == "loaded") loaded.push_back(*event);
      if (kind == "refused") status = kRefused;
      if (kind == "policy-refused" && event->contains("code")) status = (*event)["code"].get<int>();
      if (kind != "ready") report_.event(*event);
      if (kind != "ready") continue;
      loaded_ = std::move(loaded);
      return session;
    }
    return Error{status, "not loaded"};
  }

  bool attach_session(ExtendSession& session) {
    session.attach();
    while (auto event = session.next_event()) {
      const std::string kind = field(*event, "event");
      if (kind == "attach-failed") return false;
      if (kind == "attached-all") {
        report_.forget_programs();
        for (const Json& program : loaded_) report_.follow(program);
        return true;
      }
      report_.event(*event);
    }
    return false;
  }

  void reload(const std::string& why) {
    report_.note("reload", "reading the policy again: " + why);
    auto next = load_session();
    // Held back: no process sees both policies, or none.
    if (!next || !daemon_.command({{"command", "hold-probes"}})) {
      report_.note("unchanged", "the policy in force stays as it was");
      return;
    }
    const bool attached = attach_session(*next);
    if (attached) session_ = std::move(*next);  // ends the old one
    if (!attached) next->end();
    (void)daemon_.command({{"command", "release-probes"}});
    if (attached) report_.note("changed", "the new policy is in force");
    if (!attached) report_.note("unchanged", "the policy in force stays as it was");
  }

  // What --watch looks at: the policy, and the objects it names.
  void note_files(const Json& policy) {
    files_.clear();
    files_.emplace_back(options_.policy, changed_at(options_.policy));
    if (!policy.contains("extensions")) return;
    for (const Json& each : policy["extensions"])
      files_.emplace_back(field(each, "program"), changed_at(field(each, "program")));
  }

  void look_at_files() {
    for (auto& [path, when] : files_) {
      const timespec now = changed_at(path);
      if (same(now, when) || (now.tv_sec == 0 && now.tv_nsec == 0))
        continue;  // gone: somebody is about to replace it
      when = now;
      return reload(path + " has changed");
    }
  }

  // ---- What extensions print ----

  // Lines of bpf_printk, with --watch: of processes the policy is in force in, and of those forked from the same one.
  void follow_prints() {
    if (!options_.watch || prints_) return;
    auto directory = find_runtime_directory();
    auto connection = directory ? Connection::to_running(*directory) : Result<Connection>(directory.error());
    if (connection && subscribe_trace(connection->client(), 0, /*follow=*/true))
      prints_ = std::move(*connection);
  }

  void hear_print() {
    auto line = next_trace_line(prints_->client(), wire::Deadline::after_ms(kLookMs));
    if (!line || !*line) return prints_.reset();  // followed again with the next look
    const TraceLine& printed = **line;
    if (!report_.ran_in(printed.lineage)) look();
    if (!report_.ran_in(printed.lineage)) return;
    report_.note("printed", "printed: " + printed.text,
                 {{"lineage", printed.lineage}, {"message", std::string(message_of(printed.text))}});
  }

  // ---- The host ----

  int enter_pids() {
    std::map<int, bool> known;
    if (auto list = daemon_.command({{"command", "list"}}); list && list->contains("targets"))
      for (const Json& target : (*list)["targets"]) known[target.value("pid", 0)] = true;
    for (const int pid : options_.pids) {
      auto answer = daemon_.command({{"command", "attach"}, {"pid", pid}, {"session", token_}});
      if (!answer) {
        const int code = report(answer.error());
        take_out();
        return code;
      }
      if (!known[pid]) entered_.push_back(pid);
    }
    look();
    for (const int pid : options_.pids)
      if (!report_.knows(pid))
        report_.note("skipped", fmt::format("skipped in {}: it does not run the policy's host", pid),
                     {{"pid", pid}});
    return kOk;
  }

  int start_command() {
    auto folder = installation_directory();
    auto directory = find_runtime_directory();
    if (!folder || !directory) return report(folder ? directory.error() : folder.error());
    auto preload = preload_value(*folder + "/libbpftime-agent.so", std::getenv("LD_PRELOAD"));
    if (!preload) return report(preload.error());
    child_ = ::fork();
    if (child_ < 0) return report(Error::from_errno("extend: fork"));
    if (child_ == 0) {
      ::setenv("LD_PRELOAD", preload->c_str(), 1);
      // The processes it is about: this one, and whatever that starts. A command started by another's keeps that.
      const char* outer = std::getenv("BPFTIME_EXTEND");
      const std::string sessions = fmt::format("{}{}{:x}", outer ? outer : "", outer ? "," : "", token_);
      ::setenv("BPFTIME_EXTEND", sessions.c_str(), 1);
      ::setenv("BPFTIME_TARGET_SOCKET", directory->socket().c_str(), 1);
      ::sigprocmask(SIG_SETMASK, &before_, nullptr);
      ::_exit(exec_program(command_path_, command_));
    }
    return kOk;
  }

  // Every extension leaves every process; processes this command entered are left.
  void take_out() {
    if (!session_) return;
    look();
    session_.reset();
    (void)daemon_.command({{"command", "hold-probes"}});
    (void)daemon_.command(
        {{"command", "release-probes"}});  // what was closed is taken out before the answer comes
    for (const int pid : entered_) (void)daemon_.command({{"command", "detach"}, {"pid", pid}});
    report_.totals();
    report_.note("ended", "the extensions are taken out");
  }

  // ---- The loop ----

  void block_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : kSignals) sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, &before_);
    signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  void wait_once() {
    struct pollfd waiting[] = {{signals_.get(), POLLIN, 0},
                               {session_ ? session_->descriptor() : -1, POLLIN, 0},
                               {prints_ ? prints_->client().descriptor() : -1, POLLIN, 0}};
    (void)::poll(waiting, 3, kLookMs);
    if (waiting[2].revents != 0) hear_print();
    if (waiting[1].revents != 0) hear_session();
    struct signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) handle_signal(info);
    if (over_) return;
    look();
    follow_prints();
    if (options_.watch && session_) look_at_files();
    if (command_.empty() && !anybody_lives()) {
      report_.note("gone", "the host has ended");
      over_ = true;
    }
  }

  void hear_session() {
    if (auto event = session_->next_event()) return report_.event(*event);
    report_.note("lost", "the session has ended unexpectedly; its extensions are gone");
    session_.reset();
    if (!command_.empty()) return;
    status_ = kFailure;
    over_ = true;
  }

  bool anybody_lives() const {
    for (const int pid : options_.pids)
      if (::kill(pid, 0) == 0 || errno == EPERM) return true;
    return false;
  }

  void handle_signal(const struct signalfd_siginfo& info) {
    const int number = static_cast<int>(info.ssi_signo);
    const bool from_terminal = info.ssi_code > 0;
    if (number == SIGCHLD) return reap();
    if (number == SIGHUP && !from_terminal) return reload("SIGHUP");
    const bool ends = number == SIGINT || number == SIGTERM || number == SIGQUIT || number == SIGHUP;
    if (command_.empty()) {
      over_ = over_ || ends;
      return;
    }
    if (ends) take_out();
    // What the terminal sends reaches the command by itself.
    if (!from_terminal && child_ > 0) ::kill(child_, number);
  }

  void reap() {
    int status = 0;
    if (child_ <= 0 || ::waitpid(child_, &status, WNOHANG) != child_) return;
    child_ = -1;
    over_ = true;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  void look() {
    auto list = daemon_.command({{"command", "list"}});
    auto programs = daemon_.command({{"command", "show"}, {"object", "prog"}});
    if (list && programs) return report_.look(*list, *programs);
    // A daemon that is restarted meanwhile keeps everything.
    if (auto directory = find_runtime_directory())
      if (auto again = Connection::to_running(*directory)) daemon_ = std::move(*again);
  }

  const Options options_;
  const std::vector<std::string> command_;
  const std::string command_path_;
  ExtendReport report_;
  Connection daemon_;
  const std::string host_;
  const uint64_t token_ = new_token();  // of all sessions of this command
  std::optional<ExtendSession> session_;
  std::optional<Connection> prints_;  // subscribed to what programs print
  std::vector<Json> loaded_;          // events of the newest session
  std::vector<std::pair<std::string, timespec>> files_;
  std::vector<int> entered_;
  pid_t child_ = -1;
  Fd signals_;
  sigset_t before_{};
  bool over_ = false;
  int status_ = kOk;
};

// How many runs of this command the present process is part of.
size_t sessions_around() {
  const char* outer = std::getenv("BPFTIME_EXTEND");
  if (outer == nullptr || *outer == 0) return 0;
  const std::string_view tokens = outer;
  return static_cast<size_t>(std::count(tokens.begin(), tokens.end(), ',')) + 1;
}

int extend(Options options, const std::vector<std::string>& command, bool json) {
  if (command.empty() == options.pids.empty())
    return report_usage("extend: name either a command, after --, or processes, with --pid");
  auto policy = absolute_path(options.policy);
  if (!policy) return report(Error{policy.error().code, "extend: " + policy.error().message});
  options.policy = *policy;
  std::string command_path;
  if (!command.empty()) {
    auto file = find_program_file(command[0]);
    if (!file) {
      report(file.error());
      return file.error().code == ENOENT ? kNotFound : kNotExecutable;
    }
    if (!file->not_entered.empty())
      return report(Error{EOPNOTSUPP, "extend: " + command[0] + ": " + file->not_entered +
                                          "; try starting it, then `bpftime extend POLICY --pid PID`"});
    command_path = file->path;
  }
  if (!command.empty() && sessions_around() >= wire::kSessionsMax)
    return report(
        Error{EUSERS,
              fmt::format("extend: this is within {0} `bpftime extend` already, and a process can be in {0}; "
                          "try one policy with all their classes",
                          wire::kSessionsMax)});
  auto directory = find_runtime_directory();
  if (!directory) return report(directory.error());
  auto daemon = Connection::to_daemon(*directory);
  if (!daemon) {
    report(daemon.error());
    return kUnreachable;
  }
  return Extend(std::move(options), command, command_path, json, std::move(*daemon)).run();
}

}  // namespace

void add_extend(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(
      app, "extend", "Put a policy's extensions in force",
      "  bpftime extend host.policy.yaml -- ./host\n"
      "  bpftime extend nginx.policy.yaml --pid $(pidof nginx)\n"
      "  bpftime extend --watch host.policy.yaml -- ./host\n"
      "  bpftime extend --check-promises host.policy.yaml -- ./host\n"
      "Nothing runs unless every extension is accepted. Interrupted (Ctrl-C), it takes them out again.\n"
      "SIGHUP, or a change seen by --watch, puts a changed policy in force, or says why it is not.\n"
      "With COMMAND the exit status is the command's, and what is said here goes to stderr.\n");
  takes_words(*verb, "-- COMMAND [ARGUMENTS...]");
  auto options = std::make_shared<Options>();
  verb->add_option("POLICY", options->policy, "The policy (docs/eim.md)")->required();
  verb->add_option("--pid", options->pids, "Processes that run already")->check(check_pid);
  verb->add_flag("--watch", options->watch,
                 "Read policy and extensions again when their files change, and show what extensions print");
  verb->add_flag(
      "--check-promises", options->check_promises,
      "Look at what host functions return: a promise that is broken ends the extension, and is counted");
  verb->callback([options, &line] {
    line.run = [options, &line] { return extend(*options, line.program, line.json); };
  });

  CLI::App* session = app.add_subcommand("extend-session", "What `extend` runs itself");
  session->group("");  // not in the help
  auto words = std::make_shared<std::vector<std::string>>();
  session->add_option("WORDS", *words)->expected(1, 2)->allow_extra_args();
  session->callback([words, &line] {
    line.run = [words] { return run_extend_session(words->at(0), words->size() > 1 ? words->at(1) : ""); };
  });
}

}  // namespace bpftime::cli

#include "cli/extend_session.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/program_file.h"

namespace bpftime::cli {
namespace {

constexpr size_t kLineMax = 1u << 20;
constexpr uint32_t kLogBytes = 1u << 20;
constexpr char kHostPrefix[] = "host__";

// ---- The session's own process ----

void say(const Json& event) {
  fmt::print("{}\n", event.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(stdout);
}

// What libbpf had to say about the object at hand.
std::vector<std::string> libbpf_lines;

int keep_line(libbpf_print_level level, const char* format, va_list arguments) {
  char line[2048];
  vsnprintf(line, sizeof line, format, arguments);
  std::string text = line;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.starts_with("libbpf: ")) text.erase(0, 8);
  if (level != LIBBPF_DEBUG) libbpf_lines.push_back(text);
  return 0;
}

std::string without_prefix(std::string text) {
  for (size_t at = 0; (at = text.find(kHostPrefix, at)) != std::string::npos;)
    text.erase(at, sizeof kHostPrefix - 1);
  return text;
}

// "struct host__gone.count" out of a line about a relocation.
std::string host_type_in(const std::string& line) {
  const size_t at = line.find(kHostPrefix);
  if (at == std::string::npos) return "";
  const size_t end = line.find_first_of(" :,(\"'", at);
  return without_prefix(line.substr(at, end == std::string::npos ? end : end - at));
}

// The reason in words of the host: libbpf replaces what it cannot resolve by a call no verifier knows.
std::string missing_type(const std::string& log) {
  const bool poisoned = log.find("195896080") != std::string::npos ||
                        log.find("<invalid CO-RE relocation>") != std::string::npos;
  const size_t about = log.find("failed to resolve CO-RE relocation");
  if (poisoned && about != std::string::npos) {
    const std::string path = host_type_in(log.substr(about, log.find('\n', about) - about));
    const size_t dot = path.find('.');
    const std::string member =
        dot == std::string::npos ? "" : ", or it has no member " + path.substr(dot + 1);
    if (!path.empty()) return "type " + path.substr(0, dot) + " not found in host" + member;
  }
  for (const std::string& line : libbpf_lines)
    if (line.find("extern (") != std::string::npos && line.find("not found") != std::string::npos)
      if (const std::string name = host_type_in(line); !name.empty())
        return name + " not found in host: its manifest offers no such function or variable";
  return "";
}

struct Close {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};

struct Loaded {
  std::unique_ptr<bpf_object, Close> object;
  bpf_program* program;
  Json about;  // program, class, …
  uint64_t offset;
  std::string event;  // "syscalls:sys_enter_openat"; empty: at `offset` of the host
};

class Session {
 public:
  explicit Session(Json policy) : policy_(std::move(policy)) {}

  int run() {
    libbpf_set_print(keep_line);
    bool fine = true;
    for (const Json& extension : policy_["extensions"]) fine = load(extension) && fine;
    if (!fine) return kRefused;
    say({{"event", "ready"}});
    if (!told_to_attach()) return kOk;
    for (const Loaded& loaded : loaded_) fine = attach(loaded) && fine;
    say({{"event", fine ? "attached-all" : "attach-failed"}});
    char ignored;
    while (::read(STDIN_FILENO, &ignored, 1) > 0) continue;
    return fine ? kOk : kFailure;
  }

 private:
  static bool told_to_attach() {
    char byte;
    ssize_t count;
    while ((count = ::read(STDIN_FILENO, &byte, 1)) < 0 && errno == EINTR) continue;
    return count == 1;
  }

  static bool refuse(Json about, const std::string& why, const std::string& log) {
    about["event"] = "refused";
    about["why"] = without_prefix(why);
    if (!log.empty()) about["log"] = without_prefix(log);
    say(about);
    return false;
  }

  // Every program of the object that the extension means, in its class.
  bool load(const Json& extension) {
    libbpf_lines.clear();
    const std::string file = field(extension, "program"), wanted = field(extension, "function");
    Json about{{"object", file},
               {"class", field(extension, "class")},
               {"entry", field(extension, "entry")},
               {"place", field(extension, "place")},
               {"program", wanted}};
    ::setenv("BPFTIME_POLICY_CLASS", field(extension, "class").c_str(), 1);
    LIBBPF_OPTS(bpf_object_open_opts, options);
    std::unique_ptr<bpf_object, Close> object(bpf_object__open_file(file.c_str(), &options));
    if (!object)
      return refuse(about, file + ": not readable as a BPF object: " + std::strerror(errno), lines());
    std::vector<bpf_program*> chosen;
    for (bpf_program* each = nullptr; (each = bpf_object__next_program(object.get(), each)) != nullptr;) {
      const bool is_meant = wanted.empty() ? bpf_program__autoload(each) : wanted == bpf_program__name(each);
      bpf_program__set_autoload(each, is_meant);
      if (!is_meant) continue;
      const bool system_call = extension.value("system_call", false);
      bpf_program__set_type(each, system_call ? BPF_PROG_TYPE_TRACEPOINT : BPF_PROG_TYPE_KPROBE);
      logs_.emplace_back(kLogBytes);
      bpf_program__set_log_buf(each, logs_.back().data(), logs_.back().size());
      chosen.push_back(each);
    }
    if (chosen.empty())
      return refuse(about, wanted.empty() ? file + ": has no program" : file + ": has no program " + wanted,
                    "");
    const size_t first_log = logs_.size() - chosen.size();
    if (bpf_object__load(object.get()) != 0) return explain(about, chosen, first_log);
    for (bpf_program* program : chosen) {
      about["program"] = bpf_program__name(program);
      about["id"] = id_of(program);
      about["insns"] = bpf_program__insn_cnt(program);
      about["event"] = "loaded";
      say(about);
      loaded_.push_back({nullptr, program, about, extension["offset"].get<uint64_t>(),
                         extension.value("system_call", false) ? field(extension, "symbol") : ""});
    }
    loaded_.back().object = std::move(object);
    return true;
  }

  bool explain(Json about, const std::vector<bpf_program*>& chosen, size_t first_log) {
    // The one that failed is the first without a descriptor.
    for (size_t i = 0; i < chosen.size(); ++i) {
      if (bpf_program__fd(chosen[i]) >= 0) continue;
      const std::string log(logs_[first_log + i].data());
      about["program"] = bpf_program__name(chosen[i]);
      if (const std::string missing = missing_type(log); !missing.empty()) return refuse(about, missing, log);
      if (!log.empty()) return refuse(about, reason_of(log), log);
      break;
    }
    return refuse(about, lines(), "");
  }

  // The log's last line that is no statistics: the daemon's sentence, or the verifier's.
  static std::string reason_of(const std::string& log) {
    std::vector<std::string> kept;
    size_t at = 0;
    while (at < log.size()) {
      const size_t end = std::min(log.find('\n', at), log.size());
      const std::string line = log.substr(at, end - at);
      if (!line.empty() && !line.starts_with("processed ") && !line.starts_with("verification time") &&
          !line.starts_with("stack depth"))
        kept.push_back(line);
      at = end + 1;
    }
    if (kept.empty()) return log;
    constexpr std::string_view kOurs = "bpftime: ";
    return kept.back().starts_with(kOurs) ? kept.back().substr(kOurs.size()) : kept.back();
  }

  static std::string lines() {
    std::string out;
    for (const std::string& line : libbpf_lines) out += (out.empty() ? "" : "; ") + line;
    return out;
  }

  static uint32_t id_of(bpf_program* program) {
    bpf_prog_info info;
    std::memset(&info, 0, sizeof info);
    uint32_t size = sizeof info;
    return bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) == 0 ? info.id : 0;
  }

  bool attach(const Loaded& loaded) {
    LIBBPF_OPTS(bpf_uprobe_opts, options);
    const std::string host = field(policy_, "host");
    Json about = loaded.about;
    // Every process of the session that runs this host.
    const size_t colon = loaded.event.find(':');
    bpf_link* link =
        loaded.event.empty()
            ? bpf_program__attach_uprobe_opts(loaded.program, -1, host.c_str(), loaded.offset, &options)
            : bpf_program__attach_tracepoint(loaded.program, loaded.event.substr(0, colon).c_str(),
                                             loaded.event.c_str() + colon + 1);
    if (link == nullptr) {
      about["why"] = std::string(std::strerror(errno));
      about["event"] = "failed";
      say(about);
      return false;
    }
    links_.emplace_back(link);
    about["event"] = "attached";
    say(about);
    return true;
  }

  const Json policy_;
  std::vector<std::vector<char>> logs_;
  std::vector<Loaded> loaded_;
  std::vector<std::unique_ptr<bpf_link, Close>> links_;
};

[[noreturn]] void become_session(int to, int from, const std::vector<std::string>& environment,
                                 const std::vector<std::string>& arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody would end it any more
  ::setpgid(0, 0);                     // the terminal's signals are for the parent to understand
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::dup2(to, STDIN_FILENO);
  ::dup2(from, STDOUT_FILENO);
  for (const std::string& each : environment) ::putenv(const_cast<char*>(each.c_str()));
  std::vector<char*> words;
  for (const std::string& each : arguments) words.push_back(const_cast<char*>(each.c_str()));
  words.push_back(nullptr);
  ::execv("/proc/self/exe", words.data());
  ::_exit(kNotExecutable);
}

}  // namespace

int run_extend_session(const std::string& policy, const std::string& host) {
  auto answer = ask_daemon({{"command", "policy"}, {"path", policy}, {"host", host}});
  if (!answer) {
    say({{"event", "policy-refused"},
         {"why", answer.error().message},
         {"code", exit_code_of(answer.error())}});
    return exit_code_of(answer.error());
  }
  Json event = *answer;
  event["event"] = "policy";
  say(event);
  return Session(std::move(*answer)).run();
}

// ---- The parent's side ----

ExtendSession::ExtendSession(pid_t pid, Fd to, Fd from)
    : pid_(pid), to_(std::move(to)), from_(std::move(from)) {}
ExtendSession::ExtendSession(ExtendSession&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      to_(std::move(other.to_)),
      from_(std::move(other.from_)),
      pending_(std::move(other.pending_)) {}
ExtendSession& ExtendSession::operator=(ExtendSession&& other) noexcept {
  if (this == &other) return *this;
  end();
  pid_ = std::exchange(other.pid_, -1);
  to_ = std::move(other.to_);
  from_ = std::move(other.from_);
  pending_ = std::move(other.pending_);
  return *this;
}
ExtendSession::~ExtendSession() { end(); }

Result<ExtendSession> ExtendSession::start(const std::string& policy, const std::string& host, uint64_t token,
                                           bool check_promises) {
  auto directory = find_runtime_directory();
  if (!directory) return directory.error();
  auto folder = installation_directory();
  if (!folder) return folder.error();
  auto preload = preload_value(*folder + "/libbpftime-loader.so", nullptr);
  if (!preload) return preload.error();
  int to[2], from[2];
  if (::pipe2(to, O_CLOEXEC) != 0) return Error::from_errno("extend: pipe");
  Fd to_read(to[0]), to_write(to[1]);
  if (::pipe2(from, O_CLOEXEC) != 0) return Error::from_errno("extend: pipe");
  Fd from_read(from[0]), from_write(from[1]);
  const std::vector<std::string> environment = {
      "LD_PRELOAD=" + *preload,
      "BPFTIME_SOCKET=" + directory->socket(),
      "BPFTIME_POLICY=" + policy,
      "BPFTIME_POLICY_HOST=" + host,
      "BPFTIME_POLICY_COUNT=1",
      fmt::format("BPFTIME_POLICY_SESSION={:x}", token),
      std::string("BPFTIME_POLICY_CHECK=") + (check_promises ? "1" : "0")};
  const std::vector<std::string> arguments = {"bpftime", "extend-session", policy, host};
  const pid_t pid = ::fork();
  if (pid < 0) return Error::from_errno("extend: fork");
  if (pid == 0) become_session(to_read.get(), from_write.get(), environment, arguments);
  return ExtendSession(pid, std::move(to_write), std::move(from_read));
}

std::optional<Json> ExtendSession::next_event() {
  for (;;) {
    const size_t end = pending_.find('\n');
    if (end != std::string::npos) {
      const std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (event.is_object()) return event;
      continue;  // something a library printed
    }
    char bytes[4096];
    const ssize_t count = ::read(from_.get(), bytes, sizeof bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || pending_.size() > 4 * kLineMax) return std::nullopt;
    pending_.append(bytes, static_cast<size_t>(count));
  }
}

void ExtendSession::attach() { (void)!::write(to_.get(), "a", 1); }

void ExtendSession::end() {
  if (pid_ < 0) return;
  to_.reset();
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
  pid_ = -1;
}

}  // namespace bpftime::cli

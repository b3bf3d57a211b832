// bpftime doctor: what this machine lacks, and what works nevertheless. Every line is tried, not looked up.
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <gnu/libc-version.h>
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/memfd.h"
#include "cli/connection.h"
#include "cli/exit_codes.h"
#include "cli/printers.h"
#include "cli/verbs.h"

namespace bpftime::cli {
namespace {

enum class State { kOk, kLimited, kMissing };

struct Finding {
  const char* name;
  State state = State::kOk;
  std::string found;        // what was seen
  std::string consequence;  // what does not work, what still does, what to do; empty when all is well
};

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string status_field(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name + ":")) continue;
    const size_t value = line.find_first_not_of(" \t", name.size() + 1);
    return value == std::string::npos ? std::string() : line.substr(value);
  }
  return {};
}

Finding check_system() {
  struct utsname name;
  ::uname(&name);
  Finding out{"system",
              State::kOk,
              fmt::format("Linux {} {}, glibc {}", name.release, name.machine, gnu_get_libc_version()),
              {}};
  if (std::string(name.machine) != "x86_64") {
    out.state = State::kMissing;
    out.consequence = "only x86-64 is supported";
  }
  return out;
}

Finding check_runtime_directory() {
  auto directory = find_runtime_directory();
  if (directory) return {"runtime directory", State::kOk, directory->path, {}};
  return {"runtime directory", State::kMissing, directory.error().message,
          "no daemon can be started or reached"};
}

Finding check_installation() {
  Finding out{"installation", State::kOk, {}, {}};
  auto folder = installation_directory();
  if (!folder) return {"installation", State::kMissing, folder.error().message, "the daemon cannot be found"};
  std::string missing;
  for (const char* name : {"bpftimed", "libbpftime-agent.so", "libbpftime-loader.so"}) {
    if (::access((*folder + "/" + name).c_str(), R_OK) != 0)
      missing += (missing.empty() ? "" : ", ") + std::string(name);
  }
  out.found = *folder;
  if (!missing.empty()) {
    out.state = State::kMissing;
    out.found += " lacks " + missing;
    out.consequence = "load, start and attach need them; try `make install`";
  }
  return out;
}

Finding check_daemon() {
  auto directory = find_runtime_directory();
  if (!directory) return {"daemon", State::kMissing, "no runtime directory", {}};
  auto connection = Connection::to_running(*directory);
  if (connection) return {"daemon", State::kOk, "running", {}};
  if (is_absent(connection.error())) return {"daemon", State::kOk, "not running; starts when needed", {}};
  return {"daemon", State::kMissing, connection.error().message, "try `bpftime daemon restart`"};
}

// A child that is seized, stopped and let go, as attach does it.
Finding check_ptrace() {
  Finding out{"ptrace", State::kOk, "own processes can be traced", {}};
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  bool traced = child > 0 && ::ptrace(PTRACE_SEIZE, child, nullptr, nullptr) == 0;
  const int error = errno;
  if (child > 0) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, __WALL);
  }
  const std::string scope = first_line("/proc/sys/kernel/yama/ptrace_scope");
  if (!traced) {
    out.state = State::kMissing;
    out.found =
        fmt::format("{}{}", std::strerror(error), scope.empty() ? "" : "; yama ptrace_scope " + scope);
    out.consequence = "neither start nor attach can place probes";
  } else if (!scope.empty() && scope != "0" && ::geteuid() != 0) {
    out.state = State::kLimited;
    out.found += "; yama ptrace_scope " + scope;
    out.consequence =
        "attach to processes that were not started under us needs root, or ptrace_scope 0; start works";
  }
  return out;
}

// The smallest program of the kind uprobes are: mov r0, 0; exit.
Finding check_bpf() {
  struct bpf_insn program[2] = {};
  program[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  program[1].code = BPF_JMP | BPF_EXIT;
  const char license[] = "GPL";
  union bpf_attr attr = {};
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = reinterpret_cast<uint64_t>(program);
  attr.insn_cnt = 2;
  attr.license = reinterpret_cast<uint64_t>(license);
  Fd loaded(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr))));
  if (loaded) return {"bpf(2)", State::kOk, "usable: the kernel's verifier gives a second opinion", {}};
  return {"bpf(2)", State::kLimited, std::string("not usable: ") + std::strerror(errno),
          "programs are verified by bpftime alone, without the kernel's second opinion; everything works"};
}

Finding check_btf() {
  const char path[] = "/sys/kernel/btf/vmlinux";
  if (::access(path, R_OK) == 0) return {"kernel BTF", State::kOk, path, {}};
  return {"kernel BTF", State::kLimited, std::string(path) + ": " + std::strerror(errno),
          "tools that relocate against kernel types (CO-RE) fail; others work"};
}

Finding check_seccomp() {
  const std::string mode = status_field("Seccomp");
  if (mode == "0" || mode.empty()) return {"seccomp", State::kOk, "no filter on this process", {}};
  return {"seccomp", State::kLimited, "this process is filtered (mode " + mode + ")",
          "system calls may be refused to us, the daemon and the targets started from here"};
}

Finding check_memory() {
  auto memfd = create_memfd("bpftime-doctor", kPageSize, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  if (!memfd) return {"memfd", State::kMissing, memfd.error().message, "maps cannot be created"};
  void* code = ::mmap(nullptr, kPageSize, PROT_READ | PROT_EXEC, MAP_SHARED, memfd->get(), 0);
  if (code == MAP_FAILED) {
    return {"memfd", State::kMissing, std::string("executable mapping: ") + std::strerror(errno),
            "program code cannot be mapped into targets"};
  }
  ::munmap(code, kPageSize);
  return {"memfd", State::kOk, "sealed, and mapped executable", {}};
}

Finding check_rseq() {
  if (__rseq_size != 0) return {"rseq", State::kOk, "registered by libc: the cpu number costs one load", {}};
  return {"rseq", State::kLimited, "not registered by libc",
          "per-CPU maps ask the system for the cpu number: slower"};
}

Finding check_membarrier() {
  const long commands = ::syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  if (commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) != 0) {
    return {"membarrier", State::kOk, "expedited, with core synchronisation", {}};
  }
  return {"membarrier", State::kLimited, "no expedited core synchronisation",
          "patching relies on ptrace stops alone"};
}

Finding check_memlock() {
  struct rlimit limit;
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return {"memlock limit", State::kOk, "unlimited", {}};
  return {"memlock limit",
          State::kOk,
          fmt::format("{} KiB (some tools print a warning about it; harmless here)", limit.rlim_cur / 1024),
          {}};
}

// The agent as a target's linker would load it: a child that is nothing else tries.
Finding check_agent() {
  auto folder = installation_directory();
  if (!folder)
    return {"agent", State::kMissing, folder.error().message, "start and attach cannot place probes"};
  const std::string path = *folder + "/libbpftime-agent.so";
  std::string why = "loads into a process";
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) return {"agent", State::kLimited, "not tried", {}};
  const pid_t child = ::fork();
  if (child == 0) {
    // RTLD_LAZY would hide what is missing. Its constructor tells no daemon: no socket is named to it.
    ::unsetenv("BPFTIME_TARGET_SOCKET");
    const bool loaded = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr;
    const char* error = loaded ? "" : ::dlerror();
    if (error != nullptr && ::write(pipe_ends[1], error, std::strlen(error)) < 0) ::_exit(2);
    ::_exit(loaded ? 0 : 1);
  }
  ::close(pipe_ends[1]);
  char text[512] = {};
  const ssize_t got = ::read(pipe_ends[0], text, sizeof text - 1);
  ::close(pipe_ends[0]);
  int status = 0;
  const bool ended = child > 0 && ::waitpid(child, &status, 0) == child;
  if (ended && WIFEXITED(status) && WEXITSTATUS(status) == 0) return {"agent", State::kOk, why, {}};
  return {"agent", State::kMissing, got > 0 ? std::string(text) : path + ": cannot be loaded",
          "start and attach cannot place probes; try `make install`"};
}

// The daemon's compiler is a shared library of its own package.
Finding check_compiler() {
  auto folder = installation_directory();
  const std::string daemon = folder ? *folder + "/bpftimed" : "bpftimed";
  if (daemon.find('\'') != std::string::npos)
    return {"LLVM and libraries", State::kLimited, daemon + ": not tried, for its name", {}};
  // ld.so itself says what it cannot find, without running anything of the daemon's.
  const std::string command = "LD_TRACE_LOADED_OBJECTS=1 LD_PRELOAD= '" + daemon + "' 2>&1";
  std::string missing, llvm;
  if (std::FILE* output = ::popen(command.c_str(), "re")) {
    char line[1024];
    while (std::fgets(line, sizeof line, output) != nullptr) {
      std::string text = line;
      text.erase(text.find_last_not_of(" \t\n") + 1);
      text.erase(0, std::min(text.find_first_not_of(" \t"), text.size()));
      if (text.find("not found") != std::string::npos) missing += (missing.empty() ? "" : ", ") + text;
      if (text.find("libLLVM") != std::string::npos) llvm = text.substr(0, text.find(" ("));
    }
    ::pclose(output);
  }
  if (!missing.empty())
    return {"LLVM and libraries", State::kMissing, missing,
            "the daemon cannot start; install the packages they are in (scripts/packages.txt)"};
  if (llvm.empty()) return {"LLVM and libraries", State::kOk, "the daemon needs no shared LLVM", {}};
  return {"LLVM and libraries", State::kOk, llvm, {}};
}

Finding check_tracefs() {
  for (const char* path : {"/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"})
    if (::access(path, R_OK) == 0)
      return {"tracefs", State::kOk, std::string(path) + " (tools under `load` see ours, not this)", {}};
  return {"tracefs",
          State::kOk,
          "not readable (tools under `load` see ours: events of system calls, trace_pipe)",
          {}};
}

Finding check_clock() {
  const std::string source = first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  std::ifstream cpu("/proc/cpuinfo");
  bool constant = false;
  for (std::string line; std::getline(cpu, line) && !constant;)
    constant = line.starts_with("flags") && line.find("constant_tsc") != std::string::npos;
  if (source == "tsc" || (source.empty() && constant))
    return {"clock",
            State::kOk,
            source.empty() ? "constant_tsc" : "tsc: bpf_ktime_get_ns costs no system call",
            {}};
  return {
      "clock", State::kLimited,
      (source.empty() ? "clocksource unknown" : source) + (constant ? ", constant_tsc" : ", no constant_tsc"),
      "the kernel does not trust the TSC; bpf_ktime_get_ns may be slower or drift; everything else works"};
}

Finding check_clang() {
  std::string path = std::getenv("PATH") == nullptr ? "" : std::getenv("PATH");
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find(':', at), path.size());
    for (const char* name : {"clang", "clang-19", "clang-14"}) {
      const std::string file = path.substr(at, end - at) + "/" + name;
      if (::access(file.c_str(), X_OK) == 0)
        return {"clang", State::kOk, file + ": compiles BPF objects", {}};
    }
    at = end + 1;
  }
  return {"clang", State::kLimited, "not on PATH",
          "new BPF objects cannot be compiled here; those that exist run. Debian: clang-19"};
}

Finding check_user() {
  const uid_t uid = ::geteuid();
  if (uid == 0) return {"user", State::kOk, "root: processes of every user can be entered", {}};
  return {"user", State::kOk, fmt::format("{}: this user's processes can be entered", uid), {}};
}

Finding check_audit_log() {
  auto directory = find_runtime_directory();
  if (!directory)
    return {"audit log", State::kMissing, directory.error().message, "grants and refusals are not recorded"};
  const std::string path = directory->audit_log();
  return {
      "audit log", State::kOk, path + (::access(path.c_str(), F_OK) == 0 ? "" : " (nothing in it yet)"), {}};
}

const char* word(State state) {
  return state == State::kOk ? "ok" : state == State::kLimited ? "limited" : "missing";
}

int doctor(bool json) {
  const std::vector<Finding> findings = {
      check_system(),  check_installation(), check_runtime_directory(), check_daemon(),
      check_ptrace(),  check_agent(),        check_compiler(),          check_user(),
      check_bpf(),     check_btf(),          check_tracefs(),           check_seccomp(),
      check_memory(),  check_rseq(),         check_membarrier(),        check_clock(),
      check_memlock(), check_clang(),        check_audit_log()};
  bool works = true;
  Json list = Json::array();
  for (const Finding& finding : findings) {
    works = works && finding.state != State::kMissing;
    if (json) {
      list.push_back(Json{{"name", finding.name},
                          {"state", word(finding.state)},
                          {"found", finding.found},
                          {"consequence", finding.consequence}});
      continue;
    }
    fmt::print("{:<8} {:<18} {}\n", word(finding.state), finding.name, finding.found);
    if (!finding.consequence.empty()) fmt::print("{:<27} -> {}\n", "", finding.consequence);
  }
  if (json) print_json(Json{{"works", works}, {"checks", list}});
  return works ? kOk : kFailure;
}

}  // namespace

void add_doctor(CLI::App& app, CommandLine& line) {
  CLI::App* verb = add_verb(app, "doctor", "Say what this machine lacks and what works nevertheless",
                            "  bpftime doctor\n  bpftime doctor --json | jq '.checks[] | select(.state != "
                            "\"ok\")'\nExit status 1 when something we cannot do without is missing.\n");
  verb->callback([&line] { line.run = [&line] { return doctor(line.json); }; });
}

}  // namespace bpftime::cli

// What bad input gets: a clear error on stderr that names subject and reason, the documented exit status,
// nothing half attached, nothing lost. Each refusal has a twin that is served.
#include <elf.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>

#include "harness.h"

namespace bpftime::e2e {
namespace {

constexpr uid_t kNobody = 65534;
constexpr int kUsage = 2, kRefused = 4, kNotExecutable = 126, kNotFound = 127;

void become_nobody() {
  if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) ::_exit(125);
}

class BadInput : public EndToEnd {
 protected:
  std::string file(const std::string& name) const { return directory() + "/" + name; }
  void write_file(const std::string& name, const std::string& bytes, mode_t mode = 0755) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
    ASSERT_EQ(::chmod(file(name).c_str(), mode), 0);
  }
  static std::string read_whole(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  // A program that prints "ran" and exits with 7. False: it cannot be made here.
  bool compile(const std::string& name, Arguments compiler) const {
    write_file(name + ".c",
               "#include <stdio.h>\nint work(int n) { return n + 1; }\nint main(void) { puts(\"ran\"); "
               "return work(6); }\n");
    compiler.insert(compiler.end(), {"-o", file(name), file(name + ".c")});
    return run(compiler).code == 0;
  }
  // Runs under start as it would alone, with a reason on stderr.
  void expect_starts_without_us(const std::string& name, const std::string& reason,
                                const std::string& output = "ran\n") {
    const Finished started = bpftime({"start", file(name)});
    EXPECT_EQ(started.code, 7) << started.error;
    EXPECT_EQ(started.output, output);
    EXPECT_NE(started.error.find(file(name)), std::string::npos) << started.error;
    EXPECT_NE(started.error.find(reason), std::string::npos) << started.error;
    EXPECT_NE(started.error.find("without probes"), std::string::npos) << started.error;
  }
  // The same, and load refuses it.
  void expect_runs_without_us(const std::string& name, const std::string& reason,
                              const std::string& output = "ran\n") {
    expect_starts_without_us(name, reason, output);
    const Finished loaded = bpftime({"load", file(name)});
    EXPECT_EQ(loaded.code, kRefused);
    EXPECT_EQ(loaded.output, "") << "it must not run";
    EXPECT_NE(loaded.error.find(reason), std::string::npos) << loaded.error;
  }
  // The same, and load answers it from outside.
  void expect_loads_only(const std::string& name, const std::string& reason) {
    expect_starts_without_us(name, reason);
    const Finished loaded = bpftime({"load", file(name)});
    EXPECT_EQ(loaded.code, 7) << loaded.error;
    EXPECT_EQ(loaded.output, "ran\n");
    EXPECT_EQ(loaded.error, "");
  }
  void expect_error(const Finished& done, int code, std::initializer_list<std::string> words) {
    EXPECT_EQ(done.code, code) << done.output << done.error;
    EXPECT_TRUE(done.error.starts_with("bpftime: ")) << done.error;
    for (const auto& word : words)
      EXPECT_NE(done.error.find(word), std::string::npos) << word << " in: " << done.error;
  }
  void expect_nothing_attached() {
    const auto list = bpftime_json({"list"});
    EXPECT_EQ(list["targets"].size(), 0u) << list.dump();
    EXPECT_EQ(list["loaders"].size(), 0u) << list.dump();
    EXPECT_EQ(bpftime_json({"link", "show"}).size(), 0u);
  }
};

// ---- processes ----

TEST_F(BadInput, PidThatDoesNotExist) {
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const std::string pid = std::to_string(gone);
  expect_error(bpftime({"attach", pid}), 1, {pid, "no such process", "try"});
  expect_error(bpftime({"detach", pid}), 1, {pid, "not attached", "list"});
  EXPECT_EQ(bpftime({"attach", "0"}).code, kUsage);
  EXPECT_EQ(bpftime({"attach", "-5"}).code, kUsage);
  EXPECT_EQ(bpftime({"attach", "nginx"}).code, kUsage);
  EXPECT_EQ(bpftime({"attach", "99999999999999999999"}).code, kUsage);
  EXPECT_EQ(bpftime({"attach"}).code, kUsage);
  expect_nothing_attached();
}

TEST_F(BadInput, OneBadPidDoesNotStopTheOthers) {
  Child victim({"sleep", "100"});
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const Finished attached = bpftime({"attach", std::to_string(gone), std::to_string(victim.pid())});
  EXPECT_EQ(attached.code, 1);
  EXPECT_NE(attached.output.find("attached " + std::to_string(victim.pid())), std::string::npos)
      << attached.output;
}

TEST_F(BadInput, ProcessOfSomebodyElse) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to be two users";
  Child::Options as_nobody = options();
  as_nobody.before_exec = become_nobody;
  if (run({program("bpftime"), "version"}, as_nobody).code != 0)
    GTEST_SKIP() << "nobody cannot execute what was built here";
  Child roots({"sleep", "100"});
  Child nobodys({"sleep", "100"}, as_nobody);
  const std::string runtime = file("nobody");
  ASSERT_EQ(::mkdir(runtime.c_str(), 0700), 0);
  ASSERT_EQ(::chown(runtime.c_str(), kNobody, kNobody), 0);
  as_nobody.environment["BPFTIME_RUNTIME_DIR"] = runtime;
  const std::string pid = std::to_string(roots.pid());
  const Finished refused = run({program("bpftime"), "attach", pid}, as_nobody);
  expect_error(refused, kRefused, {pid, "someone else", "try"});
  EXPECT_TRUE(roots.running());
  const Finished served = run({program("bpftime"), "attach", std::to_string(nobodys.pid())}, as_nobody);
  EXPECT_EQ(served.code, 0) << served.error;
  EXPECT_EQ(run({program("bpftime"), "daemon", "stop"}, as_nobody).code, 0);
}

TEST_F(BadInput, ProcessThatIsBeingDebugged) {
  Child victim({"sleep", "100"});
  const std::string pid = std::to_string(victim.pid());
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, victim.pid(), nullptr, nullptr), 0) << std::strerror(errno);
  expect_error(bpftime({"attach", pid}), kRefused,
               {pid, "debugged by process " + std::to_string(::getpid()), "try"});
  expect_nothing_attached();
  // Detaching takes a stop. The child's stop is ours to reap: it is our tracee.
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, victim.pid(), nullptr, nullptr), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(victim.pid(), &status, 0), victim.pid());
  ASSERT_EQ(::ptrace(PTRACE_DETACH, victim.pid(), nullptr, nullptr), 0);
  const Finished served = bpftime({"attach", pid});
  EXPECT_EQ(served.code, 0) << served.error;
  EXPECT_TRUE(victim.running());
}

// ---- programs we cannot enter ----

TEST_F(BadInput, DynamicProgramIsEnteredSilently) {
  ASSERT_TRUE(compile("dynamic", {"cc"}));
  const Finished started = bpftime({"start", file("dynamic")});
  EXPECT_EQ(started.code, 7);
  EXPECT_EQ(started.output, "ran\n");
  EXPECT_EQ(started.error, "");
}

TEST_F(BadInput, StaticProgram) {
  if (!compile("static", {"cc", "-static"})) GTEST_SKIP() << "no static C library";
  expect_loads_only("static", "statically linked");
}

TEST_F(BadInput, MuslProgram) {
  if (!compile("musl", {"musl-gcc"})) GTEST_SKIP() << "no musl-gcc";
  expect_loads_only("musl", "another C library");
}

TEST_F(BadInput, SetuidProgram) {
  ASSERT_TRUE(compile("setuid", {"cc"}));
  ASSERT_EQ(::chmod(file("setuid").c_str(), 04755), 0);
  expect_runs_without_us("setuid", "setuid program");
}

TEST_F(BadInput, ThirtyTwoBitProgram) {
  write_file("small.s", ".globl _start\n_start: movl $1, %eax\nmovl $7, %ebx\nint $0x80\n");
  const bool made =
      run({"cc", "-m32", "-nostdlib", "-static", "-o", file("small"), file("small.s")}).code == 0;
  if (!made || run({file("small")}).code != 7) GTEST_SKIP() << "no 32-bit program can be made or run here";
  expect_runs_without_us("small", "32-bit", "");
}

// Attached from outside, the same programs are entered or refused with a reason, and live on.
TEST_F(BadInput, AttachToAStaticProgramLeavesItAlive) {
  write_file("waits.c",
             "#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts(\"up\"); fflush(stdout); for "
             "(;;) sleep(1); }\n");
  if (run({"cc", "-static", "-o", file("waits"), file("waits.c")}).code != 0)
    GTEST_SKIP() << "no static C library";
  Child victim({file("waits")});
  ASSERT_TRUE(victim.wait_for_output("up"));
  const Finished attached = bpftime({"attach", std::to_string(victim.pid())});
  if (attached.code != 0) expect_error(attached, kRefused, {std::to_string(victim.pid())});
  EXPECT_TRUE(victim.running());
}

// ---- files that are no programs ----

TEST_F(BadInput, FilesThatCannotBeExecuted) {
  write_file("text", "not a program\n", 0644);
  ASSERT_TRUE(compile("whole", {"cc"}));
  const std::string elf = read_whole(file("whole"));
  write_file("truncated", elf.substr(0, 80));
  std::string headers = elf;
  headers[offsetof(Elf64_Ehdr, e_phnum)] = headers[offsetof(Elf64_Ehdr, e_phnum) + 1] = '\xff';
  write_file("headers", headers);
  for (const std::string verb : {"start", "load"}) {
    expect_error(bpftime({verb, file("missing")}), kNotFound, {file("missing")});
    expect_error(bpftime({verb, "no-such-program-anywhere"}), kNotFound, {"no-such-program-anywhere"});
    expect_error(bpftime({verb, file("text")}), kNotExecutable, {file("text"), "not executable", "chmod"});
    expect_error(bpftime({verb, directory()}), kNotExecutable, {directory(), "directory"});
    expect_error(bpftime({verb, file("whole") + "/below"}), kNotFound, {"whole/below"});
    EXPECT_EQ(bpftime({verb}).code, kUsage);
  }
  for (const std::string name : {"truncated", "headers"}) {
    expect_error(bpftime({"start", file(name)}), kNotExecutable, {file(name), "damaged"});
    expect_error(bpftime({"load", file(name)}), kRefused, {file(name), "damaged"});
  }
  expect_nothing_attached();
}

TEST_F(BadInput, ProbesInHostileFiles) {
  ASSERT_TRUE(compile("whole", {"cc"}));
  const std::string elf = read_whole(file("whole"));
  std::string sections = elf;
  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof header);
  for (size_t i = header.e_shoff; i < sections.size(); i += 3) sections[i] = '\xff';
  write_file("sections", sections);
  write_file("half", elf.substr(0, elf.size() / 2));
  write_file("empty", "");
  // libbpf reads the file itself; what it makes of it must not hurt anybody.
  for (const char* name : {"sections", "half", "empty", "missing"}) {
    const Finished tool = bpftime(load({program("uprobe_stat"), "count", file(name), "work"}));
    EXPECT_EQ(tool.code, 1) << name << tool.error;
    EXPECT_NE(tool.error.find(file(name)), std::string::npos) << tool.error;
  }
  expect_nothing_attached();
  // The same file, whole when the probe was made, hostile when the target maps it.
  Child tool = load_tool({program("uprobe_stat"), "count", file("whole"), "work"});
  std::string in_place = elf;
  for (size_t i = header.e_shoff; i < in_place.size(); i += 3) in_place[i] = '\xff';
  {
    std::fstream out(file("whole"), std::ios::in | std::ios::out | std::ios::binary);
    out << in_place;
  }
  EXPECT_EQ(bpftime({"start", file("whole")}).code, 7);
  EXPECT_GT(worker_pid(), 0);
  finish_tool(tool);
}

// ---- bpf(2) and perf_event_open(2) ----

TEST_F(BadInput, HostileCallsAreAnsweredAsByTheKernel) {
  const Finished ours = bpftime(load({program("hostile_calls"), program("hostile_calls")}));
  ASSERT_EQ(ours.code, 0) << ours.error;
  EXPECT_NE(ours.output.find("array larger than memory: ENOMEM\n"), std::string::npos) << ours.output;
  EXPECT_EQ(ours.output.find(": ok"), std::string::npos) << ours.output;
  EXPECT_GT(worker_pid(), 0);
  EXPECT_EQ(bpftime_json({"map", "show"}).size(), 0u);
  EXPECT_EQ(bpftime_json({"prog", "show"}).size(), 0u);
  expect_nothing_attached();
  const Finished kernel = run({program("hostile_calls"), program("hostile_calls")});
  if (kernel.output.find(": EPERM") != std::string::npos)
    GTEST_SKIP() << "bpf(2) cannot be used here to compare";
  EXPECT_EQ(ours.output, kernel.output);
}

// ---- the runtime directory ----

// As many as the daemon has descriptors for, each refused in words; and nobody has to restart it.
TEST_F(BadInput, MapsWithoutEnd) {
  Child::Options few;
  few.before_exec = [] {
    const rlimit files = {1024, 1024};
    ::setrlimit(RLIMIT_NOFILE, &files);
  };
  ASSERT_EQ(bpftime_child({"daemon", "start"}, few).wait(), 0);
  for (int round = 0; round < 2; ++round) {
    const Finished made = bpftime({"load", "-v", program("many_maps"), "1000000"});
    EXPECT_EQ(made.code, 0) << made.error;
    int count = 0, error = 0, again = -1;
    ASSERT_EQ(std::sscanf(made.output.c_str(), "%d maps, then %d; %d", &count, &error, &again), 3)
        << made.output;
    EXPECT_GT(count, 100);
    EXPECT_LT(count, 1024);
    EXPECT_EQ(error, EMFILE);
    EXPECT_EQ(again, 0);
    EXPECT_TRUE(
        std::regex_search(made.error, std::regex("bpf\\(MAP_CREATE\\): EMFILE: .*[0-9]+ exist already; try")))
        << made.error;
  }
  EXPECT_EQ(bpftime({"list"}).code, 0);
}

TEST_F(BadInput, RuntimeDirectoryThatIsNotOursAlone) {
  ASSERT_TRUE(compile("program", {"cc"}));
  ASSERT_EQ(::mkdir(file("open").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(file("real").c_str(), 0700), 0);
  ASSERT_EQ(::symlink(file("real").c_str(), file("link").c_str()), 0);
  write_file("file", "", 0600);
  struct Case {
    std::string path, reason;
  };
  std::vector<Case> cases = {{"open", "0755"},
                             {"link", "symbolic link"},
                             {"file", "not a directory"},
                             {"no/parent", "cannot create"}};
  if (::geteuid() == 0) {
    ASSERT_EQ(::mkdir(file("other").c_str(), 0700), 0);
    ASSERT_EQ(::chown(file("other").c_str(), kNobody, kNobody), 0);
    cases.push_back({"other", "owned by uid 65534"});
  } else {
    std::cerr << "note: not root: no directory of somebody else's\n";
  }
  for (const auto& [path, reason] : cases) {
    Child::Options with = options();
    with.environment["BPFTIME_RUNTIME_DIR"] = file(path);
    for (const Arguments& arguments :
         {Arguments{"list"}, Arguments{"load", file("program")}, Arguments{"attach", "1"}}) {
      Arguments command = arguments;
      command.insert(command.begin(), program("bpftime"));
      const Finished refused = run(command, with);
      EXPECT_NE(refused.code, 0) << path << " " << arguments[0];
      EXPECT_NE(refused.code, 7) << path << " " << arguments[0] << ": it must not run";
      EXPECT_NE(refused.error.find(file(path)), std::string::npos) << refused.error;
      EXPECT_NE(refused.error.find(reason), std::string::npos) << refused.error;
    }
    const Finished started = run({program("bpftime"), "start", file("program")}, with);
    EXPECT_EQ(started.code, 7) << started.error;
    EXPECT_NE(started.error.find(reason), std::string::npos) << started.error;
    EXPECT_TRUE(!std::filesystem::exists(file(path) + "/daemon.sock")) << path;
  }
  Child::Options with = options();
  with.environment["BPFTIME_RUNTIME_DIR"] = file("real");
  EXPECT_EQ(run({program("bpftime"), "list"}, with).code, 0);
  EXPECT_EQ(run({program("bpftime"), "daemon", "stop"}, with).code, 0);
}

// ---- the protocol ----

class Protocol : public BadInput {
 protected:
  struct Header {
    char magic[4] = {'b', 't', 'p', 'f'};
    uint16_t version = 1, machine = 62;
    uint32_t type = 2, length = 0, descriptors = 0, sequence = 9;
  };
  void SetUp() override {
    BadInput::SetUp();
    ASSERT_EQ(bpftime({"daemon", "start"}).code, 0);
    worker_ = worker_pid();
  }
  // What the daemon answers before it hangs up; nullopt when it does not hang up.
  std::optional<std::string> answer_to(const std::string& bytes) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (directory() + "/run/daemon.sock").c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0)
        << std::strerror(errno);
    (void)!::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    std::string text;
    bool ended = false;
    eventually([&] {
      char buffer[4096];
      const ssize_t count = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (count > 0) text.append(buffer, count);
      return ended = count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR);
    });
    ::close(fd);
    if (!ended) return std::nullopt;
    return text;
  }
  static std::string bytes_of(const Header& header) {
    return std::string(reinterpret_cast<const char*>(&header), sizeof header);
  }
  void expect_unharmed() { EXPECT_EQ(worker_pid(), worker_) << "the worker died"; }

  pid_t worker_ = 0;
};

TEST_F(Protocol, UnknownVersionIsToldAndHungUpOn) {
  Header header;
  header.version = 77;
  const auto answer = answer_to(bytes_of(header));
  ASSERT_TRUE(answer) << "still connected";
  EXPECT_NE(answer->find("version 77"), std::string::npos) << *answer;
  EXPECT_NE(answer->find("restart"), std::string::npos) << *answer;
  EXPECT_NE(read_whole(directory() + "/run/daemon.log").find("version 77"), std::string::npos);
  expect_unharmed();
}

TEST_F(Protocol, GarbageIsHungUpOn) {
  EXPECT_TRUE(answer_to(std::string(100, '\xff')));
  EXPECT_TRUE(answer_to("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"));
  Header oversized;
  oversized.length = 0xffffffff;
  EXPECT_TRUE(answer_to(bytes_of(oversized)));
  Header descriptors;
  descriptors.descriptors = 0xffffffff;
  EXPECT_TRUE(answer_to(bytes_of(descriptors)));
  Header nothing;  // a hello without a body
  EXPECT_TRUE(answer_to(bytes_of(nothing)));
  Header no_hello;
  no_hello.type = 3;
  EXPECT_TRUE(answer_to(bytes_of(no_hello)));
  expect_unharmed();
}

TEST_F(Protocol, RequestsThatMakeNoSenseAreAnswered) {
  Header hello;
  hello.length = 8;
  const std::string introduction = bytes_of(hello) + std::string("\2\0\0\0\0\0\0\0", 8);  // the CLI
  constexpr uint32_t kTargetHello = 9;  // would make this test a target
  for (uint32_t type = 0; type < 20; ++type) {
    if (type == kTargetHello) continue;
    for (uint32_t length : {0u, 1u, 16u, 400u}) {
      Header request;
      request.type = type;
      request.length = length;
      Header garbage;  // ends the conversation, so that the answers are known to be all there
      garbage.magic[0] = '?';
      EXPECT_TRUE(
          answer_to(introduction + bytes_of(request) + std::string(length, '\xff') + bytes_of(garbage)))
          << type << " " << length;
    }
  }
  expect_unharmed();
  expect_nothing_attached();
}

// Debian's tools that need the kernel's own functions and events: each gives up with its own words and status, and -v names
// the call that failed, what it was for, and why.
TEST_F(BadInput, ToolsForTheKernelOnlyGiveUpAndTheReasonIsTold) {
  struct Case {
    const char *tool, *call, *what;
  };
  const Case cases[] = {
      {"biolatency", "bpf(PROG_LOAD): EINVAL: load program", "type tracing (fentry, fexit, tp_btf, iter)"},
      {"biolatency", "bpf(RAW_TRACEPOINT_OPEN): ENOENT: raw tracepoint", "only sys_enter and sys_exit"},
      {"runqlat", "bpf(RAW_TRACEPOINT_OPEN): ENOENT: raw tracepoint sched_", "only sys_enter and sys_exit"},
      {"exitsnoop", "/events/sched/sched_process_exit/id): ENOENT", "those of system calls exist here"},
      {"tcpconnect", "/kprobe_events): ENOENT", "kprobes are for the kernel only"},
  };
  bool tracefs = false;  // readable, the kernel's own answers
  for (const char* path : {"/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"})
    tracefs = tracefs || ::access(path, F_OK) == 0;
  size_t tried = 0;
  for (const Case& each : cases) {
    const std::string tool = std::string("/usr/sbin/") + each.tool;
    if (::access(tool.c_str(), X_OK) != 0 || (tracefs && each.call[0] == '/')) continue;
    ++tried;
    const Finished quiet = bpftime({"load", tool});
    EXPECT_NE(quiet.code, 0) << each.tool;
    EXPECT_LT(quiet.code, 128) << each.tool << ": by a signal";
    EXPECT_FALSE(quiet.error.empty()) << each.tool << " says itself that it cannot";
    EXPECT_EQ(quiet.error.find("bpftime: bpf("), std::string::npos) << "only -v tells more: " << quiet.error;
    const Finished told = bpftime({"load", "-v", tool});
    EXPECT_EQ(told.code, quiet.code) << each.tool;
    const size_t call = told.error.find(each.call);
    ASSERT_NE(call, std::string::npos) << each.tool << ":\n" << told.error;
    const std::string line = told.error.substr(call, told.error.find('\n', call) - call);
    EXPECT_NE(line.find(each.what), std::string::npos) << each.tool << ": " << line;
  }
  if (tried == 0) GTEST_SKIP() << "none of libbpf-tools' is installed";
}

}  // namespace
}  // namespace bpftime::e2e

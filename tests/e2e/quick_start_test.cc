// The README's commands, word for word, in a checkout of one's own with bpftime on PATH.
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>

#include "harness.h"

namespace bpftime::e2e {
namespace {

// A terminal that collects what is written to it.
class Terminal {
 public:
  Terminal() {
    if (::openpty(&ours_, &theirs_, nullptr, nullptr, nullptr) != 0) throw std::runtime_error("openpty");
    for (int fd : {ours_, theirs_}) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(ours_, F_SETFL, O_NONBLOCK);
  }
  ~Terminal() {
    ::close(ours_);
    ::close(theirs_);
  }
  int descriptor() const { return theirs_; }
  const std::string& text() {
    char buffer[4096];
    for (ssize_t count; (count = ::read(ours_, buffer, sizeof buffer)) > 0;) text_.append(buffer, count);
    return text_;
  }

 private:
  int ours_ = -1, theirs_ = -1;
  std::string text_;
};

size_t occurrences(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

class QuickStart : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    const char* source = std::getenv("BPFTIME_SOURCE_DIR");
    if (source == nullptr) GTEST_SKIP() << "BPFTIME_SOURCE_DIR is not set";
    const std::string from = std::string(source) + "/example/malloc", to = directory() + "/example/malloc";
    std::filesystem::create_directories(to);
    for (const char* name : {"Makefile", "malloc.c", "malloc.bpf.c", "victim.c"})
      std::filesystem::copy_file(from + "/" + name, to + "/" + name);
    const Finished made = shell("make -C example/malloc").finished();
    ASSERT_EQ(made.code, 0) << made.output << made.error;
  }

  // A command line as a user types it.
  struct Typed {
    Child child;
    Finished finished() {
      const auto code = child.wait();
      return {code.value_or(-1), child.output(), child.error()};
    }
  };
  Typed shell(const std::string& line, std::function<void()> before_exec = {}) {
    Child::Options with = options();
    with.environment["PATH"] = std::string(std::getenv("PATH")) + ":/usr/sbin:" + bin_directory();
    with.before_exec = std::move(before_exec);
    return {Child({"/bin/sh", "-c", "exec " + line}, with)};
  }
  Typed load() {
    std::string line = "bpftime";
    for (const auto& word : EndToEnd::load({"./example/malloc/malloc"})) line += " " + word;
    Typed tool = shell(line);
    // Its first line is the time: programs are attached.
    EXPECT_TRUE(tool.child.wait_for_output(":")) << tool.child.output() << tool.child.error();
    return tool;
  }
  // The count the tool printed last for `pid`; 0: none.
  static uint64_t counted(Typed& tool, pid_t pid) {
    const std::string mark = "\tpid=" + std::to_string(pid) + "\tmalloc calls: ";
    const std::string& text = tool.child.output();
    const size_t at = text.rfind(mark);
    return at == std::string::npos || text.find('\n', at) == std::string::npos
               ? 0
               : std::stoull(text.substr(at + mark.size()));
  }
  static pid_t pid_of(Typed& victim) {
    EXPECT_TRUE(victim.child.wait_for_output("victim: pid ")) << victim.child.error();
    EXPECT_TRUE(victim.child.wait_for_output("\n"));
    const std::string& text = victim.child.output();
    const size_t at = text.find("victim: pid ");
    return at == std::string::npos ? 0 : std::stoi(text.substr(at + 12));
  }
  // Ends the victim and returns how many calls it made.
  static uint64_t finish(Typed& victim) {
    victim.child.signal(SIGINT);
    EXPECT_EQ(victim.child.wait(), 0) << victim.child.error();
    const std::string& text = victim.child.output();
    const size_t at = text.find("victim: made ");
    EXPECT_NE(at, std::string::npos) << text;
    return at == std::string::npos ? 0 : std::stoull(text.substr(at + 13));
  }
};

TEST_F(QuickStart, LoadThenStart) {
  Typed tool = load();
  Typed victim = shell("bpftime start ./example/malloc/victim");
  const pid_t pid = pid_of(victim);
  EXPECT_EQ(pid, victim.child.pid()) << "without a terminal the program takes the process over";
  EXPECT_TRUE(victim.child.wait_for_output("victim: 10 malloc calls\n"));
  EXPECT_TRUE(eventually([&] { return counted(tool, pid) >= 10; })) << tool.child.output();
  const uint64_t made = finish(victim);
  EXPECT_TRUE(eventually([&] { return counted(tool, pid) == made; })) << made << "\n" << tool.child.output();
  EXPECT_EQ(victim.child.error(), "");
}

TEST_F(QuickStart, StartThenLoad) {
  Typed victim = shell("bpftime start ./example/malloc/victim");
  const pid_t pid = pid_of(victim);
  EXPECT_TRUE(victim.child.wait_for_output("victim: 10 malloc calls\n"));
  Typed tool = load();
  EXPECT_EQ(active_probes(pid), 1u);
  EXPECT_TRUE(eventually([&] { return counted(tool, pid) >= 10; })) << tool.child.output();
  const uint64_t made = finish(victim);
  EXPECT_LE(counted(tool, pid), made - 10) << "calls before the tool came are not its";
}

TEST_F(QuickStart, AttachListDetach) {
  Typed tool = load();
  Typed victim = shell("./example/malloc/victim");
  const pid_t pid = pid_of(victim);
  EXPECT_EQ(counted(tool, pid), 0u);
  const std::string number = std::to_string(pid);
  const Finished attached = shell("bpftime attach " + number).finished();
  ASSERT_EQ(attached.code, 0) << attached.error;
  EXPECT_NE(attached.output.find("attached " + number), std::string::npos) << attached.output;
  EXPECT_TRUE(eventually([&] { return counted(tool, pid) >= 10; })) << tool.child.output();
  EXPECT_NE(shell("bpftime list").finished().output.find(number), std::string::npos);
  const Finished detached = shell("bpftime detach " + number).finished();
  EXPECT_EQ(detached.code, 0) << detached.error;
  EXPECT_EQ(text_differences(pid), std::vector<std::string>());
  EXPECT_EQ(shell("bpftime list").finished().output.find(number), std::string::npos);
  finish(victim);
}

TEST_F(QuickStart, ATerminalGetsTheTraceLinesAndStdoutIsTheTargetsAlone) {
  Typed tool = load();
  Terminal terminal;
  Typed victim = shell("bpftime start ./example/malloc/victim -n 20 -r 0",
                       [&] { ::dup2(terminal.descriptor(), STDERR_FILENO); });
  const pid_t pid = pid_of(victim);
  EXPECT_NE(pid, victim.child.pid()) << "a parent stays to show the lines";
  const std::string line = "malloc called from pid " + std::to_string(pid);
  EXPECT_TRUE(eventually([&] { return occurrences(terminal.text(), line) >= 20; })) << terminal.text();
  EXPECT_EQ(victim.child.wait(), 0);
  EXPECT_EQ(occurrences(terminal.text(), line), 20u);
  EXPECT_EQ(victim.child.output(), "victim: pid " + std::to_string(pid) + "\nvictim: made 20 malloc calls\n");
}

TEST_F(QuickStart, ATerminalSeesOnlyItsOwnChildsLines) {
  Typed tool = load();
  Typed other = shell("bpftime start -q ./example/malloc/victim");
  const pid_t stranger = pid_of(other);
  EXPECT_TRUE(eventually([&] { return counted(tool, stranger) > 0; }));
  Terminal terminal;
  Typed victim = shell("bpftime start ./example/malloc/victim -n 20 -r 10",
                       [&] { ::dup2(terminal.descriptor(), STDERR_FILENO); });
  const pid_t pid = pid_of(victim);
  EXPECT_EQ(victim.child.wait(), 0);
  EXPECT_EQ(occurrences(terminal.text(), "malloc called from pid " + std::to_string(pid)), 20u)
      << terminal.text();
  EXPECT_EQ(occurrences(terminal.text(), "malloc called from pid " + std::to_string(stranger)), 0u)
      << terminal.text();
  finish(other);
}

TEST_F(QuickStart, ExitStatusAndSignalsAreTheProgramsAlsoAtATerminal) {
  for (bool at_terminal : {false, true}) {
    Terminal terminal;
    const auto stderr_of = [&] {
      if (at_terminal) ::dup2(terminal.descriptor(), STDERR_FILENO);
    };
    EXPECT_EQ(shell("bpftime start /bin/sh -c 'exit 42'", stderr_of).finished().code, 42);
    EXPECT_EQ(terminal.text(), "") << "a program that prints nothing";
    EXPECT_EQ(shell("bpftime start /bin/sh -c 'kill -TERM $$'", stderr_of).finished().code, 128 + SIGTERM);
    Typed victim = shell("bpftime start ./example/malloc/victim", stderr_of);
    pid_of(victim);
    finish(victim);  // SIGINT to the process we know is passed on
  }
}

// A daemon that forgets a client lets its program wait until it gives up on us: seconds.
TEST_F(QuickStart, ProgramsThatEndAtOnceAreAllServed) {
  Typed tool = load();
  for (int round = 0; round < 20; ++round) {
    Terminal terminal;
    Typed victim = shell("bpftime start ./example/malloc/victim -n 1 -r 0",
                         [&] { ::dup2(terminal.descriptor(), STDERR_FILENO); });
    const pid_t pid = pid_of(victim);
    ASSERT_EQ(victim.child.wait(), 0);
    ASSERT_NE(terminal.text().find("malloc called from pid " + std::to_string(pid)), std::string::npos)
        << "round " << round << ": " << terminal.text();
  }
}

// Debian's nginx looks for a relative -c below its own prefix: what it says is what it says without us.
TEST_F(QuickStart, Nginx) {
  if (::access("/usr/sbin/nginx", X_OK) != 0) GTEST_SKIP() << "nginx is not installed";
  const std::string port = std::to_string(free_port());
  std::ofstream(directory() + "/nginx.conf")
      << (::geteuid() == 0 ? "user www-data;\n" : "")
      << "daemon off;\npid nginx.pid;\nerror_log error.log;\nevents {}\nhttp {\n"
      << "  access_log access.log;\n  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; "
         "uwsgi_temp_path t4;\n"
      << "  scgi_temp_path t5;\n  server { listen 127.0.0.1:" << port
      << "; location / { return 200 \"hello\\n\"; } }\n}\n";
  const std::regex changing("[0-9/]+ [0-9:]+|[0-9]+#[0-9]+");
  const Finished with = shell("bpftime start nginx -c ./nginx.conf").finished();
  const Finished without = shell("nginx -c ./nginx.conf").finished();
  EXPECT_EQ(with.code, without.code);
  EXPECT_EQ(std::regex_replace(with.error, changing, ""), std::regex_replace(without.error, changing, ""));

  Typed nginx = shell("bpftime start nginx -p . -c ./nginx.conf");
  EXPECT_TRUE(eventually([&] {
    return run({"curl", "-s", "http://127.0.0.1:" + port + "/"}).output == "hello\n";
  })) << nginx.child.error();
  EXPECT_GE(bpftime_json({"list"})["targets"].size(), 2u) << "master and worker";
  nginx.child.signal(SIGQUIT);
  EXPECT_EQ(nginx.child.wait(), 0) << nginx.child.error();
}

}  // namespace
}  // namespace bpftime::e2e

// The agent as a library: what it needs, and that programs run with it as without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "agent/test_agent.h"
#include "wire/messages.h"

namespace bpftime::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string output_of(const std::string& command, int* status = nullptr) {
  FILE* pipe = popen(command.c_str(), "r");
  std::string out;
  char buffer[4096];
  while (size_t got = fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, got);
  const int result = pclose(pipe);
  if (status != nullptr) *status = result;
  return out;
}

std::string preload(const std::string& more = "") {
  return "LD_PRELOAD='" + agent_path() + "' " + more + " ";
}

TEST(Library, NeedsNothing) {
  struct stat info;
  ASSERT_EQ(stat(agent_path().c_str(), &info), 0);
  EXPECT_LT(info.st_size, 200 * 1024);
  int status = 0;
  const std::string dynamic = output_of("readelf -W -d '" + agent_path() + "' 2>&1", &status);
  if (status != 0) GTEST_SKIP() << "readelf is not installed";
  EXPECT_THAT(dynamic, Not(HasSubstr("NEEDED")));
  EXPECT_THAT(dynamic, Not(HasSubstr("TEXTREL")));
  const std::string symbols = output_of("readelf -W --dyn-syms '" + agent_path() + "'");
  std::string line;
  for (size_t at = 0, end; (end = symbols.find('\n', at)) != std::string::npos; at = end + 1) {
    line = symbols.substr(at, end - at);
    if (line.find("GLOBAL") == std::string::npos && line.find("WEAK") == std::string::npos) continue;
    if (line.find(" WEAK ") != std::string::npos && line.find(" UND ") != std::string::npos) {
      // The host's C++ runtime, where it has one (host_call.cc).
      EXPECT_THAT(line, ::testing::AnyOf(HasSubstr("__cxa_"), HasSubstr("_Unwind_")));
      continue;
    }
    EXPECT_THAT(line, Not(HasSubstr(" UND "))) << "undefined symbol";
    EXPECT_THAT(line, HasSubstr("bpftime_agent_"));
  }
}

TEST(Library, NearSlotNeedsNothingToo) {
  const std::string near = agent_path().substr(0, agent_path().rfind('/')) + "/libbpftime-near.so";
  struct stat info;
  ASSERT_EQ(stat(near.c_str(), &info), 0);
  EXPECT_LT(info.st_size, 32 * 1024) << "it is to fit in small gaps";
  int status = 0;
  const std::string about = output_of("readelf -W -d -r '" + near + "' 2>&1", &status);
  if (status != 0) GTEST_SKIP() << "readelf is not installed";
  EXPECT_THAT(about, Not(HasSubstr("NEEDED")));
  EXPECT_THAT(about, HasSubstr("There are no relocations"));
  EXPECT_THAT(output_of("readelf -W --dyn-syms '" + near + "'"), Not(HasSubstr("GLOBAL DEFAULT  UND")));
}

TEST(Library, GeneralRegistersOnly) {
  int status = 0;
  const std::string code = output_of("objdump -d --no-show-raw-insn '" + agent_path() + "' 2>&1", &status);
  if (status != 0) GTEST_SKIP() << "objdump is not installed";
  for (const char* forbidden : {"%xmm", "%ymm", "%zmm", "%st(", "pushf", "popf"}) {
    EXPECT_THAT(code, Not(HasSubstr(forbidden)));
  }
  // Only the bridge saves vector state, around the host's own function.
  const size_t bridge = code.find("<bpftime_agent_host_call>:"), after = code.find("\n\n", bridge);
  ASSERT_NE(bridge, std::string::npos);
  for (size_t at = code.find("xsave"); at != std::string::npos; at = code.find("xsave", at + 1))
    EXPECT_TRUE(at > bridge && at < after) << code.substr(at, 80);
}

TEST(Preload, GlibcProgram) {
  int status = 0;
  EXPECT_EQ(output_of(preload() + "/bin/echo hello 2>&1", &status), "hello\n");
  EXPECT_EQ(status, 0);
}

TEST(Preload, NoDaemonNoTrace) {
  for (const char* socket : {"/nonexistent/socket", "", "/dev/null"}) {
    const std::string set = std::string("BPFTIME_TARGET_SOCKET='") + socket + "'";
    EXPECT_EQ(output_of(preload(set) + "/bin/ls /proc/self/fd 2>&1"),
              output_of("/bin/ls /proc/self/fd 2>&1"));
  }
}

TEST(Preload, MuslProgram) {
  if (system("musl-gcc --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "musl-gcc is not installed";
  char directory[] = "/tmp/bpftime-musl-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  const std::string base = directory;
  const std::string source =
      "#include <stdio.h>\n#include <pthread.h>\nstatic void* run(void* a) { return a; }\n"
      "int main() { pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0); puts(\"musl\"); }\n";
  FILE* file = fopen((base + "/a.c").c_str(), "w");
  fputs(source.c_str(), file);
  fclose(file);
  ASSERT_EQ(system(("musl-gcc -o " + base + "/a " + base + "/a.c").c_str()), 0);
  int status = 0;
  EXPECT_EQ(output_of(preload("BPFTIME_TARGET_SOCKET=/nonexistent") + base + "/a 2>&1", &status), "musl\n");
  EXPECT_EQ(status, 0);
  system(("rm -r " + base).c_str());
}

// Plays the daemon for one target.
class Listener {
 public:
  Listener() {
    char directory[] = "/tmp/bpftime-agent-XXXXXX";
    directory_ = mkdtemp(directory);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path().c_str());
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    listen(fd_, 4);
  }
  ~Listener() {
    close(fd_);
    unlink(path().c_str());
    rmdir(directory_.c_str());
  }
  std::string path() const { return directory_ + "/socket"; }
  int accept_one() {
    pollfd wait = {fd_, POLLIN, 0};
    return poll(&wait, 1, 10000) == 1 ? accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC) : -1;
  }

 private:
  std::string directory_;
  int fd_;
};

TEST(Preload, GreetsTheDaemonAndWaitsForItsReply) {
  Listener listener;
  FILE* target = popen(
      (preload("BPFTIME_TARGET_SOCKET='" + listener.path() + "'") + "/bin/ls /proc/self/fd").c_str(), "r");
  const int fd = listener.accept_one();
  // sh is preloaded as well as ls when the shell is dash: it execs, so greet each one that comes.
  ASSERT_GE(fd, 0);
  struct {
    wire::MessageHeader hello_header;
    wire::Hello hello;
    wire::MessageHeader target;
  } got;
  ASSERT_EQ(recv(fd, &got, sizeof got, MSG_WAITALL), static_cast<ssize_t>(sizeof got));
  EXPECT_EQ(got.hello_header.magic, wire::kMagic);
  EXPECT_EQ(got.hello_header.type, wire::MessageType::kHello);
  EXPECT_EQ(got.hello.kind, wire::ClientKind::kTarget);
  EXPECT_EQ(got.target.type, wire::MessageType::kTargetHello);
  pollfd early = {fileno(target), POLLIN, 0};
  EXPECT_EQ(poll(&early, 1, 100), 0) << "must wait for the reply";
  for (const uint32_t sequence : {got.hello_header.sequence, got.target.sequence}) {
    const struct {
      wire::MessageHeader header;
      wire::Reply reply;
      char text[4];
    } answer = {
        {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, wire::MessageType::kReply, 20, 0, sequence},
        {0, 4, 0},
        {'d', 'o', 'n', 'e'}};
    ASSERT_EQ(send(fd, &answer, 44, MSG_NOSIGNAL), 44);
  }
  char byte;
  EXPECT_EQ(recv(fd, &byte, 1, 0), 0) << "closes once answered";
  close(fd);
  std::string out;
  char buffer[256];
  while (fgets(buffer, sizeof buffer, target) != nullptr) out += buffer;
  EXPECT_EQ(pclose(target), 0);
  EXPECT_EQ(out, output_of("/bin/ls /proc/self/fd"));
}

TEST(Preload, DaemonThatHangsUp) {
  Listener listener;
  FILE* target =
      popen((preload("BPFTIME_TARGET_SOCKET='" + listener.path() + "'") + "/bin/echo on").c_str(), "r");
  const int fd = listener.accept_one();
  ASSERT_GE(fd, 0);
  close(fd);
  char buffer[16] = {};
  EXPECT_NE(fgets(buffer, sizeof buffer, target), nullptr);
  EXPECT_STREQ(buffer, "on\n");
  EXPECT_EQ(pclose(target), 0);
}

}  // namespace
}  // namespace bpftime::agent

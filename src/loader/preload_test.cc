// The shared library as tools meet it: preloaded into programs that know nothing of it, against a
// small fake daemon.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "base/memfd.h"
#include "maps/map.h"
#include "wire/bpf_call.h"
#include "wire/client.h"
#include "wire/object.h"

namespace bpftime::loader {
namespace {

using testing::HasSubstr;

// Built programs lie beside this one.
std::string bin(const std::string& name) {
  char self[4096] = {};
  if (::readlink("/proc/self/exe", self, sizeof(self) - 1) < 0) return name;
  const std::string path = self;
  return path.substr(0, path.rfind('/') + 1) + name;
}

struct Outcome {
  int status;
  std::string output;  // both streams
};

Outcome run(const std::string& environment, const std::string& command) {
  FILE* pipe = ::popen(("env " + environment + " timeout -k 1 60 " + command + " 2>&1").c_str(), "re");
  Outcome outcome{-1, ""};
  char chunk[4096];
  size_t got;
  while ((got = std::fread(chunk, 1, sizeof(chunk), pipe)) > 0) outcome.output.append(chunk, got);
  outcome.status = ::pclose(pipe);
  return outcome;
}

std::string preload() { return "LD_PRELOAD=" + bin("libbpftime-loader.so"); }

// Answers as the daemon would, for the few requests the probe makes. One thread per connection.
class FakeDaemon {
 public:
  FakeDaemon() {
    char name[] = "/tmp/bpftime-loader-XXXXXX";
    directory_ = ::mkdtemp(name);
    listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path().c_str());
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
    accepting_ = std::thread([this] { accept_all(); });
  }
  ~FakeDaemon() {
    stopping_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    accepting_.join();
    for (auto& thread : serving_) thread.join();
    ::unlink(path().c_str());
    ::rmdir(directory_.c_str());
  }
  std::string path() const { return directory_ + "/socket"; }
  std::string environment() const { return preload() + " BPFTIME_SOCKET=" + path(); }

  std::atomic<int> connections{0};
  std::atomic<int> requests{0};
  std::atomic<int> hang_up_at{
      0};  // this request gets no answer but a closed connection, as from a restarting daemon
  std::atomic<uint32_t> hello_flags{0};
  std::string last_path;  // of the last uprobe

 private:
  struct Answer {
    wire::ReplyBuilder reply{0};
    std::vector<Fd> fds;
  };

  void accept_all() {
    for (;;) {
      Fd peer(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!peer || stopping_) return;
      ++connections;
      serving_.emplace_back([this, peer = std::move(peer)]() mutable { serve(peer); });
    }
  }

  void serve(Fd& peer) {
    for (;;) {
      auto message = wire::receive_message(peer.get(), wire::Deadline::after_ms(30000));
      if (!message) return;
      if (message->type != wire::MessageType::kHello && ++requests == hang_up_at) return peer.reset();
      Answer answer = reply_to(*message);
      std::vector<int> fds;
      for (const Fd& fd : answer.fds) fds.push_back(fd.get());
      (void)wire::send_message(peer.get(), wire::MessageType::kReply, message->sequence, answer.reply.body(),
                               fds, wire::Deadline::after_ms(30000));
    }
  }

  Answer reply_to(wire::Message& message) {
    const std::lock_guard lock(mutex_);
    switch (message.type) {
      case wire::MessageType::kHello:
        hello_flags = read_at<wire::Hello>(message.body, 0)->flags;
        return Answer();
      case wire::MessageType::kBpf:
        return bpf(message);
      case wire::MessageType::kPerfEventOpen:
        return perf_open(message);
      case wire::MessageType::kPerfIoctl:
        return {wire::ReplyBuilder(
                    read_at<wire::PerfIoctl>(message.body, 0)->command == PERF_EVENT_IOC_ID ? 4711 : 0),
                {}};
      case wire::MessageType::kPerfMmap:
        return {wire::ReplyBuilder(size_ring(message)), {}};
      case wire::MessageType::kReadiness:
        return readiness(message);
      default:
        return {wire::ReplyBuilder(-EINVAL), {}};
    }
  }

  static Fd make_object(wire::ObjectKind kind, const wire::MapSpec& spec, uint64_t size) {
    auto fd =
        create_memfd("bpf-object", size, kind == wire::ObjectKind::kMap ? F_SEAL_SHRINK | F_SEAL_GROW : 0);
    auto memory = Mapping::shared(*fd, size, PROT_READ | PROT_WRITE);
    if (kind == wire::ObjectKind::kMap) maps::initialize({memory->data(), &spec});
    write_trailer(memory->data(), size, kind, spec);
    return std::move(*fd);
  }

  static void write_trailer(uint8_t* base, uint64_t size, wire::ObjectKind kind, const wire::MapSpec& spec) {
    auto* trailer = reinterpret_cast<wire::ObjectTrailer*>(base + size - wire::kTrailerSize);
    trailer->header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, size};
    trailer->kind = kind;
    trailer->map = spec;
  }

  Answer bpf(wire::Message& message) {
    auto call = wire::decode_bpf_call(message.body, message.fds.size());
    if (!call) return {wire::ReplyBuilder(call.error()), {}};
    Answer answer;
    if (call->command() == BPF_MAP_CREATE) {
      const wire::MapSpec spec = {call->field<uint32_t>(0),  call->field<uint32_t>(4),
                                  call->field<uint32_t>(8),  call->field<uint32_t>(12),
                                  call->field<uint32_t>(16), 1};
      if (const int64_t bad = maps::check_spec(spec); bad != 0) return {wire::ReplyBuilder(bad), {}};
      answer.fds.push_back(make_object(wire::ObjectKind::kMap, spec, maps::memory_size(spec)));
    } else if (call->command() == BPF_PROG_LOAD) {
      answer.reply = wire::ReplyBuilder(-EACCES, "load: program: refused");
      if (call->blob(32) != nullptr)
        answer.reply.add_blob(32, Bytes(reinterpret_cast<const uint8_t*>("no way"), 7));
    } else if (call->command() == BPF_OBJ_GET_INFO_BY_FD) {
      const auto index = call->fd_index(wire::FdPlace::kAttr, 0);
      if (!index) return {wire::ReplyBuilder(-EBADF), {}};
      wire::ObjectTrailer trailer;
      const auto size = *file_size(message.fds[*index]);
      (void)!::pread(message.fds[*index].get(), &trailer, sizeof(trailer),
                     static_cast<off_t>(size - wire::kTrailerSize));
      struct bpf_map_info info = {};
      info.type = trailer.map.type, info.id = 1, info.key_size = trailer.map.key_size,
      info.value_size = trailer.map.value_size;
      info.max_entries = trailer.map.max_entries;
      const Bytes bytes = as_bytes(info);
      answer.reply.add_blob(8, bytes.first(std::min<size_t>(bytes.size(), call->blob(8)->out_length)));
    } else if (call->command() == BPF_MAP_UPDATE_ELEM) {
      answer.reply = wire::ReplyBuilder(call->fd_index(wire::FdPlace::kValue, 0) ? 0 : -EBADF);
    } else {
      answer.reply = wire::ReplyBuilder(call->command() == BPF_MAP_DELETE_ELEM ? 0 : -EINVAL);
    }
    return answer;
  }

  Answer perf_open(const wire::Message& message) {
    const auto open = read_at<wire::PerfEventOpen>(message.body, 0);
    if (!open || message.body.size() != sizeof(*open) + open->path_length + open->given_length)
      return {wire::ReplyBuilder(-EPROTO), {}};
    last_path.assign(message.body.begin() + sizeof(*open), message.body.end() - open->given_length);
    Answer answer;
    answer.fds.push_back(make_object(wire::ObjectKind::kPerfEvent, {}, wire::kTrailerSize));
    return answer;
  }

  int64_t size_ring(const wire::Message& message) {
    const uint64_t ring = read_at<wire::PerfMmap>(message.body, 0)->size, size = ring + wire::kTrailerSize;
    if (::ftruncate(message.fds[0].get(), static_cast<off_t>(size)) != 0) return -errno;
    auto memory = Mapping::shared(message.fds[0], size, PROT_READ | PROT_WRITE);
    std::memset(memory->data(), 0, size);
    write_trailer(memory->data(), size, wire::ObjectKind::kPerfEvent, {});
    auto* page = reinterpret_cast<struct perf_event_mmap_page*>(memory->data());
    page->data_offset = 4096;
    page->data_size = ring - 4096;
    return 0;
  }

  // Hands out the eventfd, and has one record arrive.
  Answer readiness(const wire::Message& message) {
    Answer answer;
    answer.fds.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const auto size = *file_size(message.fds[0]);
    auto memory = Mapping::shared(message.fds[0], size, PROT_READ | PROT_WRITE);
    wire::ObjectTrailer trailer;
    std::memcpy(&trailer, memory->data() + size - wire::kTrailerSize, sizeof(trailer));
    if (trailer.kind == wire::ObjectKind::kMap) {
      bool wake = false;
      const maps::MapView ring = {memory->data(), &trailer.map};
      if (maps::ring_output(ring, "hello", 5, 0, 1, &wake) != 0) return {wire::ReplyBuilder(-EIO), {}};
    } else {
      struct {
        struct perf_event_header header = {PERF_RECORD_SAMPLE, 0, 24};
        uint32_t size = 12;
        char text[12] = "hello";
      } sample;
      std::memcpy(memory->data() + 4096, &sample, sizeof(sample));
      __atomic_store_n(&reinterpret_cast<struct perf_event_mmap_page*>(memory->data())->data_head, 24,
                       __ATOMIC_RELEASE);
    }
    const uint64_t one = 1;
    EXPECT_EQ(::write(answer.fds[0].get(), &one, sizeof(one)), 8);
    return answer;
  }

  std::string directory_;
  Fd listener_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::thread accepting_;
  std::vector<std::thread> serving_;
};

std::string probe(const FakeDaemon& daemon, const std::string& verb, const std::string& more = "") {
  auto outcome = run(daemon.environment() + " " + more, bin("loader_preload_probe") + " " + verb);
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  return outcome.output;
}

TEST(Preload, ElementCommandsThroughLibbpf) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "maps"),
            "create ok\ncloexec 1\nlookup -2\nupdate 0\nclosed -9\nmoved 0 33 errno 77\nnext 0 3\nbatch "
            "-2\ndelete 0\n");
  EXPECT_EQ(daemon.connections, 1);
  EXPECT_EQ(daemon.hello_flags, 0u);
}

TEST(Preload, KernelVerifierModeReachesTheDaemon) {
  FakeDaemon daemon;
  probe(daemon, "maps", "BPFTIME_KERNEL_VERIFIER=require");
  EXPECT_EQ(daemon.hello_flags, wire::kHelloKernelVerifierRequire);
}

TEST(Preload, ForkedChildHasItsOwnConnection) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "fork"), "child 0 parent ok value 2\n");
  EXPECT_EQ(daemon.connections, 2);
}

TEST(Preload, HostThatClosesEverythingIsServedOn) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "closing"), "ok ok ok\n");
}

TEST(Preload, ThreadsShareTheConnection) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "threads"), "failures 0\n");
  EXPECT_EQ(daemon.connections, 1);
}

TEST(Preload, DaemonRestartIsNotNoticed) {
  FakeDaemon daemon;
  daemon.hang_up_at = 3;  // the parent's second: its connection is an old one
  EXPECT_EQ(probe(daemon, "fork"), "child 0 parent ok value 2\n");
  EXPECT_EQ(daemon.connections, 3);
}

TEST(Preload, RequestLostOnAFreshConnectionIsNotRepeated) {
  FakeDaemon daemon;
  daemon.hang_up_at = 1;  // a feature probe of libbpf's; the program comes later and connects anew
  const std::string output = probe(daemon, "load");
  EXPECT_THAT(output,
              HasSubstr("bpftime: read from the daemon: connection: closed by the daemon; try `bpftime"));
  EXPECT_THAT(output, HasSubstr("load -13 no way\n"));
  EXPECT_EQ(daemon.connections, 2);
}

TEST(Preload, RingBufferThroughLibbpf) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "ring"), "record hello\npolled 1\nagain 0\n");
}

TEST(Preload, VforkChildLeavesTheParentsWatchesAlone) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "vfork"), "record hello\nchild 0 polled 1\n");
}

TEST(Preload, PerfBufferThroughLibbpf) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "perf"), "sample 0 hello\npolled 1\npoll 0\n");
}

TEST(Preload, VerifierLogArrives) {
  FakeDaemon daemon;
  EXPECT_EQ(probe(daemon, "load"), "load -13 no way\n");
}

TEST(Preload, UprobeEventsAreOursOthersTheKernels) {
  FakeDaemon daemon;
  const std::string output = probe(daemon, "uprobe");
  EXPECT_THAT(output, HasSubstr("open ok\nenable 0 id 0 4711\nbad path -1 Bad address\n"));
  char real[4096];
  ASSERT_NE(::realpath(bin("loader_preload_probe").c_str(), real), nullptr);
  EXPECT_EQ(daemon.last_path, real);
  if (output.find("kernel 8\n") == std::string::npos)
    GTEST_SKIP() << "the kernel allows no software event here: " << output;
}

TEST(Preload, MemlockLimitNeverStopsATool) {
  EXPECT_EQ(run(preload(), bin("loader_preload_probe") + " memlock").output, "memlock 0\n");
}

TEST(Preload, WithoutADaemonOneLineSaysWhatToDo) {
  auto unset = run("-u BPFTIME_SOCKET " + preload(), bin("loader_preload_probe") + " load");
  EXPECT_THAT(unset.output, HasSubstr("load -5 untouched\n"));
  EXPECT_THAT(unset.output,
              HasSubstr("bpftime: reach the daemon: BPFTIME_SOCKET: not set; try `bpftime load"));
  EXPECT_EQ(std::count(unset.output.begin(), unset.output.end(), '\n'), 2) << unset.output;
  auto dead = run(preload() + " BPFTIME_SOCKET=/nonexistent/socket", bin("loader_preload_probe") + " load");
  EXPECT_THAT(dead.output,
              HasSubstr("/nonexistent/socket: No such file or directory; try `bpftime daemon start`"));
}

// Programs that have nothing to do with eBPF run as without us.
TEST(Preload, IsTransparent) {
  const std::string commands[] = {
      "ls -la /etc",
      "sh -c 'echo one | cat; exit 3'",
      "sh -c 'cat /nonexistent; ulimit -n'",
      "bash -c 'for i in 1 2 3; do (echo $i; exec 3<&-; exec 4>/dev/null; echo x >&4) & wait; done'",
      "grep -c processor /proc/cpuinfo",
      "dd if=/dev/zero bs=1k count=3 status=none",
      "sort /etc/passwd",
  };
  for (const std::string& command : commands) {
    const Outcome plain = run("", command), ours = run(preload(), command);
    EXPECT_EQ(plain.status, ours.status) << command;
    EXPECT_EQ(plain.output, ours.output) << command;
  }
}

TEST(Preload, PythonsEventLoopsAreTransparent) {
  if (run("", "python3 -c 'print(1)'").output != "1\n") GTEST_SKIP() << "no python3 on this machine";
  const std::string script = R"(
import asyncio, errno, mmap, os, select, socket, subprocess, tempfile, threading
async def loop():
    p = await asyncio.create_subprocess_exec("echo", "sub", stdout=subprocess.PIPE)
    print((await p.communicate())[0])
    await asyncio.sleep(0.001)
asyncio.run(loop())
a, b = socket.socketpair()
print(select.select([a], [a], [], 0)[1] == [a])
b.send(b"x"); print(select.select([a], [], [], 1)[0] == [a])
p = select.poll(); p.register(a, select.POLLIN); print([e for _, e in p.poll(0)])
e = select.epoll(); e.register(a, select.EPOLLIN); print([ev for _, ev in e.poll(0)])
try: e.register(a)
except OSError as x: print(x.errno == errno.EEXIST)
f = tempfile.TemporaryFile(); f.write(b"hello"); f.flush()
print(mmap.mmap(f.fileno(), 5, access=mmap.ACCESS_READ)[:], mmap.mmap(-1, 4096)[:1])
fd = os.dup2(f.fileno(), 99); os.close(fd); os.closerange(50, 60)
t = threading.Thread(target=lambda: print("thread")); t.start(); t.join()
if os.fork() == 0: os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
try: os.open("/nonexistent", os.O_RDONLY)
except OSError as x: print(x.errno)
)";
  const std::string path = testing::TempDir() + "/loader_transparent.py";
  std::ofstream(path) << script;
  const Outcome plain = run("", "python3 " + path), ours = run(preload(), "python3 " + path);
  EXPECT_EQ(plain.status, 0) << plain.output;
  EXPECT_EQ(plain.output, ours.output);
  ::unlink(path.c_str());
}

TEST(Preload, ExportsTheHooksAndNothingElse) {
  const Outcome symbols = run("", "nm -D --defined-only " + bin("libbpftime-loader.so"));
  if (symbols.status != 0) GTEST_SKIP() << "no nm on this machine: " << symbols.output;
  std::set<std::string> exported, listed;
  std::istringstream lines(symbols.output);
  for (std::string address, kind, name; lines >> address >> kind >> name;) exported.insert(name);
  const char* source = std::getenv("BPFTIME_SOURCE_DIR");
  if (source == nullptr) GTEST_SKIP() << "BPFTIME_SOURCE_DIR is not set";
  std::ifstream script(std::string(source) + "/src/loader/loader.map");
  for (std::string word; script >> word && word != "local:";)
    if (word.back() == ';') listed.insert(word.substr(0, word.size() - 1));
  EXPECT_EQ(exported, listed);
  EXPECT_GT(listed.size(), 30u);
  const Outcome needed = run("", "readelf -d " + bin("libbpftime-loader.so"));
  EXPECT_THAT(needed.output, testing::Not(HasSubstr("libstdc++")));
}

}  // namespace
}  // namespace bpftime::loader

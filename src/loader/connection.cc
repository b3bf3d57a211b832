#include "loader/connection.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "base/memfd.h"
#include "loader/log.h"
#include "loader/progress_line.h"
#include "loader/real.h"

namespace bpftime::loader {
namespace {

constexpr uint64_t kConnectMs = 60000;
constexpr uint64_t kCallMs = 120000;  // verifying and compiling a large program
constexpr int kDescriptorMin = 900;   // hosts count on low numbers, and some close them all

struct State {
  std::mutex mutex;
  std::optional<wire::Client> client;
  std::optional<InodeId> socket;    // what client->descriptor() was when we opened it
  long owner = 0;                   // the process that opened it: raw clone runs no fork handler
  std::string policy_class;         // what the daemon was told last
  std::atomic<int> descriptor{-1};  // for the close hook's first glance
};

// Never destroyed, see objects.cc.
State& state() {
  alignas(State) static unsigned char memory[sizeof(State)];
  static State* const made = new (memory) State;
  return *made;
}

// The host may have closed our descriptor (closefrom) and reused its number: then it is not ours to use
// or to close.
void drop_if_stolen(State& s) {
  if (!s.client) return;
  const auto now = inode_of(s.client->descriptor());
  if (now.ok() && s.socket && *now == *s.socket) return;
  s.client->abandon();
  s.client.reset();
}

// What `bpftime load --kernel-verifier` asked for.
uint32_t hello_flags(const char* kernel_verifier) {
  if (kernel_verifier == nullptr) return 0;
  if (std::strcmp(kernel_verifier, "off") == 0) return wire::kHelloKernelVerifierOff;
  if (std::strcmp(kernel_verifier, "require") == 0) return wire::kHelloKernelVerifierRequire;
  return 0;
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

// `bpftime load --policy` and `bpftime extend` say through the environment which policy and class programs are for.
Result<void> send_policy(State& s, const std::string& path) {
  const std::string wanted = variable("BPFTIME_POLICY_CLASS");
  if (path.empty() && wanted == s.policy_class) return {};
  const std::string host = path.empty() ? std::string() : variable("BPFTIME_POLICY_HOST");
  const wire::PolicyRequest request{static_cast<uint32_t>(path.size()), static_cast<uint32_t>(host.size()),
                                    static_cast<uint32_t>(wanted.size()),
                                    variable("BPFTIME_POLICY_COUNT") == "1" ? wire::kPolicyCountRuns : 0};
  const Bytes head = as_bytes(request);
  std::vector<uint8_t> body(head.begin(), head.end());
  for (const std::string* text : {&path, &host, &wanted}) body.insert(body.end(), text->begin(), text->end());
  auto answer = s.client->call(wire::MessageType::kPolicy, body, {}, wire::Deadline::after_ms(kCallMs));
  if (!answer) return answer.error();
  auto reply = wire::parse_reply(answer->body);
  if (!reply) return reply.error();
  // EPERM: the connection is in order, but nothing may be loaded through it.
  if (reply->result < 0) return Error{EPERM, std::string(reply->text)};
  s.policy_class = wanted;
  return {};
}

Result<void> connect(State& s) {
  const char* path = std::getenv("BPFTIME_SOCKET");
  if (path == nullptr || path[0] == 0)
    return Error{ENOENT, "reach the daemon: BPFTIME_SOCKET: not set; try `bpftime load -- COMMAND`"};
  const wire::Hello hello = {wire::ClientKind::kLoader, hello_flags(std::getenv("BPFTIME_KERNEL_VERIFIER"))};
  auto client = wire::Client::connect(path, hello, wire::Deadline::after_ms(kConnectMs));
  if (!client) return client.error();
  client->move_descriptor_above(kDescriptorMin);
  auto inode = inode_of(client->descriptor());
  if (!inode) return inode.error();
  s.client.emplace(std::move(*client));
  s.socket = *inode;
  s.owner = raw_syscall(SYS_getpid);
  s.descriptor.store(s.client->descriptor());
  const std::string policy = variable("BPFTIME_POLICY");
  if (policy.empty()) return {};
  s.policy_class.clear();
  auto sent = send_policy(s, policy);
  // Without its policy a program could do less than it must: rather nothing than that.
  if (!sent) s.client.reset();
  return sent;
}

// `bpftime load` asks for a line at its terminal; tools that were started otherwise are left alone.
std::string progress_directory() {
  if (variable("BPFTIME_PROGRESS").empty()) return "";
  const std::string socket = variable("BPFTIME_SOCKET");
  return socket.substr(0, std::min(socket.rfind('/'), socket.size()));
}

}  // namespace

Result<wire::Message> ask_daemon(wire::MessageType type, Bytes body, std::span<const int> fds) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  drop_if_stolen(s);
  if (s.client && s.owner != raw_syscall(SYS_getpid)) s.client.reset();  // closes the child's copy only
  Error why;
  // A fresh connection that fails is not tried again: only an old one may have died of a daemon's restart.
  for (bool fresh = false; !fresh;) {
    fresh = !s.client;
    if (fresh)
      if (auto connected = connect(s); !connected) {
        why = connected.error();
        break;
      }
    if (type == wire::MessageType::kBpf) {
      auto chosen = send_policy(s, "");
      if (!chosen && chosen.error().code == EPERM) {
        complain_once(chosen.error().message);
        return chosen.error();
      }
    }
    auto answer = call_with_progress(*s.client, type, body, fds, wire::Deadline::after_ms(kCallMs),
                                     progress_directory());
    if (answer) {
      complaint_resolved();
      return answer;
    }
    s.client.reset();
    why = answer.error();
    if (why.code == EMSGSIZE || why.code == EMFILE) return why;
  }
  const bool has_advice = why.message.find("; try ") != std::string::npos;
  complain_once(has_advice ? why.message : why.message + "; try `bpftime daemon restart`");
  return Error{EIO, why.message};
}

int connect_early() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (!s.client && !connect(s)) return -1;
  return s.client->descriptor();
}

void adopt_connection() { state().owner = raw_syscall(SYS_getpid); }

void connection_after_fork_in_child() {
  State& s = state();
  // The lock may have been held by a thread that does not exist here; its mutex is made anew, not unlocked.
  new (&s.mutex) std::mutex;
  if (!s.client) return;
  drop_if_stolen(s);
  s.client.reset();  // closes the child's copy only
}

bool is_connection_descriptor(int fd) {
  State& s = state();
  if (s.descriptor.load(std::memory_order_relaxed) != fd) return false;
  // Not worth waiting for: while a request runs, a host that closes all its descriptors gets no protection.
  const std::unique_lock lock(s.mutex, std::try_to_lock);
  if (!lock.owns_lock() || !s.client || s.client->descriptor() != fd) return false;
  const auto now = inode_of(fd);
  return now.ok() && s.socket && *now == *s.socket;
}

}  // namespace bpftime::loader

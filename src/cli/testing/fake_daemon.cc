// A daemon for the CLI's tests: speaks the protocol, holds nothing. Run as `bpftimed --runtime-dir DIR`; ends
// on `stop`, or when nobody has spoken to it for a while. Appends one line per start to DIR/starts.
// FAKE_DAEMON_VERSION=N: it is of that version and, as the real one, refuses others in its own.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "base/progress.h"
#include "wire/client.h"

namespace {

using bpftime::Bytes;
using bpftime::Fd;
using namespace bpftime::wire;
using Json = nlohmann::json;

constexpr int kIdleMs = 20000, kSlowMs = 2000, kSlowPid = 4712;
uint16_t version = kAbiVersion;

Bytes bytes_of(const std::string& text) {
  return Bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

void reply(int socket, uint32_t sequence, int64_t result, const std::string& text, const std::string& json) {
  const Reply header{result, static_cast<uint32_t>(text.size()), 0};
  const std::string body = std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + text + json;
  (void)send_message(socket, MessageType::kReply, sequence, bytes_of(body), {}, Deadline::after_ms(5000),
                     version);
}

void trace_line(int socket, uint32_t lineage, const std::string& text) {
  const TraceLine header{lineage, static_cast<uint32_t>(text.size())};
  const std::string body = std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + text;
  (void)send_message(socket, MessageType::kTraceLine, 0, bytes_of(body), {}, Deadline::after_ms(5000));
}

const char kList[] =
    R"({"targets":[{"pid":10,"name":"nginx","lineage":9,"probes":[{"path":"/usr/sbin/nginx","offset":4096,
  "function":"serve","address":93824992235520,"programs":[{"id":3,"name":"count","kind":"uprobe"}],"state":"active"},
  {"path":"/usr/sbin/nginx","offset":8192,"function":"tiny","state":"skipped","reason":"shorter than a jump"}]}],
  "clocks":[{"event":4,"period_ns":1000000000,"cpu":-1,"programs":[{"id":5,"name":"tick","kind":"perf_event",
  "state":"active","hits":7}]}],"loaders":[{"pid":7,"name":"malloc"}]})";

void command(int socket, const Message& message) {
  const Json request = Json::parse(message.body.begin(), message.body.end(), nullptr, false);
  const std::string what = request.value("command", "");
  if (what == "list") return reply(socket, message.sequence, 0, "", kList);
  if (what == "status") {
    const Json status{
        {"version", "0.1.0"}, {"worker_pid", ::getpid()}, {"keeper_pid", ::getpid()}, {"maps", 1}};
    return reply(socket, message.sequence, 0, "", status.dump());
  }
  if (what == "attach" && request.value("pid", 0) == kSlowPid) {  // longer than anybody waits silently
    bpftime::set_progress("process 4712: placing probes", 3, 40);
    struct pollfd leaves = {socket, POLLRDHUP, 0};
    ::poll(&leaves, 1, kSlowMs);
    bpftime::set_progress("");
  }
  if (what == "attach" || what == "detach") {
    if (request.value("pid", 0) == 1)
      return reply(socket, message.sequence, -EPERM, "attach: 1: is not yours; try root", "");
    return reply(socket, message.sequence, 0, "", R"({"name":"victim","probes":[]})");
  }
  if (what == "stop") {
    reply(socket, message.sequence, 0, "", "{}");
    ::_exit(0);
  }
  reply(socket, message.sequence, -EPROTO, "command: not known to this daemon", "");
}

void serve(Fd connection) {
  for (;;) {
    auto message = receive_message(connection.get(), Deadline::never(), Versions::kAny);
    if (!message) return;
    if (message->version != version) return reply(connection.get(), 0, -EPROTO, "speaks another version", "");
    if (message->type == MessageType::kHello) {
      reply(connection.get(), message->sequence, 0, "", "");
    } else if (message->type == MessageType::kCommand) {
      command(connection.get(), *message);
    } else if (message->type == MessageType::kBpf) {  // holds no objects, and says so strangely
      reply(connection.get(), message->sequence, -EPERM, "not this daemon", "");
    } else if (message->type == MessageType::kTraceSubscribe) {
      auto request = bpftime::read_at<TraceSubscribe>(message->body, 0);
      const uint32_t lineage = request ? request->lineage : 0;
      const std::string pid = std::to_string(lineage);
      reply(connection.get(), message->sequence, 0, "", "");
      trace_line(connection.get(), lineage,
                 "           victim-" + pid + "     [000] ..... 12345.678901: bpf_trace_printk: hit " + pid +
                     "\x1b[2J\n");
      if (request && (request->flags & kTraceFollow) == 0) trace_line(connection.get(), 0, "");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string directory = argv[2];
  if (const char* other = std::getenv("FAKE_DAEMON_VERSION"))
    version = static_cast<uint16_t>(std::atoi(other));
  if (FILE* starts = std::fopen((directory + "/starts").c_str(), "a")) {
    std::fprintf(starts, "%d\n", static_cast<int>(::getpid()));
    std::fclose(starts);
  }
  bpftime::publish_progress_in(directory);
  const std::string path = directory + "/daemon.sock";
  ::unlink(path.c_str());
  Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (::bind(listener.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) != 0) return 1;
  if (::listen(listener.get(), 64) != 0) return 1;
  for (;;) {
    struct pollfd waiting = {listener.get(), POLLIN, 0};
    if (::poll(&waiting, 1, kIdleMs) == 0) return 0;
    Fd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection) std::thread(serve, std::move(connection)).detach();
  }
}

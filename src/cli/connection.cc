#include "cli/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include "cli/daemon_process.h"
#include "cli/exit_codes.h"
#include "loader/progress_line.h"

namespace bpftime::cli {
namespace {

constexpr wire::Hello kHello{wire::ClientKind::kCli, 0};

// Serialises daemon starts. Released when the returned descriptor closes; the daemon does not inherit it.
Result<Fd> lock_start(const RuntimeDirectory& directory) {
  Fd lock(::open(directory.start_lock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return Error::from_errno("start the daemon: " + directory.start_lock());
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return Error::from_errno("start the daemon: lock " + directory.start_lock());
  }
  return lock;
}

// Waits until the daemon answers, has died, or is too late.
Result<wire::Client> await_daemon(const DaemonProcess& process, const RuntimeDirectory& directory) {
  const auto deadline = wire::Deadline::after_ms(kDaemonStartMs);
  for (;;) {
    auto client = wire::Client::connect(directory.socket(), kHello, deadline);
    if (client || !is_absent(client.error())) return client;
    struct pollfd death {
      process.pidfd.get(), POLLIN, 0
    };
    constexpr int kRetryMs = 2;
    const bool died = ::poll(&death, 1, kRetryMs) > 0;
    if (!died && deadline.remaining_ms() > 0) continue;
    const std::string log = end_of_log(directory);
    return Error{ECONNREFUSED, std::string("start the daemon: bpftimed: ") +
                                   (died ? "ended at once" : "does not listen within a minute") +
                                   "; its log " + directory.log() +
                                   (log.empty() ? " is empty" : " ends:\n" + log)};
  }
}

}  // namespace

bool is_absent(const Error& error) {
  // One that leaves as we come resets the connection: the same as none.
  return error.code == ENOENT || error.code == ECONNREFUSED || error.code == ECONNRESET ||
         error.code == EPIPE;
}

Result<std::string> installation_directory() {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == sizeof(path))
    return Error::from_errno("find bpftime's own folder: /proc/self/exe");
  const std::string self(path, static_cast<size_t>(length));
  return self.substr(0, self.rfind('/'));
}

Result<Connection> Connection::to_running(const RuntimeDirectory& directory) {
  auto client = wire::Client::connect(directory.socket(), kHello, wire::Deadline::after_ms(kDaemonStartMs));
  if (!client) return client.error();
  return Connection(std::move(*client));
}

Result<Connection> Connection::to_any_version(const RuntimeDirectory& directory) {
  auto client =
      wire::Client::connect_any_version(directory.socket(), kHello, wire::Deadline::after_ms(kDaemonStartMs));
  if (!client) return client.error();
  return Connection(std::move(*client));
}

Result<Connection> Connection::to_daemon(const RuntimeDirectory& directory) {
  auto running = to_running(directory);
  if (running || !is_absent(running.error())) return running;
  auto lock = lock_start(directory);
  if (!lock) return lock.error();
  // Another command may have started it while this one waited for the lock.
  running = to_running(directory);
  if (running || !is_absent(running.error())) return running;

  auto folder = installation_directory();
  if (!folder) return folder.error();
  auto process = spawn_daemon(*folder + "/bpftimed", directory);
  if (!process) return Error{ECONNREFUSED, process.error().message};
  auto client = await_daemon(*process, directory);
  if (!client) return client.error();
  return Connection(std::move(*client));
}

Result<Json> Connection::command(const Json& request) {
  const std::string text = request.dump();
  const Bytes body(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  // Of a connection that was opened before: the directory is the same.
  const auto directory = find_runtime_directory();
  auto answer = loader::call_with_progress(client_, wire::MessageType::kCommand, body, {},
                                           wire::Deadline::after_ms(kCommandMs),
                                           directory && !errors_are_json() ? directory->path : "");
  if (!answer) return answer.error();
  auto reply = wire::parse_reply(answer->body);
  if (!reply) return reply.error();
  if (reply->result < 0) {
    const int code = static_cast<int>(-reply->result);
    const std::string what = request.value("command", "command");
    return Error{code, reply->text.empty() ? what + ": " + std::strerror(code) : std::string(reply->text)};
  }
  if (reply->rest.empty()) return Json::object();
  Json json = Json::parse(reply->rest.begin(), reply->rest.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Error{EPROTO, "read from the daemon: answer: not JSON"};
  return json;
}

Result<Json> ask_daemon(const Json& request) {
  auto directory = find_runtime_directory();
  if (!directory) return directory.error();
  auto connection = Connection::to_daemon(*directory);
  if (!connection) return connection.error();
  return connection->command(request);
}

}  // namespace bpftime::cli

// The way to the daemon: find the runtime directory, start the daemon when there is none, ask it things.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "base/runtime_dir.h"
#include "wire/client.h"

namespace bpftime::cli {

using Json = nlohmann::json;

// How long a daemon may take from exec to listening, and to answer one command (attaching
// stops other processes).
inline constexpr uint64_t kDaemonStartMs = 60000;
inline constexpr uint64_t kCommandMs = 60000;

class Connection {
 public:
  // To a running daemon. ENOENT or ECONNREFUSED when there is none.
  static Result<Connection> to_running(const RuntimeDirectory& directory);
  // To a running daemon of any version: to look at its processes and to end it.
  static Result<Connection> to_any_version(const RuntimeDirectory& directory);
  // To the daemon, started first when there is none (bpftimed beside this binary). Two commands at once
  // start one daemon.
  static Result<Connection> to_daemon(const RuntimeDirectory& directory);

  // Sends one JSON command; the daemon's JSON answer, or its error (code: positive errno).
  Result<Json> command(const Json& request);

  wire::Client& client() { return client_; }
  bool other_version() const { return client_.version() != wire::kAbiVersion; }

 private:
  explicit Connection(wire::Client client) : client_(std::move(client)) {}
  wire::Client client_;
};

// True for the errors of a daemon that is not there at all, as opposed to one that does not answer.
bool is_absent(const Error& error);

// One command to the caller's daemon, started when needed.
Result<Json> ask_daemon(const Json& request);

// The folder this binary was started from: bpftimed, libbpftime-agent.so and libbpftime-loader.so
// lie there too.
Result<std::string> installation_directory();

}  // namespace bpftime::cli

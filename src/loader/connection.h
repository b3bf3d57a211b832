// This process's one connection to the daemon.
#pragma once

#include <span>

#include "base/bytes.h"
#include "base/result.h"
#include "wire/client.h"

namespace bpftime::loader {

// Sends one request and waits for its reply; connects first when there is no connection, and once more when
// the daemon went away meanwhile (a restart keeps the socket's path). Thread-safe: requests of several
// threads queue. Error: EIO when no daemon answers (said once on stderr, with the next step).
Result<wire::Message> ask_daemon(wire::MessageType type, Bytes body, std::span<const int> fds);

// In the child after fork: the connection is the parent's. Called before any other thread can exist.
void connection_after_fork_in_child();

// Connects now, as this process, and has a process made of it by fork() go on with the connection: to the daemon the client
// is the first. -1: there is none. An error is left to the first request.
int connect_early();
void adopt_connection();

// True when the host closes `fd` and that is our socket: the host must believe it closed it, while
// we keep it.
bool is_connection_descriptor(int fd);

}  // namespace bpftime::loader

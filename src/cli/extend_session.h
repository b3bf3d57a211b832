// One policy in force: a process that has its extensions loaded and attached, and with which they go.
//
// `bpftime extend` runs it as `bpftime extend-session` with the loader library preloaded: libbpf then talks to the daemon as any
// tool does, and an object that brings libbpf down takes nothing else with it. It tells its parent what happens, one JSON
// object a line; the parent says "attach" and, by closing the pipe or ending it, that it is over.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "cli/connection.h"

namespace bpftime::cli {

class ExtendSession {
 public:
  // Starts one. `host`: for manifests that describe a file nobody names; may be empty. `token`: its extensions run in no process
  // but those that are told to be in it (kernel::HostClass::session).
  static Result<ExtendSession> start(const std::string& policy, const std::string& host, uint64_t token,
                                     bool check_promises = false);
  ExtendSession(ExtendSession&&) noexcept;
  ExtendSession& operator=(ExtendSession&&) noexcept;
  ~ExtendSession();

  // The next event; nullopt: the session has ended. Events have "event": policy, loaded, refused, ready, attached, failed.
  std::optional<Json> next_event();
  // Attaches all that was loaded, in policy order.
  void attach();
  // Ends the session and waits for that: its extensions are gone from the daemon when it returns.
  void end();
  // Readable when the session says something or has ended.
  int descriptor() const { return from_.get(); }

 private:
  ExtendSession(pid_t pid, Fd to, Fd from);
  pid_t pid_ = -1;
  Fd to_, from_;
  std::string pending_;
};

// The session itself: the whole of `bpftime extend-session`.
int run_extend_session(const std::string& policy, const std::string& host);

}  // namespace bpftime::cli

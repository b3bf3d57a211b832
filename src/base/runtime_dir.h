// The directory where a user's daemon and its clients meet: socket, lock, log. One per user, mode 0700.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace bpftime {

inline constexpr std::string_view kRuntimeDirVariable = "BPFTIME_RUNTIME_DIR";

// Paths inside one runtime directory. Value type; says nothing about whether they exist.
struct RuntimeDirectory {
  std::string path;  // absolute, no trailing slash

  std::string socket() const { return path + "/daemon.sock"; }
  // flock(2)ed while a client starts the daemon, so that two clients start one daemon.
  std::string start_lock() const { return path + "/start.lock"; }
  // Standard output and error of a daemon that a client started.
  std::string log() const { return path + "/daemon.log"; }
  // What /sys/fs/bpf is to tools: names of pinned objects.
  std::string pins() const { return path + "/bpffs"; }
  // Every load, grant and refusal: one JSON line each.
  std::string audit_log() const { return path + "/audit.jsonl"; }
};

// The caller's runtime directory, chosen as: $BPFTIME_RUNTIME_DIR; $XDG_RUNTIME_DIR/bpftime (when that
// is the caller's own: sudo keeps the variable of another user); /run/bpftime for root,
// /run/bpftime-UID otherwise (when it exists or can be made); /tmp/bpftime-UID. Created when missing,
// then checked as by open_runtime_directory.
Result<RuntimeDirectory> find_runtime_directory();

// `path` as a runtime directory: created with mode 0700 when missing (its parent must exist). Refused when
// it is a symbolic link, no directory, owned by another user (EPERM), open to group or others, or too long
// for a socket address.
Result<RuntimeDirectory> open_runtime_directory(const std::string& path);

}  // namespace bpftime

// Starting bpftimed: detached from this process, its terminal and its descriptors.
#pragma once

#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"
#include "base/runtime_dir.h"

namespace bpftime::cli {

struct DaemonProcess {
  pid_t pid = -1;
  Fd pidfd;  // readable once the process has ended
};

// Runs `program --runtime-dir DIR` in a session of its own, its output appended to DIR/daemon.log, not a
// child of ours (we may become a program that waits for its own children). Returns when it has been exec'ed;
// says nothing about readiness.
Result<DaemonProcess> spawn_daemon(const std::string& program, const RuntimeDirectory& directory);

// The last few lines of the daemon's log, for error messages; empty when there are none.
std::string end_of_log(const RuntimeDirectory& directory);

}  // namespace bpftime::cli

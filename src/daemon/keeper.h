// The keeper: the small half of the daemon that must not die. It holds the listening socket and, per object, an opaque
// record with its descriptors; it starts the worker and starts another when that one dies. No third-party code, no parsing
// of anything that comes from outside.
#pragma once

#include <string>

#include "base/runtime_dir.h"
#include "daemon/options.h"

namespace bpftime::daemon {

// Runs until the worker asks to stop or is given up. Returns the process's exit code.
int run_keeper(const RuntimeDirectory& directory, const Options& options);

}  // namespace bpftime::daemon

// `start` at a terminal: the program is a child, this process shows its trace lines.
#pragma once

#include <string>
#include <vector>

#include "wire/client.h"

namespace bpftime::cli {

// Runs `path` as a child in the same process group (the terminal stays its own), relays the trace lines of
// its lineage to stderr, passes on signals sent to this process, and ends as the child ended: same exit
// status, or same signal.
int supervise(const std::string& path, const std::vector<std::string>& arguments, wire::Client& trace);

}  // namespace bpftime::cli

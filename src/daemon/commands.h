// What the CLI asks: JSON in, JSON out.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace bpftime::daemon {

class Connection;
class Worker;

// Runs one command and returns its JSON answer. Errors carry words for the user.
Result<std::string> run_command(Worker& worker, Connection& client, std::string_view request);

}  // namespace bpftime::daemon

// What the command's exit status means; docs/cli.md says the same.
#pragma once

#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"

namespace bpftime::cli {

enum ExitCode : int {
  kOk = 0,
  kFailure = 1,          // it was tried and did not work
  kUsage = 2,            // the command line makes no sense
  kUnreachable = 3,      // no daemon, and none could be started
  kRefused = 4,          // not allowed, or something we cannot serve
  kNotExecutable = 126,  // load, start: found, but cannot be run (as shells say it)
  kNotFound = 127,       // load, start: no such program
};

// The exit status for an error the daemon (or the runtime directory's check) answered with.
ExitCode exit_code_of(const Error& error);

// Prints "bpftime: MESSAGE" to stderr and returns exit_code_of(error).
ExitCode report(const Error& error);
// The same for a command line that makes no sense: returns kUsage.
ExitCode report_usage(const std::string& message);
// From here on both print {"error":"MESSAGE","errno":NUMBER} instead, in a line of its own, to `out`.
void report_as_json(std::FILE* out);
bool errors_are_json();
// The error as that object, for lists in which each thing has its own.
nlohmann::json error_json(const Error& error);

}  // namespace bpftime::cli

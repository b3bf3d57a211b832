#include "cli/exit_codes.h"

#include <fmt/core.h>

namespace bpftime::cli {

ExitCode exit_code_of(const Error& error) {
  switch (error.code) {
    case EPERM:
    case EACCES:
    case EOPNOTSUPP:
    case EBUSY:
      return kRefused;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EPROTO:
    case ETIMEDOUT:
      return kUnreachable;
    default:
      return kFailure;
  }
}

ExitCode report(const Error& error) {
  std::fflush(stdout);
  fmt::print(stderr, "bpftime: {}\n", error.message);
  return exit_code_of(error);
}

}  // namespace bpftime::cli

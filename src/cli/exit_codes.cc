#include "cli/exit_codes.h"

#include <fmt/core.h>

#include <cerrno>
#include <cstring>

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

namespace {

// The next step, where a message ends with no more than the system's word for what went wrong.
std::string next_step(const Error& error) {
  if (!error.message.ends_with(std::strerror(error.code))) return "";
  switch (error.code) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return "; check the path";
    case EPERM:
    case EACCES:
      return "; try as its owner or as root";
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return "; free some, or see `bpftime doctor`";
    default:
      return "";
  }
}

}  // namespace

ExitCode report(const Error& error) {
  std::fflush(stdout);
  fmt::print(stderr, "bpftime: {}{}\n", error.message, next_step(error));
  return exit_code_of(error);
}

}  // namespace bpftime::cli

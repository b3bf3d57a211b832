#include "cli/exit_codes.h"

#include <fmt/core.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace bpftime::cli {

ExitCode exit_code_of(const Error& error) {
  switch (error.code) {
    case EPERM:
    case EACCES:
    case EOPNOTSUPP:
    case EBUSY:
    case 524:  // ENOTSUPP, the kernel's own
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

std::FILE* json_out = nullptr;

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

nlohmann::json error_json(const Error& error) {
  return {{"error", error.message + next_step(error)}, {"errno", error.code}};
}

void report_as_json(std::FILE* out) { json_out = out; }
bool errors_are_json() { return json_out != nullptr; }

ExitCode report(const Error& error) {
  std::fflush(stdout);
  if (json_out != nullptr) {
    constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
    fmt::print(json_out, "{}\n", error_json(error).dump(-1, ' ', false, kReplace));
  } else {
    fmt::print(stderr, "bpftime: {}{}\n", error.message, next_step(error));
  }
  return exit_code_of(error);
}

ExitCode report_usage(const std::string& message) {
  report(Error{EINVAL, message});
  return kUsage;
}

}  // namespace bpftime::cli

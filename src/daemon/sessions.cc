#include "daemon/sessions.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "target/maps_parser.h"
#include "target/proc_files.h"

namespace bpftime::daemon {

namespace {

constexpr size_t kTokensMax = 64;  // looked at

// A variable of the environment that a process began with; empty: it has none, or it cannot be read.
std::string variable_of(pid_t pid, std::string_view name) {
  const auto text = target::read_proc_file(target::proc_path(pid, "/environ"));
  if (!text) return "";
  std::string_view rest = *text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\0'), rest.size());
    const std::string_view each = rest.substr(0, end);
    if (each.size() > name.size() && each[name.size()] == '=' && each.starts_with(name))
      return std::string(each.substr(name.size() + 1));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return "";
}

uint64_t token(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size() ? value : 0;
}

}  // namespace

Sessions sessions_of(pid_t pid) {
  Sessions out{};
  const std::string value = variable_of(pid, "BPFTIME_EXTEND");
  std::string_view rest = value;
  for (size_t i = 0; i < kTokensMax && !rest.empty(); ++i) {
    const size_t comma = std::min(rest.find(','), rest.size());
    if (const uint64_t each = token(rest.substr(0, comma)); each != 0 && !contains(out, each)) {
      std::rotate(out.begin(), out.end() - 1, out.end());
      out[0] = each;
    }
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return out;
}

uint64_t policy_session_of(pid_t pid) { return token(variable_of(pid, "BPFTIME_POLICY_SESSION")); }

bool policy_is_checked(pid_t pid) { return variable_of(pid, "BPFTIME_POLICY_CHECK") == "1"; }

bool descends_from(pid_t pid, pid_t ancestor) {
  constexpr int kParentsMax = 256;
  for (int i = 0; i < kParentsMax && pid > 1; ++i) {
    if (pid == ancestor) return true;
    const auto text = target::read_proc_file(target::proc_path(pid, "/status"));
    const auto status = text ? target::parse_status(*text) : std::nullopt;
    if (!status) return false;
    pid = static_cast<pid_t>(status->parent);
  }
  return false;
}

}  // namespace bpftime::daemon

#include "base/log.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace bpftime {

LogLevel log_level() {
  static const LogLevel level = [] {
    const char* wanted = std::getenv("BPFTIME_LOG");
    if (wanted == nullptr) return LogLevel::kWarning;
    if (std::strcmp(wanted, "error") == 0) return LogLevel::kError;
    if (std::strcmp(wanted, "info") == 0) return LogLevel::kInfo;
    if (std::strcmp(wanted, "debug") == 0) return LogLevel::kDebug;
    return LogLevel::kWarning;
  }();
  return level;
}

void log(LogLevel level, const std::string& message) {
  if (level > log_level()) return;
  static const char* const kNames[] = {"error", "warning", "info", "debug"};
  const std::string line =
      std::string("bpftimed: ") + kNames[static_cast<int>(level)] + ": " + message + "\n";
  // One write, so that lines of several processes do not mix.
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace bpftime

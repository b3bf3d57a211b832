// Diagnostics of the daemon and the CLI: one line to stderr. Nothing that lives in a stranger's process logs.
#pragma once

#include <string>

namespace bpftime {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

// Messages above this level are dropped; set from BPFTIME_LOG (error, warning, info, debug). Default: warning.
LogLevel log_level();
void log(LogLevel level, const std::string& message);

inline void log_error(const std::string& m) { log(LogLevel::kError, m); }
inline void log_warning(const std::string& m) { log(LogLevel::kWarning, m); }
inline void log_info(const std::string& m) { log(LogLevel::kInfo, m); }
inline void log_debug(const std::string& m) { log(LogLevel::kDebug, m); }

}  // namespace bpftime

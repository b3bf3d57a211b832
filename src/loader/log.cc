#include "loader/log.h"

#include <sys/syscall.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "loader/real.h"

namespace bpftime::loader {
namespace {

constexpr int64_t kNotSupported = 524;  // ENOTSUPP, which libc does not name

std::atomic<bool> complained{false};

void write_line(const std::string& message) {
  const std::string line = "bpftime: " + message + "\n";
  raw_syscall(SYS_write, 2, reinterpret_cast<long>(line.data()), static_cast<long>(line.size()));
}

}  // namespace

bool logs(int64_t result) {
  enum class Mode { kNothing, kFailures, kEverything };
  static const Mode mode = [] {
    const char* value = std::getenv("BPFTIME_LOADER_LOG");
    const std::string_view text = value == nullptr ? "" : value;
    if (text == "failures") return Mode::kFailures;
    return text == "1" ? Mode::kEverything : Mode::kNothing;
  }();
  return mode == Mode::kEverything || (mode == Mode::kFailures && result < 0);
}

void log_call(const std::string& call, int64_t result, std::string_view why) {
  if (!logs(result)) return;
  std::string line = call + ": ";
  if (result >= 0) {
    line += std::to_string(result);
  } else {
    const char* name = result == -kNotSupported ? "ENOTSUPP" : ::strerrorname_np(static_cast<int>(-result));
    line += name != nullptr ? name : std::to_string(result);
  }
  if (!why.empty()) line.append(": ").append(why);
  write_line(line);
}

void complain_once(const std::string& message) {
  if (!complained.exchange(true)) write_line(message);
}

void complaint_resolved() { complained.store(false, std::memory_order_relaxed); }

}  // namespace bpftime::loader

#include "loader/log.h"

#include <sys/syscall.h>

#include <atomic>
#include <cstdlib>

#include "loader/real.h"

namespace bpftime::loader {
namespace {

std::atomic<bool> complained{false};

void write_line(const std::string& message) {
  const std::string line = "bpftime: " + message + "\n";
  raw_syscall(SYS_write, 2, reinterpret_cast<long>(line.data()), static_cast<long>(line.size()));
}

}  // namespace

bool logging() {
  static const bool on = [] {
    const char* value = std::getenv("BPFTIME_LOADER_LOG");
    return value != nullptr && value[0] == '1';
  }();
  return on;
}

void log_line(const std::string& message) {
  if (logging()) write_line(message);
}

void complain_once(const std::string& message) {
  if (!complained.exchange(true)) write_line(message);
}

void complaint_resolved() { complained.store(false, std::memory_order_relaxed); }

}  // namespace bpftime::loader

// Tracepoints: syscalls:sys_enter_*, syscalls:sys_exit_*, raw_syscalls:sys_enter, raw_syscalls:sys_exit, and
// signal:signal_generate, which is raised where a process sends a signal. What they are called, what their records look like (as
// tracefs describes them), and the ids perf_event_open(2) knows them by.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpftime::program {

// Our ids when the kernel's cannot be read: far above the kernel's own, within the 16 bits of common_type, and the same for ever.
inline constexpr uint32_t kFirstTracepointId = 32768;

inline constexpr int32_t kSignalGenerate = -2;

struct Tracepoint {
  bool on_exit = false;
  int32_t number = -1;  // of the system call; -1: all of them (raw_syscalls); kSignalGenerate

  bool raw() const { return number == -1; }
  bool signal() const { return number == kSignalGenerate; }
  bool operator==(const Tracepoint&) const = default;

  uint32_t id() const;           // ours
  std::string category() const;  // "syscalls"
  std::string name() const;      // "sys_enter_openat"
  uint32_t record_size() const;  // bytes a program may read of its context
  // Words of 8 bytes in them of which not everything is known here: whoever reads one is refused.
  uint64_t unknown_slots() const;
  // The text of the event's format file; `id` as its id file says.
  std::string format(uint32_t id) const;
};

std::optional<Tracepoint> find_tracepoint(std::string_view category, std::string_view name);
std::optional<Tracepoint> tracepoint_of_id(uint64_t id);
std::vector<std::string_view> tracepoint_categories();
// All of one category, in the order of their names; of an unknown category: none.
std::vector<Tracepoint> tracepoints_of(std::string_view category);
// "openat", or "" for a number that has no tracepoint.
std::string_view system_call_name(int32_t number);

}  // namespace bpftime::program

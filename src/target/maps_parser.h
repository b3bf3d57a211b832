// The text of /proc/PID/maps, /proc/PID/status and /proc/PID/stat as data. Pure functions: the target chooses its own name and
// the paths it maps, so the text is hostile.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "target/process.h"

namespace bpftime::target {

// One line of /proc/PID/maps without its newline; nullopt when it is not one.
std::optional<MappedRegion> parse_maps_line(std::string_view line);
// All regions in address order; lines that do not parse are left out. Newlines in paths come as \012 from the kernel.
std::vector<MappedRegion> parse_maps(std::string_view text);

// Fields of /proc/PID/status; nullopt when a needed line is missing. An unescaped name cannot add lines: the kernel escapes \n.
std::optional<Status> parse_status(std::string_view text);

struct Stat {
  char state;           // R, S, D, T (stopped), t (traced), Z, X …
  uint64_t start_time;  // clock ticks since boot
  uint64_t blocked;     // signals below 32, bit n-1 for signal n
};
// /proc/PID/stat. The name in it may contain spaces and parentheses: fields are counted from the last ')'.
std::optional<Stat> parse_stat(std::string_view text);

}  // namespace bpftime::target

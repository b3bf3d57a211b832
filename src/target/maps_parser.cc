#include "target/maps_parser.h"

#include <sys/sysmacros.h>

#include <charconv>

namespace bpftime::target {
namespace {

// Cuts the next number in `base` off the front of `text`.
std::optional<uint64_t> take_number(std::string_view& text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end == text.data()) return std::nullopt;
  text.remove_prefix(end - text.data());
  return value;
}

bool take(std::string_view& text, char wanted) {
  if (text.empty() || text.front() != wanted) return false;
  text.remove_prefix(1);
  return true;
}

void skip_blanks(std::string_view& text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
}

template <typename Callback>
void for_each_line(std::string_view text, Callback callback) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    callback(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

// The `index`-th number after "Key:" in a line of /proc/PID/status.
std::optional<uint64_t> numbered_field(std::string_view line, std::string_view key, int index) {
  if (!line.starts_with(key)) return std::nullopt;
  line.remove_prefix(key.size());
  std::optional<uint64_t> value;
  for (int i = 0; i <= index; ++i) {
    skip_blanks(line);
    value = take_number(line, 10);
    if (!value) return std::nullopt;
  }
  return value;
}

}  // namespace

std::optional<MappedRegion> parse_maps_line(std::string_view line) {
  // 7f0c2a000000-7f0c2a021000 rw-p 00000000 fd:01 1234   /path with spaces
  MappedRegion region{};
  const auto start = take_number(line, 16);
  if (!start || !take(line, '-')) return std::nullopt;
  const auto end = take_number(line, 16);
  if (!end || *end <= *start || !take(line, ' ') || line.size() < 5) return std::nullopt;
  region.start = *start;
  region.end = *end;
  region.readable = line[0] == 'r';
  region.writable = line[1] == 'w';
  region.executable = line[2] == 'x';
  region.shared = line[3] == 's';
  line.remove_prefix(4);
  if (!take(line, ' ')) return std::nullopt;
  const auto offset = take_number(line, 16);
  if (!offset || !take(line, ' ')) return std::nullopt;
  const auto device_major = take_number(line, 16);
  if (!device_major || !take(line, ':')) return std::nullopt;
  const auto device_minor = take_number(line, 16);
  if (!device_minor || !take(line, ' ')) return std::nullopt;
  const auto inode = take_number(line, 10);
  if (!inode) return std::nullopt;
  region.offset = *offset;
  region.device = makedev(*device_major, *device_minor);
  region.inode = *inode;
  skip_blanks(line);
  region.path = std::string(line);
  return region;
}

std::vector<MappedRegion> parse_maps(std::string_view text) {
  std::vector<MappedRegion> regions;
  for_each_line(text, [&](std::string_view line) {
    if (auto region = parse_maps_line(line)) regions.push_back(std::move(*region));
  });
  return regions;
}

std::optional<Status> parse_status(std::string_view text) {
  Status status{};
  status.seccomp_filters = -1;
  status.blocked = ~uint64_t{0};
  int found = 0;
  constexpr std::string_view kInitials = "NTPUGS";  // of the fields looked at; most lines are others
  for_each_line(text, [&](std::string_view line) {
    if (line.empty() || kInitials.find(line.front()) == std::string_view::npos) return;
    if (line.starts_with("Name:")) {
      std::string_view name = line.substr(5);
      skip_blanks(name);
      status.name = std::string(name);
    }
    if (auto tgid = numbered_field(line, "Tgid:", 0)) status.tgid = *tgid, ++found;
    if (auto parent = numbered_field(line, "PPid:", 0)) status.parent = *parent, ++found;
    if (auto tracer = numbered_field(line, "TracerPid:", 0)) status.tracer = *tracer, ++found;
    if (auto uid = numbered_field(line, "Uid:", 0)) status.uid = *uid, ++found;
    if (auto uid = numbered_field(line, "Uid:", 1)) status.effective_uid = *uid;
    if (auto gid = numbered_field(line, "Gid:", 0)) status.gid = *gid, ++found;
    if (auto gid = numbered_field(line, "Gid:", 1)) status.effective_gid = *gid;
    if (auto threads = numbered_field(line, "Threads:", 0)) status.threads = *threads;
    if (line.starts_with("SigBlk:")) {
      std::string_view mask = line.substr(7);
      skip_blanks(mask);
      status.blocked = take_number(mask, 16).value_or(~uint64_t{0});
    }
    // Absent in kernels without seccomp: then there is no filter.
    if (auto mode = numbered_field(line, "Seccomp:", 0)) status.seccomp_mode = static_cast<int>(*mode);
    if (auto filters = numbered_field(line, "Seccomp_filters:", 0))
      status.seccomp_filters = static_cast<int64_t>(*filters);
  });
  if (found < 5) return std::nullopt;
  return status;
}

std::optional<Stat> parse_stat(std::string_view text) {
  const size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos || name_end + 2 >= text.size()) return std::nullopt;
  text.remove_prefix(name_end + 2);
  Stat stat{};
  stat.state = text.front();
  int field = 3;  // of proc(5): the state
  const auto number_of = [&](int wanted) -> std::optional<uint64_t> {
    for (; field < wanted; ++field) {
      const size_t blank = text.find(' ');
      if (blank == std::string_view::npos) return std::nullopt;
      text.remove_prefix(blank + 1);
    }
    auto rest = text;
    return take_number(rest, 10);
  };
  const auto start = number_of(22), blocked = number_of(32);
  if (!start) return std::nullopt;
  stat.start_time = *start;
  stat.blocked = blocked.value_or(~uint64_t{0});
  return stat;
}

}  // namespace bpftime::target

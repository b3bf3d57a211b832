#include "loader/tracefs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "loader/connection.h"
#include "loader/real.h"
#include "program/tracepoints.h"

namespace bpftime::loader {
namespace {

constexpr std::string_view kMounts[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};

// The kernel's file, if it can be read: nothing in tracefs is longer than a few pages but lists, which are not read this way.
std::optional<std::string> read_real(const std::string& path) {
  const Fd fd(static_cast<int>(
      raw_syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>(path.c_str()), O_RDONLY | O_CLOEXEC)));
  char text[4096];
  if (!fd) return std::nullopt;
  const ssize_t size = ::read(fd.get(), text, sizeof text);
  if (size < 0) return std::nullopt;
  return std::string(text, static_cast<size_t>(size));
}

std::optional<uint64_t> real_id(std::string_view mount, const program::Tracepoint& point) {
  const auto text =
      read_real(std::string(mount) + "/events/" + point.category() + "/" + point.name() + "/id");
  return text ? std::optional(std::strtoull(text->c_str(), nullptr, 10)) : std::nullopt;
}

bool kernel_serves(const std::string& path) {
  return raw_syscall(SYS_faccessat, AT_FDCWD, reinterpret_cast<long>(path.c_str()), R_OK) == 0;
}

// Without the mount point in front and slashes at the end; nullopt: not in tracefs.
std::optional<std::string_view> inside_tracefs(std::string_view path) {
  while (path.ends_with('/')) path.remove_suffix(1);
  for (const std::string_view mount : kMounts) {
    if (path == mount) return std::string_view();
    if (path.starts_with(mount) && path[mount.size()] == '/') return path.substr(mount.size() + 1);
  }
  return std::nullopt;
}

std::optional<program::Tracepoint> tracepoint_of(std::string_view event) {
  const size_t slash = event.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  return program::find_tracepoint(event.substr(0, slash), event.substr(slash + 1));
}

std::string available_events() {
  std::string out;
  for (const std::string_view category : program::tracepoint_categories())
    for (const auto& point : program::tracepoints_of(category))
      out += std::string(category) + ":" + point.name() + "\n";
  return out;
}

}  // namespace

std::optional<std::string> tracefs_file(std::string_view path) {
  constexpr std::string_view kEvents = "events/", kId = "/id", kFormat = "/format";
  const auto inside = inside_tracefs(path);
  if (!inside || path.ends_with('/')) return std::nullopt;
  std::optional<std::string> out;
  if (*inside == "available_events") {
    out = available_events();
  } else if (*inside == "uprobe_events" || *inside == "kprobe_events") {
    out = "";  // probes made by writing there: libbcc looks for its own among them when it detaches
  } else if (inside->starts_with(kEvents)) {
    std::string_view event = inside->substr(kEvents.size());
    const std::string_view ending = event.ends_with(kId) ? kId : kFormat;
    if (!event.ends_with(ending)) return std::nullopt;
    event.remove_suffix(ending.size());
    const auto point = tracepoint_of(event);
    if (!point) return std::nullopt;
    out = ending == kId ? std::to_string(point->id()) + "\n" : point->format(point->id());
  }
  if (!out || kernel_serves(std::string(path))) return std::nullopt;
  return out;
}

std::optional<std::vector<std::string>> tracefs_directory(std::string_view path) {
  const auto inside = inside_tracefs(path);
  if (!inside) return std::nullopt;
  std::vector<std::string> out;
  constexpr std::string_view kEvents = "events/";
  if (inside->empty()) {
    out = {"available_events", "events"};
  } else if (*inside == "events") {
    for (const std::string_view category : program::tracepoint_categories()) out.emplace_back(category);
  } else if (inside->starts_with(kEvents)) {
    const std::string_view event = inside->substr(kEvents.size());
    for (const auto& point : program::tracepoints_of(event)) out.push_back(point.name());
    if (tracepoint_of(event)) out = {"format", "id"};
  }
  // Where it is not mounted its root is there, and empty.
  if (out.empty() || kernel_serves(std::string(path) + (inside->empty() ? "/events/." : "/.")))
    return std::nullopt;
  return out;
}

TraceFile trace_file(std::string_view path) {
  const auto inside = inside_tracefs(path);
  if (!inside || path.ends_with('/')) return TraceFile::kNone;
  if (*inside == "trace_pipe") return TraceFile::kTracePipe;
  return *inside == "trace" ? TraceFile::kTrace : TraceFile::kNone;
}

bool is_tracefs_root(std::string_view path) {
  const auto inside = inside_tracefs(path);
  return inside && inside->empty();
}

int64_t open_trace_file(TraceFile file, int flags) {
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  if (file == TraceFile::kTracePipe && writes) return -EACCES;  // mode 0444
  wire::TraceSubscribe request = {0, file == TraceFile::kTracePipe ? wire::kTracePipe : wire::kTraceSnapshot};
  // Emptying is what writers of `trace` want; what they write is taken and dropped, as by the kernel.
  if (writes) request.flags = wire::kTraceClear;
  if (!writes || (flags & O_TRUNC) != 0) {
    auto answer = ask_daemon(wire::MessageType::kTraceSubscribe, as_bytes(request), {});
    if (!answer) return -answer.error().code;
    auto reply = wire::parse_reply(answer->body);
    if (!reply || reply->result < 0) return reply ? reply->result : -EIO;
    if (!writes && answer->fds.empty()) return -EIO;
    if (!writes) {
      Fd fd = std::move(answer->fds[0]);
      const long status = raw_syscall(SYS_fcntl, fd.get(), F_GETFL);
      if ((flags & O_NONBLOCK) != 0) raw_syscall(SYS_fcntl, fd.get(), F_SETFL, status | O_NONBLOCK);
      if ((flags & O_CLOEXEC) == 0) raw_syscall(SYS_fcntl, fd.get(), F_SETFD, 0);
      return fd.release();
    }
  }
  return raw_syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>("/dev/null"),
                     flags & (O_ACCMODE | O_CLOEXEC));
}

uint64_t daemon_tracepoint_id(uint64_t id) {
  if (program::tracepoint_of_id(id)) return id;
  // The kernel's numbers: whoever could read them in a file can have them translated from there.
  for (const std::string_view mount : kMounts) {
    if (!kernel_serves(std::string(mount) + "/events/raw_syscalls/sys_enter/id")) continue;
    for (const std::string_view category : program::tracepoint_categories())
      for (const auto& point : program::tracepoints_of(category))
        if (real_id(mount, point) == id) return point.id();
  }
  return id;
}

std::optional<std::string> kernel_only_file(std::string_view path) {
  const auto inside = inside_tracefs(path);
  if (!inside) return std::nullopt;
  if (*inside == "kprobe_events") return "kprobes are for the kernel only (docs/support-matrix.md)";
  if (!inside->starts_with("events/") || !inside->ends_with("/id")) return std::nullopt;
  return "of the tracepoints, those of system calls exist here; others are for the kernel only "
         "(docs/support-matrix.md)";
}

}  // namespace bpftime::loader

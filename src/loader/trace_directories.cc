// Directories of the virtual tracefs as real ones, for tools that list them: made once beside the daemon's socket, with
// everything in them. What they hold is the same for ever, so nobody has to renew them.
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "loader/tracefs.h"
#include "loader/user_memory.h"
#include "program/tracepoints.h"

namespace bpftime::loader {
namespace {

constexpr size_t kPathMax = 192;

bool write_file(const std::string& path, const std::string& text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

bool make_event(const std::string& place, const program::Tracepoint& point) {
  return ::mkdir(place.c_str(), 0755) == 0 && write_file(place + "/id", std::to_string(point.id()) + "\n") &&
         write_file(place + "/format", point.format(point.id()));
}

bool make_tree(const std::string& place) {
  if (::mkdir(place.c_str(), 0755) != 0 || ::mkdir((place + "/events").c_str(), 0755) != 0) return false;
  std::string list;
  for (const std::string_view category : program::tracepoint_categories()) {
    const std::string directory = place + "/events/" + std::string(category);
    if (::mkdir(directory.c_str(), 0755) != 0) return false;
    for (const auto& point : program::tracepoints_of(category)) {
      if (!make_event(directory + "/" + point.name(), point)) return false;
      list += std::string(category) + ":" + point.name() + "\n";
    }
  }
  return write_file(place + "/available_events", list);
}

void remove_tree(const std::string& place) {
  constexpr int kDescriptors = 16;
  (void)::nftw(
      place.c_str(), [](const char* path, const struct stat*, int, struct FTW*) { return ::remove(path); },
      kDescriptors, FTW_DEPTH | FTW_PHYS);
}

}  // namespace

std::optional<std::string> trace_path(const char* path) {
  const auto text = read_user_string(reinterpret_cast<uint64_t>(path), kPathMax);
  const char* socket = std::getenv("BPFTIME_SOCKET");
  if (!text || socket == nullptr || (!tracefs_directory(*text) && !tracefs_file(*text))) return std::nullopt;
  const char* slash = std::strrchr(socket, '/');
  if (slash == nullptr) return std::nullopt;
  const std::string tree = std::string(socket, slash) + "/tracefs";
  if (::access(tree.c_str(), F_OK) != 0) {
    const std::string made = tree + "." + std::to_string(::getpid());
    // Another tool may have been quicker.
    if (!make_tree(made) || ::rename(made.c_str(), tree.c_str()) != 0) remove_tree(made);
  }
  const size_t inside = text->find("/tracing") + std::strlen("/tracing");
  return tree + text->substr(inside);
}

}  // namespace bpftime::loader

// Where a path below /sys/fs/bpf really lies: in the daemon's directory of pinned objects' names (base/runtime_dir.h).
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "loader/calls.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

constexpr std::string_view kMountPoint = "/sys/fs/bpf";

// "/sys/fs/bpf/a//b/./c" → "a/b/c"; nullopt: another path. No component may be "..": what that means depends on links.
std::optional<std::string> below_mount_point(std::string_view path) {
  std::string out;
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (part == "..") return std::nullopt;
    if (!part.empty() && part != ".") out.append("/").append(part);
    at = end + 1;
  }
  if (out == kMountPoint) return "";
  if (out.compare(0, kMountPoint.size(), kMountPoint) != 0 || out[kMountPoint.size()] != '/')
    return std::nullopt;
  return out.substr(kMountPoint.size());
}

}  // namespace

std::optional<std::string> pinned_path(const char* path) {
  // Most paths differ in the first bytes. A bad pointer is the kernel's to refuse.
  char first[4];
  if (!read_user(first, reinterpret_cast<uint64_t>(path), sizeof first)) return std::nullopt;
  if (std::memcmp(first, "/sys", sizeof first) != 0) return std::nullopt;
  const auto text = read_user_string(reinterpret_cast<uint64_t>(path), 4096);
  if (!text || text->size() >= 4096) return std::nullopt;
  const auto below = below_mount_point(*text);
  const char* socket = std::getenv("BPFTIME_SOCKET");
  if (!below || socket == nullptr) return std::nullopt;
  const char* slash = std::strrchr(socket, '/');
  if (slash == nullptr) return std::nullopt;
  return std::string(socket, slash) + "/bpffs" + *below;
}

}  // namespace bpftime::loader

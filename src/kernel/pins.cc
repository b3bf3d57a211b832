// OBJ_PIN and OBJ_GET: objects by name, in a virtual bpf file system. Its directories and names are real ones below a
// directory of the daemon's, to which the loader leads a tool's calls on paths under /sys/fs/bpf: so mkdir, unlink, rename
// and readdir need no word with the daemon. A pinned object's name is an empty file; the object lives while that file has
// a name anywhere, which its link count tells.
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "kernel/attr.h"
#include "kernel/kernel.h"

namespace bpftime::kernel {

namespace {

constexpr std::string_view kMountPoint = "/sys/fs/bpf";
constexpr size_t kPathMax = 4096;

// Below the mount point, without leading slash ("" for itself); nullopt: elsewhere.
std::optional<std::string> within(const std::string& path) {
  std::string normal = std::filesystem::path(path).lexically_normal().string();
  while (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  if (normal == kMountPoint) return "";
  if (!normal.starts_with(std::string(kMountPoint) + "/")) return std::nullopt;
  return normal.substr(kMountPoint.size() + 1);
}

std::string path_of(const BpfRequest& request) {
  const Bytes bytes = request.in(offsetof(bpf_attr, pathname));
  const auto end = std::find(bytes.begin(), bytes.end(), 0);
  return std::string(bytes.begin(), end);
}

// What Linux answers for a path on another file system.
int refusal_elsewhere(const std::string& path, bool pin) {
  struct stat st {};
  if (::stat(path.c_str(), &st) == 0) return pin ? EEXIST : EACCES;
  if (!pin || errno != ENOENT) return errno;
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return ::stat(parent.empty() ? "." : parent.c_str(), &st) == 0 ? EPERM : errno;
}

// attr.path_fd, which older <linux/bpf.h> do not name.
uint32_t read_path_fd(const bpf_attr& attr) {
  return read_at<uint32_t>(as_bytes(attr), offsetof(bpf_attr, file_flags) + 4).value_or(0);
}

// bpf_lookup: names with dots are reserved.
bool has_dot(const std::string& relative) { return relative.find('.') != std::string::npos; }

}  // namespace

BpfReply Kernel::obj_pin(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  if (auto bad = check_attr_tail(request, offsetof(bpf_attr, file_flags) + 8)) return *std::move(bad);
  // BPF_F_PATH_FD (6.5), a directory to start from: not here, as before.
  if (attr.file_flags != 0 || read_path_fd(attr) != 0) return BpfReply::fail(EINVAL, "pin: unknown flags");
  auto object = objects_.find_fd(request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, bpf_fd)));
  if (!object || (object->kind != ObjectKind::kMap && object->kind != ObjectKind::kProgram &&
                  object->kind != ObjectKind::kLink))
    return BpfReply::fail(EINVAL, "pin: not a map, program or link");
  const std::string path = path_of(request);
  if (path.empty() || path.size() >= kPathMax)
    return BpfReply::fail(path.empty() ? ENOENT : ENAMETOOLONG, "pin: no path");
  const auto relative = within(path);
  if (!relative || pin_root_.empty())
    return BpfReply::fail(refusal_elsewhere(path, true),
                          "pin: " + path + ": objects are pinned under " + std::string(kMountPoint));
  if (relative->empty()) return BpfReply::fail(EEXIST, "pin: " + path + " is the file system itself");
  if (has_dot(*relative)) return BpfReply::fail(EPERM, "pin: " + path + ": names with dots are reserved");
  const std::string real = pin_root_ + "/" + *relative;
  Fd name(::open(real.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!name) return BpfReply::fail(errno, "pin: " + path + ": " + std::strerror(errno));
  watch_pin(name.get());
  object->pins.push_back(std::move(name));
  observer_.object_changed(*object);
  return {};
}

BpfReply Kernel::obj_get(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  constexpr uint32_t kModes = BPF_F_RDONLY | BPF_F_WRONLY;
  if (auto bad = check_attr_tail(request, offsetof(bpf_attr, file_flags) + 8)) return *std::move(bad);
  if (attr.bpf_fd != 0 || (attr.file_flags & ~kModes) != 0 || (attr.file_flags & kModes) == kModes ||
      read_path_fd(attr) != 0)
    return BpfReply::fail(EINVAL, "get pinned object: unknown flags");
  const std::string path = path_of(request);
  if (path.empty() || path.size() >= kPathMax)
    return BpfReply::fail(path.empty() ? ENOENT : ENAMETOOLONG, "get pinned object: no path");
  const auto relative = within(path);
  if (!relative || pin_root_.empty())
    return BpfReply::fail(refusal_elsewhere(path, false), "get pinned object: " + path + ": nothing pinned");
  if (has_dot(*relative)) return BpfReply::fail(EPERM, "get pinned object: " + path + ": names have no dots");
  const Fd name(::open((pin_root_ + "/" + *relative).c_str(), O_PATH | O_CLOEXEC));
  if (!name) return BpfReply::fail(errno, "get pinned object: " + path + ": " + std::strerror(errno));
  auto object = pinned_object(name.get());
  if (!object) return BpfReply::fail(EACCES, "get pinned object: " + path + " is no object");
  if (object->kind != ObjectKind::kMap && attr.file_flags != 0)
    return BpfReply::fail(EINVAL, "get pinned object: only maps have modes");
  return hand_out(object, access_mode(attr.file_flags));
}

std::shared_ptr<Object> Kernel::pinned_object(int name) const {
  const auto wanted = inode_of(name);
  if (!wanted) return nullptr;
  for (const auto kind : {ObjectKind::kMap, ObjectKind::kProgram, ObjectKind::kLink})
    for (const auto& object : objects_.all<Object>(kind))
      for (const Fd& pin : object->pins)
        if (const auto inode = inode_of(pin.get()); inode && *inode == *wanted) return object;
  return nullptr;
}

// Its last name went: the same notification that tells of closed descriptors.
void Kernel::watch_pin(int name) const {
  const std::string path = "/proc/self/fd/" + std::to_string(name);
  ::inotify_add_watch(objects_.notification_fd(), path.c_str(), IN_ATTRIB | IN_DELETE_SELF);
}

void Kernel::drop_unlinked_pins() {
  for (const auto kind : {ObjectKind::kMap, ObjectKind::kProgram, ObjectKind::kLink})
    for (const auto& object : objects_.all<Object>(kind)) {
      const size_t dropped = std::erase_if(object->pins, [](const Fd& pin) {
        struct stat st {};
        return ::fstat(pin.get(), &st) == 0 && st.st_nlink == 0;
      });
      if (dropped == 0) continue;
      objects_.ask_for_sweep();
      observer_.object_changed(*object);
    }
}

// Makes the file system's root, and clears it of names whose objects went with an earlier keeper.
Result<void> Kernel::set_pin_root(const std::string& root) {
  if (::mkdir(root.c_str(), 0700) != 0 && errno != EEXIST) return Error::from_errno("make " + root);
  for (const auto kind : {ObjectKind::kMap, ObjectKind::kProgram, ObjectKind::kLink})
    for (const auto& object : objects_.all<Object>(kind))
      for (const Fd& pin : object->pins) watch_pin(pin.get());
  std::error_code error;
  std::vector<std::filesystem::path> stale;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root, error)) {
    if (entry.is_symlink(error) || !entry.is_regular_file(error)) continue;
    const Fd name(::open(entry.path().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (name && !pinned_object(name.get())) stale.push_back(entry.path());
  }
  for (const auto& path : stale) std::filesystem::remove(path, error);
  pin_root_ = root;
  return {};
}

}  // namespace bpftime::kernel

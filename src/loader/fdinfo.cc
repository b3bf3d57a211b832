#include "loader/fdinfo.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>

#include "base/memfd.h"
#include "loader/calls.h"
#include "loader/host.h"
#include "loader/objects.h"
#include "loader/real.h"

namespace bpftime::loader {
namespace {

// N of "/proc/self/fdinfo/N"; -1: something else.
int descriptor_of(std::string_view path) {
  const std::string own = "/proc/" + std::to_string(host_process()) + "/fdinfo/";
  for (const std::string_view start :
       {std::string_view("/proc/self/fdinfo/"), std::string_view("/proc/thread-self/fdinfo/"),
        std::string_view(own)}) {
    if (!path.starts_with(start)) continue;
    path.remove_prefix(start.size());
    int fd = -1;
    const auto [end, error] = std::from_chars(path.data(), path.data() + path.size(), fd);
    return error == std::errc() && end == path.data() + path.size() ? fd : -1;
  }
  return -1;
}

// pos, flags, mnt_id and ino: the file's own, but for pos, which is 0 in Linux and has a use of ours (objects.cc).
std::string common_lines(int fd) {
  char path[64], text[512];
  std::snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  const long file = raw_syscall(SYS_open, reinterpret_cast<long>(path), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  const long size = raw_syscall(SYS_read, file, reinterpret_cast<long>(text), sizeof text);
  raw_syscall(SYS_close, file);
  std::string lines(text, size > 0 ? static_cast<size_t>(size) : 0);
  if (lines.starts_with("pos:")) lines.replace(0, lines.find('\n'), "pos:\t0");
  return lines;
}

template <typename Info>
bool info_of(int fd, Info& info) {
  bpf_attr attr{};
  attr.info.bpf_fd = static_cast<uint32_t>(fd);
  attr.info.info_len = sizeof info;
  attr.info.info = reinterpret_cast<uint64_t>(&info);
  return bpf_call(BPF_OBJ_GET_INFO_BY_FD, reinterpret_cast<uint64_t>(&attr), sizeof attr) == 0;
}

// "name:\tvalue\n"
class Lines {
 public:
  explicit Lines(std::string text) : text_(std::move(text)) {}
  Lines& add(const char* name, uint64_t value) { return add(name, std::to_string(value)); }
  Lines& add(const char* name, const std::string& value) {
    text_ += std::string(name) + ":\t" + value + "\n";
    return *this;
  }
  Lines& add_hex(const char* name, uint64_t value) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return add(name, std::string(text));
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

std::optional<std::string> map_lines(int fd, const Object& object) {
  bpf_map_info info{};
  if (!info_of(fd, info)) return std::nullopt;
  const auto trailer = trailer_of(fd, object);
  return Lines(common_lines(fd))
      .add("map_type", info.type)
      .add("key_size", info.key_size)
      .add("value_size", info.value_size)
      .add("max_entries", info.max_entries)
      .add_hex("map_flags", info.map_flags)
      .add_hex("map_extra", info.map_extra)
      .add("memlock", object.size)
      .add("map_id", info.id)
      .add("frozen", uint64_t{trailer && trailer->frozen != 0})
      .take();
}

std::optional<std::string> program_lines(int fd) {
  bpf_prog_info info{};
  if (!info_of(fd, info)) return std::nullopt;
  std::string tag;
  for (const uint8_t byte : info.tag) {
    char text[4];
    std::snprintf(text, sizeof text, "%02x", byte);
    tag += text;
  }
  return Lines(common_lines(fd))
      .add("prog_type", info.type)
      .add("prog_jited", uint64_t{info.jited_prog_len != 0})
      .add("prog_tag", tag)
      .add("memlock", round_up(info.xlated_prog_len, kPageSize))
      .add("prog_id", info.id)
      .add("run_time_ns", info.run_time_ns)
      .add("run_cnt", info.run_cnt)
      .add("recursion_misses", info.recursion_misses)
      .add("verified_insns", info.verified_insns)
      .take();
}

}  // namespace

std::optional<std::string> fdinfo_file(std::string_view path) {
  if (!any_object_seen()) return std::nullopt;
  const int number = descriptor_of(path);
  const int fd = number >= 0 ? local_fd(number) : -1;
  const Answering ourselves(nullptr);
  const ObjectPtr object = fd >= 0 ? find_object(fd) : nullptr;
  if (object == nullptr) return std::nullopt;
  if (object->kind == wire::ObjectKind::kMap) return map_lines(fd, *object);
  if (object->kind == wire::ObjectKind::kProgram) return program_lines(fd);
  return std::nullopt;
}

}  // namespace bpftime::loader

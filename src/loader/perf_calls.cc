// perf_event_open(2), ioctl and mmap on its descriptors: uprobes, tracepoints and BPF output rings go to the
// daemon, every other event to the kernel.
#include <fcntl.h>
#include <limits.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "loader/calls.h"
#include "loader/connection.h"
#include "loader/host.h"
#include "loader/log.h"
#include "loader/objects.h"
#include "loader/real.h"
#include "loader/tracefs.h"
#include "loader/user_memory.h"
#include "wire/messages.h"

namespace bpftime::loader {
namespace {

constexpr uint32_t kAttrSizeVer0 = 64;
constexpr uint32_t kTypeOffset = 0, kSizeOffset = 4, kConfigOffset = 8, kPeriodOffset = 16,
                   kConfig1Offset = 56;
constexpr int64_t kNotSupported = 524;  // ENOTSUPP, which user space has no name for

// The number the kernel gave its own uprobe PMU: tools that read it before they met our virtual file use it.
uint32_t kernel_uprobe_type() {
  static const uint32_t type = [] {
    const Fd fd(static_cast<int>(
        raw_syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>("/sys/bus/event_source/devices/uprobe/type"),
                    O_RDONLY | O_CLOEXEC)));
    char text[16] = {};
    if (!fd || ::read(fd.get(), text, sizeof(text) - 1) <= 0) return 0u;
    return static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
  }();
  return type;
}

// As the caller sees it: /proc/self and relative paths mean something else in the daemon.
std::string resolved_path(const std::string& path) {
  if (path.empty() || (path[0] == '/' && path.compare(0, 11, "/proc/self/") != 0)) return path;
  char resolved[PATH_MAX];
  return ::realpath(host_path(path).c_str(), resolved) != nullptr ? std::string(resolved) : path;
}

struct Event {
  wire::PerfEventOpen message{};
  std::string path, given;

  template <typename T>
  T field(uint32_t offset) const {
    T value;
    std::memcpy(&value, message.attr + offset, sizeof(value));
    return value;
  }
  template <typename T>
  void set(uint32_t offset, T value) {
    std::memcpy(message.attr + offset, &value, sizeof(value));
  }
};

// perf_copy_attr: size 0 means the first version; a longer attr must be zero in what is not known.
int64_t copy_attr(uint64_t address, Event& event) {
  uint32_t size;
  if (!read_user(&size, address + kSizeOffset, sizeof(size))) return -EFAULT;
  if (size == 0) size = kAttrSizeVer0;
  if (size < kAttrSizeVer0 || size > 4096) return -E2BIG;
  uint8_t bytes[4096];
  if (!read_user(bytes, address, size)) return -EFAULT;
  constexpr size_t kKnown = sizeof(event.message.attr);
  if (size > kKnown && std::any_of(bytes + kKnown, bytes + size, [](uint8_t byte) { return byte != 0; }))
    return -E2BIG;
  std::memcpy(event.message.attr, bytes, std::min<size_t>(size, kKnown));
  event.message.attr_size = size;
  return 0;
}

bool is_uprobe(uint32_t type) {
  return type == wire::kUprobePmuType || (type > PERF_TYPE_BREAKPOINT && type == kernel_uprobe_type());
}

// A clock without a period only counts: the kernel's business.
bool is_ours(uint32_t type, uint64_t config, uint64_t period) {
  return is_uprobe(type) || type == PERF_TYPE_TRACEPOINT ||
         (type == PERF_TYPE_SOFTWARE &&
          (config == PERF_COUNT_SW_BPF_OUTPUT || (config == PERF_COUNT_SW_CPU_CLOCK && period != 0)));
}

ObjectPtr find_perf_event(int fd) {
  ObjectPtr object = find_object(fd);
  return object != nullptr && object->kind == wire::ObjectKind::kPerfEvent ? object : nullptr;
}

// Answers that carry more than the result: ID and QUERY_BPF store through the argument.
int64_t store_ioctl_answer(uint64_t request, uint64_t argument, const wire::ReplyView& reply) {
  if (reply.result < 0) return reply.result;
  if (request == PERF_EVENT_IOC_ID) {
    const auto id = static_cast<uint64_t>(reply.result);
    return write_user(argument, &id, sizeof(id)) ? 0 : -EFAULT;
  }
  if (request == PERF_EVENT_IOC_QUERY_BPF) {
    const auto count = static_cast<uint32_t>(reply.result);
    uint32_t room = 0;
    if (!read_user(&room, argument, sizeof(room)) || !write_user(argument + 4, &count, sizeof(count)))
      return -EFAULT;
    const size_t stored = std::min<size_t>({count, room, reply.rest.size() / 4});
    if (!write_user(argument + 8, reply.rest.data(), stored * 4)) return -EFAULT;
    return count > room && room != 0 ? -ENOSPC : 0;  // who has no room asks for the count alone
  }
  return 0;
}

int64_t map_mmap(const ObjectPtr& map, uint64_t length, int protection, int flags, uint64_t offset) {
  const wire::MapSpec& spec = map->spec;
  const bool ring = spec.type == BPF_MAP_TYPE_RINGBUF || spec.type == BPF_MAP_TYPE_USER_RINGBUF;
  if (spec.type != BPF_MAP_TYPE_ARRAY && !ring) return -kNotSupported;
  if ((flags & MAP_TYPE) == MAP_PRIVATE) return -EINVAL;
  const bool write = (protection & PROT_WRITE) != 0;
  const uint64_t end = offset + round_up(length, kPageSize);
  if (end < offset) return -EINVAL;
  if (spec.type == BPF_MAP_TYPE_RINGBUF && write && (offset != 0 || length > kPageSize)) return -EPERM;
  // What the client alone reads: there it is the producer, so the first page.
  if (spec.type == BPF_MAP_TYPE_USER_RINGBUF && write && offset == 0) return -EPERM;
  if (ring) return end > 2 * kPageSize + 2 * uint64_t{spec.max_entries} ? -EINVAL : 0;
  if ((spec.flags & BPF_F_MMAPABLE) == 0) return -EINVAL;
  const uint64_t values = uint64_t{spec.max_entries} * round_up(spec.value_size, 8);
  return end > round_up(values, kPageSize) ? -EINVAL : 0;
}

// As bpf_map_mmap: a frozen or program-read-only map refuses writers before its type is asked
// about the range.
int64_t write_permission(const ObjectPtr& map, int fd) {
  const uint8_t* base = map_object(map, fd, false);
  if (base == nullptr) return 0;
  const auto* trailer = reinterpret_cast<const wire::ObjectTrailer*>(base + map->size - wire::kTrailerSize);
  if (__atomic_load_n(&trailer->frozen, __ATOMIC_ACQUIRE) != 0) return -EPERM;
  return (map->spec.flags & BPF_F_RDONLY_PROG) != 0 ? -EACCES : 0;
}

// The daemon sizes the ring and fills its header page; then the real mmap of the memfd shows it.
int64_t size_perf_ring(int fd, uint64_t length, int flags, uint64_t offset) {
  const uint64_t pages = length / kPageSize;
  if ((flags & MAP_TYPE) == MAP_PRIVATE || offset != 0 || length % kPageSize != 0 || pages == 0)
    return -EINVAL;
  if (((pages - 1) & (pages - 2)) != 0 && pages > 1) return -EINVAL;
  const wire::PerfMmap message = {length};
  const int fds[] = {fd};
  auto answer = ask_daemon(wire::MessageType::kPerfMmap, as_bytes(message), fds);
  if (!answer) return -answer.error().code;
  auto reply = wire::parse_reply(answer->body);
  return reply ? std::min<int64_t>(reply->result, 0) : -EIO;
}

}  // namespace

std::optional<int64_t> perf_event_open_call(uint64_t attr, int32_t pid, int32_t cpu, int32_t group_fd,
                                            uint64_t flags) {
  Event event;
  // What cannot be read or understood is the kernel's to refuse.
  if (copy_attr(attr, event) != 0) return std::nullopt;
  const auto type = event.field<uint32_t>(kTypeOffset);
  if (!is_ours(type, event.field<uint64_t>(kConfigOffset), event.field<uint64_t>(kPeriodOffset)))
    return std::nullopt;
  if (group_fd != -1 && find_perf_event(local_fd(group_fd)) == nullptr) return -EBADF;
  if (is_uprobe(type)) {
    if (event.field<uint64_t>(kConfig1Offset) == 0) return -EINVAL;
    event.set(kTypeOffset, wire::kUprobePmuType);
    if (event.field<uint64_t>(kConfig1Offset) == 0) return -EINVAL;
    const auto given = read_user_string(event.field<uint64_t>(kConfig1Offset), PATH_MAX);
    if (!given) return -EFAULT;
    event.path = resolved_path(*given);
    if (event.path != *given) event.given = *given;
  }
  if (type == PERF_TYPE_TRACEPOINT)
    event.set(kConfigOffset, daemon_tracepoint_id(event.field<uint64_t>(kConfigOffset)));
  event.message.pid = pid == 0 ? static_cast<int32_t>(host_process()) : pid;
  event.message.cpu = cpu;
  event.message.group_fd = group_fd;
  event.message.flags = flags;
  event.message.path_length = static_cast<uint32_t>(event.path.size());
  event.message.given_length = static_cast<uint32_t>(event.given.size());
  const auto message = as_bytes(event.message);
  std::vector<uint8_t> body(message.begin(), message.end());
  for (const std::string* text : {&event.path, &event.given})
    body.insert(body.end(), text->begin(), text->end());

  auto answer = ask_daemon(wire::MessageType::kPerfEventOpen, body, {});
  if (!answer) return -answer.error().code;
  auto reply = wire::parse_reply(answer->body);
  if (!reply) return -EIO;
  if (logs(reply->result))
    log_call(
        "perf_event_open(type " + std::to_string(type) + (event.path.empty() ? "" : ", " + event.path) + ")",
        reply->result, reply->text);
  if (reply->result < 0 || answer->fds.empty()) return reply->result;
  note_object_seen();
  if ((flags & PERF_FLAG_FD_CLOEXEC) == 0) (void)::fcntl(answer->fds[0].get(), F_SETFD, 0);
  return hand_over(std::move(answer->fds[0]));
}

std::optional<int64_t> perf_ioctl_call(int number, uint64_t request, uint64_t argument) {
  if (_IOC_TYPE(request) != '$') return std::nullopt;
  const int fd = local_fd(number);
  const ObjectPtr event = find_perf_event(fd);
  if (event == nullptr) return std::nullopt;
  // Tools enable what they have just made, and it is enabled: the daemon would say so, after a wake-up there and one back.
  if (request == PERF_EVENT_IOC_ENABLE)
    if (const auto trailer = trailer_of(fd, *event); trailer && trailer->enabled != 0) {
      if (logs(0)) log_call("ioctl(perf event, " + std::to_string(request) + ")", 0, "");
      return 0;
    }
  wire::PerfIoctl message = {request, argument};
  int fds[2] = {fd, static_cast<int>(argument)};
  size_t fd_count = 1;
  switch (request) {
    case PERF_EVENT_IOC_SET_BPF:
      message.argument = static_cast<uint64_t>(static_cast<int64_t>(fds[1]));
      [[fallthrough]];
    case PERF_EVENT_IOC_SET_OUTPUT:  // "nothing" is -1 as a long: the argument goes as it is
      fds[1] = local_fd(fds[1]);
      if (fds[1] >= 0 && ::fcntl(fds[1], F_GETFD) >= 0) fd_count = 2;
      break;
    case PERF_EVENT_IOC_PERIOD:
      if (!read_user(&message.argument, argument, sizeof(message.argument))) return -EFAULT;
      break;
    case PERF_EVENT_IOC_QUERY_BPF: {
      uint32_t room;
      if (!read_user(&room, argument, sizeof(room))) return -EFAULT;
      message.argument = room;
      break;
    }
    default:
      break;
  }
  auto answer =
      ask_daemon(wire::MessageType::kPerfIoctl, as_bytes(message), std::span<const int>(fds, fd_count));
  if (!answer) return -answer.error().code;
  auto reply = wire::parse_reply(answer->body);
  if (!reply) return -EIO;
  if (logs(reply->result))
    log_call("ioctl(perf event, " + std::to_string(request) + ")", reply->result, reply->text);
  return store_ioctl_answer(request, argument, *reply);
}

std::optional<int64_t> before_mmap(uint64_t length, int protection, int flags, int number, uint64_t offset) {
  const int fd = local_fd(number);
  const ObjectPtr object = find_object(fd);
  if (object == nullptr || length == 0 || offset % kPageSize != 0) return std::nullopt;
  // Neither anonymous inodes nor ours are for running code from.
  if ((protection & PROT_EXEC) != 0) return -EPERM;
  int64_t verdict = -ENODEV;
  if (object->kind == wire::ObjectKind::kPerfEvent) verdict = size_perf_ring(fd, length, flags, offset);
  if (object->kind == wire::ObjectKind::kMap) {
    verdict = map_mmap(object, length, protection, flags, offset);
    if (verdict != -kNotSupported && (protection & PROT_WRITE) != 0)
      if (const int64_t denied = write_permission(object, fd); denied != 0) verdict = denied;
  }
  if (verdict != 0) return verdict;
  return std::nullopt;
}

}  // namespace bpftime::loader

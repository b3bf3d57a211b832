// bpf(2): element commands here, everything else to the daemon.
#include <fcntl.h>
#include <linux/bpf.h>

#include <cstddef>
#include <cstring>

#include "loader/attr_checks.h"
#include "loader/bpf_marshal.h"
#include "loader/calls.h"
#include "loader/connection.h"
#include "loader/host.h"
#include "loader/log.h"
#include "loader/map_commands.h"
#include "loader/objects.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

struct ElementAttr {
  uint32_t map_fd;
  uint32_t padding;
  uint64_t key, value, flags;
};

bool is_element_command(uint32_t command) {
  return (command >= BPF_MAP_LOOKUP_ELEM && command <= BPF_MAP_GET_NEXT_KEY) ||
         command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
}

bool is_batch_command(uint32_t command) {
  return command >= BPF_MAP_LOOKUP_BATCH && command <= BPF_MAP_DELETE_BATCH;
}

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

struct BatchAttr {
  uint64_t in_batch, out_batch, keys, values;
  uint32_t count, map_fd;
  uint64_t elem_flags, flags;
};
static_assert(sizeof(BatchAttr) == 56);

// The host's attr, copied once: what it holds a moment later is nobody's business.
struct GivenAttr {
  uint64_t address;
  uint32_t size;
  uint8_t bytes[wire::kAttrMax];
};

int64_t copy_attr(uint64_t address, uint32_t size, GivenAttr& given) {
  if (size > sizeof given.bytes) return -E2BIG;
  given.address = address;
  given.size = size;
  return read_user(given.bytes, address, size) ? 0 : -EFAULT;
}

// bpf(2)'s treatment of attr (bpf_check_uarg_tail_zero, CHECK_ATTR) for a command that knows `known` bytes.
template <typename Attr>
int64_t read_attr(const GivenAttr& given, uint32_t known, Attr& attr) {
  // Bytes behind the whole union: E2BIG; bytes of the union that the command has no use for: EINVAL.
  for (uint32_t i = kAttrUnionSize; i < given.size; ++i)
    if (given.bytes[i] != 0) return -E2BIG;
  for (uint32_t i = known; i < given.size; ++i)
    if (given.bytes[i] != 0) return -EINVAL;
  std::memset(&attr, 0, sizeof(attr));
  std::memcpy(&attr, given.bytes, given.size < known ? given.size : known);
  return 0;
}

uint32_t known_bytes(uint32_t command) {
  // GET_NEXT_KEY ends at next_key, DELETE at key; the others use flags.
  if (command == BPF_MAP_GET_NEXT_KEY) return 24;
  return command == BPF_MAP_DELETE_ELEM ? 16 : 32;
}

// The result of an element command, or nullopt when the daemon must be asked.
std::optional<int64_t> element_call(uint32_t command, const GivenAttr& given) {
  ElementAttr attr;
  if (const int64_t checked = read_attr(given, known_bytes(command), attr); checked != 0) return checked;
  const bool lookup = command == BPF_MAP_LOOKUP_ELEM || command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
  if (lookup && (attr.flags & ~uint64_t{4 /* BPF_F_LOCK */}) != 0) return -EINVAL;
  const int fd = local_fd(static_cast<int>(attr.map_fd));
  const Descriptor map = find_descriptor(fd);
  if (map.object == nullptr) return is_open(fd) ? -EINVAL : -EBADF;
  if (map.object->kind != wire::ObjectKind::kMap) return -EINVAL;
  return run_element_call(map, {command, attr.key, attr.value, attr.flags});
}

int64_t batch_call(uint32_t command, const GivenAttr& given) {
  BatchAttr attr;
  if (const int64_t checked = read_attr(given, sizeof attr, attr); checked != 0) return checked;
  const int fd = local_fd(static_cast<int>(attr.map_fd));
  const Descriptor map = find_descriptor(fd);
  if (map.object == nullptr) return is_open(fd) ? -EINVAL : -EBADF;
  if (map.object->kind != wire::ObjectKind::kMap) return -EINVAL;
  return run_batch_call(map, {command, attr.in_batch, attr.out_batch, attr.keys, attr.values, attr.count,
                              attr.elem_flags, attr.flags, given.address + offsetof(BatchAttr, count)});
}

FdFacts facts_of(int number) {
  FdFacts facts;
  const int fd = local_fd(number);
  facts.open = fd >= 0 && is_open(fd);
  if (!facts.open) return facts;
  if (const ObjectPtr object = find_object(fd)) {
    facts.kind = object->kind;
    facts.spec = object->spec;
  }
  return facts;
}

// As in enum bpf_cmd.
constexpr const char* kCommandNames[] = {
    "MAP_CREATE",        "MAP_LOOKUP_ELEM",
    "MAP_UPDATE_ELEM",   "MAP_DELETE_ELEM",
    "MAP_GET_NEXT_KEY",  "PROG_LOAD",
    "OBJ_PIN",           "OBJ_GET",
    "PROG_ATTACH",       "PROG_DETACH",
    "PROG_TEST_RUN",     "PROG_GET_NEXT_ID",
    "MAP_GET_NEXT_ID",   "PROG_GET_FD_BY_ID",
    "MAP_GET_FD_BY_ID",  "OBJ_GET_INFO_BY_FD",
    "PROG_QUERY",        "RAW_TRACEPOINT_OPEN",
    "BTF_LOAD",          "BTF_GET_FD_BY_ID",
    "TASK_FD_QUERY",     "MAP_LOOKUP_AND_DELETE_ELEM",
    "MAP_FREEZE",        "BTF_GET_NEXT_ID",
    "MAP_LOOKUP_BATCH",  "MAP_LOOKUP_AND_DELETE_BATCH",
    "MAP_UPDATE_BATCH",  "MAP_DELETE_BATCH",
    "LINK_CREATE",       "LINK_UPDATE",
    "LINK_GET_FD_BY_ID", "LINK_GET_NEXT_ID",
    "ENABLE_STATS",      "ITER_CREATE",
    "LINK_DETACH",       "PROG_BIND_MAP",
    "TOKEN_CREATE",      "PROG_STREAM_READ_BY_FD",
};
static_assert(BPF_PROG_BIND_MAP == 35);

int64_t explain(uint32_t command, int64_t result, std::string_view text) {
  if (logs(result)) {
    const bool named = command < sizeof kCommandNames / sizeof *kCommandNames;
    log_call("bpf(" + (named ? std::string(kCommandNames[command]) : std::to_string(command)) + ")", result,
             text);
  }
  return result;
}

}  // namespace

int64_t bpf_call(uint32_t command, uint64_t address, uint32_t size) {
  const UserMemoryCall memory;
  GivenAttr given;
  const int64_t copied = copy_attr(address, size, given);
  if (is_element_command(command)) {
    const auto result = copied != 0 ? std::optional(copied) : element_call(command, given);
    // No entry (or no more) is an answer, not a failure.
    if (result) return *result == -ENOENT ? *result : explain(command, *result, "");
  }
  if (is_batch_command(command)) {
    const int64_t result = copied != 0 ? copied : batch_call(command, given);
    return result == -ENOENT ? result : explain(command, result, "");
  }

  const Bytes attr(given.bytes, copied == 0 ? size : 0);
  if (const int refused = copied == 0 ? check_attr(command, attr, facts_of) : 0; refused != 0)
    return explain(command, -refused, "attr is refused, whatever it points to");
  // What is too long or cannot be read is the marshaller's to refuse.
  auto call = copied == 0 ? MarshalledCall::make(command, attr, address, facts_of)
                          : MarshalledCall::make(command, address, size, facts_of);
  if (!call) {
    explain(command, -call.error().code, call.error().message);
    return -call.error().code;
  }
  // Freezing fails while writable mappings exist. Ours, made for updates, is no user's.
  if (command == BPF_MAP_FREEZE && !call->fds().empty()) {
    const ObjectPtr map = find_object(call->fds()[0]);
    if (map != nullptr && map->kind == wire::ObjectKind::kMap && host_maps_writable(map))
      return explain(command, -EBUSY, "the map has writable mappings");
    forget_descriptor(call->fds()[0]);
  }

  auto answer = ask_daemon(wire::MessageType::kBpf, call->body(), call->fds());
  if (!answer) return -answer.error().code;
  auto reply = wire::parse_reply(answer->body);
  if (!reply) return -EIO;
  const auto stored = call->store(answer->body);
  explain(command, reply->result, reply->text);
  if (reply->result < 0) return reply->result;  // the verifier's reason outranks an unwritable log buffer
  if (!stored) return stored.error().code == EFAULT ? -EFAULT : -EIO;
  if (answer->fds.empty()) return reply->result;
  note_object_seen();
  return hand_over(std::move(answer->fds[0]));
}

}  // namespace bpftime::loader

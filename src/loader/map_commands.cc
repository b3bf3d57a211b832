#include "loader/map_commands.h"

#include <fcntl.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstring>

#include "loader/user_memory.h"
#include "maps/types.h"
#include "maps/value_fields.h"

namespace bpftime::loader {
namespace {

constexpr uint64_t kFlagsLock = 4;      // BPF_F_LOCK
constexpr int64_t kNotSupported = 524;  // ENOTSUPP, which user space has no name for

// Values of these types are descriptors or need the daemon's bookkeeping.
bool served_by_daemon(uint32_t type) { return maps::has_descriptors(type); }

bool writes(uint32_t command) {
  return command == BPF_MAP_UPDATE_ELEM || command == BPF_MAP_DELETE_ELEM ||
         command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
}

bool reads(uint32_t command) { return command != BPF_MAP_UPDATE_ELEM && command != BPF_MAP_DELETE_ELEM; }

bool is_frozen(const Object& map, const uint8_t* base) {
  const auto* trailer = reinterpret_cast<const wire::ObjectTrailer*>(base + map.size - wire::kTrailerSize);
  return __atomic_load_n(&trailer->frozen, __ATOMIC_ACQUIRE) != 0;
}

// As __bpf_copy_key: a map without keys takes a null pointer only.
int64_t copy_key(const wire::MapSpec& spec, uint64_t address, Buffer& key) {
  if (spec.key_size == 0) return address == 0 ? 0 : -EINVAL;
  return read_user(key.data(), address, spec.key_size) ? 0 : -EFAULT;
}

// Maps whose values are descriptors or objects' ids, as far as nobody needs to know which.
int64_t slot_call(const wire::MapSpec& spec, const ElementCall& call) {
  Buffer key(spec.key_size);
  if (key.data() == nullptr) return -ENOMEM;
  const bool next = call.command == BPF_MAP_GET_NEXT_KEY;
  if (!(next && call.key == 0) && !read_user(key.data(), call.key, spec.key_size)) return -EFAULT;
  if (!next) return -kNotSupported;
  // As array_map_get_next_key.
  uint32_t index = 0;
  std::memcpy(&index, key.data(), sizeof index);
  if (call.key == 0 || index >= spec.max_entries)
    index = 0;
  else if (index == spec.max_entries - 1)
    return -ENOENT;
  else
    ++index;
  return write_user(call.value, &index, sizeof(index)) ? 0 : -EFAULT;
}

int64_t run(Object& map, maps::MapView view, const ElementCall& call, Buffer& key, Buffer& value,
            uint64_t value_size) {
  const wire::ValueFields& fields = map.fields;
  int64_t result;
  switch (call.command) {
    case BPF_MAP_LOOKUP_ELEM:
      // Whether a bloom filter has this very value: nothing to hand out.
      if (view.spec->type == BPF_MAP_TYPE_BLOOM_FILTER && !read_user(value.data(), call.value, value_size))
        return -EFAULT;
      result = maps::fields_lookup(view, fields, key.data(), value.data(), call.flags);
      if (view.spec->type == BPF_MAP_TYPE_BLOOM_FILTER) return result;
      break;
    case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
      result = maps::fields_lookup_and_delete(view, fields, key.data(), value.data(), call.flags);
      break;
    case BPF_MAP_UPDATE_ELEM:
      if (!read_user(value.data(), call.value, value_size)) return -EFAULT;
      return maps::fields_update(view, fields, key.data(), value.data(), call.flags);
    case BPF_MAP_DELETE_ELEM:
      return maps::user_delete(view, key.data());
    default: {
      Buffer next(view.spec->key_size);
      if (next.data() == nullptr) return -ENOMEM;
      result = next_key(map, view, call.key == 0 ? nullptr : key.data(), next.data());
      if (result != 0) return result;
      return write_user(call.value, next.data(), view.spec->key_size) ? 0 : -EFAULT;
    }
  }
  if (result != 0) return result;
  return write_user(call.value, value.data(), value_size) ? 0 : -EFAULT;
}

}  // namespace

namespace {

// map_get_sys_perms, but for frozen maps.
bool permits(const Descriptor& map, bool read, bool write) {
  return !((read && map.access == O_WRONLY) || (write && map.access == O_RDONLY));
}

}  // namespace

std::optional<int64_t> open_elements(const Descriptor& map, bool read, bool write, maps::MapView* view) {
  if (!permits(map, read, write)) return -EPERM;
  const uint8_t* base = map_object(map.object, map.fd, false);
  if (base == nullptr) return std::nullopt;
  if (write) {
    if (is_frozen(*map.object, base)) return -EPERM;
    base = map_object(map.object, map.fd, true);
    if (base == nullptr) return std::nullopt;
  }
  *view = {const_cast<uint8_t*>(base), &map.object->spec};
  return 0;
}

void hold_for_locks(const Descriptor& map, maps::MapView* view) {
  if (map.object->fields.lock == 0 || is_frozen(*map.object, view->base)) return;
  if (const uint8_t* base = map_object(map.object, map.fd, true)) view->base = const_cast<uint8_t*>(base);
}

int64_t next_key(Object& map, maps::MapView view, const void* key_or_null, void* next) {
  const std::unique_lock<std::mutex> lock(map.order_mutex, std::try_to_lock);
  return maps::user_next_key(view, key_or_null, next, lock.owns_lock() ? &map.order : nullptr);
}

namespace {

// What needs no daemon of a call on a map that only the daemon can read.
std::optional<int64_t> daemons_element(const Descriptor& map, const ElementCall& call) {
  if (!permits(map, reads(call.command), writes(call.command))) return -EPERM;
  const uint32_t type = map.object->spec.type;
  const bool unreadable = type == BPF_MAP_TYPE_PERF_EVENT_ARRAY || type == BPF_MAP_TYPE_CGROUP_ARRAY;
  const bool indexed = unreadable || type == BPF_MAP_TYPE_PROG_ARRAY || type == BPF_MAP_TYPE_ARRAY_OF_MAPS;
  const bool pops = call.command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
  const bool lookup = call.command == BPF_MAP_LOOKUP_ELEM || pops;
  if (lookup && (call.flags & kFlagsLock) != 0) return -EINVAL;  // nothing to lock
  if (pops || (unreadable && lookup) || (indexed && call.command == BPF_MAP_GET_NEXT_KEY))
    return slot_call(map.object->spec, call);
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> run_element_call(const Descriptor& map, const ElementCall& call) {
  const bool lookup = call.command == BPF_MAP_LOOKUP_ELEM || call.command == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
  if (lookup && (call.flags & ~kFlagsLock) != 0) return -EINVAL;
  const wire::MapSpec& spec = map.object->spec;
  if (!map.object->checked) return std::nullopt;
  if (served_by_daemon(spec.type)) return daemons_element(map, call);
  maps::MapView view;
  const auto opened = open_elements(map, reads(call.command), writes(call.command), &view);
  if (!opened || *opened != 0) return opened;
  if (reads(call.command) && (call.flags & kFlagsLock) != 0) hold_for_locks(map, &view);
  const uint64_t value_size = maps::user_value_size(spec);
  Buffer key(spec.key_size), value(value_size);
  if (key.data() == nullptr || value.data() == nullptr) return -ENOMEM;
  if (call.command != BPF_MAP_GET_NEXT_KEY || call.key != 0)
    if (const int64_t copied = copy_key(spec, call.key, key); copied != 0) return copied;
  return run(*map.object, view, call, key, value, value_size);
}

}  // namespace bpftime::loader

// bpf(2) commands on maps and BTF. Element operations run in the caller's process (src/loader) but for values that are
// descriptors: only the daemon knows which object a descriptor means.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "kernel/attr.h"
#include "kernel/kernel.h"
#include "kernel/map_btf.h"
#include "kernel/map_slots.h"
#include "maps/map.h"
#include "program/btf.h"

namespace bpftime::kernel {

namespace {

bool write_all(int fd, Bytes bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count <= 0) return false;
    done += count;
  }
  return true;
}

}  // namespace

uint32_t possible_cpus() {
  // What libbpf sizes per-CPU buffers by.
  static const uint32_t count = [] {
    uint32_t last = 0;
    if (FILE* file = ::fopen("/sys/devices/system/cpu/possible", "re")) {
      uint32_t first = 0;
      while (::fscanf(file, "%u", &first) == 1) {
        last = std::max(last, first);
        if (::fgetc(file) == EOF) break;
      }
      ::fclose(file);
    }
    return last + 1;
  }();
  return count;
}

template <typename T>
std::shared_ptr<T> Kernel::object_of(int fd, ObjectKind kind) const {
  auto object = objects_.find_fd(fd);
  return object && object->kind == kind ? std::static_pointer_cast<T>(object) : nullptr;
}
template std::shared_ptr<Map> Kernel::object_of(int, ObjectKind) const;
template std::shared_ptr<Prog> Kernel::object_of(int, ObjectKind) const;
template std::shared_ptr<Btf> Kernel::object_of(int, ObjectKind) const;
template std::shared_ptr<PerfEvent> Kernel::object_of(int, ObjectKind) const;
template std::shared_ptr<Link> Kernel::object_of(int, ObjectKind) const;

int Kernel::access_mode(uint32_t flags) {
  if (flags & BPF_F_RDONLY) return O_RDONLY;
  return flags & BPF_F_WRONLY ? O_WRONLY : O_RDWR;
}

BpfReply Kernel::map_create(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  if (auto bad = check_attr_tail(request, offset_after(offsetof(bpf_attr, map_extra), sizeof attr.map_extra)))
    return *std::move(bad);
  auto map = std::make_shared<Map>();
  map->kind = ObjectKind::kMap;
  map->created_by_uid = request.uid;
  auto name = object_name(attr.map_name);
  if (!name) return BpfReply::fail(EINVAL, "create map: name has characters other than [A-Za-z0-9_.]");
  map->name = *name;
  map->spec = {attr.map_type,    attr.key_size,  attr.value_size,
               attr.max_entries, attr.map_flags, possible_cpus()};
  // A bloom filter's spec carries the number of its hashes (maps/bloom_filter.h).
  const bool bloom = attr.map_type == BPF_MAP_TYPE_BLOOM_FILTER;
  if ((attr.map_extra & ~(bloom ? 0xfull : 0ull)) != 0)
    return BpfReply::fail(EINVAL, "create map " + map->name + ": map_extra is not for this type");
  if (bloom) map->spec.cpu_count = static_cast<uint32_t>(attr.map_extra);
  // Linux: a perf event array without a size has one slot per possible CPU (libbpf fills it in before we see it).
  if (const int64_t error = maps::check_spec(map->spec); error < 0)
    return BpfReply::fail(static_cast<int>(-error),
                          "create map " + map->name + ": type " + std::to_string(attr.map_type) + ", key " +
                              std::to_string(attr.key_size) + ", value " + std::to_string(attr.value_size) +
                              ", " + std::to_string(attr.max_entries) + " entries, flags " +
                              std::to_string(attr.map_flags) +
                              ": refused as by Linux, or a type not supported yet (docs/support-matrix.md)");
  // htab_map_alloc: lists per CPU are of one length.
  if ((map->spec.flags & BPF_F_NO_COMMON_LRU) != 0) {
    const uint32_t cpus = map->spec.cpu_count, over = map->spec.max_entries % cpus;
    if (over != 0) map->spec.max_entries += map->spec.max_entries > UINT32_MAX - cpus ? -over : cpus - over;
  }
  if (attr.btf_key_type_id != 0 && attr.btf_value_type_id == 0)
    return BpfReply::fail(EINVAL, "create map " + map->name + ": BTF of the key without one of the value");
  if (attr.btf_key_type_id != 0 || attr.btf_value_type_id != 0) {
    const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, btf_fd));
    map->btf = object_of<Btf>(fd, ObjectKind::kBtf);
    if (!map->btf)
      return BpfReply::fail(fd < 0 ? EBADF : EINVAL, "create map " + map->name + ": btf_fd is no BTF object");
    auto fields = check_map_types(map->spec, map->btf->blob, attr.btf_key_type_id, attr.btf_value_type_id);
    if (!fields)
      return BpfReply::fail(fields.error().code, "create map " + map->name + ": " + fields.error().message);
    map->fields = *fields;
    map->btf_key_type_id = attr.btf_key_type_id;
    map->btf_value_type_id = attr.btf_value_type_id;
  }
  if (auto inner = set_inner(request, *map); !inner)
    return BpfReply::fail(inner.error().code, inner.error().message);
  const uint64_t size = maps::memory_size(map->spec);
  if (size == 0) return BpfReply::fail(E2BIG, "create map " + map->name + ": size overflows");
  if (auto reserved = reserve_map_address(*map); !reserved)
    return BpfReply::fail(reserved.error().code, reserved.error().message);
  if (auto entered = enter(map, size - wire::kTrailerSize); !entered)
    return BpfReply::fail(entered.error().code, "create map " + map->name + ": " + entered.error().message);
  if (holds_objects(map->spec.type)) {
    if (auto made = make_private(*map); !made)
      return BpfReply::fail(ENOMEM, "create map " + map->name + ": " + made.error().message);
  } else {
    auto memory = Mapping::shared(map->fd, size, PROT_READ | PROT_WRITE);
    if (!memory) return BpfReply::fail(ENOMEM, "create map " + map->name + ": " + memory.error().message);
    map->memory = std::move(*memory);
  }
  maps::initialize({map->memory.data(), &map->spec});
  observer_.object_changed(*map);
  return hand_out(map, access_mode(attr.map_flags));
}

BpfReply Kernel::map_update_fd_value(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  auto map = object_of<Map>(request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd)), ObjectKind::kMap);
  if (!map) return BpfReply::fail(EBADF, "map update: no such map");
  if (auto refused = refuse_write(request, *map)) return *std::move(refused);
  if (holds_objects(map->spec.type)) return slot_update(request, map);
  if (map->spec.type != BPF_MAP_TYPE_PERF_EVENT_ARRAY)
    return element_error(EINVAL, "map update", *map,
                         "its values are not the daemon's to change; the loader writes them in place");
  const auto key = read_at<uint32_t>(request.in(offsetof(bpf_attr, key)), 0);
  if (!key) return element_error(EFAULT, "map update", *map, "no key of 4 bytes");
  if (attr.flags != BPF_ANY)
    return element_error(EINVAL, "map update", *map, "perf event arrays take no flags; try BPF_ANY");
  if (*key >= map->spec.max_entries)
    return element_error(E2BIG, "map update", *map, no_such_index(*map, *key));
  auto event = object_of<PerfEvent>(request.fd(wire::FdPlace::kValue, 0), ObjectKind::kPerfEvent);
  if (!event) return element_error(EBADF, "map update", *map, "the value is no perf event's descriptor");
  if (event->perf_kind != PerfKind::kBpfOutput)
    return element_error(EINVAL, "map update", *map,
                         "the event is none that programs write to; try one of PERF_COUNT_SW_BPF_OUTPUT");
  map->perf_slots[*key] = event;
  const uint64_t early = maps::perf_set_slot({map->memory.data(), &map->spec}, *key, true);
  if (early != 0)
    log_info("map " + map->name + ": " + std::to_string(early) + " events came before slot " +
             std::to_string(*key) + " had a buffer, and are gone, as on Linux");
  observer_.object_changed(*map);
  observer_.readiness_wanted(map);
  return {};
}

BpfReply Kernel::map_delete_fd_value(const BpfRequest& request) {
  auto map = object_of<Map>(request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd)), ObjectKind::kMap);
  if (!map) return BpfReply::fail(EBADF, "map delete: no such map");
  if (auto refused = refuse_write(request, *map)) return *std::move(refused);
  if (holds_objects(map->spec.type)) return slot_delete(request, map);
  if (map->spec.type != BPF_MAP_TYPE_PERF_EVENT_ARRAY)
    return element_error(EINVAL, "map delete", *map,
                         "its values are not the daemon's to change; the loader writes them in place");
  const auto key = read_at<uint32_t>(request.in(offsetof(bpf_attr, key)), 0);
  if (!key) return element_error(EFAULT, "map delete", *map, "no key of 4 bytes");
  if (*key >= map->spec.max_entries)
    return element_error(E2BIG, "map delete", *map, no_such_index(*map, *key));
  if (map->perf_slots.erase(*key) == 0)
    return element_error(ENOENT, "map delete", *map, "slot " + std::to_string(*key) + " is empty");
  (void)maps::perf_set_slot({map->memory.data(), &map->spec}, *key, false);
  observer_.object_changed(*map);
  return {};
}

BpfReply Kernel::map_freeze(const BpfRequest& request) {
  if (auto bad = check_attr_tail(request, offset_after(offsetof(bpf_attr, map_fd), 4)))
    return *std::move(bad);
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd));
  auto map = object_of<Map>(fd, ObjectKind::kMap);
  if (!map) return BpfReply::fail(wrong_fd(fd), "freeze: no such map");
  // As map_get_sys_perms: through a read-only descriptor, or once frozen, nobody may write, nor freeze. (Writable mappings
  // are the loader's to find: EBUSY.)
  if ((::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
    return BpfReply::fail(EPERM, "freeze: map " + map->name + ": read-only descriptor");
  if (map->frozen) return BpfReply::fail(EPERM, "freeze: map " + map->name + " is frozen already");
  if (map->spec.type == BPF_MAP_TYPE_ARRAY && (map->spec.flags & BPF_F_RDONLY_PROG)) {
    auto copy = create_memfd("bpf-map-frozen", map->memory.size(), 0);
    if (!copy)
      return BpfReply::fail(copy.error().code, "freeze map " + map->name + ": " + copy.error().message);
    const bool written = write_all(copy->get(), Bytes(map->memory.data(), map->memory.size()));
    if (!written ||
        ::fcntl(copy->get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
      return BpfReply::fail(ENOMEM, "freeze map " + map->name + ": cannot make its sealed copy");
    map->sealed = std::move(*copy);
  }
  map->frozen = true;
  if (auto written = ObjectTable::write_trailer(*map); !written)
    return BpfReply::fail(written.error().code, written.error().message);
  observer_.object_changed(*map);
  return {};
}

BpfReply Kernel::btf_load(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  if (auto bad = check_attr_tail(request, offset_after(offsetof(bpf_attr, btf_log_level), 4)))
    return *std::move(bad);
  const Bytes blob = request.in(offsetof(bpf_attr, btf));
  if (attr.btf_size > program::kBtfSizeMax) return BpfReply::fail(E2BIG, "load BTF: larger than 16 MiB");
  if (!log_attr_valid(attr.btf_log_buf, attr.btf_log_size, attr.btf_log_level))
    return BpfReply::fail(EINVAL, "load BTF: log buffer, size and level do not fit together");
  if (blob.size() != attr.btf_size) return BpfReply::fail(EFAULT, "load BTF: blob not readable");
  if (auto valid = program::validate_btf(blob); !valid) {
    BpfReply reply = BpfReply::fail(valid.error().code, valid.error().message);
    const uint32_t room = request.out_size(offsetof(bpf_attr, btf_log_buf));
    if (room == 0) return reply;
    const std::string log = valid.error().message + "\n";
    // As Linux: what fits, NUL-terminated, and ENOSPC when not all did.
    std::vector<uint8_t> bytes(log.begin(), log.begin() + std::min<size_t>(log.size(), room - 1));
    if (bytes.size() < log.size()) reply.result = -ENOSPC;
    bytes.push_back(0);
    reply.out.push_back({offsetof(bpf_attr, btf_log_buf), std::move(bytes)});
    return reply;
  }
  auto btf = std::make_shared<Btf>();
  btf->kind = ObjectKind::kBtf;
  btf->created_by_uid = request.uid;
  btf->blob.assign(blob.begin(), blob.end());
  if (auto entered = enter(btf, 0); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  observer_.object_changed(*btf);
  return hand_out(btf);
}

}  // namespace bpftime::kernel

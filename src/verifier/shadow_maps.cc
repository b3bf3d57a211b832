// What of a map reaches a verdict (checked against Linux 6.18):
// - type, key and value size, BPF_F_RDONLY_PROG / WRONLY_PROG / NO_PREALLOC, BTF: always.
// - max_entries of arrays. One entry allows direct value access, and constants of a frozen read-only one are
// folded: 1 must stay 1 and more must stay more than 1. Since 6.14 a lookup with a constant key below
// max_entries needs no null check: fewer entries can only refuse more. So large arrays shrink to
// kArrayBytesMax, never below two entries.
// - max_entries of hashes, queues, stack traces, bloom filters: never.
// - size of ring buffers: never; the smallest legal one will do.
// Flags that only choose memory or restrict descriptors (NUMA node, RDONLY, WRONLY) would hinder
// filling and freezing.
#include "verifier/shadow_maps.h"

#include <algorithm>

#include "verifier/bpf_syscall.h"

namespace bpftime::verifier {
namespace {

constexpr uint64_t kArrayBytesMax = 16u << 20;
constexpr uint32_t kHashEntriesMax = 16;
constexpr int kErrorNotSupported = 524;  // ENOTSUPP, which libc does not name

uint32_t array_entries(const wire::MapSpec& spec, uint64_t copies) {
  if (spec.max_entries <= 2) return spec.max_entries;
  const uint64_t entry_bytes = std::max<uint64_t>((uint64_t{spec.value_size} + 7) / 8 * 8 * copies, 8);
  const uint64_t fitting = std::max<uint64_t>(kArrayBytesMax / entry_bytes, 2);
  return static_cast<uint32_t>(std::min<uint64_t>(spec.max_entries, fitting));
}

uint32_t shadow_entries(const wire::MapSpec& spec) {
  switch (spec.type) {
    case BPF_MAP_TYPE_ARRAY:
      return array_entries(spec, 1);
    case BPF_MAP_TYPE_PERCPU_ARRAY:
      return array_entries(spec, static_cast<uint64_t>(std::max(1l, sysconf(_SC_NPROCESSORS_CONF))));
    case BPF_MAP_TYPE_HASH:
    case BPF_MAP_TYPE_PERCPU_HASH:
    case BPF_MAP_TYPE_LRU_HASH:
    case BPF_MAP_TYPE_LRU_PERCPU_HASH:
    case BPF_MAP_TYPE_LPM_TRIE:
    case BPF_MAP_TYPE_QUEUE:
    case BPF_MAP_TYPE_STACK:
    case BPF_MAP_TYPE_STACK_TRACE:
    case BPF_MAP_TYPE_BLOOM_FILTER:
      return std::min(spec.max_entries, kHashEntriesMax);
    case BPF_MAP_TYPE_RINGBUF:
    case BPF_MAP_TYPE_USER_RINGBUF:
      return std::min(spec.max_entries, static_cast<uint32_t>(sysconf(_SC_PAGESIZE)));
    default:
      return spec.max_entries;
  }
}

Error map_error(const MapConstraint& map, const std::string& what, int code) {
  return Error{code, "map " + map.name + ": " + what + ": " + std::strerror(code)};
}

Result<Fd> create_map(const MapConstraint& map, int btf) {
  const wire::MapSpec spec = shadow_spec(map.spec);
  LongAttr attr;
  attr.attr.map_type = spec.type;
  attr.attr.key_size = spec.key_size;
  attr.attr.value_size = spec.value_size;
  attr.attr.max_entries = spec.max_entries;
  attr.attr.map_flags = spec.flags;
  set_name(attr.attr.map_name, map.name);
  if (btf >= 0) {
    attr.attr.btf_fd = static_cast<uint32_t>(btf);
    attr.attr.btf_key_type_id = map.btf_key_type_id;
    attr.attr.btf_value_type_id = map.btf_value_type_id;
  }
  const int fd = bpf_call(BPF_MAP_CREATE, attr);
  if (fd < 0) return map_error(map, "shadow map for the kernel's verifier", errno);
  return Fd(fd);
}

Result<void> fill_first_value(const MapConstraint& map, int fd) {
  std::vector<uint8_t> value(map.spec.value_size, 0);
  std::copy_n(map.contents.begin(), std::min(map.contents.size(), value.size()), value.begin());
  const uint32_t key = 0;
  LongAttr attr;
  attr.attr.map_fd = static_cast<uint32_t>(fd);
  attr.attr.key = to_pointer(&key);
  attr.attr.value = to_pointer(value.data());
  if (bpf_call(BPF_MAP_UPDATE_ELEM, attr) < 0) return map_error(map, "contents of the shadow map", errno);
  return {};
}

Result<void> freeze(const MapConstraint& map, int fd) {
  // Contents count only where constants are folded: in arrays of one entry. A zero there would be taken for a
  // constant too, so a frozen array that came without contents must not be frozen in the shadow.
  if (map.spec.type == BPF_MAP_TYPE_ARRAY && map.spec.max_entries == 1) {
    if (map.contents.empty()) return {};
    if (auto filled = fill_first_value(map, fd); !filled) return filled;
  }
  LongAttr attr;
  attr.attr.map_fd = static_cast<uint32_t>(fd);
  if (bpf_call(BPF_MAP_FREEZE, attr) < 0) return map_error(map, "freezing the shadow map", errno);
  return {};
}

Result<Fd> make_shadow_map(const MapConstraint& map) {
  if (map.spec.type == BPF_MAP_TYPE_ARRAY_OF_MAPS || map.spec.type == BPF_MAP_TYPE_HASH_OF_MAPS) {
    return map_error(map, "maps of maps have no shadow yet", EOPNOTSUPP);
  }
  Fd btf;
  if (!map.btf.empty() && (map.btf_key_type_id != 0 || map.btf_value_type_id != 0)) {
    auto loaded = load_btf(map.btf);
    if (!loaded) return map_error(map, "BTF", loaded.error().code);
    btf = std::move(*loaded);
  }
  auto fd = create_map(map, btf.get());
  // Some types take no BTF (ENOTSUPP); loaders then do without, and so do we. The map keeps the BTF
  // alive by itself.
  if (!fd && btf.valid() && fd.error().code == kErrorNotSupported) fd = create_map(map, -1);
  if (!fd) return fd;
  if (map.frozen) {
    if (auto frozen = freeze(map, fd->get()); !frozen) return frozen.error();
  }
  return fd;
}

}  // namespace

wire::MapSpec shadow_spec(const wire::MapSpec& spec) {
  wire::MapSpec shadow = spec;
  shadow.max_entries = shadow_entries(spec);
  shadow.flags &= ~static_cast<uint32_t>(BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY);
  return shadow;
}

Result<std::vector<Fd>> make_shadow_maps(const std::vector<MapConstraint>& maps,
                                         const std::vector<bool>& needed) {
  std::vector<Fd> fds(maps.size());
  for (size_t i = 0; i < maps.size(); ++i) {
    if (!needed[i]) continue;
    auto fd = make_shadow_map(maps[i]);
    if (!fd) return fd.error();
    fds[i] = std::move(*fd);
  }
  return fds;
}

Result<Fd> load_btf(Bytes blob) {
  LongAttr attr;
  attr.attr.btf = to_pointer(blob.data());
  attr.attr.btf_size = static_cast<uint32_t>(blob.size());
  const int fd = bpf_call(BPF_BTF_LOAD, attr);
  if (fd < 0) return Error::from_errno("BTF of " + std::to_string(blob.size()) + " bytes");
  return Fd(fd);
}

}  // namespace bpftime::verifier

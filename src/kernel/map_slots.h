// Maps whose values are objects. Internal to this folder.
#pragma once

#include <fcntl.h>
#include <linux/bpf.h>

#include <optional>
#include <string>

#include "kernel/kernel.h"

namespace bpftime::kernel {

// Whose memory only the daemon writes: values are programs, maps or control groups.
inline bool holds_objects(uint32_t map_type) {
  return map_type == BPF_MAP_TYPE_PROG_ARRAY || map_type == BPF_MAP_TYPE_CGROUP_ARRAY ||
         map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS || map_type == BPF_MAP_TYPE_HASH_OF_MAPS;
}
inline bool is_map_of_maps(uint32_t map_type) {
  return map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS || map_type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

// As map_get_sys_perms: through a read-only descriptor, or once frozen, nobody writes.
inline std::optional<BpfReply> refuse_write(const BpfRequest& request, const Map& map) {
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, map_fd));
  if ((::fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY && !map.frozen) return std::nullopt;
  return BpfReply::fail(EPERM, "map " + map.name + ": frozen, or a read-only descriptor");
}

// "OPERATION: map NAME: why".
BpfReply element_error(int error, const char* operation, const Map& map, const std::string& why);
std::string no_such_index(const Map& map, uint32_t index);

// Whether the program fits the arrays it may tail-call through; if so they are for its type from now on
// (bpf_prog_map_compatible).
Result<void> check_prog_arrays(const Prog& program);

}  // namespace bpftime::kernel

// Map element commands on the mapped memory, in this process: no daemon, no copy of the map.
#pragma once

#include <cstdint>
#include <optional>

#include "loader/objects.h"

namespace bpftime::loader {

// The arguments of the *_ELEM commands in attr, and the file descriptor's access mode.
struct ElementCall {
  uint32_t command;  // BPF_MAP_LOOKUP_ELEM …
  uint64_t key, value, flags;
};

// 0 or -errno as bpf(2); nullopt when this map or descriptor must be served by the daemon (values that are
// descriptors, types the core does not know, memory that may not be mapped).
std::optional<int64_t> run_element_call(const ObjectPtr& map, int fd, const ElementCall& call);

}  // namespace bpftime::loader

// What the types a map is created with must be (Linux: map_check_btf).
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "wire/object.h"

namespace bpftime::kernel {

// Checks the types `key_id` (0: none) and `value_id` of a validated BTF blob against the map. EINVAL as Linux, ENOTSUPP (524)
// for map types that take no types: libbpf and bcc then try again without.
// Returns the fields of values that are not the clients' to see: EOPNOTSUPP where a type may have none, EACCES where programs
// could not use them.
Result<wire::ValueFields> check_map_types(const wire::MapSpec& spec, Bytes btf, uint32_t key_id,
                                          uint32_t value_id);

}  // namespace bpftime::kernel

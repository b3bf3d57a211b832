// Fields of a map's values that belong to the kernel, not to whoever reads and writes values: locks, timers, work.
#pragma once

#include <cstdint>
#include <vector>

#include "program/type_table.h"

namespace bpftime::program {

enum class SpecialKind : uint8_t { kSpinLock, kTimer, kWorkqueue };

struct SpecialField {
  SpecialKind kind;
  uint32_t offset, size;  // bytes in the value
};

// Those in a value of type `id` and `value_size` bytes, by offset, as Linux finds them (btf_parse_fields): structs named
// bpf_spin_lock, bpf_timer and bpf_wq, aligned, among the members of a struct and of structs in it. None at all when one kind
// is there twice, or the type is no struct.
std::vector<SpecialField> special_fields(const TypeTable& table, uint32_t id, uint32_t value_size);

}  // namespace bpftime::program

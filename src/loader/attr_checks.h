// What bpf(2) refuses before it follows any pointer of attr: the order decides which of several errors a caller gets.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "loader/bpf_marshal.h"

namespace bpftime::loader {

// Bytes of union bpf_attr in Linux 6.18. What lies behind must be zero in any kernel's opinion (E2BIG).
constexpr uint32_t kAttrUnionSize = 168;

// 0, or the errno of a call whose attr is refused for itself: bytes where the command has no field, unknown flags, a
// descriptor that is not of the kind the command is about. The daemon checks again what it uses.
int check_attr(uint32_t command, Bytes attr, const FdLookup& lookup);

}  // namespace bpftime::loader

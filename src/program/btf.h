// BTF blobs as BPF_BTF_LOAD takes them.
#pragma once

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::program {

inline constexpr uint32_t kBtfSizeMax = 16u << 20;  // BTF_MAX_SIZE

// Checks header, string table and every type record (kinds 1–19, known flags, in-range references and names,
// kinds of targets, loops) as the kernel's btf_parse does, without resolving sizes: whatever Linux 6.18 loads
// passes, and of what it refuses a few percent pass too (members that do not fit, array sizes that overflow,
// loops by value through a modifier). After success every type id and name offset in the blob is in range.
// Linear in the size of the blob. Errors carry the kernel's errno (EINVAL, E2BIG, EEXIST and ELOOP for loops,
// ENOTSUPP=524): "BTF: type N: …".
Result<void> validate_btf(Bytes blob);

}  // namespace bpftime::program

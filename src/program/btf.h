// BTF blobs as BPF_BTF_LOAD takes them.
#pragma once

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::program {

inline constexpr uint32_t kBtfSizeMax = 16u << 20;  // BTF_MAX_SIZE

// Checks header, string table and every type record (kinds 1–19, known flags, in-range references and names, no loops of
// modifiers) as the kernel's btf_parse does, without resolving sizes. Errors carry the kernel's errno (EINVAL, E2BIG, ENOTSUPP=524).
Result<void> validate_btf(Bytes blob);

}  // namespace bpftime::program

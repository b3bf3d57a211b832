// Dynptrs: 16 bytes that only the dynptr helpers touch (the verifier sees to that), laid out as the
// kernel's struct bpf_dynptr_kern.
#pragma once

#include <stdint.h>

namespace bpftime::runtime {

struct Dynptr {
  uint64_t data;  // 0: nothing
  uint32_t size;  // and its kind, above
  uint32_t offset;
};
static_assert(sizeof(Dynptr) == 16);

inline constexpr uint32_t kDynptrSizeMax = (1u << 24) - 1, kDynptrKindShift = 28;
inline constexpr uint32_t kDynptrLocal = 1, kDynptrRingbuf = 2;

}  // namespace bpftime::runtime

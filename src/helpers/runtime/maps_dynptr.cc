// What programs do with dynptrs. Included behind maps.cc, whose rings they stand on.
#include "helpers/runtime/dynptr.h"
#include "helpers/runtime/map_access.h"

namespace bpftime::runtime {
namespace {

inline uint64_t set(uint64_t place, Dynptr value, int64_t result) {
  *pointer<Dynptr>(place) = value;
  return static_cast<uint64_t>(result);
}
inline bool reaches_beyond(const Dynptr& dynptr, uint64_t offset, uint64_t length) {
  const uint64_t size = dynptr.size & kDynptrSizeMax;
  return length > size || offset > size - length;
}

inline uint64_t finish(uint64_t place, uint64_t flags, bool discard) {
  const Dynptr dynptr = *pointer<Dynptr>(place);
  if (dynptr.data == 0) return 0;
  commit(dynptr.data, flags, discard);
  return set(place, {}, 0);
}

}  // namespace

// r1 memory, r2 its size, r3 flags, r4 dynptr.
BPFTIME_HELPER_FUNCTION(dynptr_from_mem) {
  const uint32_t size = static_cast<uint32_t>(r2);
  if (size > kDynptrSizeMax) return set(r4, {}, -kE2big);
  if (r3 != 0) return set(r4, {}, -kEinval);
  return set(r4, {r1, size | kDynptrLocal << kDynptrKindShift, 0}, 0);
}

// r1 ring, r2 size, r3 flags, r4 dynptr.
BPFTIME_HELPER_FUNCTION(ringbuf_reserve_dynptr) {
  const uint32_t size = static_cast<uint32_t>(r2);
  if (r3 != 0) return set(r4, {}, -kEinval);
  if (size > kDynptrSizeMax) return set(r4, {}, -kE2big);
  void* record = reserve(r1, size, 0);
  if (record == nullptr) return set(r4, {}, -kEinval);
  return set(r4, {reinterpret_cast<uint64_t>(record), size | kDynptrRingbuf << kDynptrKindShift, 0}, 0);
}

BPFTIME_HELPER_FUNCTION(ringbuf_submit_dynptr) { return finish(r1, r2, false); }
BPFTIME_HELPER_FUNCTION(ringbuf_discard_dynptr) { return finish(r1, r2, true); }

// r1 destination, r2 its size, r3 dynptr, r4 offset, r5 flags.
BPFTIME_HELPER_FUNCTION(dynptr_read) {
  const Dynptr dynptr = *pointer<Dynptr>(r3);
  const uint32_t size = static_cast<uint32_t>(r2), offset = static_cast<uint32_t>(r4);
  if (dynptr.data == 0 || r5 != 0) return static_cast<uint64_t>(-kEinval);
  if (reaches_beyond(dynptr, offset, size)) return static_cast<uint64_t>(-kE2big);
  bpftime_memmove(pointer(r1), pointer(dynptr.data + dynptr.offset + offset), size);
  return 0;
}

// r1 dynptr, r2 offset, r3 source, r4 its size, r5 flags.
BPFTIME_HELPER_FUNCTION(dynptr_write) {
  const Dynptr dynptr = *pointer<Dynptr>(r1);
  const uint32_t offset = static_cast<uint32_t>(r2), size = static_cast<uint32_t>(r4);
  if (dynptr.data == 0) return static_cast<uint64_t>(-kEinval);
  if (reaches_beyond(dynptr, offset, size)) return static_cast<uint64_t>(-kE2big);
  if (r5 != 0) return static_cast<uint64_t>(-kEinval);
  bpftime_memmove(pointer(dynptr.data + dynptr.offset + offset), pointer(r3), size);
  return 0;
}

// r1 dynptr, r2 offset, r3 length. The address, or 0.
BPFTIME_HELPER_FUNCTION(dynptr_data) {
  const Dynptr dynptr = *pointer<Dynptr>(r1);
  const uint32_t offset = static_cast<uint32_t>(r2), size = static_cast<uint32_t>(r3);
  if (dynptr.data == 0 || reaches_beyond(dynptr, offset, size)) return 0;
  return dynptr.data + dynptr.offset + offset;
}

}  // namespace bpftime::runtime

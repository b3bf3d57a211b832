// bpf_user_ringbuf_drain's steps. The compiler makes the loop around them, which calls the program's function.
#include "maps/user_ringbuf.h"

#include "helpers/runtime/dynptr.h"
#include "helpers/runtime/map_access.h"

namespace bpftime::runtime {

static_assert(offsetof(maps::UserRingCursor, sample) == offsetof(Dynptr, data) &&
              offsetof(maps::UserRingCursor, sample_size) == offsetof(Dynptr, size) &&
              offsetof(maps::UserRingCursor, sample_offset) == offsetof(Dynptr, offset));
static_assert(maps::kSampleSizeMax == kDynptrSizeMax);

extern "C" {

// 0 with an empty cursor, or the helper's negative answer.
__attribute__((visibility("hidden"))) int64_t bpftime_user_ring_begin(const MapRef* map,
                                                                      maps::UserRingCursor* cursor,
                                                                      uint64_t flags) {
  *cursor = {};
  const uint32_t tgid = current_tgid();
  return maps::user_ring_begin(maps::user_ring_at(view(map)), flags, tgid);
}

// 1: the cursor is the dynptr of a sample. 0: there is none.
__attribute__((visibility("hidden"))) uint64_t bpftime_user_ring_next(const MapRef* map,
                                                                      maps::UserRingCursor* cursor) {
  if (!maps::user_ring_next(maps::user_ring_at(view(map)), cursor)) return 0;
  cursor->sample_size |= kDynptrLocal << kDynptrKindShift;
  return 1;
}

__attribute__((visibility("hidden"))) uint64_t bpftime_user_ring_release(const MapRef* map,
                                                                         maps::UserRingCursor* cursor) {
  maps::user_ring_release(maps::user_ring_at(view(map)), cursor);
  return 0;
}

__attribute__((visibility("hidden"))) int64_t bpftime_user_ring_end(const MapRef* map,
                                                                    maps::UserRingCursor* cursor,
                                                                    uint64_t flags) {
  const maps::UserRing ring = maps::user_ring_at(view(map));
  bool wake = false;
  const int64_t result = maps::user_ring_end(ring, *cursor, flags, &wake);
  if (wake) bpftime_wake(&ring.consumer->wake_word);
  return result;
}

}  // extern "C"

}  // namespace bpftime::runtime

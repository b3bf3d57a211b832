// Where a trampoline must lie so that the jump to it has bytes that trap at given places.
// The jump is e9 r0 r1 r2 r3 with r = trampoline - (site + 5), little-endian: byte k of the jump is byte k - 1 of the distance.
// So +1 and +2 choose the place within a page or 64 KiB, +3 within 16 MiB, and +4 the distance in steps of 16 MiB.
#include <algorithm>
#include <array>

#include "rewrite/relocate.h"
#include "rewrite/rewrite.h"

namespace bpftime::rewrite {
namespace {

// int3, and what no 64-bit processor decodes. Prefixes (62, c4, c5, d5) are not among them: what follows would matter.
constexpr std::array<uint8_t, 19> kTrapping = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
                                               0x3f, 0x60, 0x61, 0x82, 0x9a, 0xcc, 0xd4, 0xd6, 0xea};

// The smallest distance >= `from` (as an unsigned 32-bit number) whose constrained bytes all trap.
std::optional<uint32_t> next_distance(uint32_t from, uint8_t boundaries) {
  uint32_t out = from;
  for (int at = 3; at >= 0; --at) {
    if ((boundaries >> (at + 1) & 1) == 0) continue;
    const auto byte = static_cast<uint8_t>(out >> 8 * at);
    if (traps(byte)) continue;
    const uint64_t below = (uint64_t{1} << 8 * at) - 1;  // free again from here down
    const auto* larger = std::upper_bound(kTrapping.begin(), kTrapping.end(), byte);
    if (larger != kTrapping.end()) {
      out = static_cast<uint32_t>((out & ~(below | uint64_t{0xff} << 8 * at)) | uint64_t{*larger} << 8 * at);
    } else {  // carry into the byte above, then all again
      const uint64_t carried = (out & ~(below | uint64_t{0xff} << 8 * at)) + (uint64_t{0x100} << 8 * at);
      if (carried > UINT32_MAX) return std::nullopt;
      out = static_cast<uint32_t>(carried);
      at = 4;
    }
  }
  return out;
}

}  // namespace

bool traps(uint8_t opcode) { return std::binary_search(kTrapping.begin(), kTrapping.end(), opcode); }

std::optional<uint64_t> TrampolineRule::next(uint64_t from, uint64_t end) const {
  const uint64_t base = site + kJumpSize;
  constexpr uint64_t kReach = uint64_t{1} << 31;
  from = std::max(from, base > kReach ? base - kReach : 0);
  end = std::min(end, base + kReach);
  while (from < end) {
    // Distances of one sign are consecutive as unsigned numbers; backward ones come first in memory.
    const bool backward = from < base;
    const auto distance = next_distance(static_cast<uint32_t>(from - base), boundaries);
    if (distance) {
      const uint64_t at = base + static_cast<uint64_t>(int64_t{static_cast<int32_t>(*distance)});
      if (at >= from) return at < end ? std::optional(at) : std::nullopt;
    }
    if (!backward) return std::nullopt;
    from = base;
  }
  return std::nullopt;
}

}  // namespace bpftime::rewrite

// Free address space near code: where trampolines can live so that a 5-byte jump reaches them.
#include <algorithm>

#include "base/memfd.h"
#include "target/stopped.h"

namespace bpftime::target {
namespace {

// rel32 reaches ±2 GiB from the end of the instruction; the margin covers instruction lengths and the far end of the range.
constexpr uint64_t kReach = (uint64_t{1} << 31) - (uint64_t{1} << 20);
constexpr uint64_t kLowestAddress = 0x10000;          // vm.mmap_min_addr as distributions set it
constexpr uint64_t kHighestAddress = 0x7ffffffff000;  // end of user space with four-level page tables
// Kept free below a stack region (it grows down) and between ours and any neighbour.
constexpr uint64_t kGuard = uint64_t{1} << 20;
constexpr uint64_t kStackGuard = uint64_t{256} << 20;

struct Range {
  uint64_t start, end;
};

// What is taken, with the room its growth needs.
std::vector<Range> taken_of(const std::vector<MappedRegion>& regions) {
  std::vector<Range> taken;
  for (const MappedRegion& region : regions) {
    const uint64_t guard = region.path.starts_with("[stack") ? kStackGuard : kPageSize;
    // The heap grows up: leave it room.
    const uint64_t above = region.path == "[heap]" ? kStackGuard : kPageSize;
    taken.push_back({region.start > guard ? region.start - guard : 0, region.end + above});
  }
  return taken;
}

}  // namespace

bool is_gap(const std::vector<MappedRegion>& regions, uint64_t start, uint64_t size) {
  if (start < kLowestAddress || start >= kHighestAddress || size > kHighestAddress - start) return false;
  const auto taken = taken_of(regions);
  return std::none_of(taken.begin(), taken.end(),
                      [&](const Range& range) { return start < range.end && range.start < start + size; });
}

Result<uint64_t> find_gap_near(const std::vector<MappedRegion>& regions, uint64_t low, uint64_t high,
                               uint64_t size) {
  if (low >= high || size == 0 || high > kHighestAddress || size > kReach)
    return Error{EINVAL, "find gap: bad range"};
  if (high - low > kReach) return Error{ERANGE, "find gap: the code spans more than 2 GiB"};
  size = round_up(size, kPageSize);
  // A gap [a, a+size) is reachable from both ends of the code.
  const uint64_t reach_start = std::max(high > kReach ? high - kReach : 0, kLowestAddress);
  const uint64_t reach_end = std::min(low + kReach, kHighestAddress);

  std::vector<Range> taken = taken_of(regions);
  std::sort(taken.begin(), taken.end(), [](const Range& a, const Range& b) { return a.start < b.start; });

  // The nearest fit to the code wins; gaps are kept a little off the code so that growth of either is not blocked.
  uint64_t best = 0, best_distance = UINT64_MAX;
  const auto consider = [&](uint64_t start, uint64_t end) {
    start = round_up(std::max(start, reach_start), kPageSize);
    end = std::min(end, reach_end) / kPageSize * kPageSize;
    if (start >= end || end - start < size) return;
    const bool roomy = end - start >= size + 2 * kGuard;
    const uint64_t first = roomy ? start + kGuard : start;
    const uint64_t last = (roomy ? end - kGuard : end) - size;
    const uint64_t candidate = last <= low ? last : first;
    const uint64_t distance = candidate < low ? low - candidate : candidate - low;
    if (distance < best_distance) best = candidate, best_distance = distance;
  };
  uint64_t cursor = 0;
  for (const Range& range : taken) {
    if (range.start > cursor) consider(cursor, range.start);
    cursor = std::max(cursor, range.end);
  }
  if (cursor < kHighestAddress) consider(cursor, kHighestAddress);
  if (best_distance == UINT64_MAX) {
    return Error{ENOMEM, "find gap: no free address space within 2 GiB of the code; the process maps it all"};
  }
  return best;
}

}  // namespace bpftime::target

#include "target/text_change.h"

#include <algorithm>
#include <vector>

namespace bpftime::target {
namespace {

constexpr uint8_t kBreakpoint = 0xcc;

bool is_boundary(const TextChange& change, uint32_t at) {
  return at < wire::kTrapPlaces && (change.boundaries >> at & 1) != 0;
}

// Nobody enters by byte 0, and whoever is at a boundary meets a trap: of the old byte there and the new one, that of the
// patched text, which traps.
std::vector<uint8_t> while_changing(const TextChange& change, bool others_changed) {
  std::vector<uint8_t> bytes(change.length);
  for (uint32_t at = 0; at < change.length; ++at) {
    const bool early = is_boundary(change, at) ? change.patching : others_changed;
    bytes[at] = early ? change.to[at] : change.now[at];
  }
  bytes[0] = kBreakpoint;
  return bytes;
}

}  // namespace

Result<void> change_text(StoppedProcess& process, std::span<const TextChange> changes, Threads threads) {
  std::vector<const TextChange*> long_ones;
  if (threads == Threads::kRun)
    for (const TextChange& change : changes)
      if (change.length > 1 && !std::equal(change.now, change.now + change.length, change.to))
        long_ones.push_back(&change);
  const auto write_all = [&](bool others_changed) -> Result<void> {
    for (const TextChange* change : long_ones) {
      const auto bytes = while_changing(*change, others_changed);
      if (auto written = process.write(change->address, bytes); !written) return written;
    }
    return {};
  };
  if (!long_ones.empty()) {
    for (const bool others_changed : {false, true}) {
      if (auto written = write_all(others_changed); !written) return written;
      if (auto synchronized = process.synchronize_cores(); !synchronized) return synchronized;
    }
  }
  for (const TextChange& change : changes)
    if (auto written = process.write(change.address, Bytes(change.to, change.length)); !written)
      return written;
  return {};
}

}  // namespace bpftime::target

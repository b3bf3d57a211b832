// Executable memory in targets: memfds that the daemon writes and targets map read-execute, near the code they patch. Equal
// content is found again (a probe that comes back costs no memory); what no probe uses any more is handed out again once it
// is known that no thread can come back to it (code_reclaim.cc). Arenas are wider than their content, so that trampolines
// find the addresses their sites ask for (rewrite::TrampolineRule); who finds none there gets another arena, so that they
// need not be huge.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/memfd.h"
#include "base/result.h"
#include "rewrite/rewrite.h"
#include "target/registry.h"
#include "target/stopped.h"

namespace bpftime::daemon {

inline constexpr uint64_t kArenaSize = uint64_t{1} << 20;

// One memfd, shared by a target and its forks, at the same address in all.
class Arena {
 public:
  Arena(Fd fd, uint64_t address) : fd_(std::move(fd)), address_(address) { free_[0] = kArenaSize; }

  uint64_t address() const { return address_; }
  // The lowest address with `size` free bytes that `rule` allows.
  std::optional<uint64_t> find_room(const rewrite::TrampolineRule& rule, uint64_t size) const;
  // Copies `bytes` to an address of find_room().
  Result<void> put(uint64_t address, Bytes bytes);
  // Copies `bytes` to the far end, out of the trampolines' way; returns where.
  Result<uint64_t> append(Bytes bytes);
  // Blocks remembered by what they are.
  std::optional<uint64_t> find(uint64_t key) const;
  void remember(uint64_t key, uint64_t address) { known_[key] = address; }

  // Blocks handed out, those not given back.
  size_t block_count() const { return blocks_.size(); }
  // So many have been handed out since the last release that it is time for another.
  bool release_due(size_t growth_max) const { return taken_ >= std::max(growth_max, patience_); }
  void release_failed() { patience_ = 2 * std::max(taken_, patience_); }
  // The start (offset) of the block that `address` lies in.
  std::optional<uint64_t> block_at(uint64_t address) const;
  // Gives back all blocks but `used` (their starts) and those that their bytes lead to, directly or not. Returns how many.
  Result<size_t> release_others(std::set<uint64_t> used);

 private:
  Result<void> take(uint64_t offset, Bytes bytes);

  Fd fd_;
  uint64_t address_;
  std::map<uint64_t, uint64_t> free_;    // start → end, offsets
  std::map<uint64_t, uint64_t> blocks_;  // handed out; start → end, offsets
  std::set<uint64_t> programs_;          // blocks of append(): what others lead to
  std::map<uint64_t, uint64_t> known_;   // key → address
  size_t taken_ = 0, patience_ = 0;
};

class CodeMemory {
 public:
  // Gives a held thread to map memory with; asked for only when an arena must be mapped.
  using Entry = std::function<Result<target::StoppedProcess*>()>;

  // An arena of `registry`'s process within jump reach of [low, high) where `rule` allows a trampoline of `size` bytes, with
  // `more` bytes besides; mapped now if needed.
  Result<Arena*> arena_for(const Entry& entry, target::Registry& registry, uint64_t window,
                           const std::vector<target::MappedRegion>& regions, uint64_t low, uint64_t high,
                           const rewrite::TrampolineRule& rule, uint64_t size, uint64_t more);
  // The one that `address` of `registry`'s process lies in; nullptr: in none of ours.
  Arena* arena_at(const target::Registry& registry, uint64_t address);
  // All of them, by inode.
  std::map<uint64_t, Arena*> arenas();
  static bool shared_by(const target::Registry& registry, const std::map<uint64_t, Arena*>& arenas);

 private:
  Result<uint64_t> choose_address(const target::Registry& registry,
                                  const std::vector<target::MappedRegion>& regions, uint64_t low,
                                  uint64_t high, const rewrite::TrampolineRule& rule) const;
  std::map<uint64_t, Arena> by_inode_;
};

}  // namespace bpftime::daemon

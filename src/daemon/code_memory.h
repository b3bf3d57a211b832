// Executable memory in targets: memfds that the daemon writes and targets map read-execute, near the code they patch.
// Handed out front to back and never again while any process maps it, since a thread may be anywhere in it; equal content
// is found again instead (a probe that comes back costs no memory).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/memfd.h"
#include "base/result.h"
#include "target/registry.h"
#include "target/stopped.h"

namespace bpftime::daemon {

inline constexpr uint64_t kArenaSize = 1u << 20;

// One memfd, shared by a target and its forks, at the same address in all.
class Arena {
 public:
  Arena(Fd fd, uint64_t address) : fd_(std::move(fd)), address_(address) {}

  uint64_t address() const { return address_; }
  // Where the next block will lie.
  uint64_t next() const { return address_ + used_; }
  uint64_t room() const { return kArenaSize - used_; }
  // Copies `bytes` to next(); returns where.
  Result<uint64_t> append(Bytes bytes);
  // Blocks remembered by what they are.
  std::optional<uint64_t> find(uint64_t key) const;
  void remember(uint64_t key, uint64_t address) { blocks_[key] = address; }

 private:
  Fd fd_;
  uint64_t address_;
  uint64_t used_ = 0;
  std::map<uint64_t, uint64_t> blocks_;
};

class CodeMemory {
 public:
  // An arena of `registry`'s process with at least `room` bytes, within jump reach of [low, high); mapped now if needed.
  Result<Arena*> arena_near(target::StoppedProcess& stopped, target::Registry& registry, uint64_t window,
                            const std::vector<target::MappedRegion>& regions, uint64_t low, uint64_t high,
                            uint64_t room);

 private:
  std::map<uint64_t, Arena> by_inode_;
};

}  // namespace bpftime::daemon

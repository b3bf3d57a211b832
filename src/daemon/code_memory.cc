#include "daemon/code_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace bpftime::daemon {

namespace {

constexpr uint64_t kReach =
    (uint64_t{1} << 31) - (uint64_t{64} << 20);  // jmp rel32, less room for displaced operands

bool reaches(uint64_t arena, uint64_t low, uint64_t high) {
  const uint64_t first = std::min(arena, low);
  const uint64_t last = std::max(arena + kArenaSize, high);
  return last - first < kReach;
}

}  // namespace

Result<uint64_t> Arena::append(Bytes bytes) {
  if (bytes.size() > room()) return Error{ENOMEM, "code memory: arena full"};
  if (::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(used_)) !=
      static_cast<ssize_t>(bytes.size()))
    return Error::from_errno("write code memory");
  const uint64_t at = next();
  used_ = std::min(kArenaSize, round_up(used_ + bytes.size(), 16));
  return at;
}

std::optional<uint64_t> Arena::find(uint64_t key) const {
  auto it = blocks_.find(key);
  return it == blocks_.end() ? std::nullopt : std::optional(it->second);
}

Result<Arena*> CodeMemory::arena_near(target::StoppedProcess& stopped, target::Registry& registry,
                                      uint64_t window, const std::vector<target::MappedRegion>& regions,
                                      uint64_t low, uint64_t high, uint64_t room) {
  auto& header = registry.header;
  const uint32_t count = std::min(header.arena_count, wire::kArenasMax);
  for (uint32_t i = 0; i < count; ++i) {
    // Arenas of a daemon that is gone are left alone: their free space is not known.
    auto known = by_inode_.find(header.arenas[i].inode);
    if (known == by_inode_.end() || known->second.address() != header.arenas[i].address) continue;
    if (known->second.room() >= room && reaches(known->second.address(), low, high)) return &known->second;
  }
  if (count == wire::kArenasMax) return Error{E2BIG, "code memory: too many arenas in one process"};
  auto fd = create_memfd(wire::kCodeMemfdName, kArenaSize, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  if (!fd) return fd.error();
  // Read-only for the target: its own mprotect cannot make the mapping writable.
  auto read_only = fd->reopen(O_RDONLY);
  if (!read_only) return read_only.error();
  auto inode = inode_of(fd->get());
  if (!inode) return inode.error();
  auto address = target::find_gap_near(regions, low, high, kArenaSize);
  if (!address) return address.error();
  auto mapped = stopped.map(*address, kArenaSize, PROT_READ | PROT_EXEC, MAP_SHARED, read_only->get(), 0);
  if (!mapped) return Error{mapped.error().code, "map code memory: " + mapped.error().message};
  header.arenas[count] = {*address, kArenaSize, kArenaSize, inode->inode};
  header.arena_count = count + 1;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header.arena_count);
  const size_t from = offsetof(wire::TargetContext, arena_count);
  const size_t size = offsetof(wire::TargetContext, patches) - from;
  if (auto written = stopped.write(window + from, Bytes(bytes, size)); !written) return written.error();
  auto [arena, inserted] = by_inode_.insert_or_assign(inode->inode, Arena(std::move(*fd), *address));
  return &arena->second;
}

}  // namespace bpftime::daemon

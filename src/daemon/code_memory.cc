#include "daemon/code_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

namespace bpftime::daemon {

namespace {

constexpr uint64_t kReach =
    (uint64_t{1} << 31) - (uint64_t{64} << 20);  // jmp rel32, less room for displaced operands

bool reaches(uint64_t arena, uint64_t low, uint64_t high) {
  const uint64_t first = std::min(arena, low);
  const uint64_t last = std::max(arena + kArenaSize, high);
  return last - first < kReach;
}

// Distances in steps of 16 MiB whose own byte traps (rewrite::traps), nearest first. An arena that lies well inside such a step
// serves its surroundings whichever bytes of the jump must trap.
constexpr int kSteps[] = {-0x16, -0x2a, -0x2c, -0x34, 0x06, 0x07, 0x0e, 0x16, 0x17,
                          0x1e,  0x1f,  0x27,  0x2f,  0x37, 0x3f, 0x60, 0x61, -0x66};
constexpr uint64_t kIntoStep = uint64_t{2} << 20;

}  // namespace

std::optional<uint64_t> Arena::find_room(const rewrite::TrampolineRule& rule, uint64_t size) const {
  for (const auto& [start, end] : free_) {
    if (end - start < size) continue;
    const auto at = rule.next(address_ + start, address_ + end - size + 1);
    if (at) return at;
  }
  return std::nullopt;
}

Result<void> Arena::take(uint64_t offset, Bytes bytes) {
  auto hole = free_.upper_bound(offset);
  if (hole == free_.begin() || (--hole)->second < offset + bytes.size())
    return Error{ENOMEM, "code memory: arena full"};
  if (::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) !=
      static_cast<ssize_t>(bytes.size()))
    return Error::from_errno("write code memory");
  const auto [start, end] = *hole;
  free_.erase(hole);
  // Smaller holes hold no trampoline and only cost looking: they belong to the block.
  constexpr uint64_t kWorthwhile = 32;
  uint64_t from = offset, to = offset + bytes.size();
  if (offset - start >= kWorthwhile) {
    free_[start] = offset;
  } else {
    from = start;
  }
  if (end - to >= kWorthwhile) {
    free_[to] = end;
  } else {
    to = end;
  }
  blocks_[from] = to;
  ++taken_;
  return {};
}

std::optional<uint64_t> Arena::block_at(uint64_t address) const {
  const uint64_t offset = address - address_;
  if (offset >= kArenaSize) return std::nullopt;
  auto block = blocks_.upper_bound(offset);
  if (block == blocks_.begin() || (--block)->second <= offset) return std::nullopt;
  return block->first;
}

Result<void> Arena::put(uint64_t address, Bytes bytes) { return take(address - address_, bytes); }

Result<uint64_t> Arena::append(Bytes bytes) {
  for (auto hole = free_.rbegin(); hole != free_.rend(); ++hole) {
    const auto [start, end] = *hole;
    if (end - start < bytes.size() + 15) continue;
    const uint64_t offset = (end - bytes.size()) / 16 * 16;
    if (auto taken = take(offset, bytes); !taken) return taken.error();
    programs_.insert(*block_at(address_ + offset));
    return address_ + offset;
  }
  return Error{ENOMEM, "code memory: arena full"};
}

std::optional<uint64_t> Arena::find(uint64_t key) const {
  auto it = known_.find(key);
  return it == known_.end() ? std::nullopt : std::optional(it->second);
}

std::map<uint64_t, Arena*> CodeMemory::arenas() {
  std::map<uint64_t, Arena*> out;
  for (auto& [inode, arena] : by_inode_) out.emplace(inode, &arena);
  return out;
}

bool CodeMemory::shared_by(const target::Registry& registry, const std::map<uint64_t, Arena*>& arenas) {
  const auto* first = registry.header.arenas;
  return std::any_of(first, first + std::min(registry.header.arena_count, wire::kArenasMax),
                     [&](const auto& arena) { return arenas.contains(arena.inode); });
}

Arena* CodeMemory::arena_at(const target::Registry& registry, uint64_t address) {
  const auto* first = registry.header.arenas;
  for (uint32_t i = 0; i < std::min(registry.header.arena_count, wire::kArenasMax); ++i) {
    const auto known = by_inode_.find(first[i].inode);
    if (known != by_inode_.end() && known->second.address() == first[i].address &&
        address - first[i].address < kArenaSize)
      return &known->second;
  }
  return nullptr;
}

Result<uint64_t> CodeMemory::choose_address(const target::Registry& registry,
                                            const std::vector<target::MappedRegion>& regions, uint64_t low,
                                            uint64_t high, const rewrite::TrampolineRule& rule) const {
  const auto free = [&](uint64_t start) {
    for (uint32_t i = 0; i < std::min(registry.header.arena_count, wire::kArenasMax); ++i) {
      const auto& arena = registry.header.arenas[i];  // mapped since `regions` was read, perhaps
      if (start < arena.address + arena.size && arena.address < start + kArenaSize) return false;
    }
    return target::is_gap(regions, start, kArenaSize);
  };
  for (const int step : kSteps) {
    const int64_t distance = int64_t{step} * (1 << 24) + static_cast<int64_t>(kIntoStep);
    if (distance < 0 && rule.site < static_cast<uint64_t>(-distance)) continue;
    const uint64_t start = (rule.site + static_cast<uint64_t>(distance)) / kPageSize * kPageSize;
    if (reaches(start, low, high) && free(start)) return start;
  }
  // Nothing there: some kinds of site will have to do without.
  auto anywhere = target::find_gap_near(regions, low, high, kArenaSize);
  if (!anywhere) return anywhere.error();
  if (!free(*anywhere)) return Error{ENOMEM, "code memory: no free address space near the code"};
  return *anywhere;
}

Result<Arena*> CodeMemory::arena_for(const Entry& entry, target::Registry& registry, uint64_t window,
                                     const std::vector<target::MappedRegion>& regions, uint64_t low,
                                     uint64_t high, const rewrite::TrampolineRule& rule, uint64_t size,
                                     uint64_t more) {
  auto& header = registry.header;
  const uint32_t count = std::min(header.arena_count, wire::kArenasMax);
  const rewrite::TrampolineRule anywhere{rule.site, 0};
  for (uint32_t i = 0; i < count; ++i) {
    // Arenas of a daemon that is gone are left alone: their free space is not known.
    auto known = by_inode_.find(header.arenas[i].inode);
    if (known == by_inode_.end() || known->second.address() != header.arenas[i].address) continue;
    Arena& arena = known->second;
    if (!reaches(arena.address(), low, high)) continue;
    if (arena.find_room(rule, size) && arena.find_room(anywhere, size + more)) return &arena;
  }
  if (count == wire::kArenasMax) return Error{E2BIG, "code memory: too many arenas in one process"};
  auto address = choose_address(registry, regions, low, high, rule);
  if (!address) return address.error();
  if (!rule.next(*address, *address + kArenaSize - size))
    return Error{ENOMEM, "code memory: no free address space where a jump from here would trap"};
  auto fd = create_memfd(wire::kCodeMemfdName, kArenaSize, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  if (!fd) return fd.error();
  // Read-only for the target: its own mprotect cannot make the mapping writable.
  auto read_only = fd->reopen(O_RDONLY);
  if (!read_only) return read_only.error();
  auto inode = inode_of(fd->get());
  if (!inode) return inode.error();
  auto held = entry();
  if (!held) return held.error();
  auto mapped = (*held)->map(*address, kArenaSize, PROT_READ | PROT_EXEC, MAP_SHARED, read_only->get(), 0);
  if (!mapped) return Error{mapped.error().code, "map code memory: " + mapped.error().message};
  header.arenas[count] = {*address, kArenaSize, kArenaSize, inode->inode};
  header.arena_count = count + 1;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header.arena_count);
  const size_t from = offsetof(wire::TargetContext, arena_count);
  const size_t length = offsetof(wire::TargetContext, patches) - from;
  if (auto written = (*held)->write(window + from, Bytes(bytes, length)); !written) return written.error();
  auto [arena, inserted] = by_inode_.insert_or_assign(inode->inode, Arena(std::move(*fd), *address));
  return &arena->second;
}

}  // namespace bpftime::daemon

// Hands code memory out again: what lies in an arena, is no patch's any more, and what no thread can come back to.
//
// Who could come back? A thread whose program counter is in it; a frame below which something of ours was called (a helper, a
// host function, a return-probed function's body): its return address lies on some stack, in a return frame of the agent, or in
// registers; a thread that a signal handler interrupted there: its registers lie in the signal's frame. Stacks may be anywhere,
// a coroutine's in the heap. So this looks at every register of every thread and at every word the process can write, and takes
// whatever looks like an address in a block for one. A process that has no such word and no patch that leads to a block gets
// none any more, but through us; so the processes that share an arena are looked at one after the other.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "base/log.h"
#include "daemon/site.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;

namespace {

using Arenas = std::map<uint64_t, Arena*>;                // by inode
using Used = std::map<const Arena*, std::set<uint64_t>>;  // starts of blocks

// A process stands still while it is read: what would take longer than some tens of milliseconds is left alone.
constexpr uint64_t kReadMax = 128u << 20, kSpanMax = uint64_t{16} << 30;

// Reading one may do anything, and no stack is in it. Shared anonymous memory is called /dev/zero.
bool is_device(const MappedRegion& region) {
  return region.path.starts_with("/dev/") && !region.path.starts_with("/dev/shm/") &&
         !region.path.starts_with("/dev/zero");
}

void note(uint64_t word, const Arenas& arenas, Used& used) {
  for (const auto& [inode, arena] : arenas)
    if (word - arena->address() <= kArenaSize)
      for (const uint64_t at : {word, word - 1})  // a call that ends a block returns to behind it
        if (const auto block = arena->block_at(at)) used[arena].insert(*block);
}

void read_words(StoppedProcess& stopped, uint64_t start, uint64_t size, const Arenas& arenas, Used& used) {
  uint64_t low = UINT64_MAX, high = 0;
  for (const auto& [inode, arena] : arenas) {
    low = std::min(low, arena->address());
    high = std::max(high, arena->address() + kArenaSize);
  }
  constexpr uint64_t kPiece = 1u << 20;
  for (uint64_t at = 0; at < size; at += kPiece) {
    const uint64_t length = std::min(kPiece, size - at);
    const auto bytes = stopped.read(start + at, length);
    if (!bytes && length > kPageSize) {  // perhaps its end, behind that of its file
      for (uint64_t page = 0; page < length; page += kPageSize)
        read_words(stopped, start + at + page, kPageSize, arenas, used);
      continue;
    }
    if (!bytes) return;
    for (size_t i = 0; i + 8 <= bytes->size(); i += 8) {
      uint64_t word;
      std::memcpy(&word, bytes->data() + i, sizeof word);
      if (word - low <= high - low) note(word, arenas, used);
    }
  }
}

// The stretches of `region` that can hold anything: of a private mapping the pages that are there, in memory or swapped out.
Result<std::vector<std::pair<uint64_t, uint64_t>>> filled(int pagemap, const MappedRegion& region) {
  std::vector<std::pair<uint64_t, uint64_t>> out;
  if (region.shared) return out = {{region.start, region.end}}, out;
  constexpr uint64_t kThere = uint64_t{3} << 62;
  std::vector<uint64_t> pages(4096);
  for (uint64_t at = region.start; at < region.end;) {
    const uint64_t count = std::min<uint64_t>(pages.size(), (region.end - at) / kPageSize);
    const auto size = static_cast<ssize_t>(count * sizeof(uint64_t));
    if (::pread(pagemap, pages.data(), static_cast<size_t>(size), static_cast<off_t>(at / kPageSize * 8)) !=
        size)
      return Error::from_errno("read pagemap");
    for (uint64_t i = 0; i < count; ++i, at += kPageSize) {
      if ((pages[i] & kThere) == 0) continue;
      if (!out.empty() && out.back().second == at) {
        out.back().second += kPageSize;
      } else {
        out.emplace_back(at, at + kPageSize);
      }
    }
  }
  return out;
}

}  // namespace

// Which blocks of `arenas` this process may still use.
Result<void> Attacher::find_used_code(Target& target, const Arenas& arenas, Used& used) const {
  auto stopped = StoppedProcess::stop(target.process);
  if (!stopped) return stopped.error();
  const auto registry = target::read_registry(target.process, config_.window);
  if (!registry) return Error{ENODATA, "no longer a target"};
  for (const auto& record : registry->patches)
    if (target::is_live(record)) note(record.trampoline, arenas, used);
  for (const user_regs_struct& registers : stopped->registers()) {
    uint64_t words[sizeof registers / sizeof(uint64_t)];
    std::memcpy(words, &registers, sizeof registers);
    for (const uint64_t word : words) note(word, arenas, used);
  }
  const auto regions = target.process.regions();
  if (!regions) return regions.error();
  const Fd pagemap(
      ::open(("/proc/" + std::to_string(target.process.pid()) + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return Error::from_errno("open pagemap");
  uint64_t span = 0, size = 0;
  for (const MappedRegion& region : *regions) {
    // Our own window holds the records of patches that are gone, and maps, which lead nobody anywhere.
    const bool ours = region.start >= config_.window && region.start < config_.window + wire::kWindowSize;
    if (!region.writable || !region.readable || ours) continue;
    if (is_device(region)) continue;
    span += region.end - region.start;
    if (span > kSpanMax) return Error{E2BIG, "too much address space to look through"};
    const auto parts = filled(pagemap.get(), region);
    if (!parts) return parts.error();
    for (const auto& [start, end] : *parts) {
      size += end - start;
      if (size > kReadMax) return Error{E2BIG, "too much memory to look through"};
      read_words(*stopped, start, end - start, arenas, used);
    }
  }
  return {};
}

Result<void> Attacher::release_unused_code() {
  Arenas arenas = code_.arenas();
  std::erase_if(arenas,
                [&](const auto& entry) { return !entry.second->release_due(config_.code_growth_max); });
  if (arenas.empty()) return {};
  Used used;
  std::set<pid_t> seen;
  // Whoever shares an arena: forks of a process not looked at yet may come while we look.
  for (bool another = true; another;) {
    another = false;
    find_targets();
    for (auto& [pid, target] : targets_) {
      if (!target.process.alive() || !seen.insert(pid).second) continue;
      const auto registry = target::read_registry(target.process, config_.window);
      if (!registry || !code_.shared_by(*registry, arenas)) continue;
      another = true;
      auto found = find_used_code(target, arenas, used);
      if (found || !target.process.alive() || found.error().code == ENODATA) continue;
      for (auto& [inode, arena] : arenas) arena->release_failed();
      return Error{found.error().code,
                   "process " + std::to_string(pid) +
                       ": code memory is not used again for now: " + found.error().message};
    }
  }
  for (auto& [inode, arena] : arenas) {
    auto released = arena->release_others(used[arena]);
    if (!released) return released.error();
    code_blocks_released_ += *released;
  }
  return {};
}

// What a block leads to is in its bytes, as the distance of a jump, call or operand, or as an address.
Result<size_t> Arena::release_others(std::set<uint64_t> used) {
  std::vector<uint64_t> to_visit(used.begin(), used.end());
  while (!to_visit.empty()) {
    const uint64_t start = to_visit.back();
    to_visit.pop_back();
    std::vector<uint8_t> bytes(blocks_.at(start) - start);
    if (::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(start)) != std::ssize(bytes))
      return Error::from_errno("read code memory");
    const auto lead = [&](uint64_t address) {
      const auto block = block_at(address);
      if (block && used.insert(*block).second) to_visit.push_back(*block);
    };
    for (size_t i = 0; i + 4 <= bytes.size(); ++i) {
      const auto distance = read_at<int32_t>(Bytes(bytes), i).value_or(0);
      // An operand may be followed by an immediate of up to four bytes.
      for (const uint64_t behind : {4, 5, 6, 8})
        lead(address_ + start + i + behind + static_cast<uint64_t>(static_cast<int64_t>(distance)));
      if (const auto word = read_at<uint64_t>(Bytes(bytes), i)) lead(*word);
    }
  }
  size_t released = 0;
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    auto [start, end] = *block;
    if (used.contains(start)) {
      ++block;
      continue;
    }
    // A thread that were there after all would meet a trap at once, and not half of somebody else's code later.
    const std::vector<uint8_t> traps(end - start, 0xcc);
    if (::pwrite(fd_.get(), traps.data(), traps.size(), static_cast<off_t>(start)) != std::ssize(traps))
      return Error::from_errno("write code memory");
    std::erase_if(known_, [&, first = address_ + start, last = address_ + end](const auto& entry) {
      return entry.second >= first && entry.second < last;
    });
    block = blocks_.erase(block);
    auto next = free_.lower_bound(start);
    if (next != free_.end() && next->first == end) {
      end = next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin() && std::prev(next)->second == start) {
      std::prev(next)->second = end;
    } else {
      free_[start] = end;
    }
    ++released;
  }
  taken_ = 0;
  patience_ = blocks_.size();
  return released;
}

}  // namespace bpftime::daemon

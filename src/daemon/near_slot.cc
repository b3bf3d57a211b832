// A return slot near the program's text. A jump between places far from each other costs more than another (docs/benchmarks.md),
// and the agent lies with the libraries, which is far from where programs lie: a return probe would pay for three such jumps at
// each call. So a second, tiny library is loaded beside the text (agent/arch/x86_64/return_slot.S), once in a process, before the
// first return probe of a function there. It saves time and nothing else: whatever goes wrong, the agent's slot serves.
#include <sys/stat.h>

#include <algorithm>

#include "base/log.h"
#include "daemon/site.h"
#include "rewrite/return_slot.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;

namespace {

constexpr uint64_t kFar = uint64_t{1} << 32;
constexpr uint64_t kRoomFor = 64u << 10;  // the library, with its surroundings
constexpr uint64_t kAway = 1u << 20;      // from the program
constexpr int kTriesMax = 3;
// A process seldom at a safe point does without rather than have its probes late.
constexpr std::chrono::milliseconds kPatience{20};

uint64_t distance(uint64_t a, uint64_t b) { return a < b ? b - a : a - b; }

template <typename Wanted>
const MappedRegion* first_mapping(const std::vector<MappedRegion>& regions, Wanted wanted) {
  const auto found = std::find_if(regions.begin(), regions.end(), [&](const MappedRegion& region) {
    return region.offset == 0 && region.inode != 0 && wanted(region);
  });
  return found == regions.end() ? nullptr : &*found;
}

}  // namespace

Attacher::ReturnSlots Attacher::near_slots_of(const Target& target,
                                              const std::vector<MappedRegion>& regions) {
  const NearSlot& near = target.near;
  if (near.slots.first == 0) return {};
  const MappedRegion* region = region_at(regions, near.slots.first);  // it may run another program by now
  const bool there = region != nullptr && region->executable && region->inode == near.file.inode &&
                     region->device == near.file.device;
  return there ? near.slots : ReturnSlots{};
}

// `library`: its first mapping.
Attacher::ReturnSlots Attacher::return_slots_in(Target& target, const MappedRegion& library) {
  const auto file = file_info(target.process, library);
  const auto symbol = file->elf ? file->elf->find_symbol("bpftime_agent_return_slots") : std::nullopt;
  if (!symbol) return {};
  return {library.start + symbol->address, symbol->size / rewrite::kReturnSlotStride};
}

Result<Attacher::ReturnSupport> Attacher::return_support_at(Target& target,
                                                            const std::vector<MappedRegion>& regions,
                                                            const Registry& registry, uint64_t site) {
  const MappedRegion* agent = first_mapping(
      regions, [&](const MappedRegion& region) { return region.start == registry.header.agent_base; });
  if (agent == nullptr) return Error{EOPNOTSUPP, "return probes need the agent in the process"};
  const ReturnSlots slots = return_slots_in(target, *agent);
  auto cold = agent_symbol(target, regions, registry, "bpftime_agent_return_cold");
  auto word = agent_symbol(target, regions, registry, "bpftime_agent_return_thread");
  if (slots.first == 0 || !cold || !word)
    return Error{EOPNOTSUPP, "the agent in the process is of another version; try restarting the process"};
  auto bytes = target.process.read(*word, sizeof(int64_t));
  if (!bytes) return bytes.error();
  const int64_t thread = read_at<int64_t>(*bytes, 0).value_or(0);
  if (thread == 0 || thread != static_cast<int32_t>(thread))
    return Error{EOPNOTSUPP, "the agent in the process is not loaded yet"};
  ReturnSupport out{slots, *cold, static_cast<int32_t>(thread)};
  const ReturnSlots near = near_slots_of(target, regions);
  if (near.first != 0 && distance(near.first, site) < distance(out.slots.first, site)) out.slots = near;
  return out;
}

bool Attacher::lacks_near_slot(const Target& target, const std::vector<MappedRegion>& regions,
                               uint64_t agent_base, const Site& site) {
  return agent_base != 0 && site.report.skipped.empty() && site.wants_return() &&
         target.near.tries < kTriesMax && distance(site.address, agent_base) >= kFar &&
         near_slots_of(target, regions).first == 0;
}

void Attacher::load_near_slot(Target& target, uint64_t agent_base, const std::vector<Site>& sites) {
  auto regions = target.process.regions();
  if (!regions) return;
  const auto lacking = std::find_if(sites.begin(), sites.end(), [&](const Site& site) {
    return lacks_near_slot(target, *regions, agent_base, site);
  });
  if (lacking == sites.end()) return;
  ++target.near.tries;
  if (auto joined = join_near_slot(target, std::move(*regions), agent_base, *lacking); !joined)
    log_debug("process " + std::to_string(target.process.pid()) +
              ": return probes of the program take the long way: " + joined.error().message);
}

Result<void> Attacher::join_near_slot(Target& target, std::vector<MappedRegion> regions, uint64_t agent_base,
                                      const Site& site) {
  const auto program = target.process.program();
  if (!program) return program.error();
  const std::string path =
      config_.agent_path.substr(0, config_.agent_path.rfind('/') + 1) + "libbpftime-near.so";
  struct stat file;
  if (::stat(path.c_str(), &file) != 0) return Error::from_errno(path);
  const auto is_near = [&](const MappedRegion& region) {
    return region.inode == file.st_ino && region.device == file.st_dev;
  };
  const MappedRegion* library = first_mapping(regions, is_near);
  if (library == nullptr) {
    const auto [low, high] = span_of_file(regions, site.region);
    // Rather below the program: above it, its heap may be about to begin.
    uint64_t place = low - std::min(low, kAway + kRoomFor);
    if (!target::is_gap(regions, place, kRoomFor)) {
      auto gap = target::find_gap_near(regions, low, high, kRoomFor);
      if (!gap) return gap.error();
      place = *gap;
    }
    if (auto loaded = target::load_library(target.process, path, {place, kPatience}); !loaded)
      return loaded.error();
    auto now = target.process.regions();
    if (!now) return now.error();
    regions = std::move(*now);
    library = first_mapping(regions, is_near);
  }
  const MappedRegion* agent =
      first_mapping(regions, [&](const MappedRegion& region) { return region.start == agent_base; });
  if (library == nullptr || agent == nullptr) return Error{ENOENT, "the library or the agent is gone"};
  const ReturnSlots slots = return_slots_in(target, *library);
  const auto info = file_info(target.process, *agent);
  const auto join = info->elf ? info->elf->find_symbol("bpftime_agent_join_return_slots") : std::nullopt;
  if (slots.first == 0 || !join) return Error{ENOENT, "the agent there is of another version"};
  auto held = StoppedProcess::stop_one(target.process, *program, target.call_code);
  if (!held) return held.error();
  const uint64_t arguments[] = {slots.first};
  auto joined = held->call(agent->start + join->address, arguments);
  if (!joined) return joined.error();
  if (*joined != 0) return Error{static_cast<int>(-*joined), "the agent has other slots"};
  target.near.slots = slots;
  target.near.file = {file.st_dev, file.st_ino};
  return {};
}

}  // namespace bpftime::daemon

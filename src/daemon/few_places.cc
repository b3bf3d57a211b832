// Changes a few places of a running target without a look at all others: what a tool does that attaches link by link. Goes on
// from what the last look at all has found (Attacher::Kept) while that can be believed; whatever is out of the ordinary is left
// to such a look. Rules for whoever edits this:
//  1. What is kept is never the only thing that says so: a look at all, from the kernel's probes and the target's own registry,
//     follows within a second or two of any change made here (Attacher::unfinished), and at once when anything here is in doubt.
//  2. What a target can change by itself is asked for each time: its mappings, its filters, its threads' signal masks, and
//     whether it is still that program at all (the descriptors are of the memory, not of the process).
#include <algorithm>
#include <set>

#include "base/log.h"
#include "daemon/site.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;
using wire::PatchRecord;
using wire::TargetContext;

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kKeptTrusted = std::chrono::seconds(1);

bool is_code(const MappedRegion& region) {
  return region.executable && region.inode != 0 && !is_ours(region);
}

// Whether the same files are mapped at the same places to be executed, code memory aside.
bool same_code(const std::vector<MappedRegion>& before, const std::vector<MappedRegion>& now) {
  const auto next = [](const std::vector<MappedRegion>& of, size_t& i) {
    while (i < of.size() && !is_code(of[i])) ++i;
    return i < of.size() ? &of[i++] : nullptr;
  };
  for (size_t i = 0, k = 0;;) {
    const MappedRegion *one = next(before, i), *other = next(now, k);
    if (one == nullptr || other == nullptr) return one == other;
    if (one->start != other->start || one->end != other->end || one->offset != other->offset ||
        one->inode != other->inode || one->device != other->device)
      return false;
  }
}

bool names_host(const std::vector<kernel::Probe>& probes) {
  return std::any_of(probes.begin(), probes.end(), [](const kernel::Probe& probe) {
    return std::any_of(probe.programs.begin(), probe.programs.end(),
                       [](const auto& attached) { return attached.program->host != nullptr; });
  });
}

}  // namespace

TargetReport Attacher::report_of(const Target& target) {
  TargetReport out = target.report;
  if (target.kept) out.probes = target.kept->reports();
  return out;
}

void Attacher::forget_kept(Target& target) {
  if (!target.kept) return;
  target.report.probes = target.kept->reports();
  target.kept.reset();
}

bool Attacher::kept_is_fresh(const Kept& kept) { return Clock::now() - kept.since < kKeptTrusted; }

bool Attacher::kept_is_due(const Target& target) {
  return target.kept && target.kept->changed && !kept_is_fresh(*target.kept);
}

void Attacher::keep(Target& target, const std::vector<MappedRegion>& regions, Registry&& registry,
                    const std::vector<Site>& sites) {
  if (target.detached || withdrawn_ || !target.outside_barriers.value_or(false)) return;
  if (!guard_complete(registry) || (registry.header.flags & wire::kNoSystemCalls) != 0) return;
  if (kernel_.counting() || !target.system_calls.empty()) return;
  const auto of_host = [](const Site::Want& want) { return want.program->host != nullptr; };
  if (std::any_of(sites.begin(), sites.end(), [&](const Site& site) {
        return !site.is_for_host() && (site.system_call || site.wants.empty() ||
                                       std::any_of(site.wants.begin(), site.wants.end(), of_host));
      }))
    return;
  auto now = target.process.regions();  // with what has been mapped meanwhile
  if (!now || !same_code(regions, *now)) return;
  auto code = target::CodeView::of(target.process, *now);
  auto status = target::StatusView::of(target.process);
  auto process = StoppedProcess::from_outside(target.process);
  if (!code || !status || !process) return;
  target.kept.reset(new Kept{Clock::now(),
                             std::move(registry),
                             std::move(*now),
                             std::move(*code),
                             std::move(*status),
                             std::move(*process),
                             {}});
  for (const Site& site : sites) {
    if (site.is_for_host()) continue;
    const bool patched = site.report.skipped.empty();
    target.kept->patched += patched;
    target.kept->places.emplace(site.address,
                                Kept::Place{patched, site.semaphore != 0, site.events, site.report});
  }
}

// Of the program whose memory `kept` knows: that nothing happened which only a look at all would see.
bool Attacher::still_as_kept(const Target& target, const target::Status& status) const {
  const Kept& kept = *target.kept;
  if (target::filtered_unlike_us(status)) return false;
  const auto blocked = target.process.blocked_in_any_thread(&status);
  if (!blocked || (*blocked & kTrapSignals) != 0) return false;
  const auto bytes = kept.process.read(config_.window, offsetof(TargetContext, arenas));
  if (!bytes || !kept.code.unchanged()) return false;
  TargetContext now;  // so much of it
  std::memcpy(&now, bytes->data(), bytes->size());
  const TargetContext& then = kept.registry.header;
  return now.header.matches(sizeof(TargetContext)) && now.daemon_instance == config_.instance &&
         now.flags == then.flags && now.patch_count == kept.registry.patches.size() &&
         now.arena_count == then.arena_count && target.process.alive();
}

std::optional<std::vector<Attacher::Site>> Attacher::sites_at(
    Target& target, const target::Status& status, const std::set<uint64_t>& addresses,
    const std::vector<kernel::UprobePlace>& places) {
  const Kept& kept = *target.kept;
  std::vector<std::shared_ptr<kernel::PerfEvent>> events;
  const auto add = [&](const std::weak_ptr<kernel::PerfEvent>& event) {
    auto living = event.lock();
    if (living && std::find(events.begin(), events.end(), living) == events.end())
      events.push_back(std::move(living));
  };
  for (const uint64_t address : addresses) {
    const auto known = kept.places.find(address);
    if (known == kept.places.end()) continue;
    if (known->second.special) return std::nullopt;
    for (const auto& event : known->second.events) add(event);
  }
  for (const auto& place : places) add(place.event);
  const auto probes = kernel::Kernel::probes_among(events);
  if (names_host(probes)) return std::nullopt;
  auto sites = sites_of(target, kept.regions, status, probes);
  std::erase_if(sites, [&](const Site& site) { return !addresses.contains(site.address); });
  for (const Site& site : sites) {
    const uint64_t agent_base = kept.registry.header.agent_base;
    if (site.semaphore != 0 || (site.needs_agent() && agent_base == 0) ||
        lacks_near_slot(target, kept.regions, agent_base, site))
      return std::nullopt;
  }
  // As wanted_sites() does it, which knows all of them.
  for (size_t i = 0; i < sites.size(); ++i) {
    uint64_t next = UINT64_MAX;
    for (size_t k = i + 1; k < sites.size() && next == UINT64_MAX; ++k)
      if (sites[k].report.skipped.empty()) next = sites[k].address;
    for (auto place = kept.places.upper_bound(sites[i].address);
         place != kept.places.end() && place->first < next; ++place)
      if (place->second.patched && !addresses.contains(place->first)) next = place->first;
    const uint64_t distance = next - sites[i].address;
    sites[i].room = distance < wire::kPatchBytesMax ? static_cast<uint32_t>(distance) : 0;
  }
  return sites;
}

// What comes or goes at `address` changes how much room there is for the patches before it.
void Attacher::add_with_neighbours(const Kept& kept, uint64_t address, std::set<uint64_t>& addresses) {
  addresses.insert(address);
  const uint64_t first = address - std::min<uint64_t>(address, wire::kPatchBytesMax - 1);
  for (auto near = kept.places.lower_bound(first); near != kept.places.end() && near->first < address; ++near)
    addresses.insert(near->first);
}

std::set<uint64_t> Attacher::addresses_of(Target& target, const std::vector<kernel::UprobePlace>& places) {
  const Kept& kept = *target.kept;
  std::set<uint64_t> out;
  for (const auto& place : places)
    for (const MappedRegion& region : kept.regions) {
      if (!is_code(region) || place.offset < region.offset ||
          place.offset - region.offset >= region.end - region.start)
        continue;
      if (same_file(target.process, region, place.file, place.build_id))
        add_with_neighbours(kept, region.start + (place.offset - region.offset), out);
    }
  return out;
}

// The patches `sites` need, and which places of `addresses` get their bytes back first. Nothing: it takes more than this.
std::optional<Attacher::FewChanges> Attacher::plan_places(Target& target, const std::set<uint64_t>& addresses,
                                                          std::vector<Site>& sites) {
  Kept& kept = *target.kept;
  const auto missing = missing_memory(kept.regions, memory_of(sites));
  if (!missing || !missing->empty()) return std::nullopt;
  FewChanges out;
  bool code_memory_full =
      false;  // where the best patch would be; another must be mapped, not a worse patch be made
  const CodeMemory::Entry nobody = [&]() -> Result<StoppedProcess*> {
    code_memory_full = true;
    return Error{EAGAIN, "no thread is held"};
  };
  const auto may_change = [&](uint64_t address) { return may_change_running(target, kept.regions, address); };
  // A patch for nobody's program, which goes when a probe comes in its place: with a look at all.
  const auto meets_other = [&](const PatchRecord& record) {
    return std::any_of(kept.registry.patches.begin(), kept.registry.patches.end(),
                       [&](const PatchRecord& other) {
                         return overlap(record.address, record.address + record.length, other.address,
                                        other.address + other.length) &&
                                other.address != record.address && target::is_live(other) &&
                                !kept.places.contains(other.address);
                       });
  };
  for (Site& site : sites) {
    if (!site.report.skipped.empty()) continue;
    auto plan = plan_site(target, nobody, kept.registry, kept.regions, site, /*traps=*/true);
    if (code_memory_full || (!plan && kept.registry.active_at(site.address) != nullptr)) return std::nullopt;
    if (!plan) {
      site.report.skipped = plan.error().message;
    } else if (*plan) {
      const PatchRecord& record = (*plan)->patch.record;
      if ((*plan)->method == rewrite::PatchMethod::kJump || !may_change(site.address) ||
          meets_other(record) || target.call_code.touches(record.address, record.address + record.length))
        return std::nullopt;
      out.patches.push_back((*plan)->patch);
    }
  }
  for (const uint64_t address : addresses) {
    const PatchRecord* record = kept.registry.active_at(address);
    const bool wanted = std::any_of(sites.begin(), sites.end(), [&](const Site& site) {
      return site.address == address && site.report.skipped.empty();
    });
    if (record == nullptr || (wanted && record->state != wire::PatchState::kPending)) continue;
    if (record->kind != wire::PatchKind::kProbe || !may_change(address)) return std::nullopt;
    out.unwanted.push_back(address);
  }
  return out;
}

bool Attacher::change_places(Target& target, const std::vector<kernel::UprobePlace>& places) {
  const auto start = Clock::now();
  constexpr size_t kFew = 64;
  if (!target.kept || target.unfinished || target.libraries_changed || places.size() > kFew) return false;
  if (target.detached || withdrawn_ || kernel_.counting()) return false;
  Kept& kept = *target.kept;
  if (!kept_is_fresh(kept) || start - target.guard_seen >= kGuardTrusted) return false;
  files_looked_at_.clear();
  const auto status = kept.status.now();
  if (!status || !still_as_kept(target, *status)) return false;
  // Of a file that may come and go: then the dynamic loader is watched.
  for (const auto& place : places) {
    const auto event = place.event.lock();
    const bool ours = event && (event->pid <= 0 || event->pid == target.process.pid());
    if (ours && !target.watch_wanted && !target.staying.contains(place.file)) return false;
  }
  const auto addresses = addresses_of(target, places);
  auto sites = sites_at(target, *status, addresses, places);
  const auto changes = sites ? plan_places(target, addresses, *sites) : std::nullopt;
  if (!changes) return false;

  kept.changed = true;
  constexpr auto kRun = target::Threads::kRun;
  auto done = target::restore_patches(kept.process, config_.window, kept.registry, changes->unwanted, kRun);
  if (done) done = target::apply_patches(kept.process, config_.window, kept.registry, changes->patches, kRun);
  if (!done) {
    log_debug("process " + std::to_string(target.process.pid()) +
              ": changing a few places: " + done.error().message + "; looking at all");
    return false;
  }
  refresh_task_facts(target, *sites);
  note_places(target, addresses, *sites);
  last_running_change_ = {0, static_cast<uint64_t>((Clock::now() - start).count())};
  ++running_changes_;
  ++few_changes_;
  if (!changes->unwanted.empty() || !changes->patches.empty()) ++outside_changes_;
  return true;
}

void Attacher::note_places(Target& target, const std::set<uint64_t>& addresses, std::vector<Site>& sites) {
  Kept& kept = *target.kept;
  for (const uint64_t address : addresses)
    if (const auto known = kept.places.find(address); known != kept.places.end()) {
      kept.patched -= known->second.patched;
      kept.places.erase(known);
    }
  for (Site& site : sites) {
    const bool patched = site.report.skipped.empty();
    kept.patched += patched;
    kept.places.emplace(site.address,
                        Kept::Place{patched, false, std::move(site.events), std::move(site.report)});
  }
  if (kept.patched != 0) {
    target.guard_idle_since.reset();
  } else if (!target.guard_idle_since) {
    target.guard_idle_since = Clock::now();
  }
}

}  // namespace bpftime::daemon

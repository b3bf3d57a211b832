// Libraries that targets load and unload while they run, and the USDT semaphores of probed files. How a target tells
// is in src/agent/loaded.cc.
#include <sys/stat.h>

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

bool is_watch(const PatchRecord& record) {
  return record.kind == wire::PatchKind::kLoaderWatch && target::is_live(record);
}

bool is_semaphore(const PatchRecord& record) {
  return record.kind == wire::PatchKind::kSemaphore && target::is_live(record);
}

const MappedRegion* dynamic_loader(const std::vector<MappedRegion>& regions) {
  const auto found = std::find_if(regions.begin(), regions.end(), [](const MappedRegion& region) {
    return region.offset == 0 && region.path.find("/ld-linux-x86-64.so") != std::string::npos;
  });
  return found == regions.end() ? nullptr : &*found;
}

// struct r_debug of <link.h>.
constexpr uint64_t kBreakOffset = 16, kStateOffset = 24;

}  // namespace

// Only while something is probed that may come or go: the program itself, libc and the dynamic loader stay.
bool Attacher::watch_wanted(Target& target, const std::vector<MappedRegion>& regions,
                            const target::Status& status) const {
  if (target.detached || withdrawn_) return false;
  std::set<InodeId>& staying = target.staying;
  staying.clear();
  struct stat program;
  if (::stat(("/proc/" + std::to_string(target.process.pid()) + "/exe").c_str(), &program) == 0)
    staying.insert({program.st_dev, program.st_ino});
  for (const auto& region : regions)
    if (region.path.find("/ld-linux-x86-64.so") != std::string::npos || region.path.ends_with("/libc.so.6"))
      staying.insert({region.device, region.inode});
  const auto probes = kernel_.probes();
  return std::any_of(probes.begin(), probes.end(),
                     [&](const kernel::Probe& probe) {
                       const bool ours =
                           probe.event->pid <= 0 || static_cast<uint32_t>(probe.event->pid) == status.tgid;
                       return ours && !staying.contains(probe.event->file);
                     }) ||
         !kernel_.system_call_probes().empty();
}

bool Attacher::watch_right(const Target& target, const Registry& registry) {
  const bool there = std::any_of(registry.patches.begin(), registry.patches.end(), is_watch);
  return there == (target.watch_wanted && target.no_watch.empty());
}

void Attacher::change_watch(Target& target, StoppedProcess& stopped, Registry& registry,
                            const std::vector<MappedRegion>& regions) {
  if (watch_right(target, registry)) return;
  if (target.watch_wanted) {
    auto installed = install_watch(target, stopped, registry, regions);
    if (installed || installed.error().code == EAGAIN) return;
    target.no_watch = installed.error().message;
    log_warning("process " + std::to_string(target.process.pid()) +
                ": libraries loaded later are not seen: " + target.no_watch);
    return;
  }
  std::vector<uint64_t> sites;
  for (const auto& record : registry.patches)
    if (is_watch(record)) sites.push_back(record.address);
  auto removed = target::restore_patches(stopped, config_.window, registry, sites, target::Threads::kStopped);
  const uint64_t none = 0;
  if (removed)
    removed = target::write_context(stopped, config_.window, offsetof(TargetContext, announcements), none);
  if (!removed) log_warning(removed.error().message);
}

Result<void> Attacher::install_watch(Target& target, StoppedProcess& stopped, Registry& registry,
                                     const std::vector<MappedRegion>& regions) {
  if (registry.header.flags & wire::kNoSystemCalls)
    return Error{EPERM, "the process has a seccomp filter of its own"};
  if (registry.header.agent_base == 0) return Error{ENOENT, "the agent is not there"};
  const MappedRegion* loader = dynamic_loader(regions);
  if (loader == nullptr) return Error{EOPNOTSUPP, "no dynamic loader of glibc"};
  auto file = file_info(target.process, *loader);
  const auto debug = file->elf ? file->elf->find_symbol("_r_debug") : std::nullopt;
  if (!debug) return Error{EOPNOTSUPP, "the dynamic loader has no _r_debug"};
  const auto base = file->elf->address_of_offset(0);
  const uint64_t at = loader->start + debug->address - base.value_or(0);
  const auto pointer = stopped.read(at + kBreakOffset, sizeof(uint64_t));
  const uint64_t site_address = pointer ? read_at<uint64_t>(*pointer, 0).value_or(0) : 0;
  const MappedRegion* text = region_at(regions, site_address);
  if (text == nullptr || text->inode != loader->inode || !text->executable)
    return Error{EOPNOTSUPP, "the dynamic loader does not say where it tells debuggers of libraries"};

  auto announcements = kernel_.announcements();
  if (!announcements) return Error{ENOMEM, "no memory to be told by"};
  const kernel::TargetMemory shared[] = {kernel::Kernel::memory_of_map(*announcements)};
  if (auto mapped = map_memory(stopped, regions, {shared[0]}); !mapped) return mapped;
  const auto watch = agent_symbol(target, regions, registry, "bpftime_agent_watch_loader");
  const auto replacement = agent_symbol(target, regions, registry, "bpftime_agent_loaded");
  if (!watch || !replacement) return watch ? replacement.error() : watch.error();

  Site site;
  site.file = file;
  site.address = site_address;
  site.region = *text;
  site.file_address = file->elf->address_of_offset(site_address - text->start + text->offset).value_or(0);
  const auto function = file->elf->function_at(site.file_address);
  if (!function || function->address != site.file_address)
    return Error{EOPNOTSUPP, "where the dynamic loader tells of libraries no function begins"};
  site.function_size = function->size;
  auto original = original_text(target.process, registry, site);
  if (!original) return original.error();
  const rewrite::TrampolineRule anywhere{site.address, 0};
  const auto held = [&]() -> Result<StoppedProcess*> { return &stopped; };
  auto arena = code_.arena_for(held, registry, config_.window, regions, text->start, text->end, anywhere,
                               kPageSize, 0);
  if (!arena) return arena.error();
  rewrite::SiteRequest request;
  request.address = site.address;
  request.code = *original;
  request.function_size = site.function_size;
  // The same in every process that has both at the same places: found again after a fork or a while without probes.
  const uint64_t key = mix_hash(mix_hash(mix_hash(kHashStart, 'w'), site.address), *replacement);
  const auto kept = (*arena)->find(key);
  const auto room = kept ? kept : (*arena)->find_room(anywhere, kPageSize);
  if (!room) return Error{ENOMEM, "code memory is full"};
  request.trampoline_address = *room;
  auto plan = rewrite::plan_redirect(request, *replacement);
  if (!plan) return plan.error();
  if (!kept) {
    if (auto placed = (*arena)->put(*room, plan->site.trampoline); !placed) return placed.error();
    (*arena)->remember(key, *room);
  }
  const PatchRecord record = make_record(request, plan->site, wire::PatchKind::kLoaderWatch, 0);
  if (auto moved = move_threads(stopped, record, plan->site.fixups); !moved) return moved;
  const std::pair<size_t, uint64_t> words[] = {
      {offsetof(TargetContext, announcements), announcements->address},
      {offsetof(TargetContext, loader_state), at + kStateOffset}};
  for (const auto& [offset, value] : words)
    if (auto written = target::write_context(stopped, config_.window, offset, value); !written)
      return written;
  const uint64_t arguments[] = {config_.window};
  if (auto called = stopped.call(*watch, arguments); !called) return called.error();
  const target::Patch patch{record, {record.trampoline}};
  return target::apply_patches(stopped, config_.window, registry, std::span(&patch, 1),
                               target::Threads::kStopped);
}

void Attacher::reconcile_loaded() {
  const auto look = [&] {
    bool any = false;
    for (auto& [pid, target] : targets_) {
      const auto bytes =
          target.process.read(config_.window + offsetof(TargetContext, loads), sizeof(uint64_t));
      const uint64_t loads = bytes ? read_at<uint64_t>(*bytes, 0).value_or(0) : target.loads_seen;
      if (loads == target.loads_seen) continue;
      any = true;
      target.loads_seen = loads;
      target.libraries_changed = true;
      auto done = reconcile(target, /*create=*/false);
      if (!done) log_warning("process " + std::to_string(pid) + ": " + done.error().message);
      target.unfinished = !done;
    }
    return any;
  };
  if (look()) return;
  find_targets();  // forked a moment ago, perhaps
  drop_dead();
  (void)look();
}

Result<void> Attacher::forget_unloaded(Target& target, Registry& registry) {
  const auto stale = target::stale_patches(target.process, registry);
  auto regions = target.process.regions();
  if (!regions) return regions.error();
  std::vector<PatchRecord> semaphores;
  for (const auto& record : registry.patches) {
    const MappedRegion* region = is_semaphore(record) ? region_at(*regions, record.address) : nullptr;
    if (is_semaphore(record) && (region == nullptr || region->inode != record.trampoline))
      semaphores.push_back(record);
  }
  if (stale.empty() && semaphores.empty()) return {};
  auto stopped = StoppedProcess::stop(target.process);
  if (!stopped) return stopped.error();
  for (const auto& record : semaphores)
    if (auto gone = target::set_semaphore(*stopped, config_.window, registry, record.address,
                                          record.trampoline, 0, /*gone=*/true);
        !gone)
      return gone;
  return target::restore_patches(*stopped, config_.window, registry, stale, target::Threads::kStopped);
}

// As Linux: raised once per probed place, however many programs run there.
std::map<uint64_t, uint32_t> Attacher::wanted_semaphores(const std::vector<Site>& sites) {
  std::map<uint64_t, uint32_t> out;
  for (const Site& site : sites)
    if (site.report.skipped.empty() && site.semaphore != 0) ++out[site.semaphore];
  return out;
}

bool Attacher::semaphores_right(const Registry& registry, const std::vector<Site>& sites) {
  auto wanted = wanted_semaphores(sites);
  for (const PatchRecord& record : registry.patches) {
    if (!is_semaphore(record)) continue;
    const auto found = wanted.find(record.address);
    if (found == wanted.end() || found->second != record.content_hash ||
        record.state != wire::PatchState::kActive)
      return false;
    wanted.erase(found);
  }
  return wanted.empty();
}

Result<void> Attacher::change_semaphores(StoppedProcess& stopped, Registry& registry,
                                         const std::vector<MappedRegion>& regions,
                                         const std::vector<Site>& sites) {
  auto wanted = wanted_semaphores(sites);
  for (const PatchRecord& record : registry.patches)
    if (is_semaphore(record)) wanted.try_emplace(record.address, 0);
  for (const auto& [address, count] : wanted) {
    const PatchRecord* present = registry.active_at(address);
    if (present != nullptr && present->content_hash == count && present->state == wire::PatchState::kActive)
      continue;
    const MappedRegion* region = region_at(regions, address);
    const uint64_t inode = region != nullptr ? region->inode : 0;
    const bool gone = region == nullptr || (present != nullptr && present->trampoline != inode);
    if (auto set =
            target::set_semaphore(stopped, config_.window, registry, address, inode, gone ? 0 : count, gone);
        !set)
      return set;
  }
  return {};
}

}  // namespace bpftime::daemon

// What a target needs in its address space beside code: its context, the maps of its programs, the agent.
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

#include "base/log.h"
#include "daemon/site.h"
#include "daemon/task_facts.h"
#include "maps/map.h"

namespace bpftime::daemon {

using kernel::Map;
using kernel::TargetMemory;
using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;
using wire::TargetContext;

namespace {

// Small maps are there when the first program comes: a page that is not costs it a fault, after which the kernel may give the CPU
// to another thread, in the middle of the program. Of one map, and of all that are mapped in one go: pages and time (16 pages
// take about 10 us) are spent whether a program ever comes or not.
constexpr uint64_t kPresentMapMax = 64 << 10, kPresentMax = 256 << 10;

constexpr int32_t kGlibcTidOffset =
    0x2d0;  // struct pthread::tid, glibc 2.34 and later on x86-64; checked in every target

// Whether the kernel itself takes the time from the time stamp counter, at one speed in every sleep state, on all CPUs alike
// (its watchdog changes the clock source when they drift apart).
bool counter_is_the_clock() {
  std::string source, word;
  std::ifstream("/sys/devices/system/clocksource/clocksource0/current_clocksource") >> source;
  bool constant = false, nonstop = false;
  std::ifstream cpus("/proc/cpuinfo");
  while (source == "tsc" && !(constant && nonstop) && cpus >> word) {
    constant |= word == "constant_tsc";
    nonstop |= word == "nonstop_tsc";
  }
  return constant && nonstop;
}

}  // namespace

Result<std::vector<StoppedProcess::MapRequest>> Attacher::missing_memory(
    const std::vector<MappedRegion>& regions, const std::vector<TargetMemory>& memory) {
  std::vector<StoppedProcess::MapRequest> requests;
  uint64_t present = 0;
  for (const auto& wanted : memory) {
    auto inode = inode_of(wanted.fd);
    if (!inode) return inode.error();
    int flags = MAP_SHARED;
    const auto same_place = std::find_if(regions.begin(), regions.end(), [&](const MappedRegion& region) {
      return region.start == wanted.address && region.end == wanted.address + wanted.size;
    });
    if (same_place != regions.end()) {
      if (same_place->inode == inode->inode && same_place->device == inode->device) continue;
      // What is left of the map from before (see retire_maps). A thread may still stand in a program that uses it, and we
      // may die at any moment: replaced in one step.
      flags |= MAP_FIXED;
    }
    if (wanted.size <= kPresentMapMax && present + wanted.size <= kPresentMax) {
      flags |= MAP_POPULATE;
      present += wanted.size;
    }
    const int protection =
        PROT_READ | (wanted.writable ? PROT_WRITE : 0) | (wanted.executable ? PROT_EXEC : 0);
    requests.push_back({wanted.address, wanted.size, protection, flags, wanted.fd, 0});
  }
  return requests;
}

Result<void> Attacher::map_memory(StoppedProcess& stopped, const std::vector<MappedRegion>& regions,
                                  const std::vector<TargetMemory>& memory) {
  auto requests = missing_memory(regions, memory);
  if (!requests) return requests.error();
  if (requests->empty()) return {};
  auto mapped = stopped.map_all(*requests);
  if (!mapped) return Error{mapped.error().code, "map the programs' maps: " + mapped.error().message};
  return {};
}

// A process without the memory can only come from another without it: when a look around finds none, there is none.
Result<void> Attacher::reach(const Map& map, const std::vector<TargetMemory>& memory) {
  const auto inode = inode_of(map.sealed ? map.sealed.get() : map.fd.get());
  if (!inode) return inode.error();
  constexpr int kRoundsMax = 100;
  for (int round = 0; round < kRoundsMax; ++round) {
    find_targets();
    bool lacking = false;
    for (auto& [pid, target] : targets_) {
      auto regions = target.process.regions();
      if (!regions) continue;  // it has ended
      const bool uses = std::any_of(regions->begin(), regions->end(), [&](const MappedRegion& region) {
        return region.start == map.address && region.inode == inode->inode && region.device == inode->device;
      });
      if (!uses) continue;
      const auto missing = missing_memory(*regions, memory);
      if (!missing) return missing.error();
      if (missing->empty()) continue;
      lacking = true;
      auto stopped = StoppedProcess::stop(target.process);
      if (!stopped && !target.process.alive()) continue;
      if (!stopped) return stopped.error();
      if (regions = target.process.regions(); !regions) return regions.error();
      if (auto mapped = map_memory(*stopped, *regions, memory); !mapped) return mapped;
    }
    if (!lacking) return {};
  }
  return Error{EAGAIN, "map " + map.name + ": its users fork faster than memory can be mapped in them"};
}

std::vector<MappedRegion> Attacher::idle_maps(const Target& target, const std::vector<MappedRegion>& regions,
                                              const std::vector<Site>& sites) const {
  std::set<uint64_t> used;
  for (const auto& memory : memory_of(sites)) used.insert(memory.address);
  if (const auto& announcements = kernel_.announcements_made(); announcements && target.watch_wanted)
    used.insert(announcements->address);
  const uint64_t first = config_.window + wire::kMapsOffset;
  std::vector<MappedRegion> out;
  for (const auto& region : regions) {
    if (region.start < first || region.start >= config_.window + wire::kWindowSize) continue;
    if (region.inode == 0 || used.contains(region.start)) continue;
    if (region.executable) continue;  // a thread may stand in it, or be about to return to it
    out.push_back(region);
  }
  return out;
}

// Lets go of maps no program here uses any more. A thread may still stand in a program, so the addresses stay valid:
// private zeroes take the map's place, and what that thread writes is lost with the probe.
void Attacher::retire_maps(Target& target, StoppedProcess& stopped, const std::vector<MappedRegion>& regions,
                           const std::vector<Site>& sites) {
  target.maps_idle_since.reset();
  for (const auto& region : idle_maps(target, regions, sites)) {
    auto mapped = stopped.map(region.start, region.end - region.start, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (!mapped) log_warning("retire map: " + mapped.error().message);
  }
}

std::vector<TargetMemory> Attacher::memory_of(const std::vector<Site>& sites) const {
  std::vector<std::shared_ptr<kernel::Prog>> programs;
  for (const auto& site : sites)
    if (site.report.skipped.empty())
      for (const auto& want : site.wants)
        if (programs.empty() || programs.back() != want.program) programs.push_back(want.program);
  auto out = kernel_.memory_of(programs);
  if (!programs.empty() && kernel_.counting())
    out.push_back(kernel::Kernel::memory_of_map(*kernel_.hits_map()));
  return out;
}

// ThreadSanitizer and MemorySanitizer make all addresses inaccessible that they give neither to the application nor to
// themselves, the windows of all users among them. No other reservation is that large, or may be touched.
Result<void> Attacher::make_room(StoppedProcess& stopped, const std::vector<MappedRegion>& regions) const {
  const bool held = std::any_of(regions.begin(), regions.end(), [](const MappedRegion& region) {
    return region.start <= wire::kWindowBase && region.end >= wire::kWindowsEnd && region.inode == 0 &&
           !region.readable && !region.writable && !region.executable && !region.shared;
  });
  if (!held) return {};
  return stopped.unmap(config_.window, wire::kWindowSize);
}

// What programs need to know about the process they run in.
Result<void> Attacher::create_context(Target& target, StoppedProcess& stopped,
                                      const std::vector<MappedRegion>& regions,
                                      const target::Status& status) {
  const auto made = std::make_unique<TargetContext>();  // too large for a stack
  TargetContext& context = *made;
  context.header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, sizeof(TargetContext)};
  context.daemon_instance = config_.instance;
  context.owner_uid = config_.uid;
  context.lineage = status.tgid;
  std::copy(target.sessions.begin(), target.sessions.end(), context.sessions);
  context.flags = target::filtered_unlike_us(status) ? wire::kNoSystemCalls : 0;
  if (counter_is_the_clock()) context.flags |= wire::kTscClock;
  const auto threads = stopped.threads();
  context.tid_offset = kGlibcTidOffset;
  for (const auto& thread : threads) {
    auto tid = stopped.read(thread.thread_pointer + kGlibcTidOffset, sizeof(uint32_t));
    if (!tid || read_at<uint32_t>(*tid, 0) != static_cast<uint32_t>(thread.tid)) context.tid_offset = 0;
  }
  for (const auto& region : regions) {
    if (region.path == "[vdso]" && vdso_clock_gettime_offset_ != 0)
      context.vdso_clock_gettime = region.start + vdso_clock_gettime_offset_;
    if (region.offset != 0 || region.path.find("/ld-linux-x86-64.so") == std::string::npos) continue;
    const auto& loader = file_info(target.process, region)->elf;
    if (!loader) continue;
    if (auto symbol = loader->find_symbol("__rseq_offset")) {
      auto value = stopped.read(region.start + symbol->address, sizeof(int64_t));
      if (value) context.rseq_offset = read_at<int64_t>(*value, 0).value_or(0);
    }
  }
  if (auto room = make_room(stopped, regions); !room) return room;
  return target::create_context(stopped, context, status.tgid, config_.window, context_fd_.get());
}

// Written into the running process: programs may see a mixture of old and new for a moment, of which each is true.
void Attacher::refresh_task_facts(const Target& target, const std::vector<Site>& sites) const {
  if (std::none_of(sites.begin(), sites.end(),
                   [](const Site& site) { return site.report.skipped.empty() && site.needs_task_facts(); }))
    return;
  wire::TaskFacts facts = task_facts(target.process, kernel_task_fields());
  // The process tells itself its id (trampolines compare it); only what lies behind is ours to refresh.
  wire::TargetIdentity identity = identity_of(target.process, 0);
  constexpr size_t kTimes = offsetof(wire::TargetIdentity, start_time_ns);
  const iovec local[] = {{&facts, sizeof facts},
                         {reinterpret_cast<uint8_t*>(&identity) + kTimes, sizeof identity - kTimes}};
  const auto place = [&](uint64_t offset) { return reinterpret_cast<void*>(config_.window + offset); };
  const iovec remote[] = {{place(offsetof(TargetContext, task)), sizeof facts},
                          {place(wire::kIdentityOffset + kTimes), sizeof identity - kTimes}};
  const ssize_t size = sizeof facts + sizeof identity - kTimes;
  if (::process_vm_writev(target.process.pid(), local, 2, remote, 2, 0) != size)
    log_warning("process " + std::to_string(target.process.pid()) + ": task facts: " + std::strerror(errno));
}

uint64_t Attacher::load_agent(Target& target, const std::vector<MappedRegion>& regions,
                              const Registry* registry, const target::Status& status,
                              std::vector<Site>& sites) {
  if (target::filtered_unlike_us(status))
    target.no_guard = "the process has a seccomp filter of its own";  // which may forbid what a handler needs
  if (registry != nullptr && registry->header.agent_base != 0) return registry->header.agent_base;
  const auto active = [](const Site& site) { return site.report.skipped.empty(); };
  const bool needed = std::any_of(sites.begin(), sites.end(),
                                  [&](const Site& site) { return active(site) && site.needs_agent(); });
  const bool useful = target.no_guard.empty() && std::any_of(sites.begin(), sites.end(), active);
  const bool watch = target.watch_wanted && target.no_watch.empty();
  if (!needed && !useful && !watch) return 0;
  auto loaded = ensure_agent(target, regions);
  if (loaded) return *loaded;
  const std::string why = "the agent could not be loaded: " + loaded.error().message;
  if (target.no_guard.empty()) target.no_guard = why;
  if (watch) target.no_watch = why;
  for (auto& site : sites)
    if (active(site) && site.needs_agent()) site.report.skipped = why;
  return 0;
}

// Finds the agent in the process, or has it loaded. Returns its load address.
Result<uint64_t> Attacher::ensure_agent(Target& target, const std::vector<MappedRegion>& regions) {
  if (::access(config_.agent_path.c_str(), R_OK) != 0)
    return Error{ENOENT,
                 "agent " + config_.agent_path + ": " + std::strerror(errno) + "; try `make install` again"};
  for (const auto& region : regions)
    if (region.offset == 0 && is_agent(region)) return region.start;
  return target::load_library(target.process, config_.agent_path);
}

Result<void> Attacher::record_agent(Target& target, StoppedProcess& stopped, Registry& registry,
                                    const std::vector<MappedRegion>& regions, uint64_t base) {
  if (registry.header.agent_base == base) return {};
  auto& header = registry.header;
  header.agent_base = base;
  const std::pair<const char*, uint64_t*> wanted[] = {
      {"bpftime_agent_safe_copy", &header.safe_copy},
      {"bpftime_agent_safe_copy_string", &header.safe_copy_string},
      {"bpftime_agent_host_call", &header.host_call},
      {"bpftime_agent_return_slots", &header.return_enter}};
  for (const auto& [name, where] : wanted) {
    auto symbol = agent_symbol(target, regions, registry, name);
    if (!symbol) return symbol.error();
    *where = *symbol;
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  // Behind the statistics, which are the target's to write.
  if (auto written = target::write_context(stopped, config_.window, offsetof(TargetContext, host_call),
                                           header.host_call);
      !written)
    return written;
  return stopped.write(config_.window, Bytes(bytes, offsetof(TargetContext, faults_repaired)));
}

}  // namespace bpftime::daemon

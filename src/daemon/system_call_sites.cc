// Events of system calls: which instructions of a process they are seen at, and the patches there.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "daemon/site.h"

namespace bpftime::daemon {

using kernel::PerfKind;
using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;

namespace {

constexpr uint64_t kSegmentSizeMax = uint64_t{1} << 28;  // of code looked through for system calls
constexpr uint64_t kPaddingMax = 32;

// Every place in executable segments that holds a system call.
template <typename SystemCalls>
SystemCalls find_in(const symbols::ElfFile& elf) {
  SystemCalls out;
  for (const auto& segment : elf.segments()) {
    if (!segment.executable || segment.file_size > kSegmentSizeMax) continue;
    const auto text = elf.read(segment.address, segment.file_size);
    const auto bounds = [&](uint64_t address) -> std::optional<std::pair<uint64_t, uint64_t>> {
      const auto function = elf.function_at(address);
      if (!function || function->size == 0) return std::nullopt;
      return std::pair(function->address, function->size);
    };
    out.old += rewrite::count_old_system_calls(text, segment.address, bounds);
    auto found = rewrite::find_system_calls(text, segment.address, [&](uint64_t address) {
      const auto function = bounds(address);
      out.unclear += !function;
      return function;
    });
    std::move(found.begin(), found.end(), std::back_inserter(out.calls));
  }
  return out;
}

// Whether calls that the guard wants to see may be made by its own instructions: a `syscall` close behind a constant that is one
// of their numbers. Fast, for what is true of hardly any file but the C library, whose numbers come in other ways, too.
bool changes_signals(const symbols::ElfFile& elf) {
  constexpr size_t kBefore = 32, kConstant = 4;
  for (const auto& segment : elf.segments()) {
    if (!segment.executable || segment.file_size > kSegmentSizeMax) continue;
    const auto text = elf.read(segment.address, segment.file_size);
    const uint8_t call[] = {0x0f, 0x05};
    for (size_t at = 0; at < text.size();) {
      const void* found = ::memmem(text.data() + at, text.size() - at, call, sizeof call);
      if (found == nullptr) break;
      at = static_cast<size_t>(static_cast<const uint8_t*>(found) - text.data());
      for (size_t i = at - std::min(at, kBefore); i + kConstant <= at; ++i) {
        const auto number = read_at<uint32_t>(text, i).value_or(0);
        if (number != 0 && number <= INT32_MAX && rewrite::may_change_signals(static_cast<int32_t>(number)))
          return true;
      }
      at += sizeof call;
    }
  }
  return false;
}

// The agent makes system calls on its own behalf, which are nobody's business, and says when an execve has come back.
template <typename SystemCalls>
SystemCalls exec_return_of(const symbols::ElfFile& agent) {
  SystemCalls out;
  const auto symbol = agent.find_symbol("bpftime_agent_exec_return");
  if (!symbol) return out;
  constexpr int32_t kExecve = 59;
  rewrite::SystemCallSite site;
  site.number = kExecve;
  site.stands_for_call = true;
  site.no_enter = "it is where execve comes back";
  site.exit_length = 6;
  out.calls.push_back({symbol->address, symbol->size, site});
  return out;
}

bool uses_io_uring(pid_t pid) {
  const std::string directory = "/proc/" + std::to_string(pid) + "/fd/";
  DIR* entries = ::opendir(directory.c_str());
  if (entries == nullptr) return false;
  bool found = false;
  while (const dirent* entry = ::readdir(entries)) {
    char name[64];
    const ssize_t length = ::readlink((directory + entry->d_name).c_str(), name, sizeof name);
    found |= length > 0 && std::string_view(name, static_cast<size_t>(length)) == "anon_inode:[io_uring]";
  }
  ::closedir(entries);
  return found;
}

// Executable, and of no file: what a just-in-time compiler makes. Shared memory is a file of the kernel's own.
bool is_anonymous_code(const MappedRegion& region) {
  const bool shared = region.path.starts_with("/memfd:") || region.path.starts_with("/dev/zero");
  return region.executable && (region.inode == 0 || shared) && region.path != "[vdso]" &&
         region.path != "[vsyscall]" && !is_ours(region);
}

// Where an event is seen: the numbers of system calls, -1 for all.
std::vector<int32_t> numbers_of(const program::Tracepoint& point) {
  if (!point.signal()) return {point.number};
  return {std::begin(rewrite::kSignalCalls), std::end(rewrite::kSignalCalls)};
}

}  // namespace

// An extension is for one host: in others its event does not exist.
bool Attacher::may_run_here(const Target& target, const std::vector<MappedRegion>& regions,
                            const kernel::Prog& program) {
  if (!may_run(target, program)) return false;
  if (!program.host) return true;
  struct stat host {};
  const bool by_file = program.host->build_id.empty();
  if (by_file && ::stat(program.host->host.c_str(), &host) != 0) return false;
  const InodeId file{host.st_dev, host.st_ino};
  return std::any_of(regions.begin(), regions.end(), [&](const MappedRegion& region) {
    if (!region.executable || region.inode == 0) return false;
    if (by_file) return InodeId{region.device, region.inode} == file;
    return file_info(target.process, region)->build_id == program.host->build_id;
  });
}

// The guard is there for any probe, and a little longer.
bool Attacher::guards_calls(Target& target, const target::Status& status, bool probed) const {
  if (probed) target.guards_calls = true;
  if (!target.no_guard.empty() || target::filtered_unlike_us(status)) return false;
  return target.guards_calls && (probed || !target.guard_idle_since || !guard_may_go(target));
}

void Attacher::add_system_call_sites(Target& target, const std::vector<MappedRegion>& regions,
                                     const target::Status& status, std::vector<Site>& sites) {
  target.system_calls.clear();
  target.report.not_seen.clear();
  auto probes = kernel_.system_call_probes();
  for (auto& probe : probes)
    std::erase_if(probe.programs,
                  [&](const auto& attached) { return !may_run_here(target, regions, *attached.program); });
  std::erase_if(probes, [](const auto& probe) { return probe.programs.empty(); });
  const bool guard = guards_calls(
      target, status, !probes.empty() || std::any_of(sites.begin(), sites.end(), [](const Site& site) {
        return site.is_probe();
      }));
  if (probes.empty() && !guard) {
    // Libraries loaded later wait for their first probe, and so for the guard: what takes longest is done by then.
    for (const auto& region : regions) {
      if (!region.executable || !is_libc(region.path) || kernel_.probes().empty()) continue;
      const auto file = file_info(target.process, region);
      if (file->elf && !file->system_calls) file->system_calls = find_in<FileInfo::SystemCalls>(*file->elf);
    }
    return;
  }
  const bool tell = !probes.empty();
  std::sort(probes.begin(), probes.end(),
            [](const auto& a, const auto& b) { return a.programs[0].order < b.programs[0].order; });
  for (auto& probe : probes) {
    ProbeReport report;
    report.system_call = true;
    report.path = probe.event->path;
    std::erase_if(probe.programs, [&](const auto& attached) {
      report.programs.push_back(
          {attached.program->id, attached.program->name, probe.event->tracepoint.on_exit});
      const auto compiled = kernel_.ensure_code(*attached.program);
      if (!compiled) report.skipped = compiled.error().message;
      const auto& host = attached.program->host;
      const bool is_elsewhere = host && host->entry.name != report.path;
      if (is_elsewhere)
        report.skipped = "class \"" + host->constraints.class_name + "\" (" + host->policy_place +
                         ") is for " + host->entry.name + ", not for " + report.path;
      return !compiled || is_elsewhere;
    });
    target.system_calls.push_back(std::move(report));
  }
  std::erase_if(probes, [](const auto& probe) { return probe.programs.empty(); });

  size_t anonymous = 0;
  const size_t first = sites.size();
  for (const auto& region : regions) {
    anonymous += is_anonymous_code(region);
    if (!region.executable || region.inode == 0 || is_ours(region)) continue;
    const auto file = file_info(target.process, region);
    if (is_agent(region)) {
      if (!file->system_calls && file->elf)
        file->system_calls = exec_return_of<FileInfo::SystemCalls>(*file->elf);
      if (file->system_calls) add_system_calls_of(region, file, probes, /*guard=*/false, sites);
      continue;
    }
    if (!file->elf) {
      if (tell)
        target.report.not_seen.push_back("system calls of " + region.path + ": it cannot be read as ELF");
      continue;
    }
    if (!tell && !file->changes_signals)
      file->changes_signals = is_libc(region.path) || changes_signals(*file->elf);
    if (!tell && !*file->changes_signals) continue;
    if (!file->system_calls) file->system_calls = find_in<FileInfo::SystemCalls>(*file->elf);
    add_system_calls_of(region, file, probes, guard, sites);
    if (file->system_calls->old != 0 && tell)
      target.report.not_seen.push_back("32-bit system calls (int 0x80, sysenter) of " + region.path + ": " +
                                       std::to_string(file->system_calls->old) + " instructions");
    if (file->system_calls->unclear != 0 && tell)
      target.report.not_seen.push_back("system calls of " + region.path +
                                       ", possibly: " + std::to_string(file->system_calls->unclear) +
                                       " places in code of which nothing says where its functions begin");
  }
  if (anonymous != 0 && tell)
    target.report.not_seen.push_back("system calls of code made at run time (" + std::to_string(anonymous) +
                                     (anonymous == 1 ? " mapping)" : " mappings)"));
  if (tell && uses_io_uring(target.process.pid()))
    target.report.not_seen.push_back("what the kernel does on the process's behalf through io_uring");

  // One patch per byte. Function entries were there first, then what comes first in the text.
  constexpr uint64_t kEntryPatchMax = 19;
  std::sort(sites.begin() + static_cast<ptrdiff_t>(first), sites.end(),
            [](const Site& a, const Site& b) { return a.address < b.address; });
  uint64_t end = 0;
  for (size_t i = first; i < sites.size(); ++i) {
    Site& site = sites[i];
    if (!site.report.skipped.empty()) continue;
    const uint64_t site_end = site.address + site.function_size;  // of the patch, until here
    if (site.address < end) site.report.skipped = "the patch for the call before it reaches into it";
    for (size_t other = 0; other < first; ++other)
      if (overlap(site.address, site_end, sites[other].address, sites[other].address + kEntryPatchMax) &&
          sites[other].report.skipped.empty())
        site.report.skipped = "a probe of " + sites[other].report.function + " stands there";
    if (site.report.skipped.empty()) end = site_end;
  }
  for (size_t i = first; i < sites.size(); ++i) sites[i].function_size = sites[i].system_call->function_size;

  // What is raised must be lowered.
  std::map<uint64_t, size_t> patched;  // by call
  const auto counts = [](const Site& site) {
    return site.system_call && site.system_call->keeps_memory_shared && site.report.skipped.empty();
  };
  for (const Site& site : sites) patched[site.report.address] += counts(site);
  for (Site& site : sites)
    if (counts(site) && patched[site.report.address] != 2) site.system_call->keeps_memory_shared = false;
  std::erase_if(sites, [](const Site& site) {
    return site.system_call && site.wants.empty() && !site.system_call->keeps_memory_shared &&
           !site.system_call->guards_signals;
  });
}

void Attacher::add_system_calls_of(const MappedRegion& region, const std::shared_ptr<FileInfo>& file,
                                   const std::vector<kernel::Probe>& probes, bool guard,
                                   std::vector<Site>& sites) {
  const auto mapped = file->elf->address_of_offset(region.offset);
  if (!mapped) return;
  const uint64_t base = region.start - *mapped;
  for (const auto& call : file->system_calls->calls) {
    for (const bool on_exit : {false, true}) {
      Site site;
      site.address = base + call.function + (on_exit ? call.site.offset + 2 : call.site.enter_offset);
      const uint64_t length = on_exit ? call.site.exit_length : call.site.offset - call.site.enter_offset;
      const uint64_t instruction = base + call.function + call.site.offset;
      if (instruction < region.start || instruction + length > region.end) continue;
      // Then the end is waited for where the call begins.
      const bool both = call.site.number < 0 && call.site.number_register < 0;
      if (both && on_exit) continue;
      for (const auto& probe : probes) {
        const auto& point = probe.event->tracepoint;
        if (point.on_exit != on_exit && !both) continue;
        for (const int32_t number : numbers_of(point)) {
          if (number >= 0 && call.site.number >= 0 && call.site.number != number) continue;
          for (const auto& attached : probe.programs)
            site.wants.push_back({attached.program,
                                  attached.cookie,
                                  point.on_exit,
                                  0,
                                  attached.order,
                                  {},
                                  probe.event->path,
                                  number,
                                  point.signal()});
        }
      }
      const bool starts = !call.site.stands_for_call && rewrite::starts_process(call.site.number);
      const bool guards = guard && !on_exit && rewrite::may_change_signals(call.site.number) &&
                          rewrite::no_guard_at(call.site).empty();
      if ((site.wants.empty() && !starts && !guards) || (call.site.stands_for_call && !on_exit)) continue;
      std::sort(site.wants.begin(), site.wants.end(),
                [](const auto& a, const auto& b) { return a.order < b.order; });
      site.region = region;
      site.file = file;
      site.file_address = call.function;
      site.function_size = length;  // until add_system_call_sites has compared the patches
      site.system_call =
          Site::SystemCall{on_exit, base + call.function, call.function_size, call.site, starts, guards};
      site.report.path = region.path;
      site.report.address = instruction;
      site.report.skipped = on_exit ? call.site.no_exit : call.site.no_enter;
      if (site.report.skipped.empty() && site.needs_more_stack_than_go_leaves())
        site.report.skipped = "a program needs more stack than Go's functions have left";
      sites.push_back(std::move(site));
    }
  }
}

// Patched by a jump, so with all threads stopped.
Result<std::optional<Attacher::PlannedSite>> Attacher::plan_system_call(
    Target& target, const CodeMemory::Entry& entry, Registry& registry,
    const std::vector<MappedRegion>& regions, Site& site) {
  const wire::PatchRecord* present = registry.active_at(site.address);
  const uint64_t hash = site.hash();
  if (present != nullptr && present->content_hash == hash && present->state == wire::PatchState::kActive)
    return std::optional<PlannedSite>();
  const auto code = site.file->elf->read(site.file_address, site.function_size + kPaddingMax);

  const uint64_t low = site.region.start, high = site.region.end;
  uint64_t more = kPageSize;  // programs
  for (const auto& want : site.wants) more += round_up(want.program->code->image.size(), 16) + 256;
  const uint64_t size_max = 3 * kPageSize + 512 * (site.wants.size() + 1);
  const rewrite::TrampolineRule anywhere{site.address, 0};
  auto arena = code_.arena_for(entry, registry, config_.window, regions, low, high, anywhere, size_max, more);
  if (!arena) return arena.error();

  rewrite::SystemCallRequest request;
  request.on_exit = site.system_call->on_exit;
  request.function = site.system_call->function;
  request.code = code;
  request.function_size = site.function_size;
  request.site = site.system_call->site;
  request.identity_address = config_.window + wire::kIdentityOffset;
  request.keeps_memory_shared = site.system_call->keeps_memory_shared;
  if (site.system_call->guards_signals) {
    auto guard = agent_symbol(target, regions, registry, "bpftime_agent_guarded_call");
    if (!guard && site.wants.empty()) return guard.error();
    request.signal_guard = guard ? *guard : 0;
  }
  for (const auto& want : site.wants) {
    const auto& machine_code = *want.program->code;
    auto copy = place_code(**arena, *want.program);
    if (!copy) return copy.error();
    rewrite::SystemCallProgram program;
    program.call = {
        *copy + machine_code.entry_offset, {want.cookie, 0, want.program->id, 0, 0}, want.only_tgid};
    if (machine_code.ends_function) program.call.ends = rewrite::ProgramCall::Ends::kResultInRax;
    program.call.use = code_use(*want.program);
    program.call.context_slots_read = machine_code.context_slots_read;
    program.call.counter = want.counter;
    if (Site::may_tail_call(*want.program)) {  // to programs nobody has looked at here
      program.call.use = {};
      program.call.context_slots_read = rewrite::kAllContextSlots;
    }
    program.context = want.program->source.program.type == BPF_PROG_TYPE_RAW_TRACEPOINT
                          ? rewrite::SystemCallContext::kRegisters
                          : rewrite::SystemCallContext::kRecord;
    if (want.signal) program.context = rewrite::SystemCallContext::kSignal;
    program.only_number = want.only_number;
    const bool end_of_enter = want.on_return && !request.on_exit;
    (end_of_enter ? request.exit_programs : request.programs).push_back(program);
  }
  const uint64_t key = mix_bytes(hash, code);  // another library may lie at the same address later
  const auto kept = (*arena)->find(key);
  const auto room = kept ? kept : (*arena)->find_room(anywhere, size_max);
  if (!room) return Error{ENOMEM, "code memory: arena full"};
  request.trampoline_address = *room;
  auto plan = rewrite::plan_system_call(request);
  if (!plan) return plan.error();
  if (present == nullptr) {
    auto now = target.process.read(site.address, plan->original.size());
    if (!now) return now.error();
    if (*now != plan->original)
      return Error{EBUSY, "the code is not that of its file: a debugger or another tool has patched it"};
  }
  if (!kept) {
    if (plan->trampoline.size() > size_max) return Error{E2BIG, "a trampoline larger than expected"};
    if (auto placed = (*arena)->put(*room, plan->trampoline); !placed) return placed.error();
    (*arena)->remember(key, *room);
  }
  rewrite::SiteRequest place;
  place.address = site.address;
  place.trampoline_address = *room;
  PlannedSite planned;
  planned.site = &site;
  planned.method = rewrite::PatchMethod::kJump;
  planned.patch.record = make_record(place, *plan, wire::PatchKind::kProbe, hash);
  planned.patch.go_on[0] = *room;
  planned.fixups = std::move(plan->fixups);
  return std::optional(std::move(planned));
}

namespace {

template <typename Wants>
void add_counters(const Wants& wants, ProbeReport& report) {
  for (const auto& want : wants)
    for (ProgramReport& program : report.programs)
      if (want.counter != 0 && want.event == report.path && want.program->id == program.id)
        program.counters.push_back(want.counter);
}

}  // namespace

std::vector<ProbeReport> Attacher::system_call_reports(const Target& target, const std::vector<Site>& sites) {
  std::vector<ProbeReport> out = target.system_calls;
  for (ProbeReport& report : out) {
    std::map<std::string, size_t> reasons;
    for (const Site& site : sites) {
      if (!site.system_call || std::none_of(site.wants.begin(), site.wants.end(),
                                            [&](const auto& want) { return want.event == report.path; }))
        continue;
      if (site.report.skipped.empty()) {
        ++report.sites;
        add_counters(site.wants, report);
      } else {
        ++reasons[site.report.path + ": " + site.report.skipped];
      }
    }
    for (const auto& [why, count] : reasons)
      report.not_seen.push_back(std::to_string(count) + (count == 1 ? " call in " : " calls in ") + why);
    if (report.sites == 0 && !reasons.empty() && report.skipped.empty()) report.skipped = report.not_seen[0];
  }
  return out;
}

}  // namespace bpftime::daemon

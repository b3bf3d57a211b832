#include "daemon/attacher.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/log.h"
#include "daemon/site.h"
#include "daemon/task_facts.h"
#include "maps/map.h"
#include "rewrite/rewrite.h"

namespace bpftime::daemon {

using kernel::Map;
using kernel::Prog;
using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;
using wire::PatchRecord;
using wire::TargetContext;

namespace {

constexpr uint64_t kFunctionScanMax = 1u << 20;  // bytes of one function looked at for jumps into its entry
constexpr int32_t kGlibcTidOffset =
    0x2d0;  // struct pthread::tid, glibc 2.34 and later on x86-64; checked in every target

// Functions whose return must not be seen: they return twice, on another stack, or read their own return address.
bool return_is_special(std::string name) {
  static const std::set<std::string> kNames = {
      "vfork",      "fork1",      "clone",       "clone3",      "setjmp",       "sigsetjmp",
      "longjmp",    "getcontext", "swapcontext", "makecontext", "tls_get_addr", "start",
      "restore_rt", "dlopen",     "dlsym",       "dlvsym",      "dlmopen"};
  name.erase(0, std::min(name.find_first_not_of('_'), name.size()));
  if (name.starts_with("libc_")) name.erase(0, 5);
  return kNames.contains(name);
}

uint64_t vdso_offset(const char* symbol) {
  // The vDSO is the same in every process of this kernel: its symbols are read from our own.
  const unsigned long base = ::getauxval(AT_SYSINFO_EHDR);
  if (base == 0) return 0;
  auto copy = create_memfd("vdso", 2 * kPageSize, 0);
  if (!copy || ::write(copy->get(), reinterpret_cast<const void*>(base), 2 * kPageSize) < 0) return 0;
  auto elf = symbols::ElfFile::from_fd(copy->get(), "[vdso]");
  if (!elf) return 0;
  auto found = elf->find_symbol(symbol);
  return found ? found->address : 0;
}

bool is_detached(const Registry& registry) { return registry.header.flags & wire::kDetached; }

}  // namespace

Attacher::Attacher(kernel::Kernel& kernel, AttacherConfig config)
    : kernel_(kernel), config_(std::move(config)) {
  auto context =
      create_memfd(wire::kTargetMemfdName, wire::kContextSize, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  if (context) context_fd_ = std::move(*context);
  vdso_clock_gettime_offset_ = vdso_offset("__vdso_clock_gettime");
  find_targets();
}

Attacher::~Attacher() = default;

std::map<pid_t, int> Attacher::pidfds() const {
  std::map<pid_t, int> out;
  for (const auto& [pid, target] : targets_) out[pid] = target.process.pidfd();
  return out;
}

void Attacher::find_targets() {
  auto pids = target::find_processes_mapping(wire::kTargetMemfdName, config_.window);
  if (!pids) {
    log_warning("look for targets: " + pids.error().message);
    return;
  }
  std::erase_if(targets_, [&](const auto& entry) {
    return entry.second.process.alive() &&
           std::find(pids->begin(), pids->end(), entry.first) == pids->end() &&
           !target::read_registry(entry.second.process, config_.window);
  });
  for (pid_t pid : *pids) {
    auto known = targets_.find(pid);
    if (known != targets_.end() && known->second.process.alive()) continue;
    auto process = target::Process::open(pid);
    if (!process) continue;
    auto registry = target::read_registry(*process, config_.window);
    if (!registry || registry->header.daemon_instance != config_.instance) continue;
    Target target{std::move(*process), {}, is_detached(*registry), false};
    target.report.pid = pid;
    target.report.lineage = registry->header.lineage;
    targets_.insert_or_assign(pid, std::move(target));
  }
}

bool Attacher::unfinished() const {
  return std::any_of(targets_.begin(), targets_.end(),
                     [](const auto& entry) { return entry.second.unfinished; });
}

void Attacher::withdraw() {
  withdrawn_ = true;
  reconcile_all();
}

void Attacher::drop_dead() {
  std::erase_if(targets_, [&](const auto& entry) {
    if (entry.second.process.alive()) return false;
    dead_.push_back(static_cast<uint32_t>(entry.first));
    return true;
  });
}

std::vector<uint32_t> Attacher::take_dead() {
  drop_dead();
  return std::exchange(dead_, {});
}

Result<TargetReport> Attacher::attach(pid_t pid) {
  auto process = target::Process::open(pid);
  if (!process) return process.error();
  Target target{std::move(*process), {}, false, false};
  target.report.pid = pid;
  if (auto done = reconcile(target, /*create=*/true); !done) return done.error();
  TargetReport report = target.report;
  targets_.insert_or_assign(pid, std::move(target));
  return report;
}

Result<void> Attacher::detach(pid_t pid) {
  find_targets();
  auto known = targets_.find(pid);
  if (known == targets_.end() || !known->second.process.alive() || known->second.detached)
    return Error{ESRCH,
                 "detach: process " + std::to_string(pid) + ": not attached; `bpftime list` shows what is"};
  known->second.detached = true;
  auto done = reconcile(known->second, /*create=*/false);
  if (!done) known->second.detached = false;
  return done;
}

void Attacher::reconcile_all() {
  find_targets();
  drop_dead();
  for (auto it = targets_.begin(); it != targets_.end();) {
    auto done = reconcile(it->second, /*create=*/false);
    // Said once, tried until it works.
    if (!done && !it->second.unfinished)
      log_warning("process " + std::to_string(it->first) + ": " + done.error().message);
    it->second.unfinished = !done;
    // A process that ran another program since carries nothing of ours any more.
    const bool gone = !done && done.error().code == ENODATA;
    it = gone ? targets_.erase(it) : std::next(it);
  }
  reconcile_new();  // forked meanwhile, from parents that were still as before
}

void Attacher::reconcile_new() {
  find_targets();
  drop_dead();
  for (auto& [pid, target] : targets_) {
    if (!target.report.name.empty()) continue;  // set by the first look
    auto done = reconcile(target, /*create=*/false);
    if (!done) log_warning("process " + std::to_string(pid) + ": " + done.error().message);
    target.unfinished = !done;
  }
}

std::vector<TargetReport> Attacher::reports() {
  reconcile_new();
  for (auto& [pid, target] : targets_)
    if (auto registry = target::read_registry(target.process, config_.window))
      target.report.faults = registry->header.faults_repaired;
  std::vector<TargetReport> out;
  for (auto& [pid, target] : targets_)
    if (!target.detached) out.push_back(target.report);
  return out;
}

std::shared_ptr<Attacher::FileInfo> Attacher::file_info(const target::Process& process,
                                                        const MappedRegion& region) {
  const InodeId id{region.device, region.inode};
  auto fd = process.open_mapped_file(region);
  // An inode's number may name another file later, or the file be written anew.
  struct stat now {};
  const bool stated = fd && ::fstat(fd->get(), &now) == 0;
  const FileInfo::Version version{now.st_size, now.st_ctim.tv_sec, now.st_ctim.tv_nsec};
  if (auto known = files_.find(id); known != files_.end() && (!stated || known->second->version == version))
    return known->second;
  auto info = std::make_shared<FileInfo>();
  info->version = version;
  if (fd) {
    if (auto elf = symbols::ElfFile::from_fd(fd->get(), region.path)) {
      info->build_id = elf->build_id();
      info->elf = std::move(*elf);
    }
  }
  constexpr size_t kFilesMax = 512;
  if (files_.size() >= kFilesMax) files_.clear();
  files_[id] = info;
  return info;
}

bool Attacher::same_file(const target::Process& process, const MappedRegion& region,
                         const kernel::PerfEvent& event) {
  if (InodeId{region.device, region.inode} == event.file) return true;
  return !event.build_id.empty() && file_info(process, region)->build_id == event.build_id;
}

// Where programs should run in this process. Sites that cannot be probed are in the list too, with the reason.
std::vector<Attacher::Site> Attacher::wanted_sites(Target& target, const std::vector<MappedRegion>& regions,
                                                   const target::Status& status) {
  std::map<uint64_t, Site> sites;
  if (target.detached || withdrawn_) return {};
  for (const auto& probe : kernel_.probes()) {
    const auto& event = *probe.event;
    if (event.pid > 0 && static_cast<uint32_t>(event.pid) != status.tgid) continue;
    for (const auto& region : regions) {
      if (!region.executable || region.inode == 0) continue;
      if (event.offset < region.offset || event.offset - region.offset >= region.end - region.start) continue;
      if (!same_file(target.process, region, event)) {
        if (auto other = other_build(target.process, region, probe))
          sites.emplace(region.start, std::move(*other));
        continue;
      }
      const uint64_t address = region.start + (event.offset - region.offset);
      Site& site = sites[address];
      site.address = address;
      site.region = region;
      site.report.path = event.path;
      site.report.offset = event.offset;
      site.report.address = address;
      for (const auto& attached : probe.programs) {
        if (auto compiled = kernel_.ensure_code(*attached.program); !compiled) {
          site.report.skipped = compiled.error().message;
          continue;
        }
        site.wants.push_back({attached.program,
                              attached.cookie,
                              event.return_probe,
                              event.pid > 0 ? static_cast<uint32_t>(event.pid) : 0,
                              attached.order,
                              {}});
        site.report.programs.push_back({attached.program->id, attached.program->name, event.return_probe,
                                        code_use(*attached.program).inert});
      }
    }
  }
  std::vector<Site> out;
  for (auto& [address, site] : sites) {
    std::sort(site.wants.begin(), site.wants.end(),
              [](const auto& a, const auto& b) { return a.order < b.order; });
    site.file = file_info(target.process, site.region);
    auto skip = [&, &site = site](const std::string& why) {
      if (site.report.skipped.empty()) site.report.skipped = why;
    };
    if (!site.file->elf) {
      skip("its file cannot be read as ELF");
    } else if (auto at = site.file->elf->address_of_offset(site.report.offset); !at) {
      skip("offset lies in no segment of the file");
    } else {
      site.file_address = *at;
      if (auto function = site.file->elf->function_at(*at)) {
        site.report.function = function->name;
        site.function_size = function->size;
        if (function->address != *at)
          skip("not a function's entry but +" + std::to_string(*at - function->address) +
               " in it: not supported yet");
        const bool returns =
            std::any_of(site.wants.begin(), site.wants.end(), [](const auto& w) { return w.on_return; });
        if (returns && return_is_special(function->name))
          skip("the return of " + function->name +
               " cannot be probed: it returns twice, on another stack, or looks at its caller");
      }
    }
    for (auto& want : site.wants) {
      if (!want.program->host) continue;
      if (auto fits = fits_class(target.process, regions, site, *want.program->host); !fits)
        skip(fits.error().message);
      if (want.on_return && want.program->host->constraints.typed_entry)
        skip("extensions run at their entry, not at its return");
      if (want.on_return && (want.program->code->calls_host || want.program->code->ends_function))
        skip("extensions call host functions and end functions at their entry only");
      auto table = host_table(target.process, regions, site, *want.program->host);
      if (!table) skip(table.error().message);
      if (table) want.host_table = std::move(*table);
    }
    if (target::filtered_unlike_us(status) && site.needs_system_calls())
      skip(
          "a program makes system calls (bpf_get_current_comm, bpf_get_current_uid_gid, ring buffer wake-ups "
          "or trace output), "
          "and the process has a seccomp filter of its own that may kill it for them");
    out.push_back(std::move(site));
  }
  return out;
}

// The file of the policy's host in another build: its extensions are not for it, and somebody will ask why they do not run.
std::optional<Attacher::Site> Attacher::other_build(const target::Process& process,
                                                    const MappedRegion& region, const kernel::Probe& probe) {
  constexpr std::string_view kDeleted = " (deleted)";
  std::string_view path = region.path;
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  const auto& first = *probe.programs[0].program;
  if (!first.host || path != probe.event->path) return std::nullopt;
  Site site;
  site.address = region.start;
  site.region = region;
  site.report.path = probe.event->path;
  site.report.offset = probe.event->offset;
  for (const auto& attached : probe.programs)
    site.report.programs.push_back({attached.program->id, attached.program->name, probe.event->return_probe});
  const std::string build = file_info(process, region)->build_id;
  site.report.skipped = first.host->policy + " is for build " +
                        (first.host->build_id.empty() ? probe.event->build_id : first.host->build_id) +
                        " of the host, this process runs build " +
                        (build.empty() ? "unknown (no build-id)" : build) + "; start it again";
  return site;
}

// The host is the build the policy is for, and the function is the class's entry: its arguments are what the program was
// verified with.
Result<void> Attacher::fits_class(const target::Process& process, const std::vector<MappedRegion>& regions,
                                  const Site& site, const kernel::HostClass& host) {
  const std::string& build = site.file->build_id;
  if (!host.build_id.empty() && build != host.build_id)
    return Error{EPERM, host.policy + " is for build " + host.build_id + " of the host, this one is build " +
                            (build.empty() ? "unknown (it has no build-id)" : build)};
  if (host.entry.name.empty()) return {};
  const auto entry = host_address(process, regions, site, host, host.entry);
  if (!entry) return entry.error();
  if (*entry == site.address) return {};
  return Error{EPERM,
               "class \"" + host.constraints.class_name + "\" (" + host.policy_place + ") is for " +
                   host.entry.name + ", not for " +
                   (site.report.function.empty() ? std::string("this address") : site.report.function)};
}

// Symbols are looked for in the probed file first, then in the others in the order they are mapped.
Result<uint64_t> Attacher::host_address(const target::Process& process,
                                        const std::vector<MappedRegion>& regions, const Site& site,
                                        const kernel::HostClass& host,
                                        const kernel::HostClass::Symbol& symbol) {
  const auto base_of = [&](const MappedRegion& region, const FileInfo& info) -> std::optional<uint64_t> {
    const auto mapped = info.elf ? info.elf->address_of_offset(region.offset) : std::nullopt;
    return mapped ? std::optional(region.start - *mapped) : std::nullopt;
  };
  if (symbol.address != 0 && !host.build_id.empty() && site.file->build_id == host.build_id)
    if (const auto base = base_of(site.region, *site.file)) return *base + symbol.address;
  bool indirect = false;
  const auto find = [&](const MappedRegion& region) -> std::optional<uint64_t> {
    const auto info = file_info(process, region);
    const auto base = base_of(region, *info);
    const auto found = base ? info->elf->find_symbol(symbol.name) : std::nullopt;
    indirect = indirect || (found && found->indirect);
    return found && !found->indirect ? std::optional(*base + found->address + symbol.offset) : std::nullopt;
  };
  if (const auto here = find(site.region)) return *here;
  for (const MappedRegion& region : regions) {
    if (!region.executable || region.inode == 0 || region.inode == site.region.inode) continue;
    if (const auto there = find(region)) return *there;
  }
  if (indirect)
    return Error{EOPNOTSUPP,
                 "host symbol " + symbol.name +
                     ": its implementation is chosen when the library is loaded (IFUNC); offer a function "
                     "of the host that calls it"};
  return Error{ENOENT, "host symbol " + symbol.name + ": not found in " + site.region.path +
                           " or another file of the process; is it stripped of it?"};
}

Result<std::vector<uint64_t>> Attacher::host_table(const target::Process& process,
                                                   const std::vector<MappedRegion>& regions, const Site& site,
                                                   const kernel::HostClass& host) {
  std::vector<uint64_t> out;
  for (const auto& symbol : host.symbols) {
    const auto address = host_address(process, regions, site, host, symbol);
    if (!address) return address.error();
    out.push_back(*address);
  }
  return out;
}

// The bytes of a function as its file has them: what we patched is put back in the copy.
Result<std::vector<uint8_t>> Attacher::original_text(const target::Process& process, const Registry& registry,
                                                     const Site& site) {
  const uint64_t wanted = std::min(site.function_size == 0 ? 64 : site.function_size + 32, kFunctionScanMax);
  auto text = process.read(site.address, std::min(wanted, site.region.end - site.address));
  if (!text) return text;
  bool patched_by_us = false;
  for (const PatchRecord& record : registry.patches) {
    if (record.state != wire::PatchState::kActive && record.state != wire::PatchState::kPending) continue;
    patched_by_us |= record.address == site.address;
    for (uint32_t i = 0; i < record.length; ++i)
      if (record.address + i - site.address < text->size())
        (*text)[record.address + i - site.address] = record.original[i];
  }
  const auto in_file = site.file->elf->read(site.file_address, std::min<size_t>(text->size(), 16));
  if (!patched_by_us && !std::equal(in_file.begin(), in_file.end(), text->begin()))
    return Error{EBUSY,
                 "the function's first bytes are not those of its file: a debugger, the kernel or another "
                 "tool has patched it"};
  return text;
}

Result<void> Attacher::patch_site(Target& target, StoppedProcess& stopped, Registry& registry,
                                  const std::vector<MappedRegion>& regions, Site& site) {
  const PatchRecord* present = registry.active_at(site.address);
  const uint64_t hash = site.hash();
  if (present != nullptr && present->content_hash == hash) return {};
  auto text = original_text(target.process, registry, site);
  if (!text) return text.error();

  uint64_t low = site.region.start, high = site.region.end;
  for (const auto& region : regions)
    if (region.inode == site.region.inode && region.device == site.region.device) {
      low = std::min(low, region.start);
      high = std::max(high, region.end);
    }
  uint64_t room = kPageSize;  // the trampoline
  for (const auto& want : site.wants)
    room += round_up(want.program->code->image.size(), 16) + 256 + want.host_table.size() * sizeof(uint64_t);
  auto arena = code_.arena_near(stopped, registry, config_.window, regions, low, high, room);
  if (!arena) return arena.error();

  rewrite::SiteRequest request;
  request.address = site.address;
  request.code = *text;
  request.function_size = site.function_size;
  request.identity_address = config_.window + wire::kIdentityOffset;
  request.return_enter = registry.header.return_enter;
  for (const auto& want : site.wants) {
    auto code = (*arena)->find(want.program->id);
    if (!code) {
      auto copied = (*arena)->append(want.program->code->image);
      if (!copied) return copied.error();
      (*arena)->remember(want.program->id, *copied);
      code = *copied;
    }
    uint64_t table = 0;
    if (!want.host_table.empty()) {
      // Once per arena, not once per patch: arena memory is never handed out again.
      uint64_t key = kHashStart;
      for (const uint64_t address : want.host_table) key = mix_hash(key, address);
      auto placed = (*arena)->find(key);
      if (!placed) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(want.host_table.data());
        auto copied = (*arena)->append(Bytes(bytes, want.host_table.size() * sizeof(uint64_t)));
        if (!copied) return copied.error();
        (*arena)->remember(key, *copied);
        placed = *copied;
      }
      table = *placed;
    }
    rewrite::ProgramCall call{*code + want.program->code->entry_offset,
                              {want.cookie, site.address, want.program->id, 0, table},
                              want.only_tgid};
    if (want.program->code->ends_function)
      call.ends = want.program->host && want.program->host->result_in_xmm0
                      ? rewrite::ProgramCall::Ends::kResultInXmm0
                      : rewrite::ProgramCall::Ends::kResultInRax;
    call.use = code_use(*want.program);
    call.context_slots_read = want.program->code->context_slots_read;
    (want.on_return ? request.on_return : request.on_entry).push_back(call);
  }
  const auto kept = (*arena)->find(hash);
  request.trampoline_address = kept ? *kept : (*arena)->next();
  auto plan = rewrite::plan_probe(request);
  if (!plan) return plan.error();
  if (!kept) {
    auto placed = (*arena)->append(plan->trampoline);
    if (!placed) return placed.error();
    (*arena)->remember(hash, *placed);
  }
  if (plan->patched.size() > wire::kPatchBytesMax)
    return Error{EOPNOTSUPP, "more bytes than a patch record holds"};
  const PatchRecord record = make_record(request, *plan, wire::PatchKind::kProbe, hash);
  if (present == nullptr)
    if (auto moved = move_threads(stopped, record, plan->fixups); !moved) return moved;
  return target::apply_patch(stopped, config_.window, registry, record);
}

rewrite::CodeUse Attacher::code_use(const kernel::Prog& program) {
  constexpr size_t kRememberedMax = 4096;
  const std::pair<uint32_t, uint64_t> key{program.id, program.created_ns};
  if (const auto known = code_uses_.find(key); known != code_uses_.end()) return known->second;
  if (code_uses_.size() >= kRememberedMax) code_uses_.clear();
  const auto& code = *program.code;
  return code_uses_[key] = rewrite::code_use(
             Bytes(code.image).first(std::min<size_t>(code.text_size, code.image.size())), code.entry_offset);
}

PatchRecord Attacher::make_record(const rewrite::SiteRequest& request, const rewrite::SitePlan& plan,
                                  wire::PatchKind kind, uint64_t hash) {
  PatchRecord record{};
  record.address = request.address;
  record.trampoline = request.trampoline_address;
  record.kind = kind;
  record.length = static_cast<uint32_t>(std::min<size_t>(plan.patched.size(), wire::kPatchBytesMax));
  record.trampoline_size = static_cast<uint32_t>(plan.trampoline.size());
  record.content_hash = hash;
  std::copy_n(plan.original.begin(), record.length, record.original);
  std::copy_n(plan.patched.begin(), record.length, record.patched);
  return record;
}

// Threads that stand between the instructions about to be replaced go on in the displaced copy.
Result<void> Attacher::move_threads(StoppedProcess& stopped, const PatchRecord& record,
                                    std::span<const rewrite::PcFixup> fixups) {
  for (const auto& thread : stopped.threads()) {
    if (thread.pc <= record.address || thread.pc >= record.address + record.length) continue;
    auto fixup = std::find_if(fixups.begin(), fixups.end(),
                              [&](const auto& f) { return record.address + f.site_offset == thread.pc; });
    if (fixup == fixups.end())
      return Error{EAGAIN,
                   "thread " + std::to_string(thread.tid) + " stands inside an instruction to be replaced"};
    if (auto moved = stopped.set_pc(thread.tid, record.trampoline + fixup->trampoline_offset); !moved)
      return moved;
  }
  return {};
}

// Maps what the sites' programs use and this process does not have yet.
Result<void> Attacher::map_maps(StoppedProcess& stopped, const std::vector<MappedRegion>& regions,
                                const std::vector<Site>& sites) {
  std::vector<StoppedProcess::MapRequest> requests;
  for (const auto& map : maps_of(sites)) {
    const int fd = map->sealed ? map->sealed.get() : map->fd.get();
    auto inode = inode_of(fd);
    if (!inode) return inode.error();
    const uint64_t size = maps::memory_size(map->spec);
    int flags = MAP_SHARED;
    const auto same_place = std::find_if(regions.begin(), regions.end(), [&](const MappedRegion& region) {
      return region.start == map->address && region.end == map->address + size;
    });
    if (same_place != regions.end()) {
      if (same_place->inode == inode->inode && same_place->device == inode->device) continue;
      // What is left of the map from before (see retire_maps). A thread may still stand in a program that uses it, and we
      // may die at any moment: replaced in one step.
      flags |= MAP_FIXED;
    }
    requests.push_back({map->address, size, map->sealed ? PROT_READ : PROT_READ | PROT_WRITE, flags, fd, 0});
  }
  if (requests.empty()) return {};
  auto mapped = stopped.map_all(requests);
  if (!mapped) return Error{mapped.error().code, "map the programs' maps: " + mapped.error().message};
  return {};
}

// Lets go of maps no program here uses any more. A thread may still stand in a program, so the addresses stay valid:
// private zeroes take the map's place, and what that thread writes is lost with the probe.
void Attacher::retire_maps(StoppedProcess& stopped, const std::vector<MappedRegion>& regions,
                           const std::vector<Site>& sites) {
  std::set<uint64_t> used;
  for (const auto& map : maps_of(sites)) used.insert(map->address);
  const uint64_t first = config_.window + wire::kMapsOffset;
  for (const auto& region : regions) {
    if (region.start < first || region.start >= config_.window + wire::kWindowSize) continue;
    if (region.inode == 0 || used.contains(region.start)) continue;
    auto mapped = stopped.map(region.start, region.end - region.start, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (!mapped) log_warning("retire map: " + mapped.error().message);
  }
}

std::vector<std::shared_ptr<Map>> Attacher::maps_of(const std::vector<Site>& sites) const {
  std::vector<std::shared_ptr<Map>> out;
  auto add = [&](const std::shared_ptr<Map>& map) {
    if (std::find(out.begin(), out.end(), map) == out.end()) out.push_back(map);
  };
  for (const auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    for (const auto& want : site.wants) {
      for (const auto& map : want.program->maps) add(map);
      if (want.program->runs) add(want.program->runs);
      add(kernel_.trace_ring());
    }
  }
  return out;
}

// What programs need to know about the process they run in.
Result<void> Attacher::create_context(Target& target, StoppedProcess& stopped,
                                      const std::vector<MappedRegion>& regions,
                                      const target::Status& status) {
  TargetContext context{};
  context.header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, sizeof(TargetContext)};
  context.daemon_instance = config_.instance;
  context.owner_uid = config_.uid;
  context.lineage = status.tgid;
  context.flags = target::filtered_unlike_us(status) ? wire::kNoSystemCalls : 0;
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
      {"bpftime_agent_return_enter", &header.return_enter}};
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

// A change is needed when a wanted site is not in place as wanted, or one in place is not wanted.
bool Attacher::up_to_date(const Registry& registry, const std::vector<Site>& sites) const {
  size_t wanted = 0;
  for (const auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    const PatchRecord* record = registry.active_at(site.address);
    if (record == nullptr || record->content_hash != site.hash()) return false;
    ++wanted;
  }
  const bool guard_wanted = std::any_of(sites.begin(), sites.end(), [](const Site& s) {
    return s.report.skipped.empty() && s.repairs_faults();
  });
  const bool guard_there = std::any_of(
      registry.patches.begin(), registry.patches.end(),
      [](const PatchRecord& r) { return r.kind == wire::PatchKind::kGuard && target::is_live(r); });
  if (guard_wanted != guard_there) return false;
  const auto probes = std::count_if(
      registry.patches.begin(), registry.patches.end(),
      [](const PatchRecord& r) { return r.kind == wire::PatchKind::kProbe && target::is_live(r); });
  return wanted == static_cast<size_t>(probes);
}

// A thread that stands in one of our programs keeps the signal guard in place: let it run on, look again.
Result<void> Attacher::reconcile(Target& target, bool create) {
  constexpr int kTries = 50;
  for (int i = 0;; ++i) {
    auto done = reconcile_once(target, create, i == kTries);
    if (done || done.error().code != EAGAIN || i == kTries) return done;
    ::usleep(1000);
  }
}

Result<void> Attacher::reconcile_once(Target& target, bool create, bool last_try) {
  auto status = target.process.status();
  if (!status) return status.error();
  auto regions = target.process.regions();
  if (!regions) return regions.error();
  target.report.name = status->name;
  std::string why;
  auto registry = target::read_registry(target.process, config_.window, &why);
  if (!registry && !create) return Error{ENODATA, "no longer a target: " + why};
  auto sites = wanted_sites(target, *regions, *status);
  const bool flags_right = registry && is_detached(*registry) == target.detached;
  // Sites that failed before are tried again only when something else must change, or on attach.
  if (registry && !create && flags_right && up_to_date(*registry, sites)) {
    refresh_task_facts(target, sites);  // a fork needs no change, but has its own start time
    publish(target, sites);
    return {};
  }
  uint64_t agent_base = registry ? registry->header.agent_base : 0;
  if (agent_base == 0 && std::any_of(sites.begin(), sites.end(), [](const Site& s) {
        return s.report.skipped.empty() && s.needs_agent();
      })) {
    auto loaded = ensure_agent(target, *regions);
    if (loaded) agent_base = *loaded;
    for (auto& site : sites)
      if (!loaded && site.needs_agent() && site.report.skipped.empty())
        site.report.skipped = "the agent could not be loaded: " + loaded.error().message;
  }

  auto stopped = StoppedProcess::stop(target.process);
  if (!stopped) return stopped.error();
  // It ran until now: exec, dlopen and munmap may have changed everything.
  regions = target.process.regions();
  if (!regions) return regions.error();
  registry = target::read_registry(target.process, config_.window, &why);
  if (!registry) {
    if (!create) return Error{ENODATA, "no longer a target: " + why};
    if (auto made = create_context(target, *stopped, *regions, *status); !made) return made;
    registry = target::read_registry(target.process, config_.window, &why);
    if (!registry) return Error{EIO, "create context: " + why};
    regions = target.process.regions();
    if (!regions) return regions.error();
  }
  target.report.lineage = registry->header.lineage;
  if (is_detached(*registry) != target.detached) {
    registry->header.flags ^= wire::kDetached;
    auto written = target::write_context(*stopped, config_.window, offsetof(TargetContext, flags),
                                         registry->header.flags);
    if (!written) return written;
  }
  return change_sites(target, *stopped, *registry, *regions, sites, agent_base, last_try);
}

Result<void> Attacher::change_sites(Target& target, StoppedProcess& stopped, Registry& registry,
                                    const std::vector<MappedRegion>& regions, std::vector<Site>& sites,
                                    uint64_t agent_base, bool last_try) {
  // A thread stands where it must not for a moment: rather let all run on and come again than go without the probe.
  auto try_again = [&](const Result<void>& result) {
    return !result && result.error().code == EAGAIN && !last_try;
  };
  auto skip_all = [&](const Error& error, auto&& which) {
    for (auto& site : sites)
      if (site.report.skipped.empty() && which(site)) site.report.skipped = error.message;
  };
  if (agent_base != 0)
    if (auto recorded = record_agent(target, stopped, registry, regions, agent_base); !recorded)
      skip_all(recorded.error(), [](const Site& site) { return site.needs_agent(); });
  if (auto mapped = map_maps(stopped, regions, sites); !mapped)
    skip_all(mapped.error(), [](const Site&) { return true; });
  refresh_task_facts(target, sites);
  const bool guard_wanted = std::any_of(sites.begin(), sites.end(), [](const Site& s) {
    return s.report.skipped.empty() && s.repairs_faults();
  });
  if (guard_wanted) {
    auto guarded = install_guard(target, stopped, registry, regions);
    if (try_again(guarded)) return guarded;
    if (!guarded) skip_all(guarded.error(), [](const Site& site) { return site.repairs_faults(); });
  }

  // Restore first: what is no longer wanted goes even if what is wanted cannot come.
  std::set<uint64_t> wanted;
  for (const auto& site : sites)
    if (site.report.skipped.empty()) wanted.insert(site.address);
  std::vector<uint64_t> unwanted;
  for (const PatchRecord& record : registry.patches)
    if (record.kind == wire::PatchKind::kProbe && !wanted.contains(record.address))
      unwanted.push_back(record.address);
  for (uint64_t address : unwanted)
    if (auto restored = target::restore_patch(stopped, config_.window, registry, address); !restored)
      return restored;

  for (auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    if (auto patched = patch_site(target, stopped, registry, regions, site); try_again(patched)) {
      return patched;
    } else if (!patched) {
      site.report.skipped = patched.error().message;
      (void)target::restore_patch(stopped, config_.window, registry, site.address);
    }
  }
  if (auto now = target.process.regions()) retire_maps(stopped, *now, sites);
  publish(target, sites);
  return guard_wanted ? Result<void>() : remove_guard(target, stopped, registry, regions);
}

void Attacher::publish(Target& target, const std::vector<Site>& sites) {
  target.report.probes.clear();
  for (const auto& site : sites) target.report.probes.push_back(site.report);
}

}  // namespace bpftime::daemon

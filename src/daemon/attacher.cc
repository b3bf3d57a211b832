#include "daemon/attacher.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "base/log.h"
#include "base/progress.h"
#include "daemon/site.h"
#include "target/proc_files.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;
using wire::PatchRecord;
using wire::TargetContext;

namespace {

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

// The number (of our pid namespace) that a thread or process got last; 0: not known.
pid_t Attacher::last_process_number() {
  if (!load_average_) load_average_ = Fd(::open("/proc/loadavg", O_RDONLY | O_CLOEXEC));
  char text[128] = {};
  const ssize_t size = ::pread(load_average_.get(), text, sizeof text - 1, 0);
  const char* last = size > 0 ? std::strrchr(text, ' ') : nullptr;
  return last != nullptr ? std::atoi(last) : 0;
}

// Numbers that processes may have got since find_targets() looked last. Nothing: too many, or not known.
std::optional<std::vector<pid_t>> Attacher::begun_since_last_look(pid_t last) {
  constexpr size_t kFew = 64;
  if (last <= 0 || last_number_ <= 0 || last < last_number_)
    return std::nullopt;  // they begin anew at the limit
  const auto begun = static_cast<size_t>(last - last_number_);
  if (begun + unborn_.size() > kFew) return std::nullopt;
  std::vector<pid_t> out(unborn_.begin(), unborn_.end());
  for (pid_t number = last_number_ + 1; number <= last; ++number) out.push_back(number);
  return out;
}

void Attacher::find_targets(Look look) {
  // Only a new process can be a target that was none, and each takes the next number. A look at all follows each second.
  const pid_t last = last_process_number();
  const auto begun = look == Look::kIfAnyBegan ? begun_since_last_look(last) : std::nullopt;
  last_number_ = last;
  unborn_.clear();
  if (begun) {
    for (const pid_t pid : *begun) {
      const auto maps = target::maps_memfd(pid, wire::kTargetMemfdName, config_.window);
      if (!maps) unborn_.insert(pid);
      if (maps && *maps) enter_target(pid);
    }
    return;
  }
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
  for (pid_t pid : *pids) enter_target(pid);
  constexpr pid_t kLate = 8;
  for (pid_t number = std::max(last - kLate, 1); number <= last; ++number) unborn_.insert(number);
}

// A process that carries a context, unless it is known or not ours.
void Attacher::enter_target(pid_t pid) {
  auto known = targets_.find(pid);
  if (known != targets_.end() && known->second.process.alive()) return;
  auto process = target::Process::open(pid);
  if (!process) return;
  // It is its parent, that far: whose threads run on while it is stopped, and whose handlers are no longer its own.
  if (process->shares_parents_memory()) {
    unborn_.insert(pid);
    return;
  }
  auto registry = target::read_registry(*process, config_.window);
  if (!registry) release_other_version(*process);
  if (!registry || registry->header.daemon_instance != config_.instance) return;
  Target target{std::move(*process), {}, is_detached(*registry), {}};
  target.report.pid = pid;
  target.report.lineage = registry->header.lineage;
  std::copy_n(registry->header.sessions, wire::kSessionsMax, target.sessions.begin());
  targets_.insert_or_assign(pid, std::move(target));
}

// A daemon of another version died, or was replaced, and left its probes. Nobody would ever take them out but us; what is there
// of ours beside them (the guard, the agent) works by itself and stays.
void Attacher::release_other_version(const target::Process& process) const {
  auto registry = target::read_other_registry(process, config_.window);
  if (!registry || registry->header.daemon_instance != config_.instance) return;
  std::vector<uint64_t> probes;
  std::vector<wire::PatchRecord> semaphores;
  for (const PatchRecord& record : registry->patches) {
    if (!target::is_live(record)) continue;
    if (record.kind == wire::PatchKind::kProbe) probes.push_back(record.address);
    if (record.kind == wire::PatchKind::kSemaphore) semaphores.push_back(record);
  }
  if (probes.empty() && semaphores.empty()) return;
  const std::string who = "process " + std::to_string(process.pid()) + ": ";
  const std::string whose = "version " + std::to_string(registry->header.header.abi_version) + " of bpftime";
  auto stopped = StoppedProcess::stop(process);
  Result<void> done = stopped ? target::restore_patches(*stopped, config_.window, *registry, probes,
                                                        target::Threads::kStopped)
                              : Result<void>(stopped.error());
  for (size_t i = 0; done && i < semaphores.size(); ++i)
    done = target::set_semaphore(*stopped, config_.window, *registry, semaphores[i].address,
                                 semaphores[i].trampoline, 0);
  if (done)
    log_warning(who + "probes of " + whose + " are taken out; restart the process to have it probed again");
  else
    log_warning(who + "probes of " + whose + " stay in, and do nothing useful: " + done.error().message);
}

bool Attacher::unfinished() const {
  return std::any_of(targets_.begin(), targets_.end(), [this](const auto& entry) {
    const Target& target = entry.second;
    return target.unfinished || kept_is_due(target) || (target.guard_idle_since && guard_may_go(target)) ||
           (target.maps_idle_since && maps_may_go(target));
  });
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

Result<TargetReport> Attacher::attach(pid_t pid, uint64_t session) {
  auto process = target::Process::open(pid);
  if (!process) return process.error();
  if (auto other = target::read_other_registry(*process, config_.window))
    return target::process_error(
        pid, ESTALE,
        "it was attached by version " + std::to_string(other->header.header.abi_version) +
            " of bpftime, this is " + std::to_string(wire::kAbiVersion) + "; try restarting the process");
  Target target{std::move(*process), {}, false, inherited_sessions(pid)};
  target.report.pid = pid;
  if (session != 0) {
    if (!target::read_registry(target.process, config_.window)) {
      target.sessions.back() = session;  // a new target's context is made with them
    } else if (auto joined = join_session(target.process, session); !joined) {
      return joined.error();
    }
  }
  if (auto done = reconcile(target, /*create=*/true); !done) return done.error();
  TargetReport report = report_of(target);
  targets_.insert_or_assign(pid, std::move(target));
  if (session != 0)
    if (auto joined = join_children(pid, session); !joined) return joined.error();
  return report;
}

// What began with a session belongs to it, and so does what a process of it started without saying so (execve with
// a new environment).
Sessions Attacher::inherited_sessions(pid_t pid) const {
  Sessions out = sessions_of(pid);
  for (const auto& [other, target] : targets_) {
    if (target.sessions == Sessions{} || !descends_from(pid, other)) continue;
    for (const uint64_t each : target.sessions)
      if (each != 0 && !contains(out, each))
        if (const auto free = std::find(out.begin(), out.end(), 0u); free != out.end()) *free = each;
  }
  return out;
}

bool Attacher::session_lives(uint64_t session) const {
  const auto programs = kernel_.objects().all<kernel::Prog>(kernel::ObjectKind::kProgram);
  return std::any_of(programs.begin(), programs.end(),
                     [&](const auto& program) { return program->host && program->host->session == session; });
}

Result<void> Attacher::join_session(const target::Process& process, uint64_t session) const {
  const auto registry = target::read_registry(process, config_.window);
  if (!registry) return target::process_error(process.pid(), EIO, "its context cannot be read");
  for (size_t i = 0; i < wire::kSessionsMax; ++i)
    if (registry->header.sessions[i] == session) return {};
  for (size_t i = 0; i < wire::kSessionsMax; ++i) {
    const uint64_t present = registry->header.sessions[i];
    if (present != 0 && session_lives(present)) continue;
    // Only the daemon writes here.
    const iovec local{&session, sizeof session};
    const iovec remote{
        reinterpret_cast<void*>(config_.window + offsetof(TargetContext, sessions) + i * sizeof session),
        sizeof session};
    if (::process_vm_writev(process.pid(), &local, 1, &remote, 1, 0) != sizeof session)
      return target::process_error(process.pid(), errno, "its context cannot be written");
    return {};
  }
  return target::process_error(process.pid(), EUSERS,
                               "it is in " + std::to_string(wire::kSessionsMax) +
                                   " sessions of `bpftime extend` already; try ending one of them");
}

Result<void> Attacher::join_children(pid_t pid, uint64_t session) {
  find_targets();
  for (auto& [other, target] : targets_) {
    if (other == pid || contains(target.sessions, session) || !descends_from(other, pid)) continue;
    if (auto joined = join_session(target.process, session); !joined) {
      if (target.process.alive()) return joined;
      continue;
    }
    if (auto done = reconcile(target, /*create=*/false); !done && target.process.alive())
      target.unfinished = true;  // tried again with the next look
  }
  return {};
}

Result<void> Attacher::detach(pid_t pid) {
  find_targets();
  auto known = targets_.find(pid);
  if (known == targets_.end() || !known->second.process.alive() || known->second.detached)
    return Error{ESRCH,
                 "detach: process " + std::to_string(pid) + ": not attached; `bpftime list` shows what is"};
  known->second.detached = true;
  auto done = reconcile(known->second, /*create=*/false);
  if (!done && (done.error().code == EAGAIN || done.error().code == EBUSY)) {
    known->second.unfinished = true;
    return Error{
        done.error().code,
        done.error().message + "; no probe runs there any more, and the rest goes as soon as it can"};
  }
  if (!done) known->second.detached = false;
  return done;
}

Result<void> Attacher::reconcile(pid_t pid) {
  release_code();
  auto known = targets_.find(pid);
  if (known == targets_.end()) return Error{ESRCH, "process " + std::to_string(pid) + ": not a target"};
  auto done = reconcile(known->second, /*create=*/false);
  known->second.unfinished = !done;
  return done;
}

bool Attacher::reconcile_known(Target& target) {
  auto done = reconcile(target, /*create=*/false);
  // Said once, tried until it works.
  if (!done && !target.unfinished)
    log_warning("process " + std::to_string(target.process.pid()) + ": " + done.error().message);
  target.unfinished = !done;
  // A process that ran another program since carries nothing of ours any more.
  return done || done.error().code != ENODATA;
}

void Attacher::reconcile_all() {
  find_targets(Look::kIfAnyBegan);
  release_code();
  drop_dead();
  for (auto it = targets_.begin(); it != targets_.end();)
    it = reconcile_known(it->second) ? std::next(it) : targets_.erase(it);
  reconcile_new(Look::kIfAnyBegan);  // forked meanwhile, from parents that were still as before
}

void Attacher::reconcile_places(const std::vector<kernel::UprobePlace>& places) {
  find_targets(Look::kIfAnyBegan);
  release_code();
  drop_dead();
  for (auto it = targets_.begin(); it != targets_.end();)
    it =
        change_places(it->second, places) || reconcile_known(it->second) ? std::next(it) : targets_.erase(it);
  reconcile_new(Look::kIfAnyBegan);
}

void Attacher::reconcile_new(Look look) {
  find_targets(look);
  drop_dead();
  for (auto& [pid, target] : targets_) {
    if (target.kept && !target.kept->changed && !kept_is_fresh(*target.kept)) forget_kept(target);
    if (!target.report.name.empty()) continue;  // set by the first look
    auto done = reconcile(target, /*create=*/false);
    if (!done) log_warning("process " + std::to_string(pid) + ": " + done.error().message);
    target.unfinished = !done;
  }
}

std::vector<TargetReport> Attacher::reports() {
  reconcile_new();
  std::vector<TargetReport> out;
  for (const auto& [pid, target] : targets_) {
    if (target.detached) continue;
    TargetReport& report = out.emplace_back(report_of(target));
    const auto registry = target::read_registry(target.process, config_.window);
    if (!registry) continue;
    report.faults = registry->header.faults_repaired;
    for (auto& probe : report.probes) {
      const PatchRecord* record = probe.system_call ? nullptr : registry->active_at(probe.address);
      probe.trap = record != nullptr && record->length == 1;
    }
  }
  return out;
}

// A change is needed when a wanted site is not in place as wanted, or one in place is not wanted.
bool Attacher::up_to_date(const Target& target, const Registry& registry,
                          const std::vector<Site>& sites) const {
  size_t wanted = 0;
  for (const auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    const PatchRecord* record = registry.active_at(site.address);
    if (record == nullptr || record->content_hash != site.hash() ||
        record->state != wire::PatchState::kActive)
      return false;
    ++wanted;
  }
  const bool guard_needed = std::any_of(sites.begin(), sites.end(), [](const Site& s) {
    return s.report.skipped.empty() && s.repairs_faults();
  });
  const bool guard_there = std::any_of(registry.patches.begin(), registry.patches.end(), is_guard);
  if (guard_needed && !guard_there) return false;
  if (wanted == 0 && guard_there && guard_may_go(target)) return false;
  if (target.maps_idle_since && maps_may_go(target)) return false;
  if (!watch_right(target, registry) || !semaphores_right(registry, sites)) return false;
  const auto probes = std::count_if(
      registry.patches.begin(), registry.patches.end(),
      [](const PatchRecord& r) { return r.kind == wire::PatchKind::kProbe && target::is_live(r); });
  return wanted == static_cast<size_t>(probes);
}

namespace {
// What a target keeps for the next probe, when the last has gone.
constexpr auto kLinger = std::chrono::seconds(2);
}  // namespace

bool Attacher::maps_may_go(const Target& target) const {
  return withdrawn_ || target.detached || !target.maps_idle_since ||
         std::chrono::steady_clock::now() - *target.maps_idle_since >= kLinger;
}

bool Attacher::guard_may_go(const Target& target) const {
  return withdrawn_ || target.detached || !target.guard_idle_since ||
         std::chrono::steady_clock::now() - *target.guard_idle_since >= kLinger;
}

// Before anything is planned: a plan puts blocks there that no patch leads to yet.
void Attacher::release_code() {
  if (auto released = release_unused_code(); !released) log_warning(released.error().message);
}

// A thread that stands in one of our programs keeps the signal guard in place: let it run on, look again. On a loaded machine it
// may wait for a CPU for long.
Result<void> Attacher::reconcile(Target& target, bool create) {
  constexpr int kTries = 100, kQuickTries = 30;
  constexpr useconds_t kSoon = 1000, kLater = 20000;
  for (int i = 0;; ++i) {
    auto done = reconcile_once(target, create, i == kTries);
    if (done || done.error().code != EAGAIN || i == kTries) return done;
    ::usleep(i < kQuickTries ? kSoon : kLater);
  }
}

Result<void> Attacher::reconcile_once(Target& target, bool create, bool last_try) {
  files_looked_at_.clear();
  forget_kept(target);
  const auto program = target.process.program();
  if (!program) return program.error();
  auto status = target.process.status();
  if (!status) return status.error();
  auto regions = target.process.regions();
  if (!regions) return regions.error();
  target.report.name = status->name;
  std::string why;
  auto registry = target::read_registry(target.process, config_.window, &why);
  if (!registry && !create) return Error{ENODATA, "no longer a target: " + why};
  if (registry && target.libraries_changed) {
    if (auto forgotten = forget_unloaded(target, *registry); !forgotten) return forgotten;
    target.libraries_changed = false;
  }
  if (registry) target.report.lineage = registry->header.lineage;
  if (registry) std::copy_n(registry->header.sessions, wire::kSessionsMax, target.sessions.begin());
  auto sites = wanted_sites(target, *regions, *status);
  target.watch_wanted = watch_wanted(target, *regions, *status);
  if (registry) look_at_libc(target, *registry, sites);
  const bool flags_right = registry && is_detached(*registry) == target.detached;
  // Sites that failed before are tried again only when something else must change, or on attach.
  if (registry && !create && flags_right && up_to_date(target, *registry, sites)) {
    refresh_task_facts(target, sites);  // a fork needs no change, but has its own start time
    publish(target, sites);
    keep(target, *regions, std::move(*registry), sites);
    return {};
  }
  if (registry) load_near_slot(target, registry->header.agent_base, sites);
  if (flags_right) {
    auto changed = change_running(target, *program, *registry, *regions, sites);
    if (!changed) return changed.error();
    if (*changed == Changed::kDone) {
      keep(target, *regions, std::move(*registry), sites);
      return {};
    }
    registry = target::read_registry(target.process, config_.window, &why);
  }
  ++stopping_changes_;
  const uint64_t agent_base = load_agent(target, *regions, registry ? &*registry : nullptr, *status, sites);
  load_near_slot(target, agent_base, sites);

  auto stopped = StoppedProcess::stop(target.process);
  if (!stopped) return stopped.error();
  if (!stopped->still_runs(*program)) {
    target.no_guard.clear();  // said of the program before
    return target::process_error(target.process.pid(), EAGAIN,
                                 "it has replaced its program by exec; try again");
  }
  // It ran until now: dlopen and munmap may have changed everything.
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
  auto changed = change_sites(target, *stopped, *registry, *regions, sites, agent_base, last_try);
  if (changed) keep(target, *regions, std::move(*registry), sites);
  return changed;
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
  if (auto mapped = map_memory(stopped, regions, memory_of(sites)); !mapped)
    skip_all(mapped.error(), [](const Site&) { return true; });
  refresh_task_facts(target, sites);
  const bool any = std::any_of(sites.begin(), sites.end(), [](const Site& s) { return s.is_probe(); });
  bool guarded = false;
  std::string guard_why = target.no_guard;
  if (any && target.no_guard.empty()) {
    auto installed = install_guard(target, stopped, registry, regions);
    if (try_again(installed)) return installed;
    guarded = installed.ok();
    if (guarded) target.guard_seen = std::chrono::steady_clock::now();
    if (!installed && installed.error().code != EAGAIN) target.no_guard = installed.error().message;
    if (!installed) guard_why = installed.error().message;
  }
  if (!guarded)
    for (auto& site : sites)
      if (site.report.skipped.empty() && site.repairs_faults()) site.report.skipped = guard_why;
  const bool guard_stays = any ? guarded : !guard_may_go(target);
  for (auto& site : sites)
    if (!guard_stays && site.is_for_host() && (!any || site.system_call->guards_signals) &&
        site.report.skipped.empty())
      site.report.skipped = guard_why.empty() ? "the signal guard goes" : guard_why;

  // Restore first: what is no longer wanted goes even if what is wanted cannot come.
  auto restored = target::restore_patches(stopped, config_.window, registry, unwanted_sites(registry, sites),
                                          target::Threads::kStopped);
  if (!restored) return restored;

  const auto entry = [&]() -> Result<StoppedProcess*> { return &stopped; };
  const auto give_up = [&](Site& site, const Error& why) {
    site.report.skipped = why.message;
    const uint64_t address = site.address;
    (void)target::restore_patches(stopped, config_.window, registry, std::span(&address, 1),
                                  target::Threads::kStopped);
  };
  std::vector<PlannedSite> planned;
  for (auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    tell_progress(target, site, sites);
    auto plan = plan_site(target, entry, registry, regions, site, guarded);
    Result<void> ready;
    // Where every boundary traps nobody needs to be moved; and must not be, for a trap met before the stop may still be on its
    // way to the guard, with the place where it was met.
    if (plan && *plan && (!guarded || (*plan)->method == rewrite::PatchMethod::kJump) &&
        registry.active_at(site.address) == nullptr)
      ready = move_threads(stopped, (*plan)->patch.record, (*plan)->fixups);
    if (try_again(ready)) return ready;
    if (plan && ready) {
      if (*plan) planned.push_back(std::move(**plan));
      continue;
    }
    give_up(site, plan ? ready.error() : plan.error());
  }
  for (const PlannedSite& plan : planned) {
    auto patched = target::apply_patches(stopped, config_.window, registry, std::span(&plan.patch, 1),
                                         target::Threads::kStopped);
    if (!patched) give_up(*plan.site, patched.error());
  }
  if (auto lent = lend_masks(target, stopped, registry, regions, planned); !lent)
    log_warning("process " + std::to_string(target.report.pid) +
                ": signal masks of waiting threads: " + lent.error().message);
  change_watch(target, stopped, registry, regions);
  if (auto changed = change_semaphores(stopped, registry, regions, sites); !changed) return changed;
  if (auto now = target.process.regions()) retire_maps(target, stopped, *now, sites);
  if (auto reset = forget_shared_memory(stopped, sites); !reset) return reset;
  publish(target, sites);
  if (any) {
    target.guard_idle_since.reset();
    return {};
  }
  if (!guard_may_go(target)) return {};
  auto removed = remove_guard(target, stopped, registry, regions);
  if (removed) target.guard_idle_since.reset();
  if (removed) target.guards_calls = false;
  return removed;
}

// A thread may have raised the count of children in its memory, and met no patch of ours on its way back. With all threads stopped
// none waits for such a child (vfork cannot be interrupted), and without those patches nobody counts.
Result<void> Attacher::forget_shared_memory(StoppedProcess& stopped, const std::vector<Site>& sites) const {
  if (std::any_of(sites.begin(), sites.end(), [](const Site& site) {
        return site.system_call && site.system_call->keeps_memory_shared && site.report.skipped.empty();
      }))
    return {};
  const uint64_t at = config_.window + wire::kIdentityOffset + offsetof(wire::TargetIdentity, memory_shared);
  const auto bytes = stopped.read(at, sizeof(uint32_t));
  if (!bytes) return bytes.error();
  const uint32_t none = 0;
  return read_at<uint32_t>(*bytes, 0) == none ? Result<void>() : stopped.write(at, as_bytes(none));
}

std::vector<uint64_t> Attacher::unwanted_sites(const Registry& registry, const std::vector<Site>& sites) {
  std::set<uint64_t> wanted;
  for (const auto& site : sites)
    if (site.report.skipped.empty()) wanted.insert(site.address);
  std::vector<uint64_t> out;
  for (const PatchRecord& record : registry.patches) {
    if (record.kind != wire::PatchKind::kProbe || !target::is_live(record)) continue;
    if (!wanted.contains(record.address) || record.state == wire::PatchState::kPending)
      out.push_back(record.address);
  }
  return out;
}

void Attacher::tell_progress(const Target& target, const Site& site, const std::vector<Site>& sites) {
  constexpr size_t kStep = 16;
  const auto number = static_cast<size_t>(&site - sites.data());
  if (number % kStep != 0 || sites.size() <= kStep) return;
  set_progress("process " + std::to_string(target.report.pid) + ": placing probes",
               static_cast<uint32_t>(number), static_cast<uint32_t>(sites.size()));
}

void Attacher::publish(Target& target, const std::vector<Site>& sites) {
  auto of_calls = system_call_reports(target, sites);
  target.report.probes.clear();
  for (auto& site : sites)
    if (!site.system_call) target.report.probes.push_back(site.report);
  for (auto& report : of_calls) target.report.probes.push_back(std::move(report));
}

}  // namespace bpftime::daemon

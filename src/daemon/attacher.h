// Keeps every target as the kernel's probes want it: compares what should be patched with the registry the target
// carries, and changes the difference: at the first contact with the target stopped, later while it runs. Idempotent: after any
// failure or restart the same function puts things right.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "daemon/code_memory.h"
#include "daemon/sessions.h"
#include "kernel/kernel.h"
#include "rewrite/rewrite.h"
#include "symbols/symbols.h"
#include "target/process.h"
#include "target/registry.h"
#include "target/stopped.h"

namespace bpftime::daemon {

struct ProgramReport {
  uint32_t id;
  std::string name;
  bool on_return;
  bool elided = false;               // does nothing anybody could notice, so the site does not call it
  std::vector<uint64_t> counters{};  // of its runs here, when they are counted (kernel::Hits)
};

// One probe in one target: in place, or why not.
struct ProbeReport {
  std::string path;
  uint64_t offset = 0;
  uint64_t address = 0;
  std::string function;
  std::vector<ProgramReport> programs;
  std::string skipped;  // empty: active
  bool trap = false;    // reports(): by a trap, which costs microseconds, where no jump fits
  // Events of system calls: `path` is the event, the rest of the place is empty.
  bool system_call = false;
  uint32_t sites = 0;                 // places in the process where it is seen
  std::vector<std::string> not_seen;  // "2 calls in /lib/libc.so.6: a jump leads to it"
};

struct TargetReport {
  pid_t pid = 0;
  std::string name;
  uint32_t lineage = 0;
  std::vector<ProbeReport> probes;
  uint64_t faults = 0;  // loads through bad pointers that read 0; as the target says
  std::vector<std::string>
      not_seen;  // ways to make system calls that no event here shows, if any event is wanted
};

struct AttacherConfig {
  uint64_t window = 0;    // wire::window_address of our user
  uint64_t instance = 0;  // identity of the runtime directory
  uint32_t uid = 0;
  std::string agent_path;  // libbpftime-agent.so
  // Blocks of code memory handed out before it is looked which can be handed out again.
  size_t code_growth_max = 512;
};

class Attacher {
 public:
  Attacher(kernel::Kernel& kernel, AttacherConfig config);
  ~Attacher();

  // Makes `pid` a target and puts the present probes in place. Errors name the process and why it cannot be one.
  // `session` (kernel::HostClass::session; 0: none): it is about this process, and those of its children that are targets.
  Result<TargetReport> attach(pid_t pid, uint64_t session = 0);
  // Takes every patch out of `pid`; later probes leave it alone until it is attached again.
  Result<void> detach(pid_t pid);
  // Brings all targets and their forks up to date. Slow targets and failures are logged, never fatal.
  void reconcile_all();
  // The same, when nothing differs but at `places`: at a cost in proportion to them.
  void reconcile_places(const std::vector<kernel::UprobePlace>& places);
  // Maps `memory` wherever `map` is mapped, before programs find the one through the other (kernel::Observer::reach).
  Result<void> reach(const kernel::Map& map, const std::vector<kernel::TargetMemory>& memory);
  // The same for targets whose libraries have changed since last asked (wire::TargetContext::loads).
  void reconcile_loaded();
  // Brings one target up to date. Error ESRCH: it is none.
  Result<void> reconcile(pid_t pid);
  // Looks for processes that carry our context: forks of targets, and targets of a worker that is gone; forgets those
  // that run another program now.
  enum class Look { kAlways, kIfAnyBegan };
  void find_targets(Look look = Look::kAlways);
  // The same, and brings those up to date that were not known before.
  void reconcile_new(Look look = Look::kAlways);
  // Some target is not as it should be, because it could not be stopped for one: reconcile_all() tries again.
  bool unfinished() const;
  // Takes every patch out of all targets, which stay targets: the daemon is about to end.
  void withdraw();
  // How long the last change of a running target held a thread of it, and how long it took in all.
  struct ChangeTimes {
    uint64_t held_ns = 0, whole_ns = 0;
  };
  uint64_t running_changes() const { return running_changes_; }    // made without stopping all threads
  uint64_t stopping_changes() const { return stopping_changes_; }  // the others, and attempts at them
  uint64_t code_blocks_released() const { return code_blocks_released_; }
  uint64_t outside_changes() const { return outside_changes_; }  // of these, without holding even one
  uint64_t few_changes() const { return few_changes_; }          // of these, without a look at all places
  const ChangeTimes& last_running_change() const { return last_running_change_; }
  // As of the last reconcile, dead targets dropped.
  std::vector<TargetReport> reports();
  size_t target_count() const { return targets_.size(); }
  // Targets that ended since last asked: their unfinished map work is to be repaired. Pids in the daemon's namespace.
  std::vector<uint32_t> take_dead();
  // Targets and their pidfds, to wait on for exits. The descriptors are ours: valid until the next call of anything here.
  std::map<pid_t, int> pidfds() const;

 private:
  struct Site;
  struct Kept;
  struct Plans;
  // What rewrite::return_slot_for() chooses from.
  struct ReturnSlots {
    uint64_t first = 0, copies = 0;
    bool operator==(const ReturnSlots&) const = default;
  };
  // What return probes need of the agent (rewrite::ReturnPath).
  struct ReturnSupport {
    ReturnSlots slots{};
    uint64_t cold = 0;
    int32_t thread = 0;
    bool operator==(const ReturnSupport&) const = default;
  };
  // Return slots near the program's text (near_slot.cc).
  struct NearSlot {
    ReturnSlots slots{};  // `first` 0: there are none yet
    InodeId file{};
    int tries = 0;  // so far
  };
  struct Target {
    target::Process process;
    TargetReport report;
    bool detached = false;
    Sessions sessions{};
    bool unfinished = false;                // the last reconcile failed
    std::vector<ProbeReport> system_calls;  // the events wanted, as system_call_reports starts from
    target::CallCode call_code{};
    // Libraries loaded later (loaded_libraries.cc).
    bool watch_wanted = false;
    std::string no_watch;            // why it cannot be
    uint64_t loads_seen = 0;         // of its context's `loads`
    bool libraries_changed = false;  // since the last reconcile
    // Why this process has no signal guard, and so is patched with all threads stopped and never with traps.
    std::string no_guard;
    // It can be changed without holding a thread of it (StoppedProcess::allow_outside_barriers); no value: not asked yet.
    std::optional<bool> outside_barriers;
    // System calls that would take the guard its signals are led to it: as long as it is there.
    bool guards_calls = false;
    // All of libc's: it blocks none of the guard's signals any more, so each of its functions may be changed while it runs.
    bool libc_is_guarded = false;
    // When SIGTRAP was last seen to come to the guard.
    std::chrono::steady_clock::time_point guard_seen{};
    NearSlot near{};
    // Since when maps are in it that no program here uses: they go a little later, the next probe may want them again.
    std::optional<std::chrono::steady_clock::time_point> maps_idle_since;
    // Since when the guard is there for nothing. It stays for a while: the next probe may be near.
    std::optional<std::chrono::steady_clock::time_point> guard_idle_since;
    std::set<InodeId>
        staying;  // files that are mapped as long as the program runs, as watch_wanted() found them
    std::shared_ptr<Kept>
        kept;  // null: it must be looked at as a whole. Its reports replace those in `report`.
    std::shared_ptr<Plans> plans;  // null: none yet
  };
  struct PlannedSite;
  enum class Changed { kDone, kNeedsStop };
  struct FileInfo;

  kernel::Kernel& kernel_;
  AttacherConfig config_;
  Fd context_fd_;
  CodeMemory code_;
  std::map<pid_t, Target> targets_;
  std::vector<uint32_t> dead_;
  std::map<InodeId, std::shared_ptr<FileInfo>> files_;
  // Those already compared with the files themselves in the reconciliation at hand: a thousand probes are in few files.
  std::map<InodeId, std::shared_ptr<FileInfo>> files_looked_at_;
  // Decoded once per program, by id and time of making (ids are used again after the keeper's death).
  std::map<std::pair<uint32_t, uint64_t>, rewrite::CodeUse> code_uses_;
  Fd load_average_;        // /proc/loadavg
  pid_t last_number_ = 0;  // that a process or thread got, when find_targets() looked; 0: not known
  // Numbers given before that belonged to nobody when it looked: a process gets its number a moment before it can be found.
  std::set<pid_t> unborn_;
  uint64_t vdso_clock_gettime_offset_ = 0;
  bool withdrawn_ = false;
  ChangeTimes last_running_change_;
  uint64_t running_changes_ = 0, outside_changes_ = 0, few_changes_ = 0, stopping_changes_ = 0,
           code_blocks_released_ = 0;

  void drop_dead();
  pid_t last_process_number();
  std::optional<std::vector<pid_t>> begun_since_last_look(pid_t last);
  void enter_target(pid_t pid);
  // Brings a target up to date; failures are said once and tried again. False: it is a target no more.
  bool reconcile_known(Target& target);
  Sessions inherited_sessions(pid_t pid) const;
  void release_other_version(const target::Process& process) const;
  bool session_lives(uint64_t session) const;
  // Has a process that carries a context belong to a session. EUSERS: to too many others.
  Result<void> join_session(const target::Process& process, uint64_t session) const;
  Result<void> join_children(pid_t pid, uint64_t session);
  static bool may_run(const Target& target, const kernel::Prog& program);
  bool may_run_here(const Target& target, const std::vector<target::MappedRegion>& regions,
                    const kernel::Prog& program);
  Result<void> reconcile(Target& target, bool create);
  Result<void> reconcile_once(Target& target, bool create, bool last_try);
  std::vector<Site> wanted_sites(Target& target, const std::vector<target::MappedRegion>& regions,
                                 const target::Status& status);
  // Of these probes alone: as if there were no others, and without system calls.
  std::vector<Site> sites_of(Target& target, const std::vector<target::MappedRegion>& regions,
                             const target::Status& status, const std::vector<kernel::Probe>& probes);
  // A few places of a running target (few_places.cc). False: it must be looked at as a whole; nothing has changed, or is left as
  // a change that was broken off.
  bool change_places(Target& target, const std::vector<kernel::UprobePlace>& places);
  struct FewChanges {
    std::vector<target::Patch> patches;
    std::vector<uint64_t> unwanted;
  };
  std::set<uint64_t> addresses_of(Target& target, const std::vector<kernel::UprobePlace>& places);
  std::optional<FewChanges> plan_places(Target& target, const std::set<uint64_t>& addresses,
                                        std::vector<Site>& sites);
  bool still_as_kept(const Target& target, const target::Status& status) const;
  // What should be at these addresses now; nothing: it hangs together with more than them.
  std::optional<std::vector<Site>> sites_at(Target& target, const target::Status& status,
                                            const std::set<uint64_t>& addresses,
                                            const std::vector<kernel::UprobePlace>& places);
  static void add_with_neighbours(const Kept& kept, uint64_t address, std::set<uint64_t>& addresses);
  static void note_places(Target& target, const std::set<uint64_t>& addresses, std::vector<Site>& sites);
  // After a look at all that went well: notes what change_places() goes on from. `regions`: as they were before it.
  void keep(Target& target, const std::vector<target::MappedRegion>& regions, target::Registry&& registry,
            const std::vector<Site>& sites);
  static void forget_kept(Target& target);
  static TargetReport report_of(const Target& target);
  // Gives every site that will be patched its counters.
  void count_hits(Target& target, std::vector<Site>& sites);
  bool up_to_date(const Target& target, const target::Registry& registry,
                  const std::vector<Site>& sites) const;
  // Makes the window free where a sanitizer reserves it.
  Result<void> make_room(target::StoppedProcess& stopped,
                         const std::vector<target::MappedRegion>& regions) const;
  Result<void> create_context(Target& target, target::StoppedProcess& stopped,
                              const std::vector<target::MappedRegion>& regions, const target::Status& status);
  // Facts for the programs of these sites, in a process that has a context. Failures are logged: fields read as zero then.
  void refresh_task_facts(const Target& target, const std::vector<Site>& sites) const;
  Result<void> change_sites(Target& target, target::StoppedProcess& stopped, target::Registry& registry,
                            const std::vector<target::MappedRegion>& regions, std::vector<Site>& sites,
                            uint64_t agent_base, bool last_try);
  // The same without stopping more than one thread; kNeedsStop when something about it asks for all (running_change.cc).
  Result<Changed> change_running(Target& target, const target::ProgramMark& program,
                                 target::Registry& registry, const std::vector<target::MappedRegion>& regions,
                                 std::vector<Site>& sites);
  void look_at_libc(Target& target, const target::Registry& registry, const std::vector<Site>& sites);
  bool may_change_running(Target& target, const std::vector<target::MappedRegion>& regions, uint64_t address);
  Result<bool> guard_answers(target::StoppedProcess& held, const std::vector<target::MappedRegion>& regions);
  // Nothing, when the site is as it should be.
  Result<std::optional<PlannedSite>> plan_site(Target& target, const CodeMemory::Entry& entry,
                                               target::Registry& registry,
                                               const std::vector<target::MappedRegion>& regions, Site& site,
                                               bool traps);
  // What plan_site() made for this place before, when everything it was made of is the same.
  std::optional<PlannedSite> plan_made_before(const Target& target, const target::Registry& registry,
                                              Site& site, Bytes text, const ReturnSupport& support,
                                              bool traps);
  static void remember_plan(Target& target, const Site& site, Bytes text, const ReturnSupport& support,
                            bool traps, uint64_t key, const PlannedSite& planned);
  Result<uint64_t> place_code(Arena& arena, const kernel::Prog& program);
  Result<void> place_programs(Arena& arena, Site& site, rewrite::SiteRequest& request);
  Result<void> forget_shared_memory(target::StoppedProcess& stopped, const std::vector<Site>& sites) const;
  // EAGAIN: a thread stands inside an instruction.
  static Result<void> move_threads(target::StoppedProcess& stopped, const wire::PatchRecord& record,
                                   std::span<const rewrite::PcFixup> fixups);
  // Where sites are patched that should not be, or whose patch was broken off.
  static std::vector<uint64_t> unwanted_sites(const target::Registry& registry,
                                              const std::vector<Site>& sites);
  // Code memory (code_reclaim.cc). Stops the processes that share it, one after the other.
  void release_code();
  Result<void> release_unused_code();
  Result<void> find_used_code(Target& target, const std::map<uint64_t, Arena*>& arenas,
                              std::map<const Arena*, std::set<uint64_t>>& used) const;
  bool guard_may_go(const Target& target) const;
  // Places have changed one by one, and it is time for a look at all.
  static bool kept_is_due(const Target& target);
  static bool kept_is_fresh(const Kept& kept);
  bool maps_may_go(const Target& target) const;
  rewrite::CodeUse code_use(const kernel::Prog& program);
  static wire::PatchRecord make_record(const rewrite::SiteRequest& request, const rewrite::SitePlan& plan,
                                       wire::PatchKind kind, uint64_t hash);
  static void publish(Target& target, const std::vector<Site>& sites);
  // For whoever waits (base/progress.h). Now and then only: most changes are of one site among many.
  static void tell_progress(const Target& target, const Site& site, const std::vector<Site>& sites);

  // System calls (system_call_sites.cc).
  void add_system_call_sites(Target& target, const std::vector<target::MappedRegion>& regions,
                             const target::Status& status, std::vector<Site>& sites);
  void add_system_calls_of(const target::MappedRegion& region, const std::shared_ptr<FileInfo>& file,
                           const std::vector<kernel::Probe>& probes, bool guard, std::vector<Site>& sites);
  bool guards_calls(Target& target, const target::Status& status, bool probed) const;
  Result<std::optional<PlannedSite>> plan_system_call(Target& target, const CodeMemory::Entry& entry,
                                                      target::Registry& registry,
                                                      const std::vector<target::MappedRegion>& regions,
                                                      Site& site);
  static std::vector<ProbeReport> system_call_reports(const Target& target, const std::vector<Site>& sites);

  // Files, text, and what should be patched (wanted_sites.cc, patch_site.cc).
  std::shared_ptr<FileInfo> file_info(const target::Process& process, const target::MappedRegion& region);
  bool same_file(const target::Process& process, const target::MappedRegion& region, const InodeId& file,
                 const std::string& build_id);
  // Where the program's host functions and variables lie in this process. Errors name the first that is missing.
  Result<std::vector<uint64_t>> host_table(const target::Process& process,
                                           const std::vector<target::MappedRegion>& regions, const Site& site,
                                           const kernel::HostClass& host);
  Result<uint64_t> host_address(const target::Process& process,
                                const std::vector<target::MappedRegion>& regions, const Site& site,
                                const kernel::HostClass& host, const kernel::HostClass::Symbol& symbol);
  // Why it may not be probed with these programs, if it is of Go.
  static std::optional<std::string> in_go(const Site& site);
  static std::optional<std::string> in_restartable_sequence(const target::Process& process, const Site& site);
  std::optional<Site> other_build(const target::Process& process, const target::MappedRegion& region,
                                  const kernel::Probe& probe);
  Result<void> fits_class(const target::Process& process, const std::vector<target::MappedRegion>& regions,
                          const Site& site, const kernel::HostClass& host);
  Result<std::vector<uint8_t>> original_text(const target::Process& process, const target::Registry& registry,
                                             const Site& site);
  static uint64_t semaphore_of(const std::vector<target::MappedRegion>& regions,
                               const target::MappedRegion& text, const kernel::PerfEvent& event);
  // Libraries that come and go, and semaphores (loaded_libraries.cc).
  bool watch_wanted(Target& target, const std::vector<target::MappedRegion>& regions,
                    const target::Status& status) const;
  static bool watch_right(const Target& target, const target::Registry& registry);
  // Installs or removes the patch that tells of libraries. What cannot be is said in the log and not tried again.
  void change_watch(Target& target, target::StoppedProcess& stopped, target::Registry& registry,
                    const std::vector<target::MappedRegion>& regions);
  Result<void> install_watch(Target& target, target::StoppedProcess& stopped, target::Registry& registry,
                             const std::vector<target::MappedRegion>& regions);
  // Forgets patches of libraries that are gone.
  Result<void> forget_unloaded(Target& target, target::Registry& registry);
  static std::map<uint64_t, uint32_t> wanted_semaphores(const std::vector<Site>& sites);
  static bool semaphores_right(const target::Registry& registry, const std::vector<Site>& sites);
  Result<void> change_semaphores(target::StoppedProcess& stopped, target::Registry& registry,
                                 const std::vector<target::MappedRegion>& regions,
                                 const std::vector<Site>& sites);
  // Maps and context (target_memory.cc).
  std::vector<kernel::TargetMemory> memory_of(const std::vector<Site>& sites) const;
  // What of `memory` is not in place yet.
  static Result<std::vector<target::StoppedProcess::MapRequest>> missing_memory(
      const std::vector<target::MappedRegion>& regions, const std::vector<kernel::TargetMemory>& memory);
  Result<void> map_memory(target::StoppedProcess& stopped, const std::vector<target::MappedRegion>& regions,
                          const std::vector<kernel::TargetMemory>& memory);
  // Maps no program here uses any more, and are still there.
  std::vector<target::MappedRegion> idle_maps(const Target& target,
                                              const std::vector<target::MappedRegion>& regions,
                                              const std::vector<Site>& sites) const;
  void retire_maps(Target& target, target::StoppedProcess& stopped,
                   const std::vector<target::MappedRegion>& regions, const std::vector<Site>& sites);
  // The agent and its signal guard (guard.cc).
  // Has it loaded when a program needs it or the signal guard can be had. 0: it is not there.
  uint64_t load_agent(Target& target, const std::vector<target::MappedRegion>& regions,
                      const target::Registry* registry, const target::Status& status,
                      std::vector<Site>& sites);
  Result<uint64_t> ensure_agent(Target& target, const std::vector<target::MappedRegion>& regions);
  Result<void> record_agent(Target& target, target::StoppedProcess& stopped, target::Registry& registry,
                            const std::vector<target::MappedRegion>& regions, uint64_t base);
  // Return slots near the text of programs (near_slot.cc).
  // Those made for this process, if they are still there.
  static ReturnSlots near_slots_of(const Target& target, const std::vector<target::MappedRegion>& regions);
  // What return-probed functions at `site` are to use; its slots are the near ones or the agent's.
  Result<ReturnSupport> return_support_at(Target& target, const std::vector<target::MappedRegion>& regions,
                                          const target::Registry& registry, uint64_t site);
  ReturnSlots return_slots_in(Target& target, const target::MappedRegion& library);
  // Whether it would help `site`, and nobody has tried too often.
  static bool lacks_near_slot(const Target& target, const std::vector<target::MappedRegion>& regions,
                              uint64_t agent_base, const Site& site);
  // Has it loaded if one of `sites` lacks it. `agent_base`: 0: the agent is not there. Failure is no error.
  void load_near_slot(Target& target, uint64_t agent_base, const std::vector<Site>& sites);
  Result<void> join_near_slot(Target& target, std::vector<target::MappedRegion> regions, uint64_t agent_base,
                              const Site& site);
  static bool guard_complete(const target::Registry& registry);
  Result<void> install_guard(Target& target, target::StoppedProcess& stopped, target::Registry& registry,
                             const std::vector<target::MappedRegion>& regions);
  // Whether a mapping is of the agent we would load; another version's may be loaded already.
  bool is_agent(const target::MappedRegion& region) const;
  // Of the agent that is loaded there, whichever version it is.
  Result<uint64_t> agent_symbol(Target& target, const std::vector<target::MappedRegion>& regions,
                                const target::Registry& registry, const std::string& name);
  Result<void> remove_guard(Target& target, target::StoppedProcess& stopped, target::Registry& registry,
                            const std::vector<target::MappedRegion>& regions);
  // The guarded signals that threads have blocked: what the host believes goes to the agent's per-thread word, the kernel's
  // mask loses them; and back.
  Result<void> hide_blocked_signals(target::StoppedProcess& stopped, uint64_t offset);
  Result<void> return_blocked_signals(Target& target, target::StoppedProcess& stopped, uint64_t offset);
  // Threads that wait, in a call at one of the new sites, under a mask with guarded signals are given another.
  Result<void> lend_masks(Target& target, target::StoppedProcess& stopped, const target::Registry& registry,
                          const std::vector<target::MappedRegion>& regions,
                          const std::vector<PlannedSite>& planned);
};

}  // namespace bpftime::daemon

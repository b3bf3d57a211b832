// Changes a target while it runs, through the very sites that change: from outside, or where system calls of its own are needed
// with one thread held for them. What makes that right is in target/text_change.h and agent/traps.cc; here is when it may be done.
#include <signal.h>

#include <algorithm>
#include <set>

#include "base/log.h"
#include "daemon/site.h"

namespace bpftime::daemon {

using target::MappedRegion;
using target::Registry;
using target::StoppedProcess;
using wire::PatchRecord;

namespace {

using Clock = std::chrono::steady_clock;

uint64_t ns_since(Clock::time_point start) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

// Where the guard does not make all of libc's calls about signals: libc and the dynamic loader run some of their functions
// where a trapping byte would kill: with every signal blocked, past any redirect of ours (around clone, in threads that begin or
// end, in abort and raise), or in a child of posix_spawn, which shares the memory and has taken the handlers away. What is named
// here runs in none of these: what they call, by glibc's sources, is the system call wrappers for signals, scheduling, ids, limits,
// files to be opened, closed and copied, and exec; free (the stacks of detached threads); and, where a program is looked for in
// PATH, the few functions of strings excepted below. Helper threads of libc that block everything for ever (timers,
// asynchronous I/O) are seen by Process::blocked_in_any_thread().
bool is_never_masked(std::string_view name) {
  constexpr std::string_view kExceptions[] = {"memcpy",  "memmove", "mempcpy",   "memset",  "strlen",
                                              "strnlen", "strchr",  "strsignal", "timer_c", "timer_d"};
  constexpr std::string_view kPrefixes[] = {
      // Memory and text.
      "malloc", "calloc", "realloc", "reallocarray", "aligned_alloc", "posix_memalign", "memalign", "valloc",
      "mem", "str", "wcs", "wcp", "wmem", "stp", "index", "rindex", "bcmp", "bcopy", "bzero", "is", "isw",
      "to", "tow", "mbr", "mbs", "mbto", "mblen", "wcr", "wcto", "btowc", "ato", "a64l", "l64a", "iconv",
      "nl_langinfo", "regcomp", "regexec", "regerror", "fnmatch", "glob", "wordexp", "gettext", "dgettext",
      "dcgettext", "basename", "dirname", "ecvt", "fcvt", "gcvt", "swab", "insque", "remque",
      // Numbers, search, time.
      "rand", "srand", "drand48", "erand48", "jrand48", "lrand48", "mrand48", "nrand48", "srand48", "seed48",
      "lcong48", "qsort", "bsearch", "lfind", "lsearch", "hsearch", "hcreate", "hdestroy", "tsearch", "tfind",
      "tdelete", "twalk", "tdestroy", "div", "ldiv", "lldiv", "abs", "labs", "llabs", "imaxabs", "ffs",
      "frexp", "ldexp", "modf", "scalb", "copysign", "time", "gettimeofday", "clock_gettime", "localtime",
      "gmtime", "mktime", "timegm", "asctime", "ctime", "difftime", "tzset",
      // Streams.
      "put", "fput", "get_current_dir_name", "fget", "getc", "gets", "getline", "getdelim", "getw", "ungetc",
      "fwrite", "fread", "fopen", "freopen", "fdopen", "fmemopen", "fclose", "fflush", "fseek", "ftell",
      "fgetpos", "fsetpos", "rewind", "feof", "ferror", "fileno", "setbuf", "setvbuf", "printf", "fprintf",
      "dprintf", "sprintf", "snprintf", "asprintf", "vprintf", "vfprintf", "vdprintf", "vsprintf",
      "vsnprintf", "vasprintf", "scanf", "fscanf", "sscanf", "vscanf", "vfscanf", "vsscanf", "perror",
      "syslog", "vsyslog",
      // Files and names of files, but for open, close, dup and fcntl.
      "read", "write", "pread", "pwrite", "preadv", "pwritev", "lseek", "stat", "lstat", "fstat", "statx",
      "statfs", "access", "faccessat", "euidaccess", "unlink", "rename", "link", "symlink", "mkdir", "rmdir",
      "mkfifo", "mkstemp", "mkdtemp", "tmpfile", "opendir", "fdopendir", "closedir", "rewinddir", "scandir",
      "alphasort", "ftw", "nftw", "fts_", "truncate", "ftruncate", "fallocate", "posix_fallocate", "fsync",
      "fdatasync", "sync", "chmod", "fchmod", "chown", "fchown", "lchown", "utime", "futime", "sendfile",
      "copy_file_range", "splice", "flock", "lockf", "realpath", "canonicalize_file_name", "inotify_",
      // The network, waiting, and what is asked of files like passwd.
      "socket", "bind", "listen", "accept", "connect", "send", "recv", "shutdown", "getsockopt", "setsockopt",
      "getsockname", "getpeername", "poll", "ppoll", "epoll_", "eventfd", "timerfd_", "inet_", "hton", "ntoh",
      "getaddrinfo", "freeaddrinfo", "gai_", "getnameinfo", "gethost", "getserv", "getproto", "getnet",
      "getpw", "getgr", "getsp", "if_", "getifaddrs", "freeifaddrs", "nanosleep", "clock_nanosleep", "usleep",
      "sleep"};
  name.remove_prefix(std::min(name.find_first_not_of('_'), name.size()));
  if (name.starts_with("libc_")) name.remove_prefix(5);
  if (name.starts_with("GI_")) name.remove_prefix(3);
  if (name.starts_with("IO_")) name.remove_prefix(3);
  const auto begins_name = [&](std::string_view prefix) { return name.starts_with(prefix); };
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes), begins_name) &&
         std::none_of(std::begin(kExceptions), std::end(kExceptions), begins_name);
}

}  // namespace

// Whose number is not known and which cannot be patched are, in glibc, exits. From 2.38 on (the first with strlcpy) the child of
// posix_spawn begins without handlers (CLONE_CLEAR_SIGHAND), so that functions called there must meet no trap.
void Attacher::look_at_libc(Target& target, const Registry& registry, const std::vector<Site>& sites) {
  std::set<const FileInfo*> files;
  bool open = false;
  for (const Site& site : sites) {
    if (!is_libc(site.region.path) || !site.system_call || !site.system_call->guards_signals) continue;
    const bool there = site.report.skipped.empty() && registry.active_at(site.address) != nullptr;
    open |= !there && site.system_call->site.number >= 0;
    if (!files.insert(site.file.get()).second) continue;
    open |= site.file->elf->find_symbol("strlcpy").has_value();
    for (const auto& call : site.file->system_calls->calls) open |= !rewrite::no_guard_at(call.site).empty();
  }
  target.libc_is_guarded = !files.empty() && !open;
}

bool Attacher::may_change_running(Target& target, const std::vector<MappedRegion>& regions,
                                  uint64_t address) {
  if (target.libc_is_guarded) return true;
  const MappedRegion* region = region_at(regions, address);
  if (region == nullptr) return true;  // no longer mapped: nothing will be written
  if (!is_libc(region->path)) return true;
  const auto file = file_info(target.process, *region);
  if (!file->elf) return false;
  const auto at = file->elf->address_of_offset(address - region->start + region->offset);
  const auto function = at ? file->elf->function_at(*at) : std::nullopt;
  return function && is_never_masked(function->name);
}

// Whether SIGTRAP still comes to the agent: a program may have replaced the handler by a system call of its own.
Result<bool> Attacher::guard_answers(StoppedProcess& held, const std::vector<MappedRegion>& regions) {
  auto handler = held.signal_handler(SIGTRAP);
  if (!handler) return handler.error();
  return std::any_of(regions.begin(), regions.end(), [&](const MappedRegion& r) {
    return *handler >= r.start && *handler < r.end && is_agent(r);
  });
}

Result<Attacher::Changed> Attacher::change_running(Target& target, const target::ProgramMark& program,
                                                   Registry& registry,
                                                   const std::vector<MappedRegion>& regions,
                                                   std::vector<Site>& sites) {
  const auto start = Clock::now();
  if (!guard_complete(registry) || (registry.header.flags & wire::kNoSystemCalls) != 0)
    return Changed::kNeedsStop;
  if (!watch_right(target, registry)) return Changed::kNeedsStop;
  const bool any = std::any_of(sites.begin(), sites.end(), [](const Site& site) { return site.is_probe(); });
  if (!any && guard_may_go(target) && target.guard_idle_since) return Changed::kNeedsStop;
  if (withdrawn_ || target.detached) return Changed::kNeedsStop;
  if (auto blocked = target.process.blocked_in_any_thread(); !blocked || (*blocked & kTrapSignals) != 0)
    return Changed::kNeedsStop;

  std::optional<StoppedProcess> held;
  Clock::time_point held_since;
  bool out_of_reach = false;
  const auto entry = [&]() -> Result<StoppedProcess*> {
    if (held) return &*held;
    auto one = StoppedProcess::stop_one(target.process, program, target.call_code);
    if (!one) {
      out_of_reach = true;
      return one.error();
    }
    held_since = Clock::now();
    held.emplace(std::move(*one));
    return &*held;
  };
  const auto unwanted = unwanted_sites(registry, sites);
  const auto may_change = [&](uint64_t address) { return may_change_running(target, regions, address); };
  if (!std::all_of(unwanted.begin(), unwanted.end(), may_change)) return Changed::kNeedsStop;
  std::vector<PlannedSite> planned;
  for (auto& site : sites) {
    if (!site.report.skipped.empty()) continue;
    tell_progress(target, site, sites);
    auto plan = plan_site(target, entry, registry, regions, site, /*traps=*/true);
    if (!plan && out_of_reach) return Changed::kNeedsStop;
    if (!plan) {
      site.report.skipped = plan.error().message;
      if (registry.active_at(site.address) != nullptr) return Changed::kNeedsStop;
      continue;
    }
    if (!*plan) continue;
    if ((*plan)->method == rewrite::PatchMethod::kJump || !may_change(site.address))
      return Changed::kNeedsStop;
    planned.push_back(std::move(**plan));
  }
  const auto note_use = [&] {
    if (any) {
      target.guard_idle_since.reset();
    } else if (!target.guard_idle_since) {
      target.guard_idle_since = Clock::now();
    }
  };
  const auto memory = memory_of(sites);
  const auto missing = missing_memory(regions, memory);
  if (!missing) return Changed::kNeedsStop;
  const bool idle = !idle_maps(target, regions, sites).empty();
  if (!idle) target.maps_idle_since.reset();
  const bool retire = idle && target.maps_idle_since && maps_may_go(target);
  const bool change = !unwanted.empty() || !planned.empty() || !semaphores_right(registry, sites);
  if (!change && !held && !retire && missing->empty()) {
    note_use();
    ++running_changes_;
    publish(target, sites);
    return Changed::kDone;
  }
  for (const PlannedSite& plan : planned)
    if (const auto& record = plan.patch.record;
        target.call_code.touches(record.address, record.address + record.length))
      return Changed::kNeedsStop;

  // A thread is needed for system calls only: to map, to register for barriers, and to ask whose handler there is.
  const bool ask = !target.outside_barriers || !*target.outside_barriers ||
                   Clock::now() - target.guard_seen >= kGuardTrusted;
  if (ask || retire || !missing->empty())
    if (auto thread = entry(); !thread) return Changed::kNeedsStop;
  if (held) {
    if (auto ours = guard_answers(*held, regions); !ours || !*ours) return Changed::kNeedsStop;
    target.guard_seen = Clock::now();
    if (auto mapped = map_memory(*held, regions, memory); !mapped) return Changed::kNeedsStop;
    if (!target.outside_barriers)
      if (auto allowed = held->allow_outside_barriers()) target.outside_barriers = *allowed;
    if (retire) retire_maps(target, *held, regions, sites);
  }
  uint64_t held_ns = 0;
  if (target.outside_barriers.value_or(false) && held) {
    held.reset();
    held_ns = ns_since(held_since);
  }
  std::optional<StoppedProcess> outside;
  if (!held) {
    auto process = StoppedProcess::from_outside(target.process);
    if (!process) return Changed::kNeedsStop;
    outside.emplace(std::move(*process));
    if (held_ns == 0) ++outside_changes_;
  }
  StoppedProcess& process = held ? *held : *outside;

  std::vector<target::Patch> patches;
  for (const PlannedSite& plan : planned) patches.push_back(plan.patch);
  auto changed = target::restore_patches(process, config_.window, registry, unwanted, target::Threads::kRun);
  if (changed)
    changed = target::apply_patches(process, config_.window, registry, patches, target::Threads::kRun);
  if (changed) changed = change_semaphores(process, registry, regions, sites);
  if (!changed) {
    log_warning("process " + std::to_string(target.process.pid()) +
                ": changing it while it runs: " + changed.error().message + "; stopping it instead");
    return Changed::kNeedsStop;
  }
  if (idle && !retire && !target.maps_idle_since) target.maps_idle_since = Clock::now();
  if (held) {
    held.reset();
    held_ns = ns_since(held_since);
  }
  refresh_task_facts(target, sites);
  last_running_change_ = {held_ns, ns_since(start)};
  note_use();
  ++running_changes_;
  publish(target, sites);
  return Changed::kDone;
}

}  // namespace bpftime::daemon

// perf_event_open(2), perf ioctls and links: what attaches a program to a site.
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/attr.h"
#include "kernel/kernel.h"
#include "kernel/perf_ring.h"
#include "symbols/symbols.h"

namespace bpftime::kernel {

namespace {

constexpr uint64_t kUprobeReturnBit = 1;  // perf_event_attr::config, as sysfs' format/retprobe says: config:0
constexpr int kCounterShift = 32;         // and format/ref_ctr_offset: config:32-63

bool alive(int32_t pid) { return ::kill(pid, 0) == 0 || errno == EPERM; }

// The build-id finds copies of the file, in other mount namespaces for one. A file that is no ELF has none. Of the file asked for
// last it is remembered: a thousand probes are in few files, one after the other.
std::string build_id_of(int fd, const std::string& path, const struct stat& st) {
  using Version = std::array<int64_t, 5>;
  static Version known{};
  static std::string build_id;
  const Version version = {static_cast<int64_t>(st.st_dev), static_cast<int64_t>(st.st_ino), st.st_size,
                           st.st_ctim.tv_sec, st.st_ctim.tv_nsec};
  if (version == known) return build_id;
  const auto elf = symbols::ElfFile::from_fd(fd, path);
  build_id = elf ? elf->build_id() : "";
  known = version;
  return build_id;
}

// Fills the file identity by which mappings in targets are recognised.
Result<void> identify_file(PerfEvent& event) {
  Fd fd(::open(event.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return Error{errno, "uprobe on " + event.path + ": " + std::strerror(errno)};
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return Error::from_errno("uprobe on " + event.path);
  // As Linux: only regular files can hold a uprobe, and the offset lies inside.
  if (!S_ISREG(st.st_mode)) return Error{EINVAL, "uprobe on " + event.path + ": not a regular file"};
  if (event.offset > static_cast<uint64_t>(st.st_size))
    return Error{EINVAL,
                 "uprobe on " + event.path + ": offset " + std::to_string(event.offset) + " is past its end"};
  event.file = {st.st_dev, st.st_ino};
  event.build_id = build_id_of(fd.get(), event.path, st);
  return {};
}

}  // namespace

namespace {

// Whether the program can tell what was running when the clock ticked: nobody samples that here.
bool looks_at_the_interrupted(const Prog& prog) {
  static constexpr uint32_t kTellers[] = {BPF_FUNC_get_current_pid_tgid,
                                          BPF_FUNC_get_current_uid_gid,
                                          BPF_FUNC_get_current_comm,
                                          BPF_FUNC_get_current_task,
                                          BPF_FUNC_get_current_task_btf,
                                          BPF_FUNC_get_ns_current_pid_tgid,
                                          BPF_FUNC_get_stackid,
                                          BPF_FUNC_get_stack,
                                          BPF_FUNC_get_task_stack,
                                          BPF_FUNC_get_current_cgroup_id,
                                          BPF_FUNC_get_current_ancestor_cgroup_id};
  const auto& called = prog.facts->helpers_called;
  return prog.facts->context_end != 0 || std::any_of(called.begin(), called.end(), [](uint32_t id) {
           return std::find(std::begin(kTellers), std::end(kTellers), id) != std::end(kTellers);
         });
}

// One clock on the first CPU is a timer, whoever its program thinks to have interrupted (bpftrace's interval). A clock with a
// frequency, or on another CPU, is a profile: its program would count the same idle moment over and over.
Result<void> fits_clock(const PerfEvent& event, const Prog& prog) {
  if (prog.source.program.type != BPF_PROG_TYPE_PERF_EVENT)
    return Error{EINVAL, "attach program " + prog.name + ": only perf_event programs run at clock events"};
  const bool profile = event.by_frequency || event.cpu > 0;
  if (!profile || !prog.facts || !looks_at_the_interrupted(prog)) return {};
  return Error{EOPNOTSUPP,
               "attach program " + prog.name +
                   ": it looks at what a CPU was running, which nobody can tell here without stopping "
                   "processes: only programs that do not look, and timers on CPU 0, run at clocks "
                   "(docs/support-matrix.md)"};
}

// Whether programs of this type run at events of this kind, and read no more than their record has.
Result<void> fits_event(const PerfEvent& event, const Prog& prog) {
  const auto refuse = [&](int error, const std::string& why) {
    return Error{error, "attach program " + prog.name + ": " + why};
  };
  const uint32_t type = prog.source.program.type;
  uint32_t readable = 0;
  switch (event.perf_kind) {
    case PerfKind::kUprobe:
      return type == BPF_PROG_TYPE_KPROBE ? Result<void>()
                                          : refuse(EINVAL, "only kprobe programs run at uprobes");
    case PerfKind::kTracepoint:
      if (type != BPF_PROG_TYPE_TRACEPOINT)
        return refuse(EINVAL, "only tracepoint programs run at tracepoints");
      readable = event.tracepoint.record_size();
      if (prog.facts && (prog.facts->context_slots_read & event.tracepoint.unknown_slots()) != 0)
        return refuse(EOPNOTSUPP, "of " + event.path +
                                      " only sig, errno and pid are known here (docs/support-matrix.md)");
      break;
    case PerfKind::kRawTracepoint:
      if (type != BPF_PROG_TYPE_RAW_TRACEPOINT)
        return refuse(EINVAL, "only raw_tracepoint programs run at raw tracepoints");
      readable = 2 * sizeof(uint64_t);
      break;
    case PerfKind::kClock:
      return fits_clock(event, prog);
    case PerfKind::kBpfOutput:
      return refuse(EINVAL, "a program cannot run at this kind of event");
  }
  if (prog.facts && prog.facts->context_end > readable)
    return refuse(event.perf_kind == PerfKind::kTracepoint ? EACCES : EINVAL,
                  "it reads its context beyond the " + std::to_string(readable) + " bytes of " + event.path);
  return {};
}

}  // namespace

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kSampleRateMax = 100'000;  // kernel.perf_event_max_sample_rate as Linux sets it
constexpr uint64_t kPeriodMin = 100'000;      // ns

Result<void> make_clock(const perf_event_attr& attr, PerfEvent& event) {
  if (attr.freq && attr.sample_freq > kSampleRateMax)
    return Error{EINVAL, "clock event: more than " + std::to_string(kSampleRateMax) + " samples a second"};
  if (attr.sample_period >> 63 != 0) return Error{EINVAL, "clock event: the period is negative"};
  if (attr.sample_period == 0)
    return Error{EOPNOTSUPP, "clock event: without a period it only counts: not supported here"};
  if (event.pid != -1)
    return Error{EOPNOTSUPP,
                 "clock event of process " + std::to_string(event.pid) +
                     ": clocks that run while a process runs are not supported (docs/support-matrix.md)"};
  event.perf_kind = PerfKind::kClock;
  event.name = "cpu_clock";
  event.by_frequency = attr.freq;
  event.period_ns =
      std::max<uint64_t>(attr.freq ? kSecond / attr.sample_freq : attr.sample_period, kPeriodMin);
  return {};
}

// Fields of samples that write_perf_sample() lays out. Without one of the others its reader would take the next for it.
constexpr uint64_t kSampleTypesWritten = PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_IP | PERF_SAMPLE_TID |
                                         PERF_SAMPLE_TIME | PERF_SAMPLE_ADDR | PERF_SAMPLE_ID |
                                         PERF_SAMPLE_STREAM_ID | PERF_SAMPLE_CPU | PERF_SAMPLE_PERIOD |
                                         PERF_SAMPLE_CALLCHAIN | PERF_SAMPLE_RAW;

// As perf_copy_attr: masks of registers and kinds of branches come with the samples of them.
bool lacks_what_it_samples(const perf_event_attr& attr) {
  const auto asks = [&](uint64_t type) { return (attr.sample_type & type) != 0; };
  constexpr uint64_t kKindsOfBranches = ~uint64_t{PERF_SAMPLE_BRANCH_PLM_ALL};
  return (asks(PERF_SAMPLE_REGS_USER) && attr.sample_regs_user == 0) ||
         (asks(PERF_SAMPLE_REGS_INTR) && attr.sample_regs_intr == 0) ||
         (asks(PERF_SAMPLE_BRANCH_STACK) && (attr.branch_sample_type & kKindsOfBranches) == 0);
}

}  // namespace

BpfReply Kernel::perf_event_open(const wire::PerfEventOpen& request, const std::string& path,
                                 const std::string& given) {
  perf_event_attr attr{};
  static_assert(sizeof attr <= sizeof request.attr);
  std::memcpy(&attr, request.attr, sizeof attr);
  auto event = std::make_shared<PerfEvent>();
  event->kind = ObjectKind::kPerfEvent;
  event->pid = request.pid;
  event->cpu = request.cpu;
  event->enabled = !attr.disabled;
  event->sample_type = attr.sample_type;
  constexpr uint64_t kKnownFlags = 15, kKnownSampleTypes = (1u << 25) - 1, kKnownReadFormats = (1u << 5) - 1;
  if ((request.flags & ~kKnownFlags) != 0 || (attr.sample_type & ~kKnownSampleTypes) != 0 ||
      (attr.read_format & ~kKnownReadFormats) != 0)
    return BpfReply::fail(EINVAL, "perf event: unknown flags, sample types or read formats");
  if (lacks_what_it_samples(attr))
    return BpfReply::fail(EINVAL, "perf event: samples of registers or branches without saying which");
  if (request.cpu < -1 || request.cpu >= static_cast<int32_t>(possible_cpus()))
    return BpfReply::fail(EINVAL, "perf event: CPU " + std::to_string(request.cpu) + ": not on this machine");
  if (request.pid == -1 && request.cpu == -1)
    return BpfReply::fail(EINVAL, "perf event: neither a process nor a CPU named");
  if (request.pid > 0 && !alive(request.pid))
    return BpfReply::fail(ESRCH, "perf event: process " + std::to_string(request.pid) + ": no such process");
  if (request.pid < -1) return BpfReply::fail(ESRCH, "perf event: no such process");

  if (attr.type == PERF_TYPE_SOFTWARE && attr.config == PERF_COUNT_SW_BPF_OUTPUT) {
    if ((attr.sample_type & ~kSampleTypesWritten) != 0)
      return BpfReply::fail(EOPNOTSUPP,
                            "perf event: sample type " + std::to_string(attr.sample_type) +
                                ": of programs' output only the fields up to PERF_SAMPLE_RAW are recorded");
    event->perf_kind = PerfKind::kBpfOutput;
    event->name = "bpf_output";
  } else if (attr.type == wire::kUprobePmuType) {
    event->perf_kind = PerfKind::kUprobe;
    event->return_probe = (attr.config & kUprobeReturnBit) != 0;
    // May be garbage from old clients: Linux ignores a counter that lies in no writable private mapping, and so do we.
    event->counter = attr.config >> kCounterShift;
    event->offset = attr.config2;
    event->path = path;
    event->given = given;
    event->name = event->return_probe ? "uretprobe" : "uprobe";
    if (path.empty()) return BpfReply::fail(EINVAL, "uprobe: no path");
    if (auto found = identify_file(*event); !found)
      return BpfReply::fail(found.error().code, found.error().message);
  } else if (attr.type == PERF_TYPE_TRACEPOINT) {
    const auto tracepoint = program::tracepoint_of_id(attr.config);
    if (!tracepoint)
      return BpfReply::fail(
          EINVAL,
          "tracepoint " + std::to_string(attr.config) +
              ": only those of system calls and signal:signal_generate exist (docs/support-matrix.md)");
    event->perf_kind = PerfKind::kTracepoint;
    event->tracepoint = *tracepoint;
    event->path = tracepoint->category() + ":" + tracepoint->name();
    event->name = "tracepoint";
  } else if (attr.type == PERF_TYPE_SOFTWARE && attr.config == PERF_COUNT_SW_CPU_CLOCK) {
    if (auto made = make_clock(attr, *event); !made)
      return BpfReply::fail(made.error().code, made.error().message);
  } else {
    return BpfReply::fail(
        ENOENT, "perf event: type " + std::to_string(attr.type) +
                    ": not supported; it may be for what only the kernel has (docs/support-matrix.md)");
  }
  if (auto entered = enter(event, 0, /*growable=*/event->perf_kind == PerfKind::kBpfOutput); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  observer_.object_changed(*event);
  return hand_out(event);
}

BpfReply Kernel::attach(const std::shared_ptr<PerfEvent>& event, AttachedProgram attached, bool by_link) {
  if (auto fits = fits_event(*event, *attached.program); !fits)
    return BpfReply::fail(fits.error().code, fits.error().message);
  // As Linux: one program per event. A link closed a moment ago no longer counts.
  if (!event->by_link.empty()) collect();
  if (!event->by_ioctl.empty() || !event->by_link.empty())
    return BpfReply::fail(EEXIST,
                          "attach program " + attached.program->name + ": the event has a program already");
  auto compiled =
      event->perf_kind == PerfKind::kClock ? place_code(*attached.program) : ensure_code(*attached.program);
  if (!compiled) return BpfReply::fail(compiled.error().code, compiled.error().message);
  attached.order = ++attach_order_;
  (by_link ? event->by_link : event->by_ioctl).push_back(std::move(attached));
  return {};
}

BpfReply Kernel::perf_ioctl(int event_fd, uint64_t command, uint64_t argument, int argument_fd) {
  auto event = object_of<PerfEvent>(event_fd, ObjectKind::kPerfEvent);
  if (!event) return BpfReply::fail(EBADF, "perf ioctl: no such event");
  switch (command) {
    case PERF_EVENT_IOC_ENABLE:
    case PERF_EVENT_IOC_DISABLE: {
      const bool enable = command == PERF_EVENT_IOC_ENABLE;
      if (event->enabled == enable) return {};
      event->enabled = enable;
      // Who reads that it is enabled does not ask: so it says so last, and takes it back first.
      if (!enable) (void)ObjectTable::write_trailer(*event);
      break;
    }
    case PERF_EVENT_IOC_SET_BPF: {
      auto prog = object_of<Prog>(argument_fd, ObjectKind::kProgram);
      if (!prog) return BpfReply::fail(wrong_fd(argument_fd), "perf ioctl: no such program");
      BpfReply attached = attach(event, {prog, 0, 0, 0}, /*by_link=*/false);
      if (attached.result < 0) return attached;
      break;
    }
    case PERF_EVENT_IOC_ID: {
      BpfReply reply;
      reply.result = event->id;
      return reply;
    }
    case PERF_EVENT_IOC_RESET:
      return {};
    case PERF_EVENT_IOC_REFRESH:  // counts down overflows, which uprobes do not have
      if (event->perf_kind == PerfKind::kUprobe)
        return BpfReply::fail(EINVAL, "perf ioctl REFRESH: not a sampling event");
      return {};
    case PERF_EVENT_IOC_PAUSE_OUTPUT:
      if (!event->ring) return BpfReply::fail(EINVAL, "perf ioctl PAUSE_OUTPUT: the event has no ring");
      event->paused = argument != 0;
      return {};
    case PERF_EVENT_IOC_SET_OUTPUT:
      if (static_cast<int64_t>(argument) == -1 && event->ring)
        return BpfReply::fail(EINVAL, "perf ioctl SET_OUTPUT: the event's ring is mapped");
      if (static_cast<int64_t>(argument) == -1) return {};
      if (!object_of<PerfEvent>(argument_fd, ObjectKind::kPerfEvent))
        return BpfReply::fail(EBADF, "perf ioctl SET_OUTPUT: no such event");
      return BpfReply::fail(
          EINVAL, "perf ioctl SET_OUTPUT: records go to the event's own ring only (docs/support-matrix.md)");
    case PERF_EVENT_IOC_QUERY_BPF:
      return query_programs(*event, argument);
    case PERF_EVENT_IOC_PERIOD:
      if (event->perf_kind != PerfKind::kClock || argument == 0 || argument >> 63 != 0 ||
          (event->by_frequency && argument > kSampleRateMax))
        return BpfReply::fail(EINVAL, "perf ioctl PERIOD: no such period for this event");
      event->period_ns = std::max<uint64_t>(event->by_frequency ? kSecond / argument : argument, kPeriodMin);
      break;
    case PERF_EVENT_IOC_SET_FILTER:
      return BpfReply::fail(EINVAL,
                            "perf ioctl " + std::to_string(command) + ": not for events of this kind");
    default:
      return BpfReply::fail(ENOTTY, "perf ioctl " + std::to_string(command) + " with " +
                                        std::to_string(argument) + ": not supported yet");
  }
  observer_.object_changed(*event);
  tell_of_change(event);
  if (command == PERF_EVENT_IOC_ENABLE) (void)ObjectTable::write_trailer(*event);
  return {};
}

BpfReply Kernel::perf_mmap(int event_fd, uint64_t size) {
  auto event = object_of<PerfEvent>(event_fd, ObjectKind::kPerfEvent);
  if (!event) return BpfReply::fail(EBADF, "map perf event: no such event");
  if (event->perf_kind != PerfKind::kBpfOutput)
    return BpfReply::fail(EINVAL, "map perf event: it has no ring");
  if (auto mapped = map_perf_ring(*event, size); !mapped)
    return BpfReply::fail(mapped.error().code, mapped.error().message);
  observer_.object_changed(*event);
  return {};
}

namespace {

// Of Linux 6.18; linux/bpf.h may be older.
constexpr uint32_t kTraceUprobeMulti = 48;
constexpr size_t kLinkCreateEnd = 60;

}  // namespace

BpfReply Kernel::link_create(const BpfRequest& request) {
  const bpf_attr& attr = *request.attr;
  const int prog_fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, link_create.prog_fd));
  auto prog = object_of<Prog>(prog_fd, ObjectKind::kProgram);
  if (!prog) return BpfReply::fail(wrong_fd(prog_fd), "create link: no such program");
  if (auto bad = check_attr_tail(request, kLinkCreateEnd)) return *std::move(bad);
  if (attr.link_create.attach_type == kTraceUprobeMulti) return uprobe_multi_link(request, prog);
  if (prog->source.expected_attach_type == kTraceUprobeMulti)
    return BpfReply::fail(EINVAL, "create link: program " + prog->name + " is for uprobe_multi links");
  if (attr.link_create.attach_type != BPF_PERF_EVENT)
    return BpfReply::fail(
        EINVAL, "create link: attach type " + std::to_string(attr.link_create.attach_type) +
                    ": not supported; it may be for what only the kernel has (docs/support-matrix.md)");
  if (attr.link_create.flags != 0) return BpfReply::fail(EINVAL, "create link: unknown flags");
  // Clients ask with target_fd -1 whether perf links exist: EBADF says yes.
  auto event = object_of<PerfEvent>(
      request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, link_create.target_fd)), ObjectKind::kPerfEvent);
  if (!event) return BpfReply::fail(EBADF, "create link: target is no perf event");
  auto link = std::make_shared<Link>();
  link->kind = ObjectKind::kLink;
  link->created_by_uid = request.uid;
  link->program = prog;
  link->event = event;
  link->cookie = attr.link_create.perf_event.bpf_cookie;
  if (auto entered = enter(link, 0); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  BpfReply attached = attach(event, {prog, link->cookie, link->id, 0}, /*by_link=*/true);
  if (attached.result < 0) {
    link->held_outside = false;  // collected as if its descriptor had been closed
    return attached;
  }
  observer_.object_changed(*link);
  tell_of_change(event);
  return hand_out(link);
}

namespace {

// Newer than this machine's linux/bpf.h may be.
uint64_t raw_tracepoint_cookie(const bpf_attr& attr) {
  constexpr size_t kOffset = 16;
  uint64_t cookie;
  static_assert(sizeof(bpf_attr) >= kOffset + sizeof cookie);
  std::memcpy(&cookie, reinterpret_cast<const uint8_t*>(&attr) + kOffset, sizeof cookie);
  return cookie;
}

}  // namespace

BpfReply Kernel::raw_tracepoint_open(const BpfRequest& request) {
  const Bytes given = request.in(offsetof(bpf_attr, raw_tracepoint.name));
  const int prog_fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, raw_tracepoint.prog_fd));
  auto prog = object_of<Prog>(prog_fd, ObjectKind::kProgram);
  if (!prog) return BpfReply::fail(wrong_fd(prog_fd), "raw tracepoint: no such program");
  if (prog->source.program.type != BPF_PROG_TYPE_RAW_TRACEPOINT)
    return BpfReply::fail(EINVAL, "raw tracepoint: program " + prog->name + " is of another type");
  if (given.empty()) return BpfReply::fail(EFAULT, "raw tracepoint: name not readable");
  const std::string name(given.begin(), std::find(given.begin(), given.end(), 0));
  const auto tracepoint = program::find_tracepoint("raw_syscalls", name);
  if (!tracepoint)
    return BpfReply::fail(ENOENT, "raw tracepoint " + name + ": only sys_enter and sys_exit exist here");
  auto event = std::make_shared<PerfEvent>();
  event->kind = ObjectKind::kPerfEvent;
  event->perf_kind = PerfKind::kRawTracepoint;
  event->tracepoint = *tracepoint;
  event->path = name;
  event->name = "raw_tracepoint";
  event->held_outside = false;
  auto link = std::make_shared<Link>();
  link->kind = ObjectKind::kLink;
  link->created_by_uid = request.uid;
  link->program = prog;
  link->event = event;
  link->cookie = raw_tracepoint_cookie(*request.attr);
  if (auto fits = fits_event(*event, *prog); !fits)
    return BpfReply::fail(fits.error().code, fits.error().message);
  if (auto entered = enter(event, 0); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  if (auto entered = enter(link, 0); !entered)
    return BpfReply::fail(entered.error().code, entered.error().message);
  BpfReply attached = attach(event, {prog, link->cookie, link->id, 0}, /*by_link=*/true);
  if (attached.result < 0) {
    link->held_outside = false;
    return attached;
  }
  observer_.object_changed(*event);
  observer_.object_changed(*link);
  observer_.probes_changed();
  return hand_out(link);
}

BpfReply Kernel::link_detach(const BpfRequest& request) {
  const int fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, link_detach.link_fd));
  auto link = object_of<Link>(fd, ObjectKind::kLink);
  if (!link) return BpfReply::fail(wrong_fd(fd), "detach link: no such link");
  // As Linux: perf event links cannot be detached by force.
  return BpfReply::fail(
      EOPNOTSUPP, "detach link " + std::to_string(link->id) + ": perf event links end with their descriptor");
}

BpfReply Kernel::link_update(const BpfRequest& request) {
  constexpr size_t kLinkFd = offsetof(bpf_attr, link_update.link_fd);
  const bpf_attr& attr = *request.attr;
  if (auto bad = check_attr_tail(request, offset_after(offsetof(bpf_attr, link_update.old_prog_fd), 4)))
    return *std::move(bad);
  if ((attr.link_update.flags & ~BPF_F_REPLACE) != 0)
    return BpfReply::fail(EINVAL, "update link: unknown flags");
  const int fd = request.fd(wire::FdPlace::kAttr, kLinkFd);
  auto link = object_of<Link>(fd, ObjectKind::kLink);
  if (!link) return BpfReply::fail(wrong_fd(fd), "update link: no such link");
  constexpr size_t kOldProgram = offsetof(bpf_attr, link_update.old_prog_fd);
  if (attr.link_update.flags == 0 && attr.link_update.old_prog_fd != 0)
    return BpfReply::fail(EINVAL, "update link: an old program, but no BPF_F_REPLACE");
  const int prog_fd = request.fd(wire::FdPlace::kAttr, offsetof(bpf_attr, link_update.new_prog_fd));
  auto prog = object_of<Prog>(prog_fd, ObjectKind::kProgram);
  if (!prog) return BpfReply::fail(wrong_fd(prog_fd), "update link: no such program");
  const int old_fd = request.fd(wire::FdPlace::kAttr, kOldProgram);
  if (attr.link_update.flags != 0 && !object_of<Prog>(old_fd, ObjectKind::kProgram))
    return BpfReply::fail(wrong_fd(old_fd), "update link: no such old program");
  // As Linux: the program of a perf event link stays.
  return BpfReply::fail(EINVAL, "update link " + std::to_string(link->id) +
                                    ": the program of a perf event link cannot be replaced");
}

}  // namespace bpftime::kernel

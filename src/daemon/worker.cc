#include "daemon/worker.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "base/progress.h"
#include "compiler/compiler.h"
#include "kernel/test_run.h"
#include "maps/map.h"
#include "wire/target_context.h"

namespace bpftime::daemon {

namespace {

constexpr uint64_t kScanSeconds = 1;  // how late an unknown fork of a target may be noticed

constexpr int kTickMs = 1000;
constexpr int kIdleMs = 20;    // nobody came for so long after the start
constexpr int kSuspectMs = 5;  // while an object may just have been let go

uint64_t now_s() {
  timespec ts;
  ::clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec;
}

// Tells daemons apart: one per user and runtime directory.
uint64_t instance_of(const RuntimeDirectory& directory) {
  uint64_t hash = 0xcbf29ce484222325 ^ ::geteuid();
  for (unsigned char c : directory.path) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

std::string beside_us(const char* name) {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / name;
}

wire::MessageType type_of(KeeperMessage message) { return static_cast<wire::MessageType>(message); }

// Turns of a tenth of a millisecond: whoever asks for short ones gets them soon after waking up, and no more time in all
// (Linux 6.12 and later; before, nothing changes). On a busy machine a tool waits for us many times while it attaches.
void take_short_turns() {
  struct {  // struct sched_attr; its header clashes with that of some C libraries
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attr{};
  constexpr uint64_t kTurnNs = 100'000;
  if (::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0 || attr.policy != SCHED_OTHER) return;
  attr.runtime = kTurnNs;
  ::syscall(SYS_sched_setattr, 0, &attr, 0);
}

}  // namespace

Worker::Worker(RuntimeDirectory directory, const Options& options)
    : directory_(std::move(directory)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      channel_(kKeeperChannelFd),
      listener_(kListenFd),
      kernel_(*this, wire::window_address(::geteuid())),
      runner_(beside_us("bpftime-runner"), wire::window_address(::geteuid()), options.run_seconds * 1000),
      clocks_(kernel_, runner_),
      audit_(directory_),
      started_s_(now_s()),
      last_busy_s_(now_s()),
      options_(options) {}

Worker::~Worker() = default;

uint64_t Worker::uptime_s() const { return now_s() - started_s_; }

int Worker::run() {
  ::signal(SIGPIPE, SIG_IGN);
  take_short_turns();
  publish_progress_in(directory_.path);
  if (!recover()) return 1;
  AttacherConfig config;
  config.window = wire::window_address(::geteuid());
  config.instance = instance_of(directory_);
  config.uid = ::geteuid();
  config.agent_path = beside_us("libbpftime-agent.so");
  attacher_ = std::make_unique<Attacher>(kernel_, std::move(config));
  if (auto started = kernel_.start(); !started) {
    log_error("start: " + started.error().message);
    return 1;
  }
  if (auto made = kernel_.set_pin_root(directory_.pins()); !made)
    log_warning("pinning objects: " + made.error().message);
  recovering_ = false;
  for (const auto& map : kernel_.objects().all<kernel::Map>(kernel::ObjectKind::kMap)) readiness_wanted(map);
  // Whoever closed its descriptors while no worker lived was not seen.
  kernel_.objects().suspect_all();
  kernel_.collect();
  attacher_->reconcile_all();
  follow_targets();
  update_clocks();
  for (int fd : {channel_.get(), listener_.get(), kernel_.objects().notification_fd()}) watch(fd);
  (void)tell_keeper(KeeperMessage::kReady, {}, {}, 1000);
  bool warm = false;
  while (!stop_asked_) {
    epoll_event events[64];
    const int patience = kernel_.objects().suspects() ? kSuspectMs : kTickMs;
    const int count = ::epoll_wait(epoll_.get(), events, 64, warm ? patience : std::min(patience, kIdleMs));
    if (count == 0 && !warm) {  // nobody waits: make the first program that comes compile faster
      compiler::warm_up();
      warm = true;
    }
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == channel_.get()) return 0;  // the keeper is gone
      on_event(events[i].data.fd);
    }
    housekeeping();
  }
  if (!restart_asked_) attacher_->withdraw();
  const auto farewell = restart_asked_ ? KeeperMessage::kRestart : KeeperMessage::kStop;
  (void)tell_keeper(farewell, {}, {}, 1000);
  return 0;
}

bool Worker::recover() {
  for (;;) {
    auto message =
        wire::receive_message(channel_.get(), wire::Deadline::after_ms(5000), wire::Versions::kAny);
    if (!message) {
      log_error("recover: " + message.error().message);
      return false;
    }
    if (message->version != keeper_version_)
      log_warning("the keeper is of version " + std::to_string(message->version) + ", this worker of " +
                  std::to_string(wire::kAbiVersion) +
                  "; `bpftime daemon stop` ends both, and the next command starts a new one");
    keeper_version_ = message->version;
    if (message->type == type_of(KeeperMessage::kReplayed)) return true;
    const Bytes body(message->body);
    if (body.size() < sizeof(uint64_t)) continue;
    auto done = kernel_.recover(body.subspan(sizeof(uint64_t)), std::move(message->fds));
    if (done) continue;
    log_warning(done.error().message);
    if (done.error().code == ESTALE)  // nor any later worker
      (void)tell_keeper(KeeperMessage::kErase, body.first(sizeof(uint64_t)), {}, 5000);
  }
}

Result<void> Worker::tell_keeper(KeeperMessage message, Bytes body, std::span<const int> fds,
                                 uint64_t timeout_ms) {
  return wire::send_message(channel_.get(), type_of(message), 0, body, fds,
                            wire::Deadline::after_ms(timeout_ms), keeper_version_);
}

void Worker::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
}

// Edge-triggered: a pipe with room is writable all the time; only that there is room again is news, or that nobody reads.
void Worker::watch_pipe(int writer) {
  epoll_event event{};
  event.events = EPOLLOUT | EPOLLET;
  event.data.fd = writer;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, writer, &event);
}

// ---- what changed ----

void Worker::object_changed(const kernel::Object& object) {
  std::vector<uint8_t> body;
  const uint64_t key = kernel::Kernel::record_key(object);
  const Bytes key_bytes = as_bytes(key);
  body.assign(key_bytes.begin(), key_bytes.end());
  const auto record = kernel::Kernel::serialize(object);
  body.insert(body.end(), record.begin(), record.end());
  const auto fds = kernel::Kernel::descriptors(object);
  if (!tell_keeper(KeeperMessage::kPut, body, fds, 5000))
    stop_asked_ = true;  // without a keeper we must not go on
}

void Worker::object_gone(const kernel::Object& object) {
  const uint64_t key = kernel::Kernel::record_key(object);
  (void)tell_keeper(KeeperMessage::kErase, as_bytes(key), {}, 5000);
  if (object.kind == kernel::ObjectKind::kProgram) {
    runner_.retire(static_cast<const kernel::Prog&>(object).code_address);
    // The last one that could need it: no process is left behind.
    const auto programs = kernel_.objects().all<kernel::Prog>(kernel::ObjectKind::kProgram);
    const bool needed = std::any_of(programs.begin(), programs.end(), [&](const auto& program) {
      const uint32_t type = program->source.program.type;
      return program->id != object.id &&
             (type == BPF_PROG_TYPE_RAW_TRACEPOINT || type == BPF_PROG_TYPE_PERF_EVENT);
    });
    if (!needed) runner_.stop();
    follow_runner();
  }
  if (object.kind != kernel::ObjectKind::kMap) return;
  runner_.retire(static_cast<const kernel::Map&>(object).address);
  auto watched = watched_.find(object.id);
  if (watched == watched_.end()) return;
  drained_.erase(watched->second.eventfd.get());
  watched_.erase(watched);
}

bool Worker::probes_held() const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [](const auto& entry) { return entry.second.holds_probes; });
}

void Worker::hold_probes(Connection& client) { client.holds_probes = true; }

void Worker::release_probes(Connection& client) {
  client.holds_probes = false;
  // What was closed a moment ago goes with the same change.
  kernel_.objects().suspect_all();
  kernel_.collect();
  if (probes_held() || !probes_held_back_) return;
  probes_held_back_ = false;
  probes_changed();
}

void Worker::probes_changed() {
  if (recovering_) return;
  if (probes_held()) {
    probes_held_back_ = true;
    return;
  }
  attacher_->reconcile_all();
  follow_targets();
  update_clocks();
}

void Worker::uprobes_changed(const std::vector<kernel::UprobePlace>& places) {
  if (recovering_ || probes_held()) return probes_changed();
  attacher_->reconcile_places(places);
  follow_targets();
}

Result<void> Worker::reach(const kernel::Map& map, const std::vector<kernel::TargetMemory>& memory) {
  if (auto there = runner_.reach(map.address, memory); !there) return there;
  return attacher_->reach(map, memory);
}

// ---- programs that run in no target ----

Result<uint64_t> Worker::run(const kernel::ProgramRun& run) {
  auto program = kernel_.objects().find(kernel::ObjectKind::kProgram, run.program->id);
  if (!program) return Error{EBADF, "no such program"};
  AwaitedRun awaited{
      std::static_pointer_cast<kernel::Prog>(program), {run.context.begin(), run.context.end()}, run};
  if (auto begun = begin_run(std::move(awaited)); !begun) return begun.error();
  return Error{EINPROGRESS, "the reply comes later"};
}

// Programs may run for long, and nobody else shall wait for that.
Result<void> Worker::begin_run(AwaitedRun awaited) {
  awaited.run.context = awaited.context;
  const auto number = runner_.begin(awaited.run, kernel_.memory_of({awaited.program}));
  follow_runner();
  if (!number) return number.error();
  runs_[*number] = std::move(awaited);
  run_begun_ = *number;
  return {};
}

void Worker::reply_to_runs() {
  clocks_.count_runs();
  for (auto& ended : runner_.take_ended()) {
    const auto found = runs_.find(ended.number);
    if (found == runs_.end()) continue;
    AwaitedRun awaited = std::move(found->second);
    runs_.erase(found);
    const auto client = connections_.find(awaited.client);
    if (client == connections_.end()) continue;
    if (ended.innocent && !awaited.again) {
      awaited.again = true;
      auto begun = begin_run(awaited);
      run_begun_.reset();
      if (begun) continue;
      ended.result = begun.error();
    }
    auto reply = ended.result ? kernel::run_reply(awaited.attr, *ended.result)
                              : kernel::BpfReply::fail(ended.result.error().code,
                                                       "run program " + awaited.program->name + ": " +
                                                           ended.result.error().message);
    if (!send_reply(client->second, awaited.sequence, std::move(reply))) drop(awaited.client);
  }
}

void Worker::update_clocks() {
  clocks_.update();
  for (const int fd : clocks_.take_new()) watch(fd);
}

// The kernel drops a closed socket from the set by itself.
void Worker::follow_runner() {
  if (runner_watched_ == runner_.pid()) return;
  runner_watched_ = runner_.pid();
  if (runner_.fd() >= 0) watch(runner_.fd());
}

void Worker::readiness_wanted(const std::shared_ptr<kernel::Object>& object) {
  if (recovering_ || object->kind != kernel::ObjectKind::kMap) return;
  auto map = std::static_pointer_cast<kernel::Map>(object);
  if (watched_.contains(map->id)) return;
  const bool announcements = map == kernel_.announcements_made();
  const bool ours = announcements || map == kernel_.trace_ring() || !map->perf_slots.empty();
  if (!ours && !map->readiness) return;
  Watched watched;
  Result<Fd> told = Error{};
  if (ours) {
    watched.eventfd = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    told = watched.eventfd.duplicate();
  } else {
    told = map->readiness.duplicate();
  }
  if (!told) return log_warning("watch ring " + map->name + ": " + told.error().message);
  if (ours) {
    drained_[watched.eventfd.get()] = map->id;
    watch(watched.eventfd.get());
  }
  watched.watcher = announcements ? RingWatcher::of_announcements(map, std::move(*told))
                                  : std::make_unique<RingWatcher>(map, std::move(*told));
  watched_[map->id] = std::move(watched);
}

// ---- events ----

void Worker::on_event(int fd) {
  if (fd == listener_.get()) return accept_clients();
  if (fd == kernel_.objects().notification_fd()) return kernel_.collect();
  if (drained_.contains(fd)) return drain(fd);
  if (clocks_.owns(fd)) {
    clocks_.fire(fd);
    return follow_runner();
  }
  if (fd == runner_.fd()) {
    runner_.on_readable();
    reply_to_runs();
    return follow_runner();
  }
  if (connections_.contains(fd)) return on_client(fd);
  if (pipes_.owns(fd)) return pipes_.on_event(fd, trace_);
  if (followed_.contains(fd)) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    followed_.erase(fd);
    // Housekeeping looks who died.
  }
}

void Worker::accept_clients() {
  for (;;) {
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    ucred credentials{};
    socklen_t size = sizeof credentials;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) continue;
    if (credentials.uid != ::geteuid() && credentials.uid != 0) {
      log_warning("process " + std::to_string(credentials.pid) + " of user " +
                  std::to_string(credentials.uid) + ": not our user, refused");
      continue;
    }
    const int fd = socket.get();
    connections_.emplace(fd, Connection(std::move(socket), {credentials.pid, credentials.uid}));
    watch(fd);
  }
}

void Worker::drop(int fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  if (connections_.at(fd).holds_probes) release_probes(connections_.at(fd));
  connections_.erase(fd);
  std::erase_if(runs_, [&](const auto& entry) { return entry.second.client == fd; });
}

void Worker::on_client(int fd) {
  // Whoever asks, sees the events that were there before: what epoll reports first is chance.
  drain_perf_arrays();
  Connection& client = connections_.at(fd);
  std::string why;
  bool open = client.receive(&why);
  while (auto message = client.next()) {
    const bool handled = handle(client, *message);
    set_progress("");
    if (!handled) return drop(fd);
  }
  open = open && client.understands(&why);
  if (open) return;
  if (why != "closed") {
    why = "client " + std::to_string(client.peer().pid) + ": " + why;
    log_warning(why);
    // In our own version: whoever speaks another sees at least that, and the text is there to be read.
    (void)send_reply(client, 0, kernel::BpfReply::fail(EPROTO, why));
  }
  drop(fd);
}

void Worker::drain(int fd) {
  eventfd_t ignored;
  ::eventfd_read(fd, &ignored);
  auto object = kernel_.objects().find(kernel::ObjectKind::kMap, drained_.at(fd));
  if (!object) return;
  auto& map = static_cast<kernel::Map&>(*object);
  if (object == kernel_.announcements_made()) return libraries_changed(map);
  if (!map.internal) {
    kernel_.drain_perf_array(map);
    return;
  }
  trace_.drain(map);
  send_trace();
}

// Some target has loaded or unloaded a library, and waits for a moment.
void Worker::libraries_changed(kernel::Map& map) {
  auto* words = reinterpret_cast<wire::Announcements*>(map.memory.data());
  const uint32_t asked = __atomic_load_n(&words->asked, __ATOMIC_ACQUIRE);
  if (probes_held()) {
    probes_held_back_ = true;
  } else {
    attacher_->reconcile_loaded();
    follow_targets();
  }
  __atomic_store_n(&words->answered, asked, __ATOMIC_RELEASE);
  ::syscall(SYS_futex, &words->answered, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

void Worker::drain_perf_arrays() {
  for (const auto& [fd, id] : drained_) {
    auto object = kernel_.objects().find(kernel::ObjectKind::kMap, id);
    if (!object) continue;
    auto& map = static_cast<kernel::Map&>(*object);
    if (!map.internal && maps::ring_has_data({map.memory.data(), &map.spec})) kernel_.drain_perf_array(map);
  }
}

void Worker::follow_targets() {
  for (const auto& [pid, pidfd] : attacher_->pidfds()) {
    const auto same = [pid = pid](const auto& entry) { return entry.second.pid == pid; };
    if (std::any_of(followed_.begin(), followed_.end(), same)) continue;
    // A duplicate: a target may be dropped before its event is read, and its number must not become a client's meanwhile.
    Fd fd(::fcntl(pidfd, F_DUPFD_CLOEXEC, 0));
    if (!fd) continue;
    const int number = fd.get();
    followed_.emplace(number, Followed{pid, std::move(fd)});
    watch(number);
  }
}

void Worker::housekeeping() {
  const uint64_t now = now_s();
  runner_.expire();
  reply_to_runs();
  follow_runner();
  kernel_.collect();
  auto dead = attacher_->take_dead();
  // A target that has just ended may have left forks that no scan has seen.
  if (!dead.empty() || (attacher_->target_count() != 0 && now - last_scan_s_ >= kScanSeconds)) {
    last_scan_s_ = now;
    attacher_->reconcile_new();
    if (attacher_->unfinished()) attacher_->reconcile_all();
    follow_targets();
  }
  const auto runs_ended = runner_.take_dead();
  dead.insert(dead.end(), runs_ended.begin(), runs_ended.end());
  for (uint32_t owner : dead)
    for (const auto& map : kernel_.objects().all<kernel::Map>(kernel::ObjectKind::kMap))
      maps::repair({map->memory.data(), &map->spec}, owner);
  kernel_.prepare();
  if (!idle()) last_busy_s_ = now;
  if (now - last_busy_s_ >= options_.idle_seconds) stop_asked_ = true;
}

// Nothing to lose by leaving: targets keep what they need, and the next command starts another daemon.
bool Worker::idle() const {
  return connections_.empty() && pipes_.empty() && kernel_.idle() && !attacher_->unfinished();
}

void Worker::flush_trace() {
  trace_.drain(*kernel_.trace_ring());
  send_trace();
}

void Worker::send_trace() {
  std::vector<int> failed;
  for (auto& [fd, client] : connections_) {
    if (!client.trace) continue;
    for (const auto& entry : trace_.entries()) {
      if (entry.number <= trace_sent_) continue;
      if (client.trace->lineage != 0 && client.trace->lineage != entry.lineage) continue;
      // A reader that stands still loses its place, not our time.
      if (client.send_line(0, entry.lineage, entry.text, 200)) continue;
      failed.push_back(fd);
      break;
    }
  }
  trace_sent_ = trace_.last_number();
  pipes_.fill(trace_);
  for (int fd : failed) drop(fd);
}

}  // namespace bpftime::daemon

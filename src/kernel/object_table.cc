#include "kernel/object_table.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

namespace bpftime::kernel {

namespace {

const char* memfd_name(ObjectKind kind) {
  // bpftool tells kinds apart by the link text of /proc/PID/fd/N.
  switch (kind) {
    case ObjectKind::kMap:
      return "bpf-map";
    case ObjectKind::kProgram:
      return "bpf-prog";
    case ObjectKind::kLink:
      return "bpf_link";
    case ObjectKind::kBtf:
      return "btf";
    case ObjectKind::kPerfEvent:
      return "[perf_event]";
    case ObjectKind::kStats:
      return "bpf-stats";
    case ObjectKind::kNone:
      break;
  }
  return "bpf";
}

// True when nobody but us has the file open: the kernel grants a write lease only then.
bool only_we_hold(const Object& object) {
  if (::fcntl(object.fd.get(), F_SETLEASE, F_WRLCK) != 0) return false;
  ::fcntl(object.fd.get(), F_SETLEASE, F_UNLCK);
  return true;
}

constexpr uint64_t kSuspectNs = 1'000'000'000;

// Every object is a descriptor of ours, some are two. What remains is for clients and targets: a daemon that cannot accept a
// connection any more cannot be told to stop either.
size_t objects_max() {
  constexpr rlim_t kMost = 1u << 16, kForOthers = 256;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 512;
  const rlim_t usable = limit.rlim_cur > kForOthers ? limit.rlim_cur - kForOthers : 0;
  return static_cast<size_t>(std::max<rlim_t>(16, std::min(kMost, usable / 4 * 3)));
}

uint64_t boot_time_ns() {
  timespec ts;
  ::clock_gettime(CLOCK_BOOTTIME, &ts);
  return uint64_t(ts.tv_sec) * 1'000'000'000 + ts.tv_nsec;
}

}  // namespace

std::vector<std::shared_ptr<Object>> Map::references() const {
  std::vector<std::shared_ptr<Object>> out;
  if (btf) out.push_back(btf);
  for (const auto& [slot, event] : perf_slots) out.push_back(event);
  for (const auto& [key, object] : slots) out.push_back(object);
  return out;
}

std::vector<std::shared_ptr<Object>> Prog::references() const {
  std::vector<std::shared_ptr<Object>> out(maps.begin(), maps.end());
  out.insert(out.end(), bound_maps.begin(), bound_maps.end());
  if (btf) out.push_back(btf);
  if (runs) out.push_back(runs);
  return out;
}

std::vector<std::shared_ptr<Object>> PerfEvent::references() const {
  std::vector<std::shared_ptr<Object>> out;
  for (const auto& attached : by_ioctl) out.push_back(attached.program);
  return out;
}

std::vector<std::shared_ptr<Object>> Link::references() const {
  std::vector<std::shared_ptr<Object>> out;
  if (program) out.push_back(program);
  if (event) out.push_back(event);
  return out;
}

uint32_t link_type(const Link& link) {
  constexpr uint32_t kUprobeMulti = 12;  // BPF_LINK_TYPE_UPROBE_MULTI, not in every linux/bpf.h
  if (!link.event) return kUprobeMulti;
  return link.event->perf_kind == PerfKind::kRawTracepoint ? BPF_LINK_TYPE_RAW_TRACEPOINT
                                                           : BPF_LINK_TYPE_PERF_EVENT;
}

ObjectTable::ObjectTable() : inotify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
  // A lease that is being broken (somebody opens the file while we ask) would raise SIGIO: ours to ignore.
  ::signal(SIGIO, SIG_IGN);
}
ObjectTable::~ObjectTable() = default;

Result<void> ObjectTable::create_storage(Object& object, uint64_t content_size, bool growable) {
  static const size_t most = objects_max();
  if (objects_.size() >= most)
    return Error{EMFILE, "new object: " + std::to_string(most) +
                             " exist already; try closing some, or a higher limit of open files (ulimit -n)"};
  prepare_asked_ |= object.kind == ObjectKind::kLink;
  auto prepared =
      content_size == 0 && !growable ? prepared_.extract(object.kind) : decltype(prepared_)::node_type();
  auto storage = prepared ? Result<Storage>(std::move(prepared.mapped()))
                          : make_storage(object.kind, content_size, growable);
  if (!storage) return storage.error();
  object.fd = std::move(storage->fd);
  object.inode = storage->inode;
  object.watch = storage->watch;
  object.id = ++last_id_[object.kind];
  object.created_ns = boot_time_ns();
  return {};
}

Result<ObjectTable::Storage> ObjectTable::make_storage(ObjectKind kind, uint64_t content_size,
                                                       bool growable) {
  const uint64_t size = round_up(content_size, kPageSize) + wire::kTrailerSize;
  const int seals = growable ? 0 : F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  auto created = create_memfd(memfd_name(kind), size, seals);
  if (!created) return created.error();
  // The first description of a memfd is not reported to inotify: work with a re-opened one.
  auto ours = created->reopen(O_RDWR);
  if (!ours) return ours.error();
  auto inode = inode_of(ours->get());
  if (!inode) return inode.error();
  return Storage{std::move(*ours), *inode, -1};
}

void ObjectTable::prepare_storage() {
  if (!std::exchange(prepare_asked_, false)) return;
  for (const ObjectKind kind : {ObjectKind::kPerfEvent, ObjectKind::kLink}) {
    if (prepared_.contains(kind)) continue;
    auto storage = make_storage(kind, 0, /*growable=*/false);
    auto watched = storage ? watch(storage->fd) : Result<int>(storage.error());
    // What goes wrong here will again for who needs it, and is told there. The page is there from now on.
    if (!watched || ::pwrite(storage->fd.get(), "", 1, 0) != 1) return;
    storage->watch = *watched;
    prepared_.emplace(kind, std::move(*storage));
  }
}

Result<void> ObjectTable::write_trailer(const Object& object) {
  auto size = file_size(object.fd);
  if (!size) return size.error();
  wire::ObjectTrailer trailer{};
  trailer.header = {wire::kMagic, wire::kAbiVersion, wire::kArchX86_64, *size};
  trailer.kind = object.kind;
  trailer.id = object.id;
  std::strncpy(trailer.name, object.name.c_str(), sizeof trailer.name - 1);
  if (object.kind == ObjectKind::kMap) {
    const auto& map = static_cast<const Map&>(object);
    trailer.map = map.spec;
    trailer.frozen = map.frozen;
    trailer.address = map.address;
    trailer.fields = map.fields;
  }
  if (object.kind == ObjectKind::kPerfEvent) {
    const auto& event = static_cast<const PerfEvent&>(object);
    trailer.enabled = event.perf_kind == PerfKind::kUprobe && event.enabled;
  }
  if (object.kind == ObjectKind::kLink) trailer.map.type = link_type(static_cast<const Link&>(object));
  if (::pwrite(object.fd.get(), &trailer, sizeof trailer, *size - wire::kTrailerSize) != sizeof trailer)
    return Error::from_errno("write trailer");
  return {};
}

Result<int> ObjectTable::watch(const Fd& fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  const int wd = ::inotify_add_watch(inotify_.get(), path.c_str(), IN_CLOSE);
  if (wd < 0)
    return Error{errno, std::string("watch object: ") + std::strerror(errno) +
                            "; try raising fs.inotify.max_user_watches"};
  return wd;
}

Result<void> ObjectTable::insert(std::shared_ptr<Object> object) {
  if (object->watch < 0) {
    auto watched = watch(object->fd);
    if (!watched) return watched.error();
    object->watch = *watched;
  }
  by_watch_[object->watch] = object;
  last_id_[object->kind] = std::max(last_id_[object->kind], object->id);
  by_inode_[object->inode] = object;
  objects_[{object->kind, object->id}] = std::move(object);
  return {};
}

Result<Fd> ObjectTable::hand_out(const Object& object, int flags) { return object.fd.reopen(flags); }

std::shared_ptr<Object> ObjectTable::find(ObjectKind kind, uint32_t id) const {
  auto it = objects_.find({kind, id});
  return it == objects_.end() ? nullptr : it->second;
}

std::shared_ptr<Object> ObjectTable::find(const InodeId& inode) const {
  auto it = by_inode_.find(inode);
  return it == by_inode_.end() ? nullptr : it->second;
}

std::shared_ptr<Object> ObjectTable::find_fd(int fd) const {
  auto inode = inode_of(fd);
  return inode ? find(*inode) : nullptr;
}

uint32_t ObjectTable::next_id(ObjectKind kind, uint32_t after) const {
  for (auto it = objects_.upper_bound({kind, after}); it != objects_.end() && it->first.first == kind; ++it) {
    if (kind == ObjectKind::kMap && static_cast<const Map&>(*it->second).internal) continue;
    return it->first.second;
  }
  return 0;
}

void ObjectTable::suspect_all() {
  for (auto& [key, object] : objects_) object->held_outside = !only_we_hold(*object);
  sweep_asked_ = true;
}

void ObjectTable::read_notifications() {
  alignas(inotify_event) char buffer[16384];
  for (;;) {
    const ssize_t count = ::read(inotify_.get(), buffer, sizeof buffer);
    if (count <= 0) return;
    for (ssize_t at = 0; at < count;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      at += sizeof(inotify_event) + event->len;
      if (event->mask & IN_Q_OVERFLOW) {
        names_touched_ = true;
        suspect_all();
        continue;
      }
      auto watched = by_watch_.find(event->wd);
      if (watched == by_watch_.end()) {
        names_touched_ |= (event->mask & (IN_ATTRIB | IN_DELETE_SELF)) != 0;
        continue;
      }
      // Events coalesce: only the lease tells whether that was the last holder.
      if (auto object = watched->second.lock()) suspects_[object] = boot_time_ns() + kSuspectNs;
      if (event->mask & IN_IGNORED) by_watch_.erase(watched);
    }
  }
}

bool ObjectTable::sweep_is_due() const {
  constexpr uint64_t kSweepNs = 1'000'000'000;
  const uint64_t now = boot_time_ns();
  return now >= rest_until_ns_ && (sweep_asked_ || now - swept_ns_ >= kSweepNs);
}

bool ObjectTable::take_names_touched() {
  read_notifications();
  return std::exchange(names_touched_, false);
}

bool ObjectTable::collect(const Gone& gone) {
  read_notifications();
  std::vector<std::shared_ptr<Object>> let_go;
  const uint64_t now = boot_time_ns();
  std::erase_if(suspects_, [&](const auto& entry) {
    entry.first->held_outside = !only_we_hold(*entry.first);
    if (!entry.first->held_outside) let_go.push_back(entry.first);
    return !entry.first->held_outside || now > entry.second;
  });
  drop_unreferenced(std::move(let_go), gone);
  const bool due = sweep_is_due();
  if (due) sweep(gone);
  return due;
}

void ObjectTable::drop(const std::shared_ptr<Object>& object, const Gone& gone) {
  objects_.erase({object->kind, object->id});
  by_inode_.erase(object->inode);
  if (by_watch_.erase(object->watch) != 0) ::inotify_rm_watch(inotify_.get(), object->watch);
  gone(object);
}

void ObjectTable::drop_unreferenced(std::vector<std::shared_ptr<Object>> let_go, const Gone& gone) {
  std::stable_sort(let_go.begin(), let_go.end(), [](const auto& a, const auto& b) {
    return (a->kind == ObjectKind::kLink) > (b->kind == ObjectKind::kLink);
  });
  for (size_t i = 0; i < let_go.size(); ++i) {
    const auto object = std::exchange(let_go[i], nullptr);
    if (object->held_outside || !object->pins.empty() || find(object->kind, object->id) != object) continue;
    const bool internal = object->kind == ObjectKind::kMap && static_cast<const Map&>(*object).internal;
    constexpr long kOurs =
        3;  // objects_, by_inode_, and `object`; whatever else points to it may be a reference
    if (internal || object.use_count() != kOurs) {
      // An event that refers to nothing is in no circle: it goes with the last that points to it.
      if (object->kind != ObjectKind::kPerfEvent || !object->references().empty()) sweep_asked_ = true;
      continue;
    }
    auto references = object->references();
    drop(object, gone);
    let_go.insert(let_go.end(), std::make_move_iterator(references.begin()),
                  std::make_move_iterator(references.end()));
  }
}

void ObjectTable::sweep(const Gone& gone) {
  sweep_asked_ = false;
  const uint64_t start = boot_time_ns();
  std::set<Object*> living;
  std::vector<std::shared_ptr<Object>> pending;
  for (const auto& [key, object] : objects_) {
    const bool internal = key.first == ObjectKind::kMap && static_cast<const Map&>(*object).internal;
    if (object->held_outside || internal || !object->pins.empty()) pending.push_back(object);
  }
  while (!pending.empty()) {
    auto object = std::move(pending.back());
    pending.pop_back();
    if (!living.insert(object.get()).second) continue;
    for (auto& reference : object->references()) pending.push_back(std::move(reference));
  }
  std::vector<std::shared_ptr<Object>> dead;
  for (const auto& [key, object] : objects_)
    if (!living.contains(object.get())) dead.push_back(object);
  std::stable_sort(dead.begin(), dead.end(), [](const auto& a, const auto& b) {
    return (a->kind == ObjectKind::kLink) > (b->kind == ObjectKind::kLink);
  });
  for (const auto& object : dead) drop(object, gone);
  constexpr uint64_t kShortNs = 50'000;
  swept_ns_ = boot_time_ns();
  if (swept_ns_ - start > kShortNs) rest_until_ns_ = swept_ns_ + 7 * (swept_ns_ - start);
}

}  // namespace bpftime::kernel

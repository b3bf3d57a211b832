#include "loader/objects.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "loader/host.h"
#include "loader/real.h"
#include "maps/map.h"

namespace bpftime::loader {
namespace {

std::atomic<bool> seen{false};
std::mutex table_mutex;

// Never destroyed: the host may call us from destructors of its own, after ours would have run.
std::map<InodeId, ObjectPtr>& table() {
  static auto* const objects = new std::map<InodeId, ObjectPtr>;
  return *objects;
}

// ---- descriptors met before ----
//
// Hooks see nearly every way in which a number comes to mean another file, but not all (a raw system call, fclose of an
// fdopen, io_uring), so a number is never trusted. Asking which file it is (fstat) costs more than what most commands on maps
// do; asking for its position is the cheapest question that Linux answers differently for different files. Nobody has a use
// for the position of a map's descriptor (Linux's cannot be read or moved), so the first time it is made to be one that no
// file comes to have otherwise and that says which map it is and how it is open.

struct Met {
  Descriptor descriptor;
  int64_t position = 0;
};
constexpr unsigned kMetMax = 256;  // remembered at once; by number, modulo this
constexpr int64_t kPositions = int64_t{1} << 62;

// Guarded by table_mutex, never destroyed as above.
Met& met(int fd) {
  static auto* const all = new std::array<Met, kMetMax>;
  return (*all)[static_cast<unsigned>(fd) % kMetMax];
}

// The same in every process: they may share the open file.
int64_t position_of(const Object& object, int access) {
  uint64_t mixed = (object.inode.inode ^ object.inode.device << 40) * 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ mixed >> 32 ^ object.id) * 0xd6e8feb86659fd93u;
  return kPositions | static_cast<int64_t>((mixed >> 4 & ~uint64_t{3}) | static_cast<unsigned>(access));
}

Descriptor find_met(int fd) {
  Descriptor found;
  int64_t position;
  if (remote_host() != nullptr) return found;  // a borrowed number is another descriptor's at the next call
  {
    const std::lock_guard lock(table_mutex);
    const Met& known = met(fd);
    if (known.descriptor.fd != fd) return found;
    found = known.descriptor;
    position = known.position;
  }
  if (raw_syscall(SYS_lseek, fd, 0, SEEK_CUR) != position) return {};
  found.object->used.store(true, std::memory_order_relaxed);
  return found;
}

void remember(const Descriptor& descriptor) {
  const int64_t position = position_of(*descriptor.object, descriptor.access);
  if (raw_syscall(SYS_lseek, descriptor.fd, position, SEEK_SET) != position) return;
  if (remote_host() != nullptr) return;
  const std::lock_guard lock(table_mutex);
  // Only what a close drops: somebody may have dropped it already.
  const auto found = table().find(descriptor.object->inode);
  if (found != table().end() && found->second == descriptor.object)
    met(descriptor.fd) = {descriptor, position};
}

// Under table_mutex. The caller holds the object: unmapping is not done under a lock.
void forget_met(const Object* object) {
  for (unsigned i = 0; i < kMetMax; ++i)
    if (met(static_cast<int>(i)).descriptor.object.get() == object) met(static_cast<int>(i)) = {};
}

// What a descriptor of ours must look like before its trailer is believed. Only hostile *contents* matter
// from here on: who holds the descriptor is the daemon's or the host's decision.
std::optional<wire::ObjectTrailer> read_trailer(int fd, const struct stat& st) {
  const auto size = static_cast<uint64_t>(st.st_size);
  if (!S_ISREG(st.st_mode) || size < wire::kTrailerSize || size % kPageSize != 0) return std::nullopt;
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return std::nullopt;
  wire::ObjectTrailer trailer;
  ssize_t got = ::pread(fd, &trailer, sizeof(trailer), static_cast<off_t>(size - wire::kTrailerSize));
  if (got < 0 && errno == EBADF) {  // opened write-only
    const Fd again(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
    if (again)
      got = ::pread(again.get(), &trailer, sizeof(trailer), static_cast<off_t>(size - wire::kTrailerSize));
  }
  if (got != static_cast<ssize_t>(sizeof(trailer)) || !trailer.header.matches(size)) return std::nullopt;
  // A map that could shrink would turn our reads into SIGBUS.
  if (trailer.kind == wire::ObjectKind::kMap && (seals & F_SEAL_SHRINK) == 0) return std::nullopt;
  return trailer;
}

}  // namespace

std::optional<wire::ObjectTrailer> trailer_of(int fd, const Object& object) {
  wire::ObjectTrailer trailer;
  const long got = raw_syscall(SYS_pread64, fd, reinterpret_cast<long>(&trailer), sizeof trailer,
                               static_cast<long>(object.size - wire::kTrailerSize));
  if (got != static_cast<long>(sizeof trailer) || !trailer.header.matches(object.size)) return std::nullopt;
  return trailer;
}

namespace {

bool fields_fit(const wire::MapSpec& spec, const wire::ValueFields& fields) {
  const auto inside = [&](uint64_t offset, uint64_t size) { return offset + size <= spec.value_size; };
  if (fields.count > wire::kHiddenFieldsMax) return false;
  for (uint32_t i = 0; i < fields.count; ++i)
    if (!inside(fields.hidden[i].offset, fields.hidden[i].size)) return false;
  return fields.lock == 0 || (inside(fields.lock - 1, 4) && (fields.lock - 1) % 4 == 0);
}

ObjectPtr make_object(int fd, const struct stat& st) {
  const auto trailer = read_trailer(fd, st);
  if (!trailer || trailer->kind == wire::ObjectKind::kNone || trailer->kind > wire::ObjectKind::kStats)
    return nullptr;
  auto object = std::make_shared<Object>();
  object->inode = {st.st_dev, st.st_ino};
  object->kind = trailer->kind;
  object->id = trailer->id;
  object->size = static_cast<uint64_t>(st.st_size);
  if (object->kind == wire::ObjectKind::kMap) {
    object->spec = trailer->map;
    object->fields = trailer->fields;
    object->checked = fields_fit(object->spec, object->fields) && maps::check_spec(object->spec) == 0 &&
                      maps::memory_size(object->spec) == object->size;
  }
  if (object->kind == wire::ObjectKind::kLink) object->spec.type = trailer->map.type;
  return object;
}

}  // namespace

View::~View() {
  if (data != nullptr) ::munmap(data, size);
}

namespace {

ObjectPtr find_by_inode(int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return nullptr;
  const InodeId inode = {st.st_dev, st.st_ino};
  {
    const std::lock_guard lock(table_mutex);
    const auto found = table().find(inode);
    // A perf event's file grows when its ring is sized; maps are sealed. Anything else: a
    // reused inode number.
    if (found != table().end() && (found->second->size == static_cast<uint64_t>(st.st_size) ||
                                   found->second->kind == wire::ObjectKind::kPerfEvent)) {
      found->second->used.store(true, std::memory_order_relaxed);
      return found->second;
    }
  }
  ObjectPtr object = make_object(fd, st);
  if (object == nullptr) return nullptr;
  note_object_seen();
  ObjectPtr replaced;  // released after the lock
  const std::lock_guard lock(table_mutex);
  ObjectPtr& place = table()[inode];
  replaced = std::move(place);
  if (replaced != nullptr) forget_met(replaced.get());
  place = object;
  return object;
}

}  // namespace

Descriptor find_descriptor(int fd) {
  if (fd < 0) return {};
  if (Descriptor found = find_met(fd); found.object != nullptr) return found;
  Descriptor found = {fd, 0, find_by_inode(fd)};
  if (found.object == nullptr || found.object->kind != wire::ObjectKind::kMap) return found;
  found.access = ::fcntl(fd, F_GETFL) & O_ACCMODE;
  remember(found);
  return found;
}

const uint8_t* map_object(const ObjectPtr& object, int fd, bool writable) {
  std::atomic<const uint8_t*>& known = writable ? object->write_base : object->read_base;
  if (const uint8_t* base = known.load(std::memory_order_acquire)) return base;
  const std::lock_guard lock(object->mutex);
  if (const uint8_t* base = known.load(std::memory_order_acquire)) return base;
  // A read-only mapping is made writable in place (MAP_FIXED), since other threads may be reading through it.
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  const int fixed = object->mapping.data != nullptr ? MAP_FIXED : 0;
  void* at = ::mmap(object->mapping.data, object->size, protection, MAP_SHARED | fixed, fd, 0);
  if (at == MAP_FAILED &&
      errno == EACCES) {  // a write-only descriptor cannot be mapped: through one of our own
    const Fd again(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC));
    if (again)
      at = ::mmap(object->mapping.data, object->size, protection, MAP_SHARED | fixed, again.get(), 0);
  }
  if (at == MAP_FAILED) return nullptr;
  object->mapping.data = static_cast<uint8_t*>(at);
  object->mapping.size = object->size;
  object->read_base.store(object->mapping.data, std::memory_order_release);
  if (writable) object->write_base.store(object->mapping.data, std::memory_order_release);
  return object->mapping.data;
}

bool host_maps_writable(const ObjectPtr& object) {
  const uint8_t* own = nullptr;
  {
    const std::lock_guard lock(object->mutex);
    own = object->mapping.data;
  }
  FILE* maps = ::fopen((host_proc() + "/maps").c_str(), "re");
  if (maps == nullptr) return false;
  bool found = false;
  char* line = nullptr;
  size_t room = 0;
  while (!found && ::getline(&line, &room, maps) > 0) {
    unsigned long long start, inode;
    unsigned device_major, device_minor;
    char mode[5];
    if (std::sscanf(line, "%llx-%*x %4s %*x %x:%x %llu", &start, mode, &device_major, &device_minor,
                    &inode) != 5)
      continue;
    found = inode == object->inode.inode && makedev(device_major, device_minor) == object->inode.device &&
            mode[1] == 'w' && mode[3] == 's' && start != reinterpret_cast<uint64_t>(own);
  }
  std::free(line);
  std::fclose(maps);
  return found;
}

bool any_object_seen() { return seen.load(std::memory_order_relaxed); }
void note_object_seen() { seen.store(true, std::memory_order_relaxed); }

void forget_descriptor(int fd) {
  struct stat st;
  if (fd < 0) return;
  const bool file = ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
  ObjectPtr dropped, was;  // unmapped after the lock is gone
  const std::lock_guard lock(table_mutex);
  if (Met& known = met(fd); known.descriptor.fd == fd) {
    was = std::move(known.descriptor.object);
    known = {};
  }
  if (!file) return;
  const auto found = table().find(InodeId{st.st_dev, st.st_ino});
  if (found == table().end()) return;
  dropped = std::move(found->second);
  table().erase(found);
  forget_met(dropped.get());
}

void forget_unused_objects() {
  std::vector<ObjectPtr> dropped;
  const std::lock_guard lock(table_mutex);
  for (auto at = table().begin(); at != table().end();) {
    if (at->second->used.exchange(false, std::memory_order_relaxed)) {
      ++at;
      continue;
    }
    forget_met(at->second.get());
    dropped.push_back(std::move(at->second));
    at = table().erase(at);
  }
}

bool keeps_objects() {
  const std::lock_guard lock(table_mutex);
  return !table().empty();
}

void forget_all_objects() {
  std::map<InodeId, ObjectPtr> dropped;
  const std::lock_guard lock(table_mutex);
  dropped.swap(table());
  for (unsigned i = 0; i < kMetMax; ++i) met(static_cast<int>(i)) = {};
}

void objects_before_fork() { table_mutex.lock(); }
void objects_after_fork() { table_mutex.unlock(); }

}  // namespace bpftime::loader

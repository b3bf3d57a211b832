// Which of the host's descriptors are ours, and what this process keeps per object.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "base/fd.h"
#include "base/memfd.h"
#include "maps/key_order.h"
#include "wire/object.h"

namespace bpftime::loader {

// Owns one mmap of memory that is not a Mapping's business (fixed size, either protection).
struct View {
  uint8_t* data = nullptr;
  size_t size = 0;
  View() = default;
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View();
};

// What this process knows of one object; shared by all its descriptors. Keeping one keeps the daemon's object
// alive (its mapping counts as a user), so it lives only in the cache below, in epoll watches, and on the
// stack of a call.
struct Object {
  InodeId inode;
  wire::ObjectKind kind = wire::ObjectKind::kNone;
  uint32_t id = 0;
  wire::MapSpec spec{};           // our own copy; links: their type; for element commands only when `checked`
  wire::ValueFields fields{};     // kMap: within the value when `checked`
  bool checked = false;           // kMap: geometry agrees with the file's size and the map core accepts it
  uint64_t size = 0;              // of the file, when it was recognised
  std::atomic<bool> used = true;  // since forget_unused_objects() looked last
  // Where `mapping` lies once it may be read, and once it may be written: what calls on elements look at, without the mutex.
  std::atomic<const uint8_t*> read_base = nullptr, write_base = nullptr;
  std::mutex order_mutex;  // only ever tried: a fork may leave it locked in the child
  maps::KeyOrder order;    // kMap: what BPF_MAP_GET_NEXT_KEY remembers
  std::mutex mutex;        // guards what follows
  View mapping;            // kMap: the whole file. Empty until first needed
  Fd eventfd;              // written by the daemon when data arrives; ring buffers and perf events
  View head;               // the pages readiness is told from
};

using ObjectPtr = std::shared_ptr<Object>;

// A descriptor of the host's and what it stands for.
struct Descriptor {
  int fd = -1;
  int access = 0;    // maps: O_RDONLY, O_WRONLY or O_RDWR, as it was opened
  ObjectPtr object;  // nullptr: not open, or not one of ours
};

// Of maps that are used again and again this costs one lseek, else an fstat; more only the first time.
Descriptor find_descriptor(int fd);
inline ObjectPtr find_object(int fd) { return find_descriptor(fd).object; }

// The object's memory, the whole file; empty when this descriptor may not be mapped that way. `writable`:
// read-write. The pointer stays valid as long as the ObjectPtr.
const uint8_t* map_object(const ObjectPtr& object, int fd, bool writable);

// Whether the host itself, not we for our own use, has a writable shared mapping of the object.
bool host_maps_writable(const ObjectPtr& object);

// An object's trailer as it is at this moment; nothing when it cannot be read through this descriptor.
std::optional<wire::ObjectTrailer> trailer_of(int fd, const Object& object);

// True once this process has met one of our objects: until then no hook needs to look at descriptors.
bool any_object_seen();
void note_object_seen();

// The host closes `fd` (or replaces it by dup2): drops what we keep of the object. Later calls through other
// descriptors of the same object find it again.
void forget_descriptor(int fd);
void forget_all_objects();

// For who does not see the host's descriptors close: forgets what nobody has asked for since the last time.
void forget_unused_objects();
bool keeps_objects();

// Around fork: no thread may hold the table while the memory is copied.
void objects_before_fork();
void objects_after_fork();

}  // namespace bpftime::loader

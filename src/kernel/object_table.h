// All living objects, found by id or by the inode behind a descriptor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "kernel/object.h"

namespace bpftime::kernel {

class ObjectTable {
 public:
  ObjectTable();
  ~ObjectTable();

  // Readable when a client may have closed its last descriptor of some object; then call collect().
  int notification_fd() const { return inotify_.get(); }

  // Creates the memfd of a new object: `content_size` bytes, then the trailer page; watches it. Fills fd, inode, id, name.
  // Growable objects (perf rings) stay unsealed until sized. EMFILE: as many objects as descriptors leave room for.
  Result<void> create_storage(Object& object, uint64_t content_size, bool growable);
  // Enters an object whose storage exists (created or recovered).
  Result<void> insert(std::shared_ptr<Object> object);

  // A new open file description for a client. `flags`: O_RDWR or O_RDONLY.
  static Result<Fd> hand_out(const Object& object, int flags);

  std::shared_ptr<Object> find(ObjectKind kind, uint32_t id) const;
  std::shared_ptr<Object> find(const InodeId& inode) const;
  // The object a client's descriptor means; nullptr when it is none of ours.
  std::shared_ptr<Object> find_fd(int fd) const;
  // Smallest id above `after`; 0: none.
  uint32_t next_id(ObjectKind kind, uint32_t after) const;
  template <typename T>
  std::vector<std::shared_ptr<T>> all(ObjectKind kind) const {
    std::vector<std::shared_ptr<T>> out;
    for (const auto& [key, object] : objects_)
      if (key.first == kind) out.push_back(std::static_pointer_cast<T>(object));
    return out;
  }
  size_t size() const { return objects_.size(); }

  // Drops every object nobody holds and no living object refers to. Calls `gone` for each, links first.
  void collect(const std::function<void(const std::shared_ptr<Object>&)>& gone);
  // Somebody may have let go of an object a moment ago: collect() again soon.
  // Whether collect() would look at all objects now. It rests after long looks, so that they take an eighth of the time at most.
  bool sweep_is_due() const;
  bool suspects() const { return !suspects_.empty() || sweep_owed_; }
  // Looks at every object again, not only at those inotify named (after recovery or a lost notification).
  void suspect_all();

  static Result<void> write_trailer(const Object& object);

 private:
  Fd inotify_;
  std::map<std::pair<ObjectKind, uint32_t>, std::shared_ptr<Object>> objects_;
  std::map<InodeId, std::shared_ptr<Object>> by_inode_;
  std::map<int, std::weak_ptr<Object>> by_watch_;
  std::map<ObjectKind, uint32_t> last_id_;
  // Objects somebody has just closed, and until when to ask again: the kernel reports a close before it counts it.
  std::map<std::shared_ptr<Object>, uint64_t> suspects_;

  // Looking at every object takes its time when there are many: then not after each event, but an eighth of the time.
  uint64_t rest_until_ns_ = 0;
  bool sweep_owed_ = false;

  Result<void> watch(const std::shared_ptr<Object>& object);
  void read_notifications();
};

}  // namespace bpftime::kernel

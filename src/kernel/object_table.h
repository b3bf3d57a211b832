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
  // To be called when nobody waits: after a link was made, makes the storage of the next event and the next link. A tool that
  // attaches link by link asks for both, one after the other, and reads its files in between.
  void prepare_storage();
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
  // In order of their ids. `visit` must not change the table.
  template <typename Visit>
  void each(ObjectKind kind, Visit visit) const {
    for (auto at = objects_.lower_bound({kind, 0}); at != objects_.end() && at->first.first == kind; ++at)
      visit(at->second);
  }
  template <typename T>
  std::vector<std::shared_ptr<T>> all(ObjectKind kind) const {
    std::vector<std::shared_ptr<T>> out;
    each(kind, [&](const auto& object) { out.push_back(std::static_pointer_cast<T>(object)); });
    return out;
  }
  size_t size() const { return objects_.size(); }

  // Drops every object nobody holds and no living object refers to. Calls `gone` for each, links first. What nothing else here
  // points to goes at once; a look at all objects finds the rest (circles). Such looks are made when somebody asks for them or
  // let go of what is still pointed to, each second in any case, and rest after long ones, so that they take an eighth of the
  // time at most. Returns whether it made one.
  bool collect(const std::function<void(const std::shared_ptr<Object>&)>& gone);
  // Some object refers to less than before.
  void ask_for_sweep() { sweep_asked_ = true; }
  // Whether collect() would look at all objects now.
  bool sweep_is_due() const;
  // Whether a pin's name may have gone since last asked.
  bool take_names_touched();
  // Somebody may have let go of an object a moment ago: collect() again soon.
  bool suspects() const { return !suspects_.empty() || sweep_asked_; }
  // Looks at every object again, not only at those inotify named (after recovery or a lost notification).
  void suspect_all();

  static Result<void> write_trailer(const Object& object);

 private:
  Fd inotify_;
  std::map<std::pair<ObjectKind, uint32_t>, std::shared_ptr<Object>> objects_;
  std::map<InodeId, std::shared_ptr<Object>> by_inode_;
  std::map<int, std::weak_ptr<Object>> by_watch_;
  std::map<ObjectKind, uint32_t> last_id_;
  struct Storage {
    Fd fd;
    InodeId inode;
    int watch = -1;  // of inotify
  };
  std::map<ObjectKind, Storage> prepared_;
  bool prepare_asked_ = false;
  // Objects somebody has just closed, and until when to ask again: the kernel reports a close before it counts it.
  std::map<std::shared_ptr<Object>, uint64_t> suspects_;

  uint64_t rest_until_ns_ = 0, swept_ns_ = 0;
  bool sweep_asked_ = true;
  bool names_touched_ = true;

  using Gone = std::function<void(const std::shared_ptr<Object>&)>;
  // Drops those of `let_go` that nothing points to, and then those that these pointed to.
  void drop_unreferenced(std::vector<std::shared_ptr<Object>> let_go, const Gone& gone);
  void sweep(const Gone& gone);
  void drop(const std::shared_ptr<Object>& object, const Gone& gone);
  Result<int> watch(const Fd& fd);
  static Result<Storage> make_storage(ObjectKind kind, uint64_t content_size, bool growable);
  void read_notifications();
};

}  // namespace bpftime::kernel

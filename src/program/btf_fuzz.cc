// Hostile bytes as BTF. What is accepted must keep the promise of btf.h: every id and name offset is in
// range.
#include <cstdlib>

#include "program/btf.h"
#include "program/btf_types.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  const Bytes blob(data, size);
  if (program::validate_btf(blob)) {
    const auto header = *read_at<btf_header>(blob, 0);
    program::btf::Types types;
    types.strings = blob.subspan(header.hdr_len + header.str_off, header.str_len);
    if (!program::btf::read_types(blob.subspan(header.hdr_len, header.type_len), types)) std::abort();
    for (const auto& record : types.records) {
      if (!types.name_in_range(record.fixed.name_off)) std::abort();
    }
  }
  return 0;
}

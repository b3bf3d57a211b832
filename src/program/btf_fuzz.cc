// Hostile bytes as BTF. What is accepted must keep the promise of btf.h: every id and name offset is in
// range; and what is found in a map's value lies inside of it, nothing twice.
#include <cstdlib>

#include "program/btf.h"
#include "program/btf_types.h"
#include "program/special_fields.h"

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
  if (const auto contents = program::read_btf(blob)) {
    constexpr uint32_t kValueSize = 64, kTypesLookedAt = 64;  // each look may take a while
    for (uint32_t id = 0; id < contents->table.types.size() && id < kTypesLookedAt; ++id) {
      uint32_t end = 0;
      for (const auto& field : program::special_fields(contents->table, id, kValueSize)) {
        if (field.offset < end || field.size > kValueSize - field.offset) std::abort();
        end = field.offset + field.size;
      }
    }
  }
  return 0;
}

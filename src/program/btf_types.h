// A BTF blob after its records were found: what the checks of single records and of references share.
#pragma once

#include <linux/btf.h>

#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace bpftime::program::btf {

// One type record: the fixed part and what follows it. Borrows from the blob.
struct Type {
  btf_type fixed = {};
  Bytes extra;

  uint32_t kind() const { return BTF_INFO_KIND(fixed.info); }
  uint32_t vlen() const { return BTF_INFO_VLEN(fixed.info); }
  bool kflag() const { return BTF_INFO_KFLAG(fixed.info); }
  // Element `index` of the trailing array; callers stay below vlen().
  template <typename T>
  T element(uint32_t index) const {
    return *read_at<T>(extra, size_t{index} * sizeof(T));
  }
};

struct Types {
  std::vector<Type> records = {Type{}};  // by type id; 0 is void
  Bytes strings;

  bool exists(uint32_t id) const { return id < records.size(); }
  bool name_in_range(uint32_t offset) const { return offset < strings.size(); }
  // Only for offsets in range; the string section ends in NUL.
  std::string_view name(uint32_t offset) const { return *string_at(strings, offset); }
};

Error type_error(uint32_t id, const char* why, int code = EINVAL);

// Identifier as Linux sees it: letters (Latin-1 too), digits, '_' and '.', no digit first, 1
// to 511 characters.
bool is_identifier(std::string_view name);

// Checks each record by itself, in order of ids, and adds it to `types`.
Result<void> read_types(Bytes section, Types& types);

// Checks what records say about each other: kinds of targets, loops, chains.
Result<void> check_references(const Types& types);

}  // namespace bpftime::program::btf

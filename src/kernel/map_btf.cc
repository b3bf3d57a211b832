#include "kernel/map_btf.h"

#include <linux/bpf.h>

#include "maps/types.h"
#include "program/btf_types.h"
#include "program/special_fields.h"
#include "program/type_table.h"

namespace bpftime::kernel {
namespace {

constexpr int kNotSupported = 524;  // ENOTSUPP

bool takes_no_types(uint32_t type) { return maps::type_facts(type).btf == maps::MapBtf::kNone; }

bool is_array(uint32_t type) { return type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY; }

// Types that decide for themselves whether they need the key's type.
bool has_check(uint32_t type) { return maps::type_facts(type).btf != maps::MapBtf::kNeedsKey; }

class Types {
 public:
  Types(const program::btf::Types& records, const program::TypeTable& table)
      : records_(records), table_(table) {}

  // Past typedefs and qualifiers.
  uint32_t kind(uint32_t id) const { return records_.records[table_.resolve(id)].kind(); }
  // 0: has none.
  uint64_t size(uint32_t id) const {
    if (!records_.exists(id)) return 0;
    const auto& record = records_.records[id];
    return record.kind() == BTF_KIND_DATASEC ? record.fixed.size : table_.size_of(id);
  }

 private:
  const program::btf::Types& records_;
  const program::TypeTable& table_;
};

Error refuse(const char* why, int code = EINVAL) { return Error{code, std::string("map types: ") + why}; }

// The second half of map_check_btf.
Result<void> check_fields(const wire::MapSpec& spec, const std::vector<program::SpecialField>& fields) {
  if (!fields.empty() && (spec.flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)) != 0)
    return refuse("value: it has a lock or timer, which programs could not use", EACCES);
  for (const auto& field : fields) {
    const bool lock = field.kind == program::SpecialKind::kSpinLock;
    const maps::MapTypeFacts facts = maps::type_facts(spec.type);
    if (!(lock ? facts.spin_locks : facts.timers))
      return refuse("value: this type of map can have no lock or timer in it", EOPNOTSUPP);
  }
  return {};
}

}  // namespace

Result<wire::ValueFields> check_map_types(const wire::MapSpec& spec, Bytes btf, uint32_t key_id,
                                          uint32_t value_id) {
  auto contents = program::read_btf(btf);
  if (!contents) return contents.error();
  const auto header = *read_at<btf_header>(btf, 0);
  program::btf::Types records;
  const Bytes rest = btf.subspan(header.hdr_len);
  records.strings = rest.subspan(header.str_off);
  if (auto read = program::btf::read_types(rest.first(header.type_len), records); !read) return read.error();
  const Types types(records, contents->table);

  if (key_id != 0 && types.size(key_id) != spec.key_size) return refuse("key: of another size");
  if (key_id == 0 && !has_check(spec.type)) return refuse("key: none given, but this type of map needs it");
  if (types.size(value_id) == 0 || types.size(value_id) != spec.value_size)
    return refuse("value: of another size");
  const auto special = program::special_fields(contents->table, value_id, spec.value_size);
  if (auto may = check_fields(spec, special); !may) return may.error();
  if (takes_no_types(spec.type)) return refuse("this type of map has none", kNotSupported);
  // What a compiler makes of global variables: one value, and no key.
  const bool section = types.kind(value_id) == BTF_KIND_DATASEC;
  if (is_array(spec.type) && key_id == 0 &&
      (spec.type != BPF_MAP_TYPE_ARRAY || spec.max_entries != 1 || !section))
    return refuse("key: none given, but this is no section of variables");
  if (is_array(spec.type) && key_id != 0 && types.kind(key_id) != BTF_KIND_INT)
    return refuse("key: an array's is a 32-bit integer");
  if (spec.type == BPF_MAP_TYPE_LPM_TRIE && (key_id == 0 || types.kind(key_id) != BTF_KIND_STRUCT))
    return refuse("key: a trie's is a structure");
  wire::ValueFields fields{};
  for (const auto& field : special) {
    if (field.kind == program::SpecialKind::kSpinLock) fields.lock = field.offset + 1;
    fields.hidden[fields.count++] = {field.offset, field.size};  // one of each kind at most
  }
  return fields;
}

}  // namespace bpftime::kernel

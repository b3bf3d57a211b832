#include "verifier/map_fields.h"

#include "program/type_table.h"

namespace bpftime::verifier {

void find_special_fields(MapConstraint& map) {
  if (map.btf.empty() || map.btf_value_type_id == 0) return;
  const auto btf = program::read_btf(map.btf);
  if (!btf) return;
  const program::CType& value = btf->table.resolved(map.btf_value_type_id);
  if (value.kind != program::TypeKind::kStruct) return;
  for (const program::CType::Member& member : value.members) {
    const program::CType& type = btf->table.resolved(member.type);
    const uint64_t offset = member.bit_offset / 8;
    if (type.kind != program::TypeKind::kStruct || member.bit_size != 0 || type.size > map.spec.value_size ||
        offset > map.spec.value_size - type.size)
      continue;
    if (type.name == "bpf_spin_lock" && !map.spin_lock) map.spin_lock = static_cast<uint32_t>(offset);
    if (type.name == "bpf_timer" && !map.timer) map.timer = static_cast<uint32_t>(offset);
  }
}

}  // namespace bpftime::verifier

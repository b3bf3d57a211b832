#include "verifier/map_fields.h"

#include "program/special_fields.h"

namespace bpftime::verifier {

void find_special_fields(MapConstraint& map) {
  if (map.btf.empty() || map.btf_value_type_id == 0) return;
  const auto btf = program::read_btf(map.btf);
  if (!btf) return;
  for (const auto& field : program::special_fields(btf->table, map.btf_value_type_id, map.spec.value_size)) {
    if (field.kind == program::SpecialKind::kSpinLock) map.spin_lock = field.offset;
    if (field.kind == program::SpecialKind::kTimer) map.timer = field.offset;
  }
}

}  // namespace bpftime::verifier

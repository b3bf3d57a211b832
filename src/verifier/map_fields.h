// Places in a map's values that only helpers may touch.
#pragma once

#include "verifier/verifier.h"

namespace bpftime::verifier {

// Fills `spin_lock` and `timer` from the map's BTF (program/special_fields.h). BTF that cannot be read names nothing.
void find_special_fields(MapConstraint& map);

}  // namespace bpftime::verifier

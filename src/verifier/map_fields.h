// Places in a map's values that only helpers may touch.
#pragma once

#include "verifier/verifier.h"

namespace bpftime::verifier {

// Fills `spin_lock` and `timer` from the map's BTF: the first member of the value's struct, at the top level as Linux looks, that
// is a struct bpf_spin_lock or bpf_timer and lies inside the value. BTF that cannot be read names nothing.
void find_special_fields(MapConstraint& map);

}  // namespace bpftime::verifier

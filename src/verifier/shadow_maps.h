// Kernel maps that look to Linux's verifier like ours, for as long as it is asked.
#pragma once

#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "verifier/verifier.h"

namespace bpftime::verifier {

// What decides a verdict is kept, what only costs memory is shrunk; see the comment in the .cc for each type.
wire::MapSpec shadow_spec(const wire::MapSpec& spec);

// One kernel map per entry of `needed` that is true (the others stay invalid), filled and frozen where the
// original is. Errors: errno of the kernel's refusal with "map NAME: …"; EOPNOTSUPP for maps of maps, whose
// inner map is not described.
Result<std::vector<Fd>> make_shadow_maps(const std::vector<MapConstraint>& maps,
                                         const std::vector<bool>& needed);

// BPF_BTF_LOAD. Errors: the kernel's errno.
Result<Fd> load_btf(Bytes blob);

}  // namespace bpftime::verifier

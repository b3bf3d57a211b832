// Programs that look like programs: templates with typed values and small mistakes put in on purpose. Test-only.
#pragma once

#include "verifier/testing/random.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

struct GeneratorOptions {
  uint32_t templates_min = 3, templates_max = 9;  // pieces of a program
  // Chance that a knob of a template is off by one, of the wrong sign, missing. 0: everything is meant to be accepted.
  uint32_t mistake_percent = 6;
};

// The same seed gives the same program. Maps are of standard_map() and frozen_array() and asked of the kernel as they are.
Request generate(uint64_t seed, const GeneratorOptions& options = {});

}  // namespace bpftime::verifier::testing

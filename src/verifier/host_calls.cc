#include "verifier/calls.h"

namespace bpftime::verifier {

bool step_host_call(Engine& engine) {
  return engine.refuse(Rule::kFUN006, "kernel functions do not exist in user space",
                       "calling kernel function is not allowed");
}

bool load_host_global(Engine& engine) {
  return engine.refuse(Rule::kFUN006, "there are no kernel variables in user space", "ldimm64 of a kernel variable");
}

}  // namespace bpftime::verifier

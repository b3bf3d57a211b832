// Any bytes as a policy.
#include "eim/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime::eim;
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)parse_policy(text, "fuzz.yaml");
  (void)parse_capability(text, {1, 1}, Policy{});
  return 0;
}

// A manifest and a class of a policy, lowered to what the verifier enforces.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "eim/host_btf.h"
#include "eim/manifest.h"
#include "eim/policy.h"
#include "verifier/constraints.h"

namespace bpftime::eim {

// Of a class whose policy does not say: enough for a filter, too little to notice.
inline constexpr uint64_t kInstructionsDefault = 10'000;
inline constexpr uint64_t kMemoryDefault = 1u << 20;

struct Grant {
  verifier::Constraints constraints;
  std::string class_name, entry;  // entry: the capability's name
  // Where each of constraints.views comes from: the path a policy would use for it, and its type.
  struct ViewOrigin {
    std::string path;   // "r.connection"; empty: results and arguments of host functions, variables
    uint32_t type = 0;  // in the manifest's types
  };
  std::vector<ViewOrigin> origins;
  std::vector<std::string> shared_maps;
  bool result_is_float = false;  // return values are the bits of a float or double
};

// Errors name policy file, line and column, and the nearest valid word. Several are joined by newlines, at most kErrorsMax.
inline constexpr size_t kErrorsMax = 10;
Result<Grant> make_grant(const Manifest& manifest, const HostBtf& host, const Policy& policy,
                         const ExtensionClass& granted);

// Every class of the policy against the manifest, and whether the policy is for this build of the host: `host_build_id` is that
// of the binary that runs.
Result<void> check_policy(const Manifest& manifest, const Policy& policy, const std::string& host_build_id);

// Helpers that reach the host's memory by address and that a policy may grant by name.
bool is_helper_grantable(const std::string& name);

// The line to add for what the verifier says is missing (verifier::Diagnosis::grant): a member, a function, a variable, a helper.
// Empty: nothing the host offers would do.
std::string missing_hint(const Grant& grant, const Manifest& manifest, const Policy& policy,
                         const std::string& missing);

// The line to add so that `size` bytes at `offset` of view `view` may be read or written:
// `add "read(r.headers_in.cookie)" to class "firewall" (nginx.policy.yaml:9)`. Empty: no line would do.
std::string grant_hint(const Grant& grant, const Manifest& manifest, const Policy& policy, uint32_t view,
                       uint64_t offset, uint64_t size, bool write);
// The same for calling a host function or using a variable, by HostFunction::name or HostGlobal::name.
std::string grant_name_hint(const Grant& grant, const Manifest& manifest, const Policy& policy,
                            const std::string& name);

// The same of a capability as it is written.
std::string grant_hint(const Grant& grant, const Policy& policy, const std::string& capability);

// What an extension of the class can do and cannot do, in sentences.
std::string explain_class(const Manifest& manifest, const Policy& policy, const ExtensionClass& granted,
                          const Grant& grant);

}  // namespace bpftime::eim

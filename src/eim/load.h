// A policy with everything it names, read and checked together: what the command, the daemon and tests start from.
#pragma once

#include <string>
#include <vector>

#include "eim/grant.h"

namespace bpftime::eim {

struct LoadedPolicy {
  Policy policy;
  Manifest manifest;
  std::string host_path;      // the binary that extensions are for; empty: only described, not named
  std::string host_build_id;  // of host_path
  HostBtf host;               // split on `base`
  std::vector<Grant> grants;  // one per class, in the policy's order

  const Grant* grant_of(const std::string& class_name) const;
};

// Errors as of make_grant and check_policy: nothing of a policy with a mistake is used.
Result<LoadedPolicy> load_policy(const std::string& path, const program::BtfBase& base);

}  // namespace bpftime::eim

// Policies as connections name them: read with the manifest and the host's binary, lowered to classes the kernel enforces.
// All of it is input: errors say which file, line and column, and nothing that runs is changed by one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "eim/policy.h"
#include "kernel/kernel.h"

namespace bpftime::daemon {

// One line of a policy's `extensions`, and where it goes.
struct PolicyExtension {
  std::string program, function, class_name;  // as eim::Extension
  std::string entry;                          // capability's name
  std::string symbol;                         // function of the host
  uint64_t offset = 0;                        // of its first instruction in the host's file
  bool system_call = false;                   // then `symbol` is the event
  std::string place;                          // "nginx.policy.yaml:12"
};

struct OpenPolicy : kernel::HostPolicy {
  std::string path;
  std::string host;      // the binary extensions run in
  std::string build_id;  // that is asked for; empty: any
  std::vector<PolicyExtension> extensions;
  // What each class was granted, as written: for the audit log. As `classes`.
  std::vector<std::vector<std::string>> capabilities;
};

// `host`: the binary to take when neither policy nor manifest name one; may be empty. Paths are absolute.
// `use`: what of kernel::HostClass comes from who asks for it.
struct PolicyUse {
  std::string owner;
  uint64_t session = 0;
  bool check_promises = false;
};
Result<std::shared_ptr<OpenPolicy>> open_policy(kernel::Kernel& kernel, const std::string& path,
                                                const std::string& host, PolicyUse use = {});

}  // namespace bpftime::daemon

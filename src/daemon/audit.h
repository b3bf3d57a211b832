// The audit log: one JSON line for each grant, load and refusal, in the runtime directory, mode 0600.
#pragma once

#include <string>

#include "base/runtime_dir.h"
#include "daemon/policies.h"

namespace bpftime::daemon {

class AuditLog {
 public:
  explicit AuditLog(const RuntimeDirectory& directory) : path_(directory.audit_log()) {}

  struct Load {
    int32_t pid;
    uint32_t uid;
    std::string program;
    std::string class_name, policy;  // empty: an ordinary program, which observes
    uint32_t program_id;             // 0: refused
    std::string why;                 // of a refusal
  };
  void load(const Load& load);
  // A connection has been given the classes of a policy.
  void grant(int32_t pid, uint32_t uid, const OpenPolicy& policy);
  // A policy was refused.
  void refusal(int32_t pid, uint32_t uid, const std::string& policy, const std::string& why);

 private:
  std::string path_;
};

}  // namespace bpftime::daemon

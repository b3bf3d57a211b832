// Our verdict beside the running kernel's on any number of programs: counts, a table of differences by reason, and the
// smallest program that still shows one. Test-only.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "verifier/testing/oracle.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

enum class Agreement : uint8_t { kBothAccept, kBothRefuse, kFalseAccept, kFalseRefusal, kNotAsked };

struct Group {
  size_t count = 0;
  Agreement agreement = Agreement::kNotAsked;
  std::string kernel;  // class of its message
  std::string ours;
  Request smallest;  // shortest program of the group
  std::string origin;
};

class Differential {
 public:
  explicit Differential(KernelOracle& kernel) : kernel_(kernel) {}

  Agreement compare(const Request& request, const std::string& origin);
  Agreement compare(const Request& request, const Verdict& ours, const std::string& origin);

  // The group's program with everything taken out that the difference does not need.
  Request shrink(const Group& group);

  // Most frequent first. `false_accepts_only`: what is unsafe.
  std::vector<const Group*> groups(bool false_accepts_only = false) const;
  std::string table(size_t groups_max, bool shrunk);

  size_t counts[5] = {};
  size_t allowed_accepts = 0;  // of counts[kFalseAccept]: explained by allowed_differences.def
  bool explain_errno = false;  // fill errno_differences
  std::map<std::string, size_t> errno_differences;  // "ours RULE 22, kernel 13: message class"
  uint64_t our_time_ns = 0, kernel_time_ns = 0;

 private:
  bool same_difference(const Request& request, const Group& group);

  KernelOracle& kernel_;
  std::map<std::string, Group> groups_;
};

// Whether an allowed_differences.def rule explains it; the reason, or empty.
std::string allowed_reason(Agreement agreement, const std::string& kernel_message,
                           const std::string& our_message);

}  // namespace bpftime::verifier::testing

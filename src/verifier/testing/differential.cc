#include "verifier/testing/differential.h"

#include <algorithm>

#include "program/instructions.h"
#include "program/program.h"
#include "verifier/testing/mutator.h"

namespace bpftime::verifier::testing {
namespace {

constexpr uint32_t kInsnsToShrink = 100'000;

const char* name_of(Agreement agreement) {
  return agreement == Agreement::kFalseAccept ? "WE ACCEPT" : "WE REFUSE";
}

std::string group_key(Agreement agreement, const std::string& kernel, const std::string& ours) {
  return std::string(name_of(agreement)) + " | kernel: " + kernel + " | ours: " + ours;
}

Agreement agreement_of(int kernel_error, int our_error) {
  if (kernel_error == EREMOTEIO) return Agreement::kNotAsked;
  if (kernel_error == 0) return our_error == 0 ? Agreement::kBothAccept : Agreement::kFalseRefusal;
  return our_error == 0 ? Agreement::kFalseAccept : Agreement::kBothRefuse;
}

bool differs(Agreement agreement) {
  return agreement == Agreement::kFalseAccept || agreement == Agreement::kFalseRefusal;
}

}  // namespace

Agreement Differential::compare(const Request& request, const std::string& origin) {
  return compare(request, verify(request), origin);
}

Agreement Differential::compare(const Request& request, const Verdict& ours, const std::string& origin) {
  const KernelVerdict kernel = kernel_.ask(request);
  our_time_ns += ours.statistics.time_ns;
  kernel_time_ns += kernel.time_ns;
  const Agreement agreement = agreement_of(kernel.error, ours.error);
  ++counts[static_cast<size_t>(agreement)];
  if (explain_errno && agreement == Agreement::kBothRefuse && kernel.error != ours.error) {
    const std::string why = message_class(kernel_.ask_why(request).last_line);
    ++errno_differences["kernel " + std::to_string(kernel.error) + " ours " + std::to_string(ours.error) +
                        " | kernel: " + why + " | ours: " + message_class(summary(ours))];
  }
  if (!differs(agreement)) return agreement;
  const std::string why = kernel.error != 0 ? kernel_.ask_why(request).last_line : "accepted";
  if (!allowed_reason(agreement, why, summary(ours)).empty()) {
    allowed_accepts += agreement == Agreement::kFalseAccept;
    return agreement;
  }
  const std::string kernel_class = message_class(why), our_class = message_class(summary(ours));
  Group& group = groups_[group_key(agreement, kernel_class, our_class)];
  ++group.count;
  if (group.count == 1 || request.program.insns.size() < group.smallest.program.insns.size()) {
    group.agreement = agreement;
    group.kernel = kernel_class;
    group.ours = our_class;
    group.smallest = request;
    group.origin = origin;
  }
  return agreement;
}

bool Differential::same_difference(const Request& request, const Group& group) {
  const KernelVerdict kernel = kernel_.ask(request);
  const Verdict ours = verify(request);
  if (agreement_of(kernel.error, ours.error) != group.agreement) return false;
  if (group.agreement == Agreement::kFalseRefusal) return message_class(summary(ours)) == group.ours;
  return message_class(kernel_.ask_why(request).last_line) == group.kernel;
}

Request Differential::shrink(const Group& group) {
  Request best = group.smallest;
  if (verify(best).statistics.insns_processed > kInsnsToShrink) return best;  // each try would take long
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = best.program.insns.size(); i-- > 0;) {
      const program::Insn& insn = best.program.insns[i];
      if (i > 0 && program::is_load_imm64(best.program.insns[i - 1])) continue;
      Request smaller = best;
      if (insn.code == (BPF_JMP | BPF_JA) && insn.off == 0) {
        remove_insn(smaller, i);
      } else {
        neutralise(smaller, i);
      }
      if (smaller.program.insns.empty() || !same_difference(smaller, group)) continue;
      best = std::move(smaller);
      changed = true;
    }
  }
  return best;
}

std::vector<const Group*> Differential::groups(bool false_accepts_only) const {
  std::vector<const Group*> sorted;
  for (const auto& [key, group] : groups_) {
    if (!false_accepts_only || group.agreement == Agreement::kFalseAccept) sorted.push_back(&group);
  }
  std::stable_sort(sorted.begin(), sorted.end(), [](const Group* a, const Group* b) {
    if (a->agreement != b->agreement) return a->agreement == Agreement::kFalseAccept;
    return a->count > b->count;
  });
  return sorted;
}

std::string Differential::table(size_t groups_max, bool shrunk) {
  std::string out = "both accept " + std::to_string(counts[0]) + ", both refuse " +
                    std::to_string(counts[1]) + ", we alone accept " + std::to_string(counts[2]) +
                    ", we alone refuse " + std::to_string(counts[3]) + ", not asked " +
                    std::to_string(counts[4]) + "\n";
  size_t printed = 0;
  for (const Group* group : groups()) {
    if (++printed > groups_max) break;
    out += "\n" + std::to_string(group->count) + "  " +
           group_key(group->agreement, group->kernel, group->ours) + "\n    e.g. " + group->origin + "\n";
    if (!shrunk) continue;
    const Request smallest = shrink(*group);
    out += "    program type " + std::to_string(smallest.program.type) + ", flags " +
           std::to_string(smallest.flags);
    for (size_t i = 0; i < smallest.maps.size(); ++i) {
      out += ", map " + std::to_string(i) + " = " + smallest.maps[i].name;
    }
    out += "\n" + program::disassemble(smallest.program);
    out += "    ours: " + summary(verify(smallest)) + "\n    kernel: ";
    const KernelVerdict why = kernel_.ask_why(smallest);
    out += (why.error == 0 ? "accepted" : why.last_line) + "\n";
  }
  return out;
}

std::string allowed_reason(Agreement agreement, const std::string& kernel_message,
                           const std::string& our_message) {
  struct Row {
    Agreement direction;
    std::string_view kernel, ours, reason;
  };
  static const std::vector<Row> rows = {
#define BPFTIME_ALLOWED_DIFFERENCE(direction, kernel, ours, reason) \
  {Agreement::direction, kernel, ours, reason},
#include "verifier/testing/allowed_differences.def"
#undef BPFTIME_ALLOWED_DIFFERENCE
  };
  for (const Row& row : rows) {
    if (row.direction == agreement && kernel_message.find(row.kernel) != std::string::npos &&
        our_message.find(row.ours) != std::string::npos) {
      return std::string(row.reason);
    }
  }
  return "";
}

}  // namespace bpftime::verifier::testing

// What `bpftime verify` found, as text and as JSON with the same fields.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/printers.h"
#include "verifier/kernel_opinion.h"
#include "verifier/render.h"
#include "verifier/verifier.h"

namespace bpftime::cli {

struct VerifiedProgram {
  std::string name, section, type;
  std::string not_judged;  // why; then nothing below is meant
  uint32_t insns = 0;      // instruction slots
  verifier::Verdict verdict;
  uint64_t time_ns = 0;
  std::vector<verifier::RenderedDiagnosis> diagnoses;
  std::vector<std::string> texts;  // the diagnoses, as text
  // The kernel's verifier, when it was asked: its errno (0: accepted) or why nobody could be asked.
  std::optional<verifier::KernelOpinion> kernel;
  std::string kernel_note;
  bool refused_by_kernel = false;  // --kernel-verifier=require and it said no, or could not be asked
};

struct VerifiedObject {
  std::string name;
  std::string error;  // libbpf's reason not to load it
  std::vector<VerifiedProgram> programs;
};

Json to_json(const VerifiedObject& object);
std::string to_text(const VerifiedObject& object);
Json to_json(const verifier::RenderedDiagnosis& diagnosis);

// The last line, "12 programs: 10 accepted, 1 refused, 1 not judged".
std::string summary(const std::vector<VerifiedObject>& objects);

}  // namespace bpftime::cli

// The verifier corpora: programs with Linux's verdict. Test-only; the data lies outside the project.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

struct Case {
  std::string id;      // pairs: the corpus's id; mutants: "PARENT edit,edit"
  std::string family;  // pairs: file of the kernel's suite, "6.12/calls"
  std::string title;   // the suite's name of the test
  Request request;
  bool portable = true;  // what the bars count: no context, packet or kernel-only helper or map
  bool accepted = false;
  std::string kernel_last_line;
  std::string unusable;            // why the case cannot be asked here (a kind of map nobody has), else empty
  std::optional<uint32_t> retval;  // what the kernel's run gave …
  std::vector<uint8_t> retval_data;  // … with this context
};

// $BPFTIME_CORPORA/verifier, or beside the source tree; empty when not found.
std::string verifier_corpus_directory();

// Errors: the file cannot be read, decompressed or parsed.
Result<std::vector<Case>> load_pairs();
Result<std::vector<Case>> load_mutants();

// "kprobe", for tables.
std::string program_type_name(uint32_t type);

}  // namespace bpftime::verifier::testing

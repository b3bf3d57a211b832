// Asks this verifier and the running kernel about the same small program. Test-only.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "program/testing/conformance.h"
#include "verifier/kernel_opinion.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

// Assembly (program/testing/conformance.h), what is expected of it, and words that Linux has in its log for it.
struct VerdictCase {
  const char* name;
  const char* assembly;
  int error = 0;  // 0: accepted
  const char* words = "";
};

inline Request request_of(const std::string& assembly, uint32_t type = BPF_PROG_TYPE_KPROBE) {
  Request request;
  request.program.name = "under_test";
  request.program.type = type;
  auto insns = program::testing::assemble(assembly);
  if (!insns.ok()) {
    ADD_FAILURE() << insns.error().message << "\n" << assembly;
  } else {
    request.program.insns = *insns;
  }
  request.license = "Dual MIT/GPL";
  request.log_level = 1;
  request.log_size_max = 1 << 16;
  return request;
}

inline MapConstraint array_map(uint32_t value_size, uint32_t entries = 1, uint32_t flags = 0) {
  MapConstraint map;
  map.name = "values";
  map.spec = {BPF_MAP_TYPE_ARRAY, 4, value_size, entries, flags, 1};
  return map;
}

// `assembly` behind `r0 = bpf_map_lookup_elem(maps[0], 0)`, with fp-8 used for the key.
inline Request request_with_value(const std::string& assembly, MapConstraint map) {
  Request request = request_of("stdw [%r10-8], 0\nmov %r2, %r10\nadd %r2, -8\ncall 1\n" + assembly);
  const program::Insn load = {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 0};
  request.program.insns.insert(request.program.insns.begin(), {load, program::Insn{}});
  request.maps.push_back(std::move(map));
  return request;
}

inline std::string first_message(const Verdict& verdict) {
  if (verdict.diagnoses.empty()) return "";
  const Diagnosis& diagnosis = verdict.diagnoses.front();
  return diagnosis.linux_message.empty() ? diagnosis.message : diagnosis.linux_message;
}

// Ours says what is expected, and the kernel, where it can be asked, says the same.
inline void expect_verdict(const Request& request, const VerdictCase& expected) {
  SCOPED_TRACE(std::string(expected.name) + "\n" + expected.assembly);
  const Verdict verdict = verify(request);
  EXPECT_EQ(verdict.error, expected.error) << first_message(verdict);
  if (expected.error != 0) {
    EXPECT_NE(first_message(verdict).find(expected.words), std::string::npos) << first_message(verdict);
  }
  if (!kernel_verifier_usable()) return;
  const auto kernel = ask_kernel(request);
  ASSERT_TRUE(kernel.ok()) << kernel.error().message;
  EXPECT_EQ(kernel->error, expected.error) << "the kernel:\n" << kernel->log;
  if (expected.error != 0) {
    EXPECT_NE(kernel->log.find(expected.words), std::string::npos) << "the kernel:\n" << kernel->log;
  }
}

}  // namespace bpftime::verifier::testing

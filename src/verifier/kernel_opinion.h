// The running kernel's verifier as a second opinion: the program is loaded with shadow maps and dropped again.
#pragma once

#include "verifier/verifier.h"

namespace bpftime::verifier {

// What becomes of it. Its acceptance never overrides our refusal.
enum class KernelVerifier : uint8_t {
  kOff,      // not asked
  kAdvise,   // asked where it can be; a refusal is noted, the program accepted
  kRequire,  // must accept too
};

struct KernelOpinion {
  int error = 0;    // 0: accepted; else the errno PROG_LOAD gave
  std::string log;  // no NUL
  uint32_t log_true_size = 0;
  uint32_t verified_insns = 0;
};

// Whether the kernel's verifier can be asked here (bpf(2) present and permitted). Asked once per process.
bool kernel_verifier_usable();

// Errors only when nobody could be asked: EPERM "program X: the kernel's verifier cannot be asked: …".
Result<KernelOpinion> ask_kernel(const Request& request);

}  // namespace bpftime::verifier

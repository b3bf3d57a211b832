// The running kernel's verdict on a Request, fast enough to ask it thousands of times a second: kernel maps are
// made once per geometry and kept. Test-only.
#pragma once

#include <map>
#include <string>

#include "base/fd.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

struct KernelVerdict {
  int error = 0;          // 0: accepted, else the errno
  std::string log;        // when asked for
  std::string last_line;  // of the log: why it was refused
  Fd fd;                  // of an accepted program
  uint64_t time_ns = 0;   // of the call
};

class KernelOracle {
 public:
  // Empty when bpf(2) may load programs here, else the reason to print in a skip.
  static std::string unusable();

  // Map indexes out of range become bad descriptors. EREMOTEIO: a map could not be made; `last_line` says why.
  KernelVerdict ask(const Request& request, uint32_t log_level = 0);
  // Asks again with a log only when the first answer was a refusal.
  KernelVerdict ask_why(const Request& request);

 private:
  Result<int> map_fd(const MapConstraint& map, std::vector<Fd>& temporary);
  std::map<std::string, Fd> maps_;  // by geometry and contents
  std::map<std::string, Fd> btfs_;  // by blob
  int btf_fd(const std::vector<uint8_t>& blob);
};

// The kernel's numbers and register names replaced by N: "RN !read_ok". Groups messages of one kind.
std::string message_class(std::string_view message);
// The line of a kernel-style log that says why: the last that is no statistics.
std::string last_line_of(std::string_view log);

// "RULE: the kernel's words for it", or "accepted".
std::string summary(const Verdict& verdict);

}  // namespace bpftime::verifier::testing

// Decides whether a program may run: program + constraints in, verdict or diagnosis out.
// Until the project's own verifier exists the verdict is the kernel's, asked with shadow maps; the interface
// stays.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "program/program.h"
#include "wire/object.h"

namespace bpftime::verifier {

// A map the program refers to. `contents`: first value of a frozen map (constants for dead-code elimination),
// else empty.
struct MapConstraint {
  wire::MapSpec spec;
  std::string name;
  bool frozen = false;
  std::vector<uint8_t> contents;
  std::vector<uint8_t> btf;  // blob, empty: none
  uint32_t btf_key_type_id = 0, btf_value_type_id = 0;
};

struct Request {
  program::Program program;  // map references are indexes into `maps`
  std::vector<MapConstraint> maps;
  uint32_t expected_attach_type = 0;
  uint32_t kernel_version = 0;
  uint32_t flags = 0;  // BPF_F_*
  std::string license;
  std::vector<uint8_t> btf;  // the program's BTF blob; with it, func_info and line_info as bpf(2) takes them
  std::vector<uint8_t> func_info, line_info;
  uint32_t func_info_record_size = 0, line_info_record_size = 0;
  uint32_t log_level = 0;
  uint32_t log_size_max = 0;
};

struct Verdict {
  int error = 0;    // 0: accepted; else the errno PROG_LOAD returns
  std::string log;  // kernel-style, no NUL
  uint32_t log_true_size = 0;
  uint32_t verified_insns = 0;
};

// Whether the kernel's verifier can be asked here (bpf(2) present and permitted). Asked once per process.
bool kernel_verifier_usable();

// Errors only when nobody could be asked: EPERM "program X: not verified: …; try `bpftime load
// --unsafe-unverified`".
Result<Verdict> verify(const Request& request);

}  // namespace bpftime::verifier

// Decides whether a program may run: program + constraints in, proof facts or a diagnosis out.
// A library of its own: no files, no sockets, no system calls. docs/verifier.md has the design and the soundness argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "program/program.h"
#include "verifier/constraints.h"
#include "verifier/diagnosis.h"
#include "verifier/facts.h"
#include "verifier/limits.h"
#include "wire/object.h"

namespace bpftime::verifier {

// A map the program refers to. `contents`: first value of a frozen read-only map (constants for dead-code
// elimination), else empty.
struct MapConstraint {
  wire::MapSpec spec;
  std::string name;
  bool frozen = false;
  std::vector<uint8_t> contents;
  std::vector<uint8_t> btf;  // blob, empty: none
  uint32_t btf_key_type_id = 0, btf_value_type_id = 0;
  // Places in the value that only helpers may touch (bpf_spin_lock, bpf_timer); found by BTF, offset in bytes.
  std::optional<uint32_t> spin_lock, timer;
  std::optional<wire::MapSpec> inner;  // of a map of maps
};

// Tests only: sees what is believed before each instruction of each path.
class StateObserver {
 public:
  virtual ~StateObserver() = default;
  virtual void on_start() = 0;  // exploration begins (again): what was seen before is void
  virtual void on_instruction(uint32_t insn, const struct State& state) = 0;
};

struct Options {
  // What ordinary eBPF clients may do as on Linux with privileges. Extensions of a class get the strict side of both.
  bool zero_stack = true;  // reading uninitialised stack is allowed and reads zeroes (Facts::zeroed_bytes)
  bool allow_pointer_leaks = true;  // pointers may be stored to maps and compared with numbers
  bool strict_alignment = false;    // BPF_F_STRICT_ALIGNMENT
  bool probe_write_user =
      true;  // bpf_probe_write_user and bpf_override_return need no grant (as root on Linux)
  std::vector<uint32_t> helpers_missing;  // ids Linux has and the runtime has not: unknown here; ascending
  Limits limits;
  RuleSet disabled_rules;  // tests only: rules that are not enforced
  StateObserver* observer = nullptr;
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
  uint32_t log_level = 0;     // of bpf(2): 1 states at branches, 2 at every instruction, 4 statistics
  uint32_t log_size_max = 0;  // bytes of log worth making
  const Constraints* constraints = nullptr;  // of the extension class; null: an ordinary program
  Options options;
};

struct Verdict {
  int error = 0;    // 0: accepted; else the errno PROG_LOAD returns
  std::string log;  // kernel-style, no NUL; empty at log level 0
  uint32_t log_true_size = 0;
  std::vector<Diagnosis> diagnoses;  // not empty when refused
  Facts facts;                       // when accepted
  Statistics statistics;
};

// The same request gets the same verdict on every run.
Verdict verify(const Request& request);

}  // namespace bpftime::verifier

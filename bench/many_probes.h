// A thousand probes in one process: all with one change, and link by link.
#pragma once

#include <string>
#include <vector>

#include "process.h"

namespace bpftime::bench {

constexpr int kManyProbes = 1000;

struct ManyProbes {
  // `bpftime attach PID` when the links are there already: contact, all probes, the answer.
  std::vector<double> at_once_ms;
  // All of the tool's bpf_program__attach_uprobe, and of its bpf_link__destroy, one after the other.
  std::vector<double> one_by_one_ms, let_go_ms;
  double address_space_mib = 0, resident_mib = 0;  // by which the process grew, agent included
};

// `bin`: of the built programs; `work`: for scratch files. In a daemon of its own choice (BPFTIME_RUNTIME_DIR).
ManyProbes measure_many_probes(const std::string& bin, const std::string& work, int rounds);

}  // namespace bpftime::bench

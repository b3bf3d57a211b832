// What bpftime costs a process that has no probes.
#pragma once

#include <string>
#include <vector>

#include "process.h"

namespace bpftime::bench {

struct Mapping {
  std::string path;
  uint64_t size_bytes = 0, resident_bytes = 0;
};

// Everything of ours that is mapped in a process: files, memfds, and the anonymous memory right behind them.
struct Footprint {
  std::vector<Mapping> mappings;
  uint64_t file_bytes = 0;      // mapped from files on disk
  uint64_t memory_bytes = 0;    // address space of the rest
  uint64_t resident_bytes = 0;  // of all
};
Footprint footprint_of(pid_t pid);

// `true` and `bpftime start true` by turns, milliseconds from start to end.
struct StartCost {
  std::vector<double> plain_ms, started_ms;
};
StartCost measure_start(const std::string& bpftime, const std::string& work, int rounds);

}  // namespace bpftime::bench

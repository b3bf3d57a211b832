// The tables on standard output, and the same as JSON.
#pragma once

#include <string>

#include "footprint.h"
#include "hot_path.h"
#include "many_probes.h"

namespace bpftime::bench {

struct Machine {
  std::string cpu, kernel, date, commit;
  int cpus;
  double load;  // runnable processes on average over the last minute, before the run
};
Machine this_machine(const std::string& commit);

struct Report {
  Machine machine;
  HotPath hot_path;
  Footprint attached, started;  // no probes
  StartCost start;
  std::optional<ManyProbes> many;  // no value: only one row was asked for
};

void print(const Report& report);
std::string json(const Report& report);

}  // namespace bpftime::bench

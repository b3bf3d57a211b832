// What one probed call costs over a bare one: kernel and ours by turns, on one living process, with one BPF
// object.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "process.h"

namespace bpftime::bench {

struct Mode {
  std::string id;                     // of the row
  std::string name;                   // as `probes` knows it
  std::string title;                  // for people
  std::string function;               // of the victim
  int events_per_call;                // that `probes` counts; 0: it cannot count (empty programs, hash)
  uint64_t calls_kernel, calls_ours;  // a batch
  int warm_batches = 1;               // not timed; ringbuf's fill the ring's pages
  int batches = 1;                    // timed one by one; the fastest is taken
  std::string way = {};               // how the victim calls it; empty: as `function`
  int operations = 1;                 // per call: what is reported is the time of one
  std::optional<double> aim_ns = {};  // to reach over the bare call
  bool system_call = false;           // on a tracepoint: no function's bytes change
  bool granted = false;               // ours needs a policy, and a program made for one: `…_granted`
  bool attach_only = false;           // what is reported is the time to attach to a busy victim, µs
};
const std::vector<Mode>& modes();

// Nanoseconds per operation over the bare call of the same round, one value per round; attach_only: microseconds.
struct Variant {
  std::vector<double> over_bare_ns;
  std::vector<double> attach_us;  // bpf_program__attach_uprobe, as the tool saw it
  std::vector<double> change_us;  // of these, changing the running target, as the daemon saw it; attach_only
  std::vector<std::string> losses;  // "round 3: 5 of 100 events": empty if every call was counted
};
struct ModeResult {
  Mode mode;
  std::vector<double> bare_ns;
  Variant kernel, ours;
  std::string no_kernel = {};  // why the kernel has no numbers; empty: it has
};

struct HotPathOptions {
  std::string bin;       // directory of the built programs
  std::string work;      // for scratch files
  std::string greeting;  // the first line the victim printed
  int rounds;
  std::optional<std::string> only;  // this row's id
};
struct HotPath {
  std::vector<ModeResult> results;
};

// `victim` must have printed its first line and be attached. Progress on standard error.
HotPath measure_hot_path(Process& victim, const HotPathOptions& options);

}  // namespace bpftime::bench

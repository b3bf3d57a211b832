// The worker's side of the runner (src/runner): one process of its own in which programs run that no application calls.
// Started when first needed, killed when nothing is left to run, replaced when a program has brought it down.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/memfd.h"
#include "base/result.h"
#include "kernel/kernel.h"
#include "runner/protocol.h"

namespace bpftime::daemon {

class Runner {
 public:
  // `program`: path of bpftime-runner. `window`: wire::window_address of our user. `run_max_ms`: what one run is given; verified
  // programs end, but their loops may be long.
  Runner(std::string program, uint64_t window, uint64_t run_max_ms);
  ~Runner();
  Runner(const Runner&) = delete;

  // Runs it, behind what was begun before; its number. `memory`: Kernel::memory_of the program.
  Result<uint32_t> begin(const kernel::ProgramRun& run, const std::vector<kernel::TargetMemory>& memory);
  // What has come of those. Errors: ENXIO, no such CPU; EIO, the run ended the runner, or took longer than it is given.
  struct Ended {
    uint32_t number;
    Result<uint64_t> result;
    bool innocent = false;  // another brought the runner down, it never ran: worth another try
  };
  std::vector<Ended> take_ended();
  // Ends a run that takes longer than it is given: to be called now and then.
  void expire();
  // The same for nobody who waits. False: the run before it, for the same `key`, has not ended yet, or nothing can be run now.
  bool start(const kernel::ProgramRun& run, const std::vector<kernel::TargetMemory>& memory, uint64_t key);
  // Runs that have come to their end since this was asked last, for statistics.
  struct Ran {
    uint32_t program;
    std::optional<uint64_t> key;  // of start()
    uint64_t cycles;              // by the time stamp counter
  };
  std::vector<Ran> take_ran();
  // Whether a run for `key` brought a runner down: it would do so again.
  bool failed(uint64_t key) const { return failed_.contains(key); }
  void forget(uint64_t key) { failed_.erase(key); }

  // Maps `memory` if it has mapped `map` (EAGAIN: a run keeps it from doing so); unmaps what lies at an address, whose
  // object is gone.
  Result<void> reach(uint64_t map_address, const std::vector<kernel::TargetMemory>& memory);
  void retire(uint64_t address);
  void stop();

  // To wait on for answers and its end; -1: there is no runner.
  int fd() const { return socket_.get(); }
  pid_t pid() const { return pid_; }  // -1: as above
  void on_readable();
  // Processes whose unfinished map work is to be repaired, as Attacher::take_dead.
  std::vector<uint32_t> take_dead();

 private:
  struct Mapped {
    uint64_t size;
    InodeId inode;
  };
  struct Pending {
    runner::Verb verb;
    std::optional<uint64_t> key;  // of runs; nullopt: somebody waits for it
    uint32_t pid;                 // whom the program takes itself for
    uint32_t program;             // its id
    uint64_t deadline_ns;         // good for the first: the others' time begins when they are the first
  };

  const std::string program_;
  const uint64_t window_, run_max_ns_;
  Fd socket_;
  pid_t pid_ = -1;
  uint32_t last_number_ = 0;
  std::map<uint64_t, Mapped> mapped_;
  std::map<uint32_t, Pending> pending_;
  std::vector<Ended> ended_;
  std::vector<Ran> ran_;
  std::set<uint64_t> failed_;
  std::vector<uint32_t> dead_;

  Result<void> ensure_process();
  Result<void> ensure_memory(const std::vector<kernel::TargetMemory>& memory);
  Result<void> map(const kernel::TargetMemory& memory);
  // Its number. It does one thing after the other, so nobody has to wait before asking for the next.
  Result<uint32_t> send(runner::Request& request, int fd, std::optional<uint64_t> key);
  bool receive(int timeout_ms);
  void buried(const std::string& why);
  static runner::Request request_of(const kernel::ProgramRun& run);
};

}  // namespace bpftime::daemon

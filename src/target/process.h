// A process as seen from outside: identity, mappings, credentials. Reads /proc only; nothing here stops or changes it.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/memfd.h"
#include "base/result.h"

namespace bpftime::target {

// Of a file, when it was looked at: another version is another content.
struct FileVersion {
  int64_t size = -1, seconds = 0, nanoseconds = 0;  // of the last change; size -1: not known
  bool operator==(const FileVersion&) const = default;
};

struct MappedRegion {
  uint64_t start, end, offset;
  uint64_t device, inode;  // as stat(2) reports them
  bool readable, writable, executable, shared;
  std::string path;     // as /proc/PID/maps has it; " (deleted)" kept
  FileVersion version;  // known only to those that may look (CAP_CHECKPOINT_RESTORE)
};

struct Status {
  uint32_t tgid, parent, tracer;
  uint32_t uid, gid;  // real
  uint32_t effective_uid, effective_gid;
  int seccomp_mode;         // 0 none, 1 strict, 2 filter
  int64_t seccomp_filters;  // installed one above the other; -1: the kernel (before 5.9) does not say
  uint32_t threads;         // 0: not said
  uint64_t blocked;  // signals (bit n-1 for signal n) that this thread blocks; of a process, its main one
  std::string name;
};

// True when seccomp may answer a process's system calls otherwise than ours, even by killing it. False without a filter, and
// with as many filters as we have ourselves: then they are those of the container or session that we share. Filters only
// accumulate from parent to child, so a sandbox a program adds for itself always counts as one more.
bool filtered_unlike_us(const Status& status);

// Which program runs in a process, of all it may execute in its life: the 16 random bytes that the kernel puts on a new program's
// stack, and where. Whatever was read of a process before it is stopped is of this program only.
struct ProgramMark {
  uint64_t address = 0;
  std::array<uint8_t, 16> bytes{};
};

class Process {
 public:
  // Errors: ESRCH "process 123: no such process; …", EPERM when /proc/PID is not ours to read.
  static Result<Process> open(pid_t pid);

  pid_t pid() const { return pid_; }
  uint64_t start_time() const {
    return start_time_;
  }                    // clock ticks since boot: pid + start time name a process for ever
  bool alive() const;  // by pidfd: never another process with the same pid
  int pidfd() const { return pidfd_.get(); }

  // What the files say is up to a second old while the mappings stay as they are.
  Result<std::vector<MappedRegion>> regions() const;
  Result<Status> status() const;
  // To be asked before all else that is to be of the same program (StoppedProcess::still_runs).
  Result<ProgramMark> program() const;
  // A child by vfork or posix_spawn that has not executed its program yet: what is changed in it is changed in its parent.
  bool shares_parents_memory() const;
  Result<std::vector<pid_t>> threads() const;
  // Signals below 32 (bit n-1 for signal n) that at least one of its threads blocks at this moment. `now`: status(), if just
  // read: where there is one thread that is the answer.
  Result<uint64_t> blocked_in_any_thread(const Status* now = nullptr) const;
  // Opens the file behind an executable mapping through /proc/PID/map_files, else /proc/PID/root + path.
  Result<Fd> open_mapped_file(const MappedRegion& region) const;
  // Reads memory (process_vm_readv, else /proc/PID/mem). All or error.
  Result<std::vector<uint8_t>> read(uint64_t address, uint64_t size) const;

 private:
  pid_t pid_ = 0;
  uint64_t start_time_ = 0;
  Fd pidfd_;
  // The last answer of regions(), and the text it was made of.
  mutable std::string regions_text_;
  mutable std::vector<MappedRegion> regions_;
  mutable std::chrono::steady_clock::time_point regions_read_{};
};

// What a process has mapped of files to be executed, as it was when somebody looked: tells in microseconds, however much is
// mapped, whether it still is so.
class CodeView {
 public:
  // `regions`: as they were. Errors: /proc/PID/maps cannot be opened.
  static Result<CodeView> of(const Process& process, const std::vector<MappedRegion>& regions);
  // False also when another program runs there now.
  bool unchanged() const;

 private:
  struct Range {
    uint64_t start, end, offset, inode;
    bool operator==(const Range&) const = default;
  };
  static std::vector<Range> ranges_of(const std::vector<MappedRegion>& regions);
  pid_t pid_ = 0;
  Fd maps_;  // of that program: a process that executes another has other memory
  std::vector<Range> ranges_;
};

// Process::status() of one process over and over: its file is opened once.
class StatusView {
 public:
  static Result<StatusView> of(const Process& process);
  // Errors as of Process::status(), also once the process has been reaped.
  Result<Status> now() const;

 private:
  pid_t pid_ = 0;
  Fd file_;
};

// Whether the process or thread maps a memfd called `memfd_name` at `address`, and the mapping starts there. Error ESRCH: no
// such process, or not yet, or it has no memory.
Result<bool> maps_memfd(pid_t pid, const std::string& memfd_name, uint64_t address);

// Processes that map a memfd called `memfd_name` and whose mapping starts at `address`: targets and their heirs.
Result<std::vector<pid_t>> find_processes_mapping(const std::string& memfd_name, uint64_t address);

}  // namespace bpftime::target

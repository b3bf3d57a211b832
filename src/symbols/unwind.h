// Call stacks of stopped threads of another process, by libdwfl and the unwind tables of its files.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace bpftime::symbols {

struct Frame {
  uint64_t pc;                // of callers: the return address
  std::string module;         // path of the mapped file, "[vdso]", or empty for code without a file
  std::string function;       // nearest symbol, by the file's symbol tables; empty: none contains pc
  bool interrupted = false;   // it made no call: the innermost frame, and each below a signal handler's
  bool in_allocator = false;  // the file defines malloc
};

struct Backtrace {
  std::vector<Frame> frames;  // innermost first
  bool complete;              // reached the thread's outermost frame
  std::string why_incomplete;
};

// Reads a process that the calling thread holds in ptrace-stop (all methods must be called by the tracing thread).
class Unwinder {
 public:
  static Result<Unwinder> attach(pid_t pid);
  Unwinder(Unwinder&&) noexcept;
  Unwinder& operator=(Unwinder&&) noexcept;
  ~Unwinder();

  Backtrace backtrace(pid_t tid);

 private:
  struct State;
  explicit Unwinder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace bpftime::symbols

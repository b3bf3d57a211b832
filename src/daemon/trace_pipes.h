// trace_pipe for tools under `bpftime load`: each open of the virtual file is a real pipe, so that reading, waiting in
// poll, select and epoll, O_NONBLOCK, splice and fork are the kernel's business and need no help in the tool.
//
// As in the kernel reading consumes: a reader starts behind what earlier readers have read, and what was put into a pipe but
// never read is not lost. Unlike there several may read at once; each gets every line from its opening on.
#pragma once

#include <cstdint>
#include <map>

#include "base/fd.h"
#include "base/result.h"
#include "daemon/trace_log.h"

namespace bpftime::daemon {

inline constexpr size_t kTracePipesMax =
    64;  // of one daemon, each with a descriptor and up to 64 KiB of kernel memory

class TracePipes {
 public:
  // The reading end of a new pipe with what is in the log unread. EMFILE: too many readers. `watch`: set to our end, which
  // the caller watches (edge-triggered, for writing) and hands to on_event; it closes in there.
  Result<Fd> open(const TraceLog& log, int* watch);
  // Fills every pipe as far as it takes it; never waits for a reader.
  void fill(const TraceLog& log);
  // A pipe has room again or has lost its reader.
  void on_event(int fd, const TraceLog& log);
  bool owns(int fd) const { return pipes_.contains(fd); }
  bool empty() const { return pipes_.empty(); }
  // The number of the last line that was read.
  uint64_t consumed() const;
  // Nothing printed until now is to be read any more.
  void clear(const TraceLog& log);

 private:
  struct Pipe {
    Fd writer;
    uint64_t next;  // number of the line to come
  };
  std::map<int, Pipe> pipes_;
  uint64_t settled_ = 0;  // consumed by readers that have gone, or cleared

  static void fill(Pipe& pipe, const TraceLog& log);
  void settle(const Pipe& pipe, const TraceLog& log);
  void drop_abandoned(const TraceLog& log);
};

}  // namespace bpftime::daemon
